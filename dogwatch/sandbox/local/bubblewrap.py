"""What a bubblewrap sandbox looks like from inside, as the arguments that make it so."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from dogwatch.contracts.sandbox import Network, SandboxSpec
from dogwatch.sandbox.local.endpoint import ModelEndpoint
from dogwatch.sandbox.local.enter import SHELL

WORKSPACE: Final = "/workspace"
RUNS: Final = "/dogwatch"
HOME: Final = "/home/agent"
AGENT: Final = "/opt/dogwatch/claude"
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_IGNORING: Final = ("env", "--ignore-signal=CHLD")
_MIB: Final = 1 << 20
_SHARED_MEMORY: Final = 64 * _MIB
_SYSTEM: Final = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
_ETC: Final = (
    *("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types"),
    *("/etc/protocols", "/etc/services", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki/ca-trust"),
    "/etc/pki/tls/certs",
)
"""What programs want to read of the host's configuration. None of it names people, services or secrets of this machine."""
_NAMESPACES: Final = ("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--new-session", "--as-pid-1")
"""As root nothing of this is implied. Being the first process, our own one cannot be killed from inside, not even by `kill -9 -1`."""


def arguments(directory: Path, spec: SandboxSpec, agent: Path, lifetime_s: float) -> list[str]:
    """The command line of a sandbox whose own files lie in `directory`; `{info}` stands for the descriptor of --info-fd."""
    temporary = str(min(spec.resources.disk_mib, spec.resources.memory_mib) * _MIB)
    network = ["--share-net"] if spec.network is Network.OPEN else []
    return [
        *(_program(), *_NAMESPACES, *network, "--hostname", "sandbox", "--uid", "1000", "--gid", "1000"),
        *_system(),
        *_configuration(directory / "etc"),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(_SHARED_MEMORY), "--tmpfs", "/dev/shm"),
        *("--remount-ro", "/dev", "--size", temporary, "--tmpfs", "/tmp"),
        *("--bind", str(directory / "workspace"), WORKSPACE, "--bind", str(directory / "runs"), RUNS),
        *("--bind", str(directory / "home"), HOME, "--ro-bind", str(agent), AGENT),
        *("--remount-ro", "/", "--chdir", WORKSPACE, "--info-fd", "{info}", "--", *first_process(lifetime_s)),
    ]


def first_process(lifetime_s: float) -> list[str]:
    """The process that a sandbox lives as long as. It ignores SIGCHLD, by which the kernel clears away whatever is left to it."""
    ignoring = " ".join(_IGNORING)
    script = f'{ignoring} true && echo ready && exec {ignoring} sleep "$0" </dev/null >/dev/null 2>&1'
    return [SHELL, "-c", script, str(lifetime_s)]


def write_etc(directory: Path, network: Network, model: ModelEndpoint) -> None:
    """Write the few files of the sandbox's own /etc. With a network of `model` there is no name service, and the model's name means us."""
    etc = directory / "etc"
    etc.mkdir(mode=0o755)
    hosts = ["127.0.0.1 localhost sandbox", "::1 localhost"]
    if network is Network.MODEL and model.name:
        hosts.append(f"127.0.0.1 {model.name}")
    name_servers = Path("/etc/resolv.conf")
    files = {
        "passwd": f"agent:x:1000:1000:agent:{HOME}:{SHELL}\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
        "group": "agent:x:1000:\nnogroup:x:65534:\n",
        "hosts": "".join(f"{line}\n" for line in hosts),
        "nsswitch.conf": f"passwd: files\ngroup: files\nhosts: {'files dns' if network is Network.OPEN else 'files'}\n",
        "resolv.conf": name_servers.read_text() if network is Network.OPEN and name_servers.exists() else "",
    }
    for name, text in files.items():
        path = etc / name
        path.write_text(text)
        path.chmod(0o644)


def unusable(account: int | None, root: Path) -> str | None:
    """Why bubblewrap cannot make a sandbox here as that account, or None where it can. Tries it."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap is not installed"
    tried = subprocess.run(
        [program, *_NAMESPACES, *_system(), "--proc", "/proc", "--dev", "/dev", "--ro-bind", str(root), "/mnt", *_IGNORING, "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
        env={"PATH": PATH},
        cwd="/",
        user=account,
        group=account,
        extra_groups=None if account is None else [],
    )
    return None if tried.returncode == 0 else f"bubblewrap cannot make a sandbox here: {tried.stderr.decode(errors='replace').strip()}"


def _program() -> str:
    return shutil.which("bwrap") or "bwrap"


def _system() -> list[str]:
    found = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            found += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            found += ["--ro-bind", name, name]
    return found


def _configuration(etc: Path) -> list[str]:
    own = [
        part
        for name in ("passwd", "group", "hosts", "nsswitch.conf", "resolv.conf")
        for part in ("--ro-bind", str(etc / name), f"/etc/{name}")
    ]
    return [*own, *(part for name in _ETC if Path(name).exists() for part in ("--ro-bind", name, name))]
