"""What the scheduled cleanup is asked and what it did."""

from typing import Annotated

from pydantic import Field

from dogwatch.contracts.base import Contract


class CleanupInput(Contract):
    """The input of the workflow `Cleanup`."""

    batch: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Most sandboxes, and most blobs, of one batch."""
    batches: Annotated[int, Field(ge=1, le=100)] = 10
    """Most batches of one run."""
    sandbox_grace_s: Annotated[float, Field(ge=60)] = 900.0
    """Seconds an intent may be young: longer than the longest creation, so that a sandbox in the making is never taken for a stray."""
    blob_grace_s: Annotated[float, Field(ge=60)] = 86_400.0
    """Seconds a blob may lie unnamed: longer than any step plus the clocks' skew."""


class Swept(Contract):
    """What a sweep did and what it left."""

    sandboxes: int = 0
    """Sandboxes that were ended, or found gone and settled."""
    kept: int = 0
    """Sandboxes that were looked at and left: their owner lives, or they are young."""
    untagged: int = 0
    """Sandboxes of another deployment or of nobody: reported, never touched."""
    blobs: int = 0
    """Blobs that were removed."""
    more: bool = False
    """Whether a further batch would find something."""

    def plus(self, other: "Swept") -> "Swept":
        """Two batches together; the later one says whether there is more."""
        return Swept(
            sandboxes=self.sandboxes + other.sandboxes,
            kept=self.kept + other.kept,
            untagged=self.untagged + other.untagged,
            blobs=self.blobs + other.blobs,
            more=other.more,
        )
