"""Groups H and I of the corpus, and their classes: prompts arrive as they are, options say what they are or are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dogwatch.agent.command import AgentRun, arguments, run_files
from dogwatch.contracts.agent import AgentOptions, AgentTask, StdioMcpServer
from dogwatch.contracts.job import JobRequest, JobSubmission
from dogwatch.errors import InvalidRequest, invalid_request
from tests.hostile import Case, case, cases, load


def refused(make: Callable[[], object]) -> str:
    """The code with which a request is refused."""
    with pytest.raises(ValidationError) as caught:
        make()
    error = invalid_request(caught.value)
    assert isinstance(error, InvalidRequest)
    assert error.http_status in (413, 422)
    assert error.remedy
    return error.code


def sent(prompt: str, **options: Any) -> tuple[list[str], bytes]:
    """The argument list and the bytes on standard input for a prompt that the contracts accept."""
    task = AgentTask(prompt=JobSubmission(prompt=prompt, options=AgentOptions(**options)).prompt, options=AgentOptions(**options))
    run = AgentRun(task.options, command="claude", directory="/r", prompt=task.prompt or "", session_id="s", budget_usd=1)
    return arguments(run), next(file.data for file in run_files(run) if file.name == "prompt")


@pytest.mark.parametrize("hostile", [one for one in cases("H") if "KEEP" in one["right_answer"]], ids=lambda one: one["id"])
def test_a_prompt_arrives_byte_for_byte(hostile: Case) -> None:
    """Whatever it looks like, it is no argument and changes none."""
    prompt = load(hostile, MARK="/nowhere/mark")
    argv, stdin = sent(prompt)
    assert stdin == prompt.encode()
    assert argv == sent("harmless")[0]


@pytest.mark.parametrize(
    "prompt", ["$(touch x)`y`", "a\r\nb\x1b[0m", "'\"\\", "\u202e\ufeffx", " /compact", "\n/usage", "EOF\nEOF", "é" * 900, "a\tb\n\n"]
)
def test_nothing_in_a_prompt_is_repaired(prompt: str) -> None:
    """Quotes, controls, marks and line ends stay. Before a slash even a blank makes it an ordinary prompt."""
    assert sent(prompt)[1] == prompt.encode()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_a_prompt_is_kept_or_refused(prompt: str) -> None:
    """There is no third way."""
    if not prompt.strip() or "\x00" in prompt or prompt.startswith("/"):
        assert refused(lambda: AgentTask(prompt=prompt)) in {"prompt_empty", "prompt_nul", "slash_command"}
    else:
        assert sent(prompt)[1] == prompt.encode()


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        *((prompt, "prompt_empty") for prompt in load(case("H-04"))["each"]),
        ("\t\r\n\u2003", "prompt_empty"),
        ("a\x00b", "prompt_nul"),
        (load(case("H-11")), "slash_command"),
        ("/", "slash_command"),
    ],
)
def test_prompts_that_cannot_be_meant(prompt: str, code: str) -> None:
    """Nothing is sent that the CLI would wait over, choke on or run by itself."""
    assert refused(lambda: JobSubmission(prompt=prompt)) == code
    assert refused(lambda: AgentTask(prompt=prompt)) == code


def test_a_lone_surrogate_is_refused() -> None:
    """It has no bytes."""
    assert refused(lambda: AgentTask(prompt="\ud800")) == "prompt_not_utf8"


def test_a_slash_passes_when_it_is_asked_for() -> None:
    """Then it is the caller's wish."""
    prompt = load(case("H-11"))
    assert sent(prompt, allow_slash_commands=True)[1] == prompt.encode()


MODELS = [
    "",
    " ",
    "-p",
    "--model",
    "m m",
    "m\n",
    "m\x00",
    "\nm",
    "m;x",
    "$(m)",
    "m'",
    "é",
    "m" * 129,
    "m\u202e",
    *load(case("I-02"))["each"],
]


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_an_id(model: str) -> None:
    """Options, spaces and line ends are none."""
    assert refused(lambda: AgentOptions(model=model)) == "bad_model"


@pytest.mark.parametrize(
    "model",
    ["claude-haiku-4-5", "claude-opus-4-8[1m]", "us.anthropic.claude-x-v1:0", "publishers/anthropic/models/claude@20251001", "sonnet"],
)
def test_real_model_ids_pass(model: str) -> None:
    """Those of the API and of the clouds."""
    assert AgentOptions(model=model).model == model


RULES = [
    *(
        "",
        "-x",
        "--add-dir",
        "Edit --add-dir /",
        "Edit,Write",
        "Edit Write",
        "Bash(a)\n",
        "Bash(a\nb)",
        "Bash(a\x00)",
        "Bash(a)b",
        "Bash(",
        "Bash)",
    ),
    *("Bash()", "Bash(a)(b)", "edit", "mcp__", "Bash(a\u202eb)", "Bash(a\u2028b)", "Bash(" + "a" * 501 + ")", "E" * 60),
    *load(case("I-03"))["value"],
]


@pytest.mark.parametrize("field", ["allowed_tools", "disallowed_tools"])
@pytest.mark.parametrize("rule", RULES)
def test_a_tool_rule_is_one_rule(rule: str, field: str) -> None:
    """Nothing rides along: no second rule, no option, no line."""
    assert refused(lambda: AgentOptions.model_validate({field: ["Edit", rule]})) == "bad_tool_rule"


