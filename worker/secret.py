"""Secrets by reference: from this process's environment, or from one file each."""

from collections.abc import Mapping
from pathlib import Path

from dogwatch.errors import SecretMissing

MODEL = "secret://model"
_SCRIPTED_KEY = "scripted-model-needs-no-key"


class LocalSecrets:
    """`secret://model` is ANTHROPIC_API_KEY; `secret://<name>` is the file of that name, or DOGWATCH_SECRET_<NAME>."""

    def __init__(self, environment: Mapping[str, str], directory: Path | None, *, scripted_model: bool) -> None:
        """`scripted_model` says that no key is needed, so that none is looked for and none can leak."""
        self._environment, self._directory, self._scripted = environment, directory, scripted_model

    async def resolve(self, reference: str, tenant: str) -> str:
        """The value behind a reference. Raises SecretMissing, naming where it was looked for."""
        if reference == MODEL and self._scripted:
            return _SCRIPTED_KEY
        name = reference.removeprefix("secret://")
        variable = "ANTHROPIC_API_KEY" if reference == MODEL else f"DOGWATCH_SECRET_{_constant(name)}"
        if value := self._environment.get(variable):
            return value
        if self._directory is not None and (value := self._read(self._directory, name)):
            return value
        raise SecretMissing(f"there is no secret {reference}: neither {variable} nor a file of that name in DOGWATCH_SECRETS_DIR")

    def _read(self, directory: Path, name: str) -> str | None:
        path = (directory / name).resolve()
        if not path.is_relative_to(directory.resolve()) or not path.is_file():
            return None
        return path.read_text().strip()


def _constant(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name).upper()
