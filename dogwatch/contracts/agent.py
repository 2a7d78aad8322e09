"""What the agent is asked, what it says, and how a run of it ended."""

import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from dogwatch.contracts.base import Contract, Sha256, Utc

MAX_INLINE_PROMPT_BYTES = 2048
"""A longer prompt travels as a blob: workflow histories hold references only."""
MAX_PROMPT_BYTES = 8_000_000
"""Measured: the CLI refuses more than 10 MB on stdin."""

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_TOOL_RULE = re.compile(r"(mcp__[A-Za-z0-9_-]{1,128}|[A-Z][A-Za-z]{1,40})(\([^()\x00-\x1f\x7f]{1,500}\))?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# In order: loader and C library (what glibc itself drops for privileged programs), shells and pagers, interpreters, version control and
# remote shells, certificates, and what steers the CLI, us and the sandbox's provider.
_DENIED_ENV_PREFIXES = (
    *("LD_", "DYLD_", "MALLOC_", "GLIBC_", "NIX_LD", "BASH_", "ZDOT", "FPATH", "LESSOPEN", "LESSCLOSE", "LESSKEY"),
    *("NODE_", "NPM_", "BUN_", "DENO_", "ELECTRON_", "PYTHON", "PERL", "RUBY", "GEM_", "BUNDLE_", "LUA_", "PHP", "R_PROFILE", "R_ENVIRON"),
    *("_JAVA_", "JDK_", "CLASSPATH", "JULIA_", "ERL_", "RUSTC", "RUSTFLAGS", "GOFLAGS", "GOTOOL", "MAKEFLAGS"),
    *("GIT_", "HGRC", "SVN_", "CVS_", "SSH_", "RSYNC_", "SUDO_", "GNUPG", "SSL_", "OPENSSL_", "CURL_", "WGETRC", "XDG_"),
    *("ANTHROPIC_", "CLAUDE", "DISABLE_", "DOGWATCH_", "MODAL_", "TEMPORAL_"),
)
_DENIED_ENV_SUFFIXES = ("PROXY", "_PRELOAD", "_OPTIONS", "_OPTS", "_WRAPPER", "ASKPASS", "PAGER", "EDITOR", "_CA_BUNDLE", "_CA_CERTS")
_DENIED_ENV_NAMES = {
    *("PATH", "HOME", "SHELL", "ENV", "IFS", "PS4", "SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND", "TMPDIR", "CDPATH", "IS_SANDBOX"),
    *("GCONV_PATH", "GETCONF_DIR", "LOCPATH", "LOCALDOMAIN", "HOSTALIASES", "RESOLV_HOST_CONF", "NIS_PATH", "NLSPATH", "TZDIR"),
    *("TERMINFO", "TERMCAP", "INPUTRC", "VISUAL", "BROWSER", "TMP", "TEMP", "POSIXLY_CORRECT", "USER", "LOGNAME", "PWD", "OLDPWD"),
    *("API_TIMEOUT_MS", "MCP_TIMEOUT", "MCP_TOOL_TIMEOUT", "MAX_MCP_OUTPUT_TOKENS", "MAX_THINKING_TOKENS", "USE_BUILTIN_RIPGREP"),
}
_HARMLESS_ENV = {
    *("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_TERMINAL_PROMPT"),
    *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "NODE_ENV"),
}


def check_prompt(prompt: str, *, allow_slash_commands: bool = False) -> str:
    """Return `prompt` unchanged when it may be sent to the agent, byte for byte, on its standard input.

    Raises PydanticCustomError prompt_empty, prompt_nul, prompt_not_utf8, prompt_too_long, or slash_command: the CLI runs a prompt that
    begins with a slash as a command of its own and never asks the model (measured).
    """
    if not prompt.strip():
        raise PydanticCustomError("prompt_empty", "the prompt is empty")
    if "\x00" in prompt:
        raise PydanticCustomError("prompt_nul", "the prompt holds a NUL character")
    try:
        size = len(prompt.encode())
    except UnicodeEncodeError:
        raise PydanticCustomError("prompt_not_utf8", "the prompt is not valid Unicode text") from None
    if size > MAX_PROMPT_BYTES:
        raise PydanticCustomError("prompt_too_long", "the prompt has {size} bytes", {"size": size})
    if prompt.startswith("/") and not allow_slash_commands:
        raise PydanticCustomError("slash_command", "the prompt begins with a slash: the agent's CLI would run it as a command of its own")
    return prompt