def test_real_tool_rules_pass_one_element_each() -> None:
    """Also those that look like options inside."""
    rules = (
        "Edit",
        "Bash(git diff *)",
        "Bash(npm run test:*)",
        "Read(//etc/**)",
        "WebFetch(domain:example.com)",
        "mcp__github__get_issue",
        "mcp__x",
    )
    argv, _ = sent("x", allowed_tools=rules)
    assert [element for element in argv if "allowedTools" in element] == [f"--allowedTools={rule}" for rule in rules]


DENIED = [
    *load(case("I-08"))["each"],
    *("ld_library_path", "LD_AUDIT", "DYLD_INSERT_LIBRARIES", "GLIBC_TUNABLES", "MALLOC_CHECK_", "GCONV_PATH", "LOCPATH", "RES_OPTIONS"),
    *("BASH_FUNC_ls%%", "ENV", "IFS", "PS4", "SHELLOPTS", "PROMPT_COMMAND", "HOME", "SHELL", "TMPDIR", "ZDOTDIR", "CDPATH"),
    *(
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PERL5OPT",
        "RUBYOPT",
        "NODE_PATH",
        "NODE_EXTRA_CA_CERTS",
        "DENO_DIR",
        "LUA_INIT",
        "PHPRC",
        "R_PROFILE",
    ),
    *(
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "CLASSPATH",
        "MAVEN_OPTS",
        "ELECTRON_RUN_AS_NODE",
        "RUSTC_WRAPPER",
        "GOFLAGS",
    ),
    *("http_proxy", "ALL_PROXY", "NO_PROXY", "GOPROXY", "SSL_CERT_FILE", "OPENSSL_CONF", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
    *("GIT_DIR", "GIT_CONFIG_COUNT", "GIT_ASKPASS", "SSH_AUTH_SOCK", "SUDO_ASKPASS", "PAGER", "MANPAGER", "EDITOR", "VISUAL", "LESSOPEN"),
    *("TAR_OPTIONS", "RSYNC_RSH", "SVN_SSH", "GNUPGHOME", "XDG_CONFIG_HOME"),
    *(
        "ANTHROPIC_API_KEY",
        "CLAUDE_CONFIG_DIR",
        "CLAUDECODE",
        "IS_SANDBOX",
        "DISABLE_TELEMETRY",
        "API_TIMEOUT_MS",
        "DOGWATCH_RUN",
        "MODAL_TOKEN_ID",
    ),
    *("1A", "A B", "A\n", "A\x00", "é", "-A", "A-B", "A" * 129),
]


@pytest.mark.parametrize("name", DENIED)
def test_variables_that_redirect_are_refused(name: str) -> None:
    """For the agent, for its secrets and for its tool servers, in any spelling."""
    assert refused(lambda: AgentOptions(env={name: "x"})) == "env_name_denied"
    assert refused(lambda: StdioMcpServer(command="x", env={name: "x"})) == "env_name_denied"
    assert refused(lambda: JobRequest(task=AgentTask(prompt="x"), secrets={name: "secret://x"})) == "env_name_denied"


@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_URL",
        "GITHUB_TOKEN",
        "CI",
        "DEBUG",
        "LANG",
        "TZ",
        "PIP_INDEX_URL",
        "AWS_REGION",
        "GIT_AUTHOR_NAME",
        "PYTHONUNBUFFERED",
        "_x",
    ],
)
def test_ordinary_variables_pass(name: str) -> None:
    """A job may be told what it works with."""
    assert AgentOptions(env={name: "x"}).env == {name: "x"}


@pytest.mark.parametrize("field", ["timeout_s", "cancel_grace_s"])
@pytest.mark.parametrize("seconds", [*(one for one in load(case("I-07"))["each"] if one != 0), float("nan"), "1e400", None, "soon"])
def test_times_are_numbers_in_their_range(field: str, seconds: object) -> None:
    """NaN and infinity are none."""
    assert refused(lambda: JobSubmission.model_validate({"prompt": "x", field: seconds})) == "range"
    assert refused(lambda: JobRequest.model_validate({"task": {"prompt": "x"}, field: seconds})) == "range"


@pytest.mark.parametrize("seconds", [0, -0.0])
def test_no_time_is_none_to_work_in(seconds: float) -> None:
    """A job without time is refused rather than ended at once."""
    assert refused(lambda: JobSubmission(prompt="x", timeout_s=seconds)) == "range"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_turns", 0),
        ("max_turns", -1),
        ("max_turns", 1.5),
        ("max_turns", 10**9),
        ("max_cost_usd", 0),
        ("max_cost_usd", "NaN"),
        ("max_cost_usd", 1e9),
    ],
)
def test_limits_are_in_their_range(field: str, value: object) -> None:
    """The CLI reads 0 turns as no limit and crashes over 0 dollars."""
    assert refused(lambda: AgentOptions.model_validate({field: value})) == "range"


@pytest.mark.parametrize("field", ["system_prompt", "append_system_prompt"])
def test_system_prompts_hold_no_nul(field: str) -> None:
    """As prompts."""
    assert refused(lambda: AgentOptions.model_validate({field: "a\x00"})) == "prompt_nul"
