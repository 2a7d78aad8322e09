"""Writes docs/settings.md, docs/errors.md and docs/verdicts.md from the code; a test compares them."""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from enum import EnumType
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from docs.meaning import MEANINGS
from dogwatch import errors
from dogwatch.agent import verdict
from dogwatch.contracts.agent import Verdict, VerdictCode
from dogwatch.errors import DogwatchError
from dogwatch.settings import Settings
from workflows.ending import ending_of

DOCS = Path(__file__).parent
_WRITTEN = "<!-- Written by `python -m docs.generate`: change the code, not this page. -->"
_SECTION = re.compile(r"^# --- (.+?) -+$", re.MULTILINE)
_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)


def settings_page() -> str:
    """Every setting with its default and meaning, in the order of the code."""
    rows = [
        (f"`DOGWATCH_{name.upper()}`", _default(field), _kind(field), field.description) for name, field in Settings.model_fields.items()
    ]
    return _page(
        "Settings",
        """
        Processes (`python -m worker …`) read these environment variables once, at their start; a value that cannot be is
        refused with the variable's name. The command line `dogwatch` reads `DOGWATCH_URL`, the address of the HTTP door, and
        `DOGWATCH_API_KEY`, `DOGWATCH_STATE_DIR` and `DOGWATCH_TEMPORAL_UI_URL`.

        The connection to Temporal is configured as for the `temporal` command line: `TEMPORAL_ADDRESS`,
        `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS_…`, or a profile of its configuration file;
        [deploy.md](deploy.md) has examples. Secrets of jobs are looked up by the worker: `secret://model` is
        `ANTHROPIC_API_KEY`, `secret://<name>` is the variable `DOGWATCH_SECRET_<NAME>` or the file `<name>` in
        `DOGWATCH_SECRETS_DIR`.
        """,
        _table(("variable", "default", "value", "meaning"), rows),
    )


def errors_page() -> str:
    """Every error by its code, grouped as in the code."""
    source = inspect.getsource(errors)
    classes = [(match.start(), getattr(errors, match[1])) for match in _CLASS.finditer(source)]
    sections = [(match.start(), match[1]) for match in _SECTION.finditer(source)]
    ends = [start for start, _ in sections[1:]] + [len(source)]
    body = []
    for (start, title), end in zip([(0, "anything else"), *sections], [sections[0][0], *ends], strict=True):
        members = [cls for at, cls in classes if start < at < end and issubclass(cls, DogwatchError)]
        body.append(f"## {title.capitalize()}\n\n" + _table(("code", "HTTP", "retry", "what happened", "what to do"), map(_error, members)))
    return _page(
        "Errors",
        """
        A code means the same wherever it is met: as `code` of an HTTP problem (RFC 9457), as the type of a failed workflow or
        activity in the Temporal UI, as `error_code` of a job's verdict, and in brackets in a message of the command line.
        *Retry* says whether the same again may succeed; inside a job the workers try such steps again by themselves. What an
        agent's run came to is not an error but a [verdict](verdicts.md).

        A verdict's `error_code` knows two more: `step_timeout` and `step_failed`, for a step that ended without an error of
        ours. The step in the Temporal UI and the workers' logs say more.
        """,
        *body[1:],
        body[0],
    )


def verdicts_page() -> str:
    """Every verdict with the status it gives the job."""
    rows = [
        (f"`{code}`", str(ending_of(Verdict(code=code)).status), "yes" if code in verdict._TRANSIENT else "", MEANINGS[code], _remedy(code))
        for code in VerdictCode
    ]
    return _page(
        "Verdicts",
        """
        Why an attempt, and with it a job, ended as it did: decided from the agent's whole stream, its exit and what was asked
        of it, never from the exit code alone. The code is in `verdict.code` of a job and the type of the failure in the
        Temporal UI. After a *transient* one another attempt follows, within the job's attempts, time and money; the job's
        verdict is that of its last attempt.
        """,
        _table(("verdict", "job is", "transient", "what happened", "what to do"), rows),
    )


PAGES: dict[str, Callable[[], str]] = {"settings.md": settings_page, "errors.md": errors_page, "verdicts.md": verdicts_page}


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


def _error(cls: type[DogwatchError]) -> tuple[str, ...]:
    return f"`{cls.code}`", str(cls.http_status), "yes" if cls.retryable else "", " ".join((cls.__doc__ or "").split()), cls.remedy


def _remedy(code: VerdictCode) -> str:
    if code is VerdictCode.INFRASTRUCTURE:
        return "That of the error in `error_code`: see [errors](errors.md)."
    return verdict._REMEDIES.get(code, "")


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _kind(field: FieldInfo) -> str:
    """What may be given: a choice, a number with its bounds, a path or any text."""
    kind: Any = field.annotation
    if kind is bool:
        return "true, false"
    if kind in (int, float):
        bounds = [f"{sign} {getattr(limit, name):,}" for limit in field.metadata for name, sign in _BOUNDS.items() if hasattr(limit, name)]
        return " ".join(["number", *bounds])
    choices = list(kind) if isinstance(kind, EnumType) else [choice for choice in get_args(kind) if isinstance(choice, str)]
    return ", ".join(choices) or ("path" if Path in (kind, *get_args(kind)) else "text")


_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _page(title: str, introduction: str, *parts: str) -> str:
    words = [" ".join(paragraph.split()) for paragraph in textwrap.dedent(introduction).strip().split("\n\n")]
    return (
        "\n\n".join([f"# {title}", _WRITTEN, *("\n".join(textwrap.wrap(each, 120, break_on_hyphens=False)) for each in words), *parts])
        + "\n"
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str | None, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join((cell or '').replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    main()
