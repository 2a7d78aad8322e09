"""A scripted Anthropic Messages API on loopback: play a model without a key, a network or a bill."""

from dogwatch.testing.model.fields import ScriptError
from dogwatch.testing.model.scripted import ScriptedModel

__all__ = ["ScriptError", "ScriptedModel"]
