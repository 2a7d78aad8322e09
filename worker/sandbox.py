"""The local sandboxes of this machine, from the settings."""

import importlib.util
import shutil
from pathlib import Path

from dogwatch.errors import AgentMissing
from dogwatch.sandbox.local.place import default_root
from dogwatch.sandbox.local.provider import LocalSandboxes
from dogwatch.settings import Settings


def local_sandboxes(settings: Settings) -> LocalSandboxes:
    """The provider of this machine. Raises AgentMissing, SettingsInvalid, SandboxRefused."""
    return LocalSandboxes(
        settings.sandbox_dir or default_root(settings.state_dir),
        agent_binary=agent_binary(settings),
        model_url=settings.model_url,
        sandbox_uid=settings.sandbox_uid,
        allow_unisolated=settings.allow_unisolated,
    )


def agent_binary(settings: Settings) -> Path:
    """The agent's CLI: the configured one, the one bundled with claude-agent-sdk, else `claude` on PATH. Raises AgentMissing."""
    if settings.claude_binary is not None:
        return settings.claude_binary
    bundled = importlib.util.find_spec("claude_agent_sdk")
    if bundled is not None and bundled.origin is not None:
        binary = Path(bundled.origin).parent / "_bundled" / "claude"
        if binary.exists():
            return binary
    if on_path := shutil.which("claude"):
        return Path(on_path)
    raise AgentMissing
