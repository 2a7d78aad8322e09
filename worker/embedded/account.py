"""The Unix account Postgres runs as, which refuses to run as root."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from worker.embedded.process import setpriv

_REACHING = {"dac_read_search": 2, "dac_override": 1}
"""Capabilities that enter directories of other accounts, the weaker one first, with their numbers."""
_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """A Unix account other than ours, and the program prefix that runs a command as it."""

    uid: int
    gid: int
    prefix: tuple[str, ...]


def server_account(data_dir: Path) -> Account | None:
    """The account to run Postgres as when we are root, else None: the owner of `data_dir`, `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return None
    if data_dir.exists() and (owner := data_dir.stat()).st_uid != 0:
        uid, gid = owner.st_uid, owner.st_gid
    else:
        # initdb looks its account up by name, so any free number will not do.
        entry = next(entry for name in _ACCOUNTS for entry in pwd.getpwall() if entry.pw_name == name)
        uid, gid = entry.pw_uid, entry.pw_gid
    return Account(uid, gid, (setpriv(), f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *_capabilities(), "--"))


def _capabilities() -> tuple[str, ...]:
    """The options that drop every capability but one.

    A virtual environment or a state directory below a root-owned 0700 directory (/root, mktemp -d) must stay reachable.
    dac_read_search is enough for that: it reads and enters, and writes nothing. Containers usually lack it and have
    dac_override. Postgres checks its own binary with access(2), which honours either only under no_setuid_fixup.
    """
    status = Path("/proc/self/status").read_text()
    permitted = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapPrm:")), 16)
    kept = "".join([f",+{name}" for name, bit in _REACHING.items() if permitted >> bit & 1][:1])
    sets = (f"--{kind}=-all{kept}" for kind in ("inh-caps", "ambient-caps", "bounding-set"))
    return (*sets, "--securebits=+no_setuid_fixup")
