"""Secrets by reference: where they are looked for, and that none is found where none should be."""

from pathlib import Path

import pytest

from dogwatch.errors import SecretMissing
from worker.secret import LocalSecrets


async def test_the_models_key_comes_from_the_environment() -> None:
    """`secret://model` is ANTHROPIC_API_KEY."""
    secrets = LocalSecrets({"ANTHROPIC_API_KEY": "sk"}, None, scripted_model=False)
    assert await secrets.resolve("secret://model", "default") == "sk"


async def test_the_scripted_model_needs_no_key_and_gets_none() -> None:
    """A real key stays where it is when nobody needs it."""
    secrets = LocalSecrets({"ANTHROPIC_API_KEY": "sk-real"}, None, scripted_model=True)
    assert "sk-real" not in await secrets.resolve("secret://model", "default")


async def test_other_secrets_are_variables_or_files(tmp_path: Path) -> None:
    """A variable goes before a file of the same name."""
    (tmp_path / "github").write_text("from the file\n")
    (tmp_path / "npm").write_text("token\n")
    secrets = LocalSecrets({"DOGWATCH_SECRET_GITHUB": "from the variable"}, tmp_path, scripted_model=False)
    assert await secrets.resolve("secret://github", "default") == "from the variable"
    assert await secrets.resolve("secret://npm", "default") == "token"


@pytest.mark.parametrize("reference", ["secret://missing", "secret://../outside", "secret://model"])
async def test_a_missing_secret_is_a_typed_error(tmp_path: Path, reference: str) -> None:
    """The error names the reference; nothing outside of the directory is read."""
    (tmp_path / "outside").write_text("not yours")
    directory = tmp_path / "secrets"
    directory.mkdir()
    with pytest.raises(SecretMissing, match=reference):
        await LocalSecrets({}, directory, scripted_model=False).resolve(reference, "default")
