"""What Temporal answers, as typed errors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from dogwatch.errors import ERRORS, DogwatchError, InvalidRequest, NotFound, TemporalUnavailable


@asynccontextmanager
async def answered(deadline_s: float | None) -> AsyncIterator[None]:
    """Raise what Temporal answers as typed errors; None waits for the answer as long as it takes.

    TemporalUnavailable where none comes in time, NotFound where it knows no such workflow, InvalidRequest for what it refuses, and the
    error with which a workflow refused a message.
    """
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError:
        raise TemporalUnavailable(f"Temporal did not answer within {deadline_s:g} s") from None
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        raise TemporalUnavailable("no worker answered in time") from error
    except WorkflowUpdateFailedError as error:
        raise of_failure(error.cause) from error
    except RPCError as error:
        raise _of_rpc(error) from error
    except RuntimeError as error:  # what the SDK raises where no connection can be made
        raise TemporalUnavailable(f"Temporal cannot be reached: {error}"[:500]) from error


def of_failure(cause: BaseException) -> DogwatchError:
    """The typed error that a workflow raised: its type is the code."""
    if isinstance(cause, ApplicationError):
        known = ERRORS.get(cause.type or "")
        if known is not None:
            return known(cause.message.partition(f" [{known.code}] ")[0])  # the code and the remedy come with the class
    return DogwatchError(f"{type(cause).__name__}: {cause}"[:2000])


def _of_rpc(error: RPCError) -> DogwatchError:
    if error.status is RPCStatusCode.NOT_FOUND:
        return NotFound("Temporal knows no such running workflow")
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        return InvalidRequest(f"Temporal refuses the request: {error.message}"[:2000])
    return TemporalUnavailable(f"Temporal does not answer: {error.status.name}")
