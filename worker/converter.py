"""How a worker reads and writes values: pydantic's JSON, and a typed refusal of what a workflow cannot be asked."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.exceptions import ApplicationError

from dogwatch.contracts.cleanup import CleanupInput
from dogwatch.contracts.job import JobRequest
from dogwatch.contracts.session import QueuedJob, SessionInput
from dogwatch.errors import invalid_request

_ASKED: Final = (JobRequest, SessionInput, CleanupInput, QueuedJob)
"""What people write. All else is written by workers, and a value that one cannot read yet is for a newer one: it is tried again."""


class RefusingConverter(PydanticPayloadConverter):
    """Input that breaks its contract fails the workflow, or the update. By default its workflow task would be tried again for ever."""

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Decode values. Raises ApplicationError with the code of the contract's error, naming the field and not the value."""
        try:
            return super().from_payloads(payloads, type_hints)
        except ValidationError as error:
            if not any(hint in _ASKED for hint in type_hints or []):
                raise
            refused = invalid_request(error)
            raise ApplicationError(str(refused), type=refused.code, non_retryable=True) from None


WORKER_CONVERTER: Final = dataclasses.replace(pydantic_data_converter, payload_converter_class=RefusingConverter)


def for_worker(client: Client) -> Client:
    """The same connection for a worker to be made from."""
    config = client.config()
    config["data_converter"] = WORKER_CONVERTER
    return Client(**config)
