"""Who may use the door: the holder of the key, or, where there is none, programs of this machine."""

import hashlib
import hmac
import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from dogwatch.errors import KeyRequired, Unauthorized

_bearer = HTTPBearer(auto_error=False, description="DOGWATCH_API_KEY")


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(host: str, api_key: str | None) -> None:
    """Raise KeyRequired where a door without a key would listen beyond this machine."""
    if api_key is None and not is_loopback(host):
        raise KeyRequired(f"the HTTP door would listen on {host} without a key")


class Guard:
    """Lets a request in or raises Unauthorized."""

    def __init__(self, api_key: str | None) -> None:
        """`api_key` is compared by digest, in constant time; None admits this machine's programs."""
        self._digest = _digest(api_key) if api_key is not None else None

    def __call__(self, request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        """Checks one request."""
        if self._digest is None:
            _refuse_browsers(request)
        elif given is None or not hmac.compare_digest(_digest(given.credentials), self._digest):
            raise Unauthorized


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _refuse_browsers(request: Request) -> None:
    """Web pages can reach loopback too: from another origin, or under a name of theirs that resolves to it."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    origin = request.headers.get("origin")
    if not is_loopback(host) or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise Unauthorized("without a key the door serves programs of this machine only, under its own name")