def check_env_name(name: str) -> str:
    """Return the name of a variable that may be set for the agent; raises PydanticCustomError env_name_denied for one that redirects the
    loader, an interpreter, a proxy, the CLI or git."""
    upper = name.upper()
    denied = upper in _DENIED_ENV_NAMES or upper.startswith(_DENIED_ENV_PREFIXES) or upper.endswith(_DENIED_ENV_SUFFIXES)
    if not _ENV_NAME.fullmatch(name) or (denied and upper not in _HARMLESS_ENV):
        raise PydanticCustomError(
            "env_name_denied", "the environment variable {name} cannot be set for an agent", {"name": ascii(name)[:100]}
        )
    return name


def _check_env_value(value: str) -> str:
    if "\x00" in value or (not value.isascii() and any(0xD800 <= ord(char) <= 0xDFFF for char in value)):
        raise PydanticCustomError("env_value_denied", "the value of an environment variable holds a NUL or is no Unicode text")
    return value


def _check_model(model: str) -> str:
    if not _MODEL.fullmatch(model):
        raise PydanticCustomError("bad_model", "{model} is no model id", {"model": ascii(model)[:100]})
    return model


def _check_tool_rule(rule: str) -> str:
    if not _TOOL_RULE.fullmatch(rule) or not rule.isprintable():
        raise PydanticCustomError("bad_tool_rule", "{rule} is no tool rule", {"rule": ascii(rule)[:100]})
    return rule


def _check_text(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("prompt_nul", "the text holds a NUL character")
    return text


ModelId = Annotated[str, AfterValidator(_check_model)]
ToolRule = Annotated[str, AfterValidator(_check_tool_rule)]
EnvName = Annotated[str, AfterValidator(check_env_name)]
EnvValue = Annotated[str, Field(max_length=32_768), AfterValidator(_check_env_value)]
SystemPrompt = Annotated[str, Field(max_length=100_000), AfterValidator(_check_text)]
McpName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
SecretRef = Annotated[str, StringConstraints(pattern=r"^secret://[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
"""Names a secret; the value is looked up by the worker and never enters a request, a history or a row."""


class PermissionMode(StrEnum):
    """The CLI's permission modes. The sandbox is the boundary, so the default lets the agent work."""

    DEFAULT = "default"
    ACCEPT_EDITS = "acceptEdits"
    PLAN = "plan"
    DONT_ASK = "dontAsk"
    AUTO = "auto"
    BYPASS = "bypassPermissions"


class StdioMcpServer(Contract):
    """A tool server that the CLI starts inside the sandbox."""

    type: Literal["stdio"] = "stdio"
    """Names this transport."""
    command: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./][A-Za-z0-9_./+-]{0,255}$")]
    """Program to start, found on the sandbox's PATH or absolute."""
    args: tuple[Annotated[str, Field(max_length=4096), AfterValidator(_check_text)], ...] = ()
    """Its arguments, one element each; no shell reads them."""
    env: dict[EnvName, EnvValue] = {}
    """Environment of the program. No secrets: these values are stored."""


class HttpMcpServer(Contract):
    """A tool server reached over HTTP; the sandbox's network must allow it."""

    type: Literal["http"] = "http"
    """Names this transport."""
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]{1,2000}$")]
    """Address without credentials."""


McpServer = Annotated[StdioMcpServer | HttpMcpServer, Field(discriminator="type")]


class AgentOptions(Contract):
    """How the CLI is run. Everything is optional; the defaults are the recommended unattended run."""

    model: ModelId | None = None
    """Full model id; None takes the deployment's default. Aliases move between CLI versions, so prefer full ids."""
    system_prompt: SystemPrompt | None = None
    """Replaces the CLI's system prompt."""
    append_system_prompt: SystemPrompt | None = None
    """Joined to the CLI's system prompt."""
    allowed_tools: tuple[ToolRule, ...] = ()
    """Rules that allow tools without asking, such as `Edit` or `Bash(git diff *)`."""
    disallowed_tools: tuple[ToolRule, ...] = ()
    """Rules that take tools away."""
    permission_mode: PermissionMode = PermissionMode.BYPASS
    """What the CLI does with a tool that no rule allows; nobody is there to be asked."""
    max_turns: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Most agent turns of one attempt."""
    max_cost_usd: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    """Dollar cap over all attempts of the job, by the CLI's own price table: an estimate that may be passed by one reply."""
    mcp_servers: dict[McpName, McpServer] = {}
    """Tool servers by name; a repository's own are never started."""
    env: dict[EnvName, EnvValue] = {}
    """Environment variables for the agent. No secrets: these values are stored."""
    trust_repo_config: bool = False
    """Let settings, hooks and tool servers found in the workspace act. Only for repositories you trust with your key."""
    allow_slash_commands: bool = False
    """Accept a prompt that begins with a slash, which the CLI runs as a command of its own."""


class AgentTask(Contract):
    """One request to the coding agent."""

    kind: Literal["agent"] = "agent"
    """Names this kind of task."""
    prompt: str | None = None
    """The request, up to 2,048 bytes. Exactly one of `prompt` and `prompt_sha256` is given."""
    prompt_sha256: Sha256 | None = None
    """Blob that holds a longer request."""
    options: AgentOptions = AgentOptions()
    """How the CLI is run."""

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.prompt_sha256 is None):
            raise PydanticCustomError("prompt_missing", "give exactly one of prompt and prompt_sha256")
        if self.prompt is not None:
            check_prompt(self.prompt, allow_slash_commands=self.options.allow_slash_commands)
            if len(self.prompt.encode()) > MAX_INLINE_PROMPT_BYTES:
                raise PydanticCustomError("prompt_not_inline", "a prompt over 2,048 bytes travels as a blob")
        return self


