"""Bodies of requests: capped before they are read, strict JSON, typed refusals."""

import asyncio
import json
import re
from typing import Any, Never, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from dogwatch.errors import BodyTooSlow, InvalidRequest, OutOfRange, UploadTooLarge, invalid_request
from dogwatch.http.deps import Limits

MAX_DEPTH = 64
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_IN_A_THREAD = 1 << 18
"""Bodies over this size are parsed beside the event loop."""

M = TypeVar("M", bound=BaseModel)


async def read_model(request: Request, model: type[M], limits: Limits) -> M:
    """The body as a contract. Raises UploadTooLarge for one that is too long, InvalidRequest for everything else that is wrong with it."""
    body = await _read(request, limits)
    if len(body) <= _IN_A_THREAD:
        return parse(body, model)
    return await asyncio.to_thread(parse, body, model)


def parse(body: bytes, model: type[M]) -> M:
    """Strict JSON as a contract: UTF-8, no repeated keys, no NaN, no deep nests, no unknown fields. Raises InvalidRequest."""
    if not body.strip():
        raise InvalidRequest("the request has no body")
    if _depth(body) > MAX_DEPTH:
        raise InvalidRequest(f"the body nests deeper than {MAX_DEPTH} levels")
    try:
        value = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except ValueError as error:  # also UnicodeDecodeError, and numbers of thousands of digits
        raise InvalidRequest(f"the body is not valid JSON: {error}"[:500]) from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_request(error) from None


async def _read(request: Request, limits: Limits) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequest("send the body without a content encoding")
    too_long = UploadTooLarge(f"a request's body may have {limits.max_body_bytes} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_body_bytes:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_body_bytes:
                    raise too_long
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {limits.body_timeout_s:g} s") from None
    except ClientDisconnect:
        raise InvalidRequest("the body ended early") from None
    return bytes(body)


def _depth(body: bytes) -> int:
    """How deep the brackets nest. Counted only where there are enough of them, and before the parser recurses."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for bracket in _BRACKETS.finditer(_STRING.sub(b"", body)):
        depth += 1 if bracket[0] in (b"[", b"{") else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"the key {ascii(repeated)[:100]} is there twice")
    return made


def _constant(word: str) -> Never:
    raise OutOfRange(f"{word} is no JSON number")
