"""Requests that a workflow refuses: typed, final, and before anything has begun."""

from temporalio.exceptions import ApplicationError

from dogwatch.errors import DogwatchError, InvalidRequest


def refusal(error: DogwatchError) -> ApplicationError:
    """The error as the caller of a workflow or an update sees it: type = code, never tried again."""
    return ApplicationError(str(error), type=error.code, non_retryable=True)


def expect_one(kind: type, arguments: tuple[object, ...]) -> None:
    """Refuse a start without input or with too much of it, which would otherwise fail each workflow task and never end."""
    if len(arguments) != 1 or not isinstance(arguments[0], kind):
        raise refusal(InvalidRequest(f"the workflow takes exactly one argument, a {kind.__name__} as JSON"))