class VerdictCode(StrEnum):
    """Why a run, and with it a job, ended."""

    SUCCESS = "success"
    MAX_TURNS = "max_turns"
    BUDGET_EXCEEDED = "budget_exceeded"
    STRUCTURED_OUTPUT_FAILED = "structured_output_failed"
    REFUSED = "refused"
    HOOK_STOPPED = "hook_stopped"
    EXECUTION_ERROR = "execution_error"
    AUTHENTICATION_FAILED = "authentication_failed"
    API_REJECTED = "api_rejected"
    API_OVERLOADED = "api_overloaded"
    API_UNREACHABLE = "api_unreachable"
    BAD_INVOCATION = "bad_invocation"
    NO_RESULT = "no_result"
    AGENT_KILLED = "agent_killed"
    HUNG_AFTER_RESULT = "hung_after_result"
    OUTPUT_LIMIT = "output_limit"
    SPOOL_TAMPERED = "spool_tampered"
    SUPERVISOR_LOST = "supervisor_lost"
    SANDBOX_LOST = "sandbox_lost"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"
    ORPHANED = "orphaned"
    INFRASTRUCTURE = "infrastructure"


class Verdict(Contract):
    """The typed reason a run ended as it did, decided from everything seen and never from the exit code alone."""

    code: VerdictCode
    """The reason."""
    transient: bool = False
    """Whether another attempt could end differently."""
    message: Annotated[str, Field(max_length=2000)] = ""
    """What happened, in a sentence a person reads."""
    remedy: Annotated[str, Field(max_length=500)] = ""
    """What to do about it."""
    error_code: Annotated[str, Field(max_length=64)] | None = None
    """Code of the error behind an `infrastructure` verdict (see the table of errors)."""
    api_status: int | None = None
    """HTTP status of the model's API, where one was reported."""
    exit_code: int | None = None
    """Exit code of the CLI; 128 + n after signal n."""


class Usage(Contract):
    """What was used, summed over the attempts it stands for."""

    input_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens read by the model, cached ones not counted."""
    output_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens written by the model."""
    cache_creation_input_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens written to the prompt cache."""
    cache_read_input_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens read from the prompt cache."""
    cost_usd: Annotated[float, Field(ge=0)] = 0.0
    """US dollars by the CLI's own price table: an estimate, never a bill."""
    turns: Annotated[int, Field(ge=0)] = 0
    """Agent turns."""
    estimated: bool = False
    """True where a run ended without its result event, so that the figures are lower bounds."""

    def plus(self, other: "Usage") -> "Usage":
        """The sum of two usages."""
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_creation_input_tokens=self.cache_creation_input_tokens + other.cache_creation_input_tokens,
            cache_read_input_tokens=self.cache_read_input_tokens + other.cache_read_input_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
            turns=self.turns + other.turns,
            estimated=self.estimated or other.estimated,
        )


class EventView(Contract):
    """One line of the agent's stream, as a door shows it."""

    seq: int
    """Number of the event in its job: from 1, without gaps, on over attempts."""
    attempt: int
    """Attempt that wrote it, from 1."""
    offset: int
    """Byte offset of the line in that attempt's output."""
    type: str
    """The CLI's `type`, or `unparsed` for a line that is no JSON object."""
    subtype: str | None = None
    """The CLI's `subtype`."""
    received_at: Utc
    """When the line was stored."""
    data: dict[str, object] | None = None
    """The line as JSON, undecodable bytes replaced; None when it is no JSON object."""
    raw: str | None = None
    """The line as text where it is no JSON object; undecodable bytes replaced, U+0000 shown as an escape."""
