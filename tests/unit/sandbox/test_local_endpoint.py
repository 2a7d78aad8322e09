"""Which addresses of a model a sandbox without a network can be given."""

import pytest

from dogwatch.errors import SettingsInvalid
from dogwatch.sandbox.local.endpoint import ModelEndpoint, model_endpoint


@pytest.mark.parametrize(
    ("url", "expected", "name"),
    [
        (None, ModelEndpoint("api.anthropic.com", 443, None), "api.anthropic.com"),
        (
            "https://gateway.example/anthropic",
            ModelEndpoint("gateway.example", 443, "https://gateway.example/anthropic"),
            "gateway.example",
        ),
        ("http://gateway:8080", ModelEndpoint("gateway", 8080, "http://gateway:8080"), "gateway"),
        ("http://localhost:8080", ModelEndpoint("localhost", 8080, "http://localhost:8080"), None),
        ("http://127.0.0.1:4000/v", ModelEndpoint("127.0.0.1", 4000, "http://127.0.0.1:4000/v"), None),
        ("http://10.0.0.7:4000/v", ModelEndpoint("10.0.0.7", 4000, "http://127.0.0.1:4000/v"), None),
        ("http://[::1]:4000", ModelEndpoint("::1", 4000, "http://127.0.0.1:4000"), None),
        ("http://10.0.0.7", ModelEndpoint("10.0.0.7", 80, "http://127.0.0.1:80"), None),
    ],
)
def test_addresses(url: str | None, expected: ModelEndpoint, name: str | None) -> None:
    """Names keep their address, numbers become 127.0.0.1."""
    assert model_endpoint(url) == expected
    assert expected.name == name


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "https://", "https://10.0.0.7", "http://user@x", "http://x:99999", "http://x:0", "http://x y", "x"]
)
def test_refused(url: str) -> None:
    """What is no http or https address, or could not be relayed."""
    with pytest.raises(SettingsInvalid):
        model_endpoint(url)
