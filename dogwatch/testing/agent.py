"""A small agent that speaks the stream of the Claude Code CLI: for mass runs, without a model."""

import itertools
import json
import os
import signal
import sys
import time

VERSION = "2.1.329"  # the CLI whose stream this is
MODEL = "small-agent"
PLAN = {
    "seconds": (int, float),
    "lines": (int,),
    "write": (dict,),
    "fill_bytes": (int,),
    "spawn_child": (bool,),
    "result": (dict, type(None)),
    "hang_after_result": (bool,),
    "exit": (int,),
    "ignore_term": (bool,),
    "ledger": (str,),
}
FILL = 60_000
TURN_COST = 0.001
STDOUT = 1


class Stream:
    """Events on stdout, each written at once and whole."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.turns = 0
        self.started = time.monotonic()

    def emit(self, event: dict[str, object]) -> None:
        """Write one line."""
        data = json.dumps({**event, "session_id": self.session, "uuid": new_id()}, separators=(",", ":")).encode() + b"\n"
        while data:
            data = data[os.write(STDOUT, data) :]

    def init(self) -> None:
        """Say who works where."""
        cwd = os.getcwd()  # noqa: PTH109
        about = {"cwd": cwd, "tools": ["Bash", "Edit", "Read", "Write"], "mcp_servers": [], "model": MODEL}
        modes = {"permissionMode": "bypassPermissions", "apiKeySource": "none", "claude_code_version": VERSION}
        self.emit({"type": "system", "subtype": "init", **about, **modes})

    def say(self, text: str) -> None:
        """One assistant message of one text block."""
        self.turns += 1
        message = {
            "id": f"msg_{new_id()}",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [{"type": "text", "text": text}],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage(1, 1),
        }
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.emit({"type": "assistant", "message": message, "parent_tool_use_id": None, "timestamp": now})

    def result(self, over: dict[str, object]) -> None:
        """The last event of a run that ends well, with what the plan says instead."""
        spent = round((time.monotonic() - self.started) * 1000)
        cost = self.turns * TURN_COST
        per_model = {MODEL: {"inputTokens": self.turns * 100, "outputTokens": self.turns * 10, "costUSD": cost}}
        event = {
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "result": "done",
            "stop_reason": "end_turn",
            "terminal_reason": "completed",
            "num_turns": self.turns,
            "duration_ms": spent,
            "duration_api_ms": spent,
            "total_cost_usd": cost,
            "usage": usage(self.turns, 10),
            "modelUsage": per_model,
            "model_usage_since_last_result": per_model,
            "permission_denials": [],
            "api_error_status": None,
            "result_index": 0,
        }
        self.emit({**event, **over})


def new_id() -> str:
    """A random UUID; importing uuid would cost more than everything else here."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


def usage(turns: int, output: int) -> dict[str, int]:
    """Token counts as the CLI reports them."""
    none = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": turns * 100, "output_tokens": turns * output, **none}


def read_plan(prompt: str) -> dict:  # type: ignore[type-arg]
    """The plan in the prompt, empty for any other text; ValueError for an object that is no plan."""
    try:
        plan = json.loads(prompt)
    except ValueError:
        return {}
    if not isinstance(plan, dict):
        return {}
    for key, value in plan.items():
        kinds = PLAN.get(key)
        if kinds is None:
            raise ValueError(f"unknown key {key!r} in the plan; known: {', '.join(PLAN)}")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{key}: expected {' or '.join(kind.__name__ for kind in kinds)}, got {value!r:.60}")
    return plan


def note(plan: dict, what: str, **more: object) -> None:  # type: ignore[type-arg]
    """Append a line to the ledger, in one write, so that several agents may share it."""
    if "ledger" in plan:
        mine = {"what": what, "pid": os.getpid(), "t": time.time(), "attempt": os.environ.get("DOGWATCH_ATTEMPT")}
        file = os.open(plan["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(file, json.dumps({**mine, **more}).encode() + b"\n")
        os.close(file)


def spawn_child() -> int:
    """A process that outlives this one and that a kill of its process group misses; it inherits the environment."""
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    return os.posix_spawnp("sleep", ["sleep", "3600"], os.environ, file_actions=quiet, setsid=True)


def work(plan: dict, stream: Stream) -> int:  # type: ignore[type-arg]
    """Do what the plan says; returns the exit code."""
    stream.init()
    for path, text in plan.get("write", {}).items():
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)  # noqa: PTH103, PTH120 (pathlib would double the start)
        with open(path, "w") as file:  # noqa: PTH123
            file.write(text)
    if plan.get("spawn_child"):
        note(plan, "child", pid=spawn_child())
    lines = plan.get("lines", 1)
    pause = plan.get("seconds", 0) / max(1, lines)
    for number in range(1, lines + 1):
        time.sleep(pause)
        stream.say(f"line {number} of {lines}")
    for start in range(0, plan.get("fill_bytes", 0), FILL):
        stream.say("x" * min(FILL, plan["fill_bytes"] - start))
    over = plan.get("result", {})
    if over is not None:
        stream.result(over)
    while plan.get("hang_after_result"):
        signal.pause()
    return int(plan.get("exit", bool(over and over.get("is_error"))))


def session_id(arguments: list[str]) -> str:
    """The id the flags ask for: a new session, one that is resumed (by id or transcript path), or a fresh one."""
    given = dict(itertools.pairwise(arguments))
    resumed = "" if "--fork-session" in arguments else given.get("--resume", "")
    return given.get("--session-id") or os.path.basename(resumed).removesuffix(".jsonl") or new_id()  # noqa: PTH119


def stop(signum: int, _frame: object) -> None:
    """End as the CLI does: no result, 128 plus the signal."""
    raise SystemExit(128 + signum)


def main() -> int:
    """Read the prompt from stdin, do it, leave the exit code in the ledger.

    python3 agent.py -p --session-id ID [any other flag of the CLI] <prompt

    The prompt on stdin is any text, or a PLAN in JSON; an object with other keys is refused (exit 1), so a typo shows.

    PLAN  lines N assistant events (1), spread over seconds SECONDS (0)
          write {path: text} before the first event, relative to the working directory
          fill_bytes N of output in further events
          spawn_child true: leave a `sleep` behind in a session of its own
          result {...} laid over the result event, null for none; hang_after_result true: do not end after it
          exit CODE (0, or 1 where the result says is_error); ignore_term true
          ledger PATH: append {"what": "start" | "child" | "end", "pid", "t", "attempt"} here, so that executions can be
          counted; "attempt" is DOGWATCH_ATTEMPT, an "end" has "exit", a "child" its own "pid"

    Standard library only and no import of the project: it runs as `python3 -I -S` in any sandbox.
    """
    if "--version" in sys.argv:
        sys.stdout.write(f"{VERSION} (small agent)\n")
        return 0
    prompt = sys.stdin.buffer.read().decode(errors="replace")
    try:
        if not prompt.strip():
            raise ValueError("no prompt on stdin")
        plan = read_plan(prompt)
    except ValueError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    signal.signal(signal.SIGHUP, stop)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if plan.get("ignore_term") else stop)
    code = 1
    try:
        note(plan, "start")
        code = work(plan, Stream(session_id(sys.argv[1:])))
    except SystemExit as ending:
        code = int(ending.code or 0)
    finally:
        note(plan, "end", exit=code)
    return code


if __name__ == "__main__":
    sys.exit(main())
