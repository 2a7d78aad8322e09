"""The model's address, and how a sandbox that can reach nothing else reaches it."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from dogwatch.errors import SettingsInvalid

DEFAULT_URL = "https://api.anthropic.com"
"""Where the CLI asks when nobody tells it otherwise."""
_LOOPBACK = "127.0.0.1"
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ModelEndpoint:
    """Where the model's API is.

    Inside a sandbox the host's name means 127.0.0.1, whose same port leads there: the address, and with https its certificate, hold.
    """

    host: str
    port: int
    inside_url: str | None
    """The address to use inside; None where the CLI's default holds."""

    @property
    def name(self) -> str | None:
        """The host name that must mean 127.0.0.1 inside; None for a number or `localhost`."""
        return None if _is_address(self.host) or self.host == "localhost" else self.host


def model_endpoint(url: str | None) -> ModelEndpoint:
    """The endpoint of an address like `https://host[:port][/path]`; None is the CLI's default. Raises SettingsInvalid."""
    try:
        parts = urlsplit(DEFAULT_URL if url is None else url)
        host, port = parts.hostname, _PORTS[parts.scheme] if parts.port is None else parts.port
    except (ValueError, KeyError) as error:
        raise SettingsInvalid(f"the model's address {url!r} is no http or https address") from error
    if not host or not port or parts.username is not None:
        raise SettingsInvalid(f"the model's address {url!r} needs a host, no user, and no port 0")
    if not _is_address(host):
        if not _NAME.fullmatch(host):  # it becomes a line of the sandbox's /etc/hosts
            raise SettingsInvalid(f"the model's address {url!r} has no proper host name")
        return ModelEndpoint(host, port, url)
    if parts.scheme == "https":
        raise SettingsInvalid(f"the model's address {url!r} must name its host: a certificate for a number cannot be relayed")
    return ModelEndpoint(host, port, urlunsplit(parts._replace(netloc=f"{_LOOPBACK}:{port}")))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
