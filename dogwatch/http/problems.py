"""Everything that goes wrong, as RFC 9457 problems."""

import json

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dogwatch.contracts.page import Problem
from dogwatch.errors import DogwatchError, InvalidRequest, MethodNotAllowed, NotFound, Unauthorized
from dogwatch.http.reply import HEADERS

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""
    app.add_exception_handler(DogwatchError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_parameters)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)


def problem_of(error: DogwatchError) -> Problem:
    """The problem that tells of an error."""
    title = (type(error).__doc__ or "").strip().splitlines()[0]
    details = error.details if isinstance(error, InvalidRequest) else ()
    return _problem(error.http_status, error.code, title, error.message, error.remedy, details)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, DogwatchError)
    headers = {}
    if error.http_status >= 500:
        log.warning("refused", code=error.code, error=error.message)
    if error.http_status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(problem_of(error), headers)


async def _on_parameters(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [{"field": ".".join(map(str, found["loc"])), "problem": str(found["msg"])} for found in error.errors()]
    refused = InvalidRequest(f"{problems[0]['field']}: {problems[0]['problem']}")
    refused.details = tuple(problems[:20])
    return _answer(problem_of(refused))


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == NotFound.http_status:
        return _answer(problem_of(NotFound("there is nothing at this address")))
    if error.status_code == MethodNotAllowed.http_status:
        return _answer(problem_of(MethodNotAllowed()), dict(error.headers or {}))
    return _answer(_problem(error.status_code, "http_error", str(error.detail), str(error.detail), MethodNotAllowed.remedy))


async def _on_bug(_: Request, error: Exception) -> Response:
    log.error("unexpected error", error=f"{type(error).__name__}: {error}"[:500])
    return _answer(problem_of(DogwatchError("Something unexpected went wrong; the log of the HTTP door has the details.")))


def _problem(status: int, code: str, title: str, detail: str, remedy: str, details: tuple[dict[str, str], ...] = ()) -> Problem:
    return Problem(
        type=f"urn:dogwatch:error:{code}", title=title, status=status, detail=detail[:2000], code=code, remedy=remedy, details=details
    )


def _answer(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """As ASCII: what was refused may be no valid text."""
    return Response(json.dumps(problem.model_dump()), problem.status, {**HEADERS, **(headers or {})}, MEDIA_TYPE)
