"""How the CLI is invoked: its argument list, its environment and the files it reads, all as measured to be safe and repeatable."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from dogwatch.agent.supervisor import RunFile
from dogwatch.contracts.agent import AgentOptions

_SMALLEST_BUDGET_USD = 0.000001  # a budget of 0 makes the CLI end with a stack trace


def new_session_id() -> str:
    """A CLI session for an attempt. Always a new one: the CLI refuses an id that exists."""
    return str(uuid4())


@dataclass(frozen=True)
class AgentRun:
    """One execution of the CLI. Secrets are values here and go into the environment only."""

    options: AgentOptions
    """What the request asks for."""
    command: str
    """Absolute path of the CLI inside the sandbox."""
    directory: str
    """The run directory inside the sandbox."""
    prompt: str
    """The request; reaches the CLI byte for byte on its standard input."""
    session_id: str
    """The CLI's session for this attempt."""
    budget_usd: float
    """Dollars this attempt may spend."""
    model: str | None = None
    """Model where the request names none."""
    model_key: str = field(default="", repr=False)
    """Key for the model's API."""
    model_url: str | None = None
    """Address of the model's API as seen from inside."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The request's secrets by variable, looked up."""
    transcript: str | None = None
    """Path, as the CLI sees it, of the transcript of the conversation to go on with."""


def arguments(run: AgentRun) -> list[str]:
    """The argument list. Every option is one element, `--name=value`: no option that takes several values can swallow the next one, and no
    value can be read as an option."""
    options = run.options
    argv = [
        *(run.command, "-p", "--output-format=stream-json", "--verbose"),
        f"--session-id={run.session_id}",
        f"--permission-mode={options.permission_mode.value}",
        f"--max-budget-usd={max(run.budget_usd, _SMALLEST_BUDGET_USD):.6f}",
    ]
    if model := options.model or run.model:
        argv.append(f"--model={model}")
    if options.max_turns is not None:
        argv.append(f"--max-turns={options.max_turns}")
    argv += [f"--allowedTools={rule}" for rule in options.allowed_tools]
    argv += [f"--disallowedTools={rule}" for rule in options.disallowed_tools]
    return argv + _trust(options) + _files(run) + _conversation(run)


def environment(run: AgentRun) -> dict[str, str]:
    """The CLI's environment beside the sandbox's own. Ours is written last: a request can never redirect the CLI."""
    ours = {
        "HOME": f"{run.directory}/home",
        "CLAUDE_CONFIG_DIR": f"{run.directory}/home/.claude",
        "IS_SANDBOX": "1",  # the CLI refuses bypassPermissions for root without it
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",  # one result, and no turn after it
        "CLAUDE_CODE_MAX_RETRIES": "2",  # longer waits belong to the workflow, where people see them
    }
    if run.model_key:
        ours["ANTHROPIC_API_KEY"] = run.model_key
    if run.model_url:
        ours["ANTHROPIC_BASE_URL"] = run.model_url
    return {**run.options.env, **run.secrets, **ours}


def run_files(run: AgentRun) -> list[RunFile]:
    """What the CLI reads from its run directory. The home is the attempt's own: settings planted by an earlier job are not there."""
    options = run.options
    contents = [RunFile("home/"), RunFile("prompt", run.prompt.encode())]
    if options.system_prompt is not None:
        contents.append(RunFile("system_prompt", options.system_prompt.encode()))
    if options.append_system_prompt is not None:
        contents.append(RunFile("append_system_prompt", options.append_system_prompt.encode()))
    if options.mcp_servers:
        servers = {name: server.model_dump(mode="json") for name, server in options.mcp_servers.items()}
        contents.append(RunFile("mcp.json", json.dumps({"mcpServers": servers}).encode()))
    return contents


def _trust(options: AgentOptions) -> list[str]:
    if options.trust_repo_config:
        return ["--setting-sources=user,project,local"]
    return ["--setting-sources=user", "--strict-mcp-config"]


def _files(run: AgentRun) -> list[str]:
    options, argv = run.options, []
    if options.system_prompt is not None:
        argv.append(f"--system-prompt-file={run.directory}/system_prompt")
    if options.append_system_prompt is not None:
        argv.append(f"--append-system-prompt-file={run.directory}/append_system_prompt")
    if options.mcp_servers:
        argv.append(f"--mcp-config={run.directory}/mcp.json")
    return argv


def _conversation(run: AgentRun) -> list[str]:
    """Go on under a session id of our own: the CLI takes one together with `--resume` only where it forks.

    A conversation keeps the system prompt it began with, silently, unless told to forget it. Where the request brings none the recorded one
    stays: it is what the provider's prompt cache holds.
    """
    if run.transcript is None:
        return []
    argv = [f"--resume={run.transcript}", "--fork-session"]
    if run.options.system_prompt is not None or run.options.append_system_prompt is not None:
        argv.append("--system-prompt-snapshot=off")
    return argv
