"""The contracts are the wire format: what they look like is kept, every field explains itself, unknown fields are refused."""

import importlib
import json
import pkgutil
from pathlib import Path

import pytest
from pydantic import ValidationError

import dogwatch.contracts
from dogwatch.contracts.base import Contract

SNAPSHOT = Path(__file__).with_name("schema.json")


def contracts() -> list[type[Contract]]:
    """Every contract there is."""
    for module in pkgutil.iter_modules(dogwatch.contracts.__path__, "dogwatch.contracts."):
        importlib.import_module(module.name)

    def below(base: type[Contract]) -> list[type[Contract]]:
        return [found for child in base.__subclasses__() for found in (child, *below(child))]

    ours = {contract for contract in below(Contract) if contract.__module__.startswith("dogwatch.contracts.")}
    return sorted(ours, key=lambda contract: (contract.__module__, contract.__name__))


def schema() -> dict[str, object]:
    """The JSON schema of every contract."""
    return {f"{contract.__module__}.{contract.__name__}": contract.model_json_schema() for contract in contracts()}


def test_the_wire_format_changes_only_on_purpose() -> None:
    """The schema equals the kept one. After a change that older clients and histories survive: `python -m tests.unit.contracts.record`."""
    assert schema() == json.loads(SNAPSHOT.read_text())


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: contract.__name__)
def test_every_field_says_what_it_means(contract: type[Contract]) -> None:
    """Meaning and unit stand beside each field and travel with the schema."""
    assert contract.__doc__
    assert [name for name, field in contract.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: contract.__name__)
def test_unknown_fields_are_refused(contract: type[Contract]) -> None:
    """A misspelt field is an error, never silence."""
    with pytest.raises(ValidationError) as refusal:
        contract.model_validate({"no_such_field": 1})
    assert "extra_forbidden" in {problem["type"] for problem in refusal.value.errors()}


def test_limits_and_defaults_are_those_of_the_source_systems() -> None:
    """200 files, 25 MB, an hour to live, ten minutes for a job and thirty at most."""
    from dogwatch.contracts.job import DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S, JobRequest, JobStatus
    from dogwatch.contracts.session import DEFAULT_TTL_S
    from dogwatch.contracts.workspace import MAX_UPLOAD_BYTES, MAX_UPLOAD_FILES

    assert (MAX_UPLOAD_FILES, MAX_UPLOAD_BYTES, DEFAULT_TTL_S, DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S) == (200, 25_000_000, 3600, 600, 1800)
    assert JobRequest.model_validate({"task": {"prompt": "x"}}).timeout_s == 600
    assert {"queued", "running", "succeeded", "failed", "timed_out"} <= set(JobStatus)
