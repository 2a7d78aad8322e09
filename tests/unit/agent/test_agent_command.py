"""The invocation: options that cannot turn into others, and an environment that a request cannot bend."""

import json

import pytest

from dogwatch.agent.command import AgentRun, arguments, environment, new_session_id, run_files
from dogwatch.contracts.agent import AgentOptions, HttpMcpServer, PermissionMode, StdioMcpServer


def run(options: AgentOptions | None = None, **facts: object) -> AgentRun:
    """A run with these facts."""
    known = {"command": "/opt/claude", "directory": "/runs/j.1", "prompt": "- hi", "session_id": "s", "budget_usd": 2.0, "model": "m-1"}
    return AgentRun(options or AgentOptions(), **{**known, **facts})  # type: ignore[arg-type]


def files(of: AgentRun) -> dict[str, bytes]:
    """The run's files by name."""
    return {file.name: file.data for file in run_files(of)}


def test_the_recommended_invocation() -> None:
    """Nothing of the repository acts, nobody is asked, the prompt is on standard input."""
    assert arguments(run()) == [
        *("/opt/claude", "-p", "--output-format=stream-json", "--verbose", "--session-id=s"),
        *(
            "--permission-mode=bypassPermissions",
            "--max-budget-usd=2.000000",
            "--model=m-1",
            "--setting-sources=user",
            "--strict-mcp-config",
        ),
    ]
    assert files(run()) == {"home/": b"", "prompt": b"- hi"}


def test_every_option_is_one_element() -> None:
    """No option takes a second element, so none can swallow a neighbour."""
    options = AgentOptions(
        model="claude-haiku-4-5",
        system_prompt="--version",
        append_system_prompt="x" * 100_000,
        allowed_tools=("Edit", "Bash(git diff *)", "Bash(--add-dir /)"),
        disallowed_tools=("WebFetch",),
        permission_mode=PermissionMode.DEFAULT,
        max_turns=7,
        mcp_servers={"tiny": StdioMcpServer(command="python3", args=("-c", "--strict"))},
    )
    argv = arguments(run(options, transcript="/runs/j.1/transcript.jsonl"))
    assert argv[1] == "-p"
    assert all(element.startswith("--") for element in argv[2:])
    assert argv[argv.index("--model=claude-haiku-4-5") :] == [
        *("--model=claude-haiku-4-5", "--max-turns=7", "--allowedTools=Edit", "--allowedTools=Bash(git diff *)"),
        *("--allowedTools=Bash(--add-dir /)", "--disallowedTools=WebFetch", "--setting-sources=user", "--strict-mcp-config"),
        *("--system-prompt-file=/runs/j.1/system_prompt", "--append-system-prompt-file=/runs/j.1/append_system_prompt"),
        *("--mcp-config=/runs/j.1/mcp.json", "--resume=/runs/j.1/transcript.jsonl", "--fork-session", "--system-prompt-snapshot=off"),
    ]
    assert max(len(element.encode()) for element in argv) < 128 * 1024


def test_texts_and_servers_travel_as_files() -> None:
    """An argument may have 128 KiB and is seen by all; a file may be as long as it likes."""
    servers: dict[str, StdioMcpServer | HttpMcpServer] = {
        "a": StdioMcpServer(command="python3", args=("server.py",), env={"MODE": "x"}),
        "b": HttpMcpServer(url="https://tools.example/mcp"),
    }
    laid = files(run(AgentOptions(system_prompt="é", append_system_prompt="", mcp_servers=servers)))
    assert laid["system_prompt"] == "é".encode()
    assert laid["append_system_prompt"] == b""
    assert json.loads(laid["mcp.json"]) == {
        "mcpServers": {
            "a": {"type": "stdio", "command": "python3", "args": ["server.py"], "env": {"MODE": "x"}},
            "b": {"type": "http", "url": "https://tools.example/mcp"},
        }
    }


def test_a_trusted_repository_may_act() -> None:
    """Only then are its settings and tool servers read."""
    argv = arguments(run(AgentOptions(trust_repo_config=True)))
    assert "--setting-sources=user,project,local" in argv
    assert "--strict-mcp-config" not in argv


def test_a_conversation_goes_on_under_an_id_of_its_own() -> None:
    """The CLI refuses an id that exists and takes ours only where it forks."""
    argv = arguments(run(transcript="/runs/j.1/transcript.jsonl", session_id=new_session_id()))
    assert argv[-2:] == ["--resume=/runs/j.1/transcript.jsonl", "--fork-session"]
    assert new_session_id() != new_session_id()


@pytest.mark.parametrize(("budget", "shown"), [(2.5, "2.500000"), (1e-9, "0.000001"), (10_000.0, "10000.000000")])
def test_the_budget_is_a_plain_number(budget: float, shown: str) -> None:
    """A budget of 0 makes the CLI crash."""
    assert f"--max-budget-usd={shown}" in arguments(run(budget_usd=budget))


def test_the_environment() -> None:
    """State lies in the run directory; a model's address and key are set where they are given."""
    env = environment(run(AgentOptions(env={"MODE": "a"}), secrets={"TOKEN": "t"}, model_key="k", model_url="http://127.0.0.1:9"))
    assert env == {
        "MODE": "a",
        "TOKEN": "t",
        "HOME": "/runs/j.1/home",
        "CLAUDE_CONFIG_DIR": "/runs/j.1/home/.claude",
        "IS_SANDBOX": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_MAX_RETRIES": "2",
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
    }
    assert not {"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"} & set(environment(run()))


def test_secrets_are_in_the_environment_only() -> None:
    """Neither in an argument list, nor in a file, nor in what a log would show."""
    of = run(secrets={"TOKEN": "canary-1"}, model_key="canary-2")
    assert "canary" not in repr(of)
    assert "canary" not in " ".join(arguments(of))
    assert not any(b"canary" in data for data in files(of).values())
