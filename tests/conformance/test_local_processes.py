"""The local provider with plain processes does what every make must do."""

from collections.abc import AsyncIterator

import pytest

from dogwatch.ports import Sandboxes
from tests.conformance.local import local_sandboxes
from tests.conformance.sandboxes import SandboxConformance

Made = tuple[Sandboxes, str]


class TestProcesses(SandboxConformance):
    """The suite."""

    @pytest.fixture
    async def made(self) -> AsyncIterator[Made]:
        """A provider with a root of its own; afterwards nothing may be left."""
        async with local_sandboxes("processes") as made:
            yield made

    @pytest.fixture
    def provider(self, made: Made) -> Sandboxes:
        """The provider."""
        return made[0]

    @pytest.fixture
    def setup(self, made: Made) -> str:
        """How another process makes the same provider."""
        return made[1]
