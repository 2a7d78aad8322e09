"""Requests that a workflow refuses: typed, final, and before anything has begun."""

from temporalio.exceptions import ApplicationError

from dogwatch.contracts.job import MAX_REQUEST_BYTES, JobRequest
from dogwatch.errors import DogwatchError, InvalidRequest, RequestTooLarge


def refusal(error: DogwatchError) -> ApplicationError:
    """The error as the caller of a workflow or an update sees it: type = code, never tried again."""
    return ApplicationError(str(error), type=error.code, non_retryable=True)


def expect_one(kind: type, arguments: tuple[object, ...]) -> None:
    """Refuse a start without input or with too much of it, which would otherwise fail each workflow task and never end."""
    if len(arguments) != 1 or not isinstance(arguments[0], kind):
        raise refusal(InvalidRequest(f"the workflow takes exactly one argument, a {kind.__name__} as JSON"))


def expect_small(request: JobRequest) -> int:
    """Refuse a request that is too large for a workflow's history; returns its size in bytes."""
    size = len(request.model_dump_json().encode())
    if size > MAX_REQUEST_BYTES:
        raise refusal(RequestTooLarge(f"the request has {size:,} bytes, at most {MAX_REQUEST_BYTES:,}"))
    return size
