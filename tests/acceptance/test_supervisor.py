"""The supervisor scripts run for real: one run per attempt, every end, and nothing left behind."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from dogwatch.agent.status import ExitFacts, Status
from dogwatch.agent.supervisor import RunFile, Supervisor
from dogwatch.contracts.steps import StopReason
from dogwatch.errors import CommandFailed
from tests.plain_sandbox import PlainSandbox

LONG = 60.0
"""Seconds within which anything here must happen, also on a busy machine."""
RESULT = '{"type":"result","subtype":"success","is_error":false}'


@pytest.fixture(params=["dash", "bash --posix"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PlainSandbox]:
    """A place to run in, under each shell that is `sh` somewhere."""
    place = PlainSandbox(tmp_path, shell=request.param)
    yield place
    place.close()


@pytest.fixture
async def run(sandbox: PlainSandbox) -> Supervisor:
    """A supervisor whose files are laid down."""
    supervisor = Supervisor(sandbox, "job-1.1")
    await supervisor.lay_down([RunFile("home/"), RunFile("prompt", b"- hello\n")])
    return supervisor


async def start(
    run: Supervisor, script: str, *, deadline_s: float = LONG, grace_s: float = 1.0, output_limit: int = 1 << 24, quiet_s: float = LONG
) -> None:
    """Start a stand-in for the CLI: a shell script."""
    await run.start(
        ["bash", "-c", script],
        {"GREETING": "hi"},
        deadline_s=deadline_s,
        grace_s=grace_s,
        output_limit=output_limit,
        result_grace_s=quiet_s,
    )


async def follow(run: Supervisor, offset: int = 0) -> tuple[Status, bytes]:
    """Read until nothing more comes."""
    data = b""
    async with asyncio.timeout(LONG):
        while True:
            status, more = await run.poll(offset + len(data), wait_s=2)
            data += more
            if status.done(offset + len(data)):
                return status, data


async def ended(run: Supervisor) -> ExitFacts:
    """How the run ended."""
    status, _ = await follow(run)
    assert status.exit is not None
    return status.exit


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    """Look again until something is so."""
    deadline = time.monotonic() + LONG
    while True:
        now = condition()
        if now if isinstance(now, bool) else await now:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def says(run: Supervisor, word: bytes) -> None:
    """Wait until the agent has written a word."""
    async with asyncio.timeout(LONG):
        while word not in (await run.poll(0, wait_s=1))[1]:
            pass


def in_run(sandbox: PlainSandbox, name: str) -> Path:
    """A file of the run directory."""
    return Path(sandbox.runs, "job-1.1", name)


async def test_a_run_is_followed_to_its_end(sandbox: PlainSandbox, run: Supervisor) -> None:
    """The prompt arrives on standard input, the output byte for byte, the exit code as it was; nothing of it lies in the workspace."""
    await start(run, "cat; echo $GREETING $DOGWATCH_ATTEMPT; pwd; echo problem >&2; exit 3")
    status, data = await follow(run)
    assert data == f"- hello\nhi job-1.1\n{sandbox.workspace}\n".encode()
    assert status.exit == ExitFacts(
        rc=3, reason="exited", survivors=0, ended_at=status.exit.ended_at if status.exit else 0, out_bytes=len(data)
    )
    assert status.err_size == 8
    assert await run.stderr_tail() == "problem\n"
    assert list(Path(sandbox.workspace).iterdir()) == []


async def test_another_worker_goes_on_at_the_exact_byte(sandbox: PlainSandbox, run: Supervisor) -> None:
    """The run does not notice that its reader was replaced."""
    await start(run, "for i in 1 2 3 4 5 6; do echo event $i; sleep 0.1; done")
    async with asyncio.timeout(LONG):
        _, first = await run.poll(0, limit=9, wait_s=5)
    _, rest = await follow(Supervisor(sandbox, "job-1.1"), len(first))
    assert first + rest == b"".join(b"event %d\n" % i for i in range(1, 7))


async def test_a_second_start_changes_nothing(run: Supervisor) -> None:
    """An activity that repeats a start, before or after the end, runs the agent once."""
    await start(run, "echo once; sleep 0.5")
    await says(run, b"once")
    await start(run, "echo twice")
    assert (await follow(run))[1] == b"once\n"
    await start(run, "echo thrice")
    assert (await follow(run))[1] == b"once\n"


async def test_of_concurrent_starts_one_runs(sandbox: PlainSandbox, run: Supervisor) -> None:
    """Eight starts at the same moment are one execution."""
    await asyncio.gather(*(start(run, "echo ran; sleep 0.2") for _ in range(8)))
    assert (await follow(run))[1] == b"ran\n"
    await until(lambda: all(process.poll() is not None for process in sandbox.launched))
    assert (await follow(run))[1] == b"ran\n"


async def test_the_deadline_ends_also_children_in_sessions_of_their_own(sandbox: PlainSandbox, run: Supervisor) -> None:
    """A group kill would miss them; the marker finds them."""
    await start(run, "setsid sleep 300 & setsid setsid sleep 300 & echo up; sleep 300", deadline_s=1.5)
    facts = await ended(run)
    assert (facts.reason, facts.rc, facts.survivors) == ("deadline", 143, 0)
    assert sandbox.marked() == []


async def test_an_agent_that_ignores_term_is_killed(sandbox: PlainSandbox, run: Supervisor) -> None:
    """After the grace comes KILL."""
    await start(run, "trap '' TERM; setsid sleep 300 & echo up; while :; do sleep 0.1; done")
    await says(run, b"up")
    stopped = await run.stop(StopReason.CANCEL, 0.5)
    facts = await ended(run)
    assert (stopped.found, stopped.survivors, facts.rc, facts.reason) == ("running", 0, 137, "stopped")
    assert sandbox.marked() == []


async def test_a_stop_is_quick_and_lets_the_agent_say_goodbye(sandbox: PlainSandbox, run: Supervisor) -> None:
    """TERM comes once and at once, what the agent writes then is kept, and nothing is left."""
    await start(run, "trap 'echo bye; exit 0' TERM; (while :; do sleep 0.1; done) & echo up; while :; do sleep 0.05; done")
    await says(run, b"up")
    began = time.monotonic()
    stopped = await run.stop(StopReason.CANCEL, LONG)
    took = time.monotonic() - began
    assert (stopped.found, stopped.survivors) == ("running", 0)
    assert took < LONG / 2, "it waited for its whole grace"
    status, data = await follow(run)
    assert data == b"up\nbye\n"
    assert status.exit is not None
    assert (status.exit.rc, status.exit.reason) == (0, "stopped")
    assert sandbox.marked() == []
    assert (await run.stop(StopReason.CANCEL, 1)).found == "ended"


async def test_term_to_the_supervisor_is_a_stop(sandbox: PlainSandbox, run: Supervisor) -> None:
    """A sandbox that shuts down in order leaves a record."""
    await start(run, "echo up; sleep 300")
    await says(run, b"up")
    os.kill(sandbox.launched[0].pid, signal.SIGTERM)
    facts = await ended(run)
    assert (facts.reason, facts.rc) == ("stopped", 143)
    assert sandbox.marked() == []


@pytest.mark.parametrize("laid_down", [True, False])
async def test_a_stop_before_the_start_takes_the_claim(sandbox: PlainSandbox, laid_down: bool) -> None:
    """A start that comes later leaves, whether or not the files were there when the stop came."""
    run = Supervisor(sandbox, "job-1.1")
    if laid_down:
        await run.lay_down([RunFile("prompt")])
    assert (await run.stop(StopReason.DEADLINE, 1)).found == "not_started"
    await run.lay_down([RunFile("prompt")])
    await start(run, "echo ran; touch ran")
    sandbox.launched[0].wait(LONG)
    facts = await ended(run)
    assert (facts.reason, facts.rc) == ("not_started", None)
    assert not Path(sandbox.workspace, "ran").exists()
    assert (await run.stop(StopReason.DEADLINE, 1)).found == "ended"


async def test_stops_and_starts_at_the_same_moment_agree(sandbox: PlainSandbox) -> None:
    """Whoever takes the claim wins, and afterwards nothing runs."""
    for number in range(1, 9):
        run = Supervisor(sandbox, f"race.{number}")
        await run.lay_down([RunFile("prompt")])
        _, stopped, _ = await asyncio.gather(start(run, "sleep 300"), run.stop(StopReason.CANCEL, 1), start(run, "sleep 300"))
        facts = await ended(run)
        assert (stopped.found, facts.reason) in {("not_started", "not_started"), ("running", "stopped"), ("running", "not_started")}
    await until(lambda: all(process.poll() is not None for process in sandbox.launched))
    assert sandbox.marked() == []


async def test_a_killed_supervisor_is_seen_and_its_agent_ended_by_a_stop(sandbox: PlainSandbox, run: Supervisor) -> None:
    """Claim taken, lock free, no exit.json: lost. The agent still runs until the stop; a new start is refused."""
    await start(run, "setsid sleep 300 & echo up; sleep 300")
    await says(run, b"up")
    os.kill(sandbox.launched[0].pid, signal.SIGKILL)
    status, data = await follow(run)
    assert (status.lost, data) == (True, b"up\n")
    assert len(sandbox.marked()) >= 2
    stopped = await run.stop(StopReason.CANCEL, 1)
    assert (stopped.found, stopped.survivors) == ("lost", 0)
    assert sandbox.marked() == []
    assert (await ended(run)).reason == "supervisor_lost"
    await start(run, "touch ran")
    sandbox.launched[1].wait(LONG)
    assert not Path(sandbox.workspace, "ran").exists()


async def test_a_frozen_supervisor_does_not_protect_its_agent(sandbox: PlainSandbox, run: Supervisor) -> None:
    """An agent that stops its supervisor gains nothing: the stop does the work itself."""
    await start(run, "echo up; kill -STOP $PPID; sleep 300")
    await says(run, b"up")
    stopped = await run.stop(StopReason.CANCEL, 0.2)
    assert (stopped.found, stopped.survivors) == ("lost", 0)
    assert sandbox.marked() == []


async def test_a_cli_that_hangs_after_its_result_is_ended(sandbox: PlainSandbox, run: Supervisor) -> None:
    """Its last whole line is a result and it is silent."""
    await start(run, f"echo '{RESULT}'; sleep 300", quiet_s=0.5)
    facts = await ended(run)
    assert (facts.reason, facts.rc) == ("hung_after_result", 143)
    assert sandbox.marked() == []


@pytest.mark.parametrize(
    "output",
    [
        """'{"type":"assistant","message":{"content":[{"type":"text","text":"{\\"type\\":\\"result\\"}"}]}}\\n'""",
        """'{"type":"user","x":{"type":"result"}}\\n'""",
        f"'{RESULT}'",
        f"""'{RESULT}\\n{{"type":"assistant"}}\\n'""",
    ],
    ids=["quoted", "nested", "incomplete", "more came"],
)
async def test_silence_without_a_result_is_only_thinking(run: Supervisor, output: str) -> None:
    """A model may think for minutes: only silence after a whole result line counts."""
    await start(run, f"printf '%b' {output}; sleep 1.5; exit 0", quiet_s=0.3)
    assert (await ended(run)).reason == "exited"


async def test_endless_output_is_ended(sandbox: PlainSandbox, run: Supervisor) -> None:
    """Output and error output count together."""
    await start(run, "yes 0123456789 & yes problem >&2", output_limit=1 << 20)
    await until(in_run(sandbox, "exit.json").exists)
    facts = (await run.poll(0, limit=1))[0].exit
    assert facts is not None
    assert (facts.reason, facts.survivors) == ("output_limit", 0)
    assert sandbox.marked() == []


async def test_a_long_line_arrives_whole(run: Supervisor) -> None:
    """A line is longer than what one poll brings."""
    await start(run, "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end")
    assert (await follow(run))[1] == b"x" * 3_000_000 + b"\nend\n"


async def test_what_a_normal_end_leaves_behind_is_ended(sandbox: PlainSandbox, run: Supervisor) -> None:
    """A server that the agent left running does not outlive it."""
    await start(run, "setsid sleep 300 >/dev/null 2>&1 & exit 0")
    facts = await ended(run)
    assert (facts.reason, facts.rc, facts.survivors) == ("exited", 0, 0)
    assert sandbox.marked() == []


async def test_the_run_of_the_same_name_elsewhere_is_spared(sandbox: PlainSandbox, run: Supervisor, tmp_path: Path) -> None:
    """Two deployments on one machine may both have a job of that name."""
    other_place = PlainSandbox(tmp_path / "other", shell=sandbox.shell)
    try:
        other = Supervisor(other_place, "job-1.1")
        await other.lay_down([RunFile("prompt")])
        await start(other, "echo up; sleep 300")
        await says(other, b"up")
        await start(run, "echo up; sleep 300")
        await says(run, b"up")
        assert (await run.stop(StopReason.CANCEL, 1)).survivors == 0
        assert sandbox.marked() == []
        assert len(other_place.marked()) > 0
        await other.stop(StopReason.CANCEL, 1)
    finally:
        other_place.close()


async def test_the_agent_gets_the_signals_a_person_would_have(run: Supervisor) -> None:
    """Shells ignore SIGINT in background jobs; the agent's tests must not see that."""
    await start(run, "grep SigIgn /proc/self/status")
    label, ignored = (await follow(run))[1].split()
    assert label == b"SigIgn:"
    assert int(ignored, 16) & 0x7FFFFFFF == 0  # signals 1 to 31; the next two are the C library's own, and no program can set them


async def test_the_agent_does_not_hold_the_lock(sandbox: PlainSandbox, run: Supervisor) -> None:
    """Otherwise a child could make a dead supervisor look alive."""
    await start(run, "ls -l /proc/self/fd")
    assert b"/lock" not in (await follow(run))[1]


async def test_a_poll_returns_as_soon_as_there_are_bytes(sandbox: PlainSandbox, run: Supervisor) -> None:
    """Following costs one command per batch and no waiting time."""
    gate = Path(sandbox.workspace, "gate")
    await start(run, "echo one; until [ -e gate ]; do sleep 0.05; done; echo two; sleep 300")
    await says(run, b"one")
    waiting = asyncio.create_task(run.poll(4, wait_s=LONG))
    _, done_early = await asyncio.wait([waiting], timeout=0.5)
    assert done_early
    gate.touch()
    async with asyncio.timeout(LONG / 2):
        status, data = await waiting
    assert (data, status.alive, status.exit) == (b"two\n", True, None)
    await run.stop(StopReason.CANCEL, 1)


async def test_a_poll_returns_as_soon_as_the_run_has_ended(sandbox: PlainSandbox, run: Supervisor) -> None:
    """Also when the supervisor dies without a word."""
    await start(run, "echo up; sleep 300")
    await says(run, b"up")
    waiting = asyncio.create_task(run.poll(3, wait_s=LONG))
    await asyncio.sleep(0.3)  # so that it waits inside when the supervisor dies
    os.kill(sandbox.launched[0].pid, signal.SIGKILL)
    async with asyncio.timeout(LONG / 2):
        status, data = await waiting
    assert (status.lost, data) == (True, b"")


async def test_a_poll_waits_no_longer_than_asked(run: Supervisor) -> None:
    """Before the start and while the agent is silent."""
    assert (await run.poll(0, wait_s=0.3))[0] == Status(claimed=False, alive=False, size=0, err_size=0, exit=None)
    await start(run, "sleep 300")
    await until(lambda: _claimed(run))
    async with asyncio.timeout(LONG / 2):
        status, data = await run.poll(0, wait_s=0.3)
    assert (status.claimed, status.alive, data) == (True, True, b"")
    await run.stop(StopReason.CANCEL, 1)


async def _claimed(run: Supervisor) -> bool:
    return (await run.poll(0))[0].claimed


async def test_the_status_is_older_than_the_bytes(run: Supervisor) -> None:
    """While output pours in, a poll never promises bytes that it does not bring, and its end is a real one."""
    await start(run, "for i in $(seq 20000); do echo $i; done")
    position, expected = 0, b"".join(b"%d\n" % i for i in range(1, 20001))
    async with asyncio.timeout(LONG):
        while True:
            status, data = await run.poll(position, limit=1 << 20, wait_s=1)
            assert position + len(data) >= min(status.size, position + (1 << 20))
            assert data == expected[position : position + len(data)]
            position += len(data)
            if status.done(position):
                break
    assert position == len(expected)


@pytest.mark.parametrize(
    "spoil",
    [
        'echo \'{"rc":0,"reason":"exited"}x\' >exit.json',
        "printf '' >exit.json",
        "printf '{}\\n{}' >exit.json",
        'printf \'{"rc":999,"reason":"exited"}\' >exit.json',
        ": >out.jsonl",
        "rm out.jsonl; mkfifo out.jsonl",
        "rm out.jsonl; ln -s /dev/zero out.jsonl",
        "echo 'echo {}' >poll.sh; chmod +w poll.sh",
        "rm -f poll.sh",
    ],
)
async def test_a_changed_run_directory_is_noticed(sandbox: PlainSandbox, run: Supervisor, spoil: str) -> None:
    """Nothing an agent puts there makes a reader wait, crash or believe."""
    await start(run, "echo 0123456789; sleep 300")
    await says(run, b"9")
    directory = Path(sandbox.runs, "job-1.1")
    spoiled = await sandbox.exec(["bash", "-c", spoil], cwd=str(directory))
    assert spoiled.exit_code == 0, spoiled.stderr
    async with asyncio.timeout(LONG / 2):
        status, data = await run.poll(11)
    assert (status.tampered, data, status.done(11)) == (True, b"", True)
    (directory / "exit.json").unlink(missing_ok=True)
    assert (await run.stop(StopReason.CANCEL, 1)).survivors == 0
    assert sandbox.marked() == []


async def test_an_exit_that_is_no_file_does_not_block(sandbox: PlainSandbox, run: Supervisor) -> None:
    """A FIFO in its place is no exit."""
    os.mkfifo(in_run(sandbox, "exit.json"))
    await start(run, "echo up; sleep 300")
    await says(run, b"up")
    status, _ = await run.poll(0)
    assert (status.alive, status.exit) == (True, None)
    assert (await run.stop(StopReason.CANCEL, 1)).survivors == 0
    assert sandbox.marked() == []


async def test_files_may_be_laid_down_again_while_the_run_goes_on(sandbox: PlainSandbox, run: Supervisor) -> None:
    """A preparation that is repeated does not disturb the shell that reads its script."""
    await start(run, "echo up; until [ -e gate ]; do sleep 0.05; done; exit 7")
    await says(run, b"up")
    await run.lay_down([RunFile("home/"), RunFile("prompt", b"other\n")])
    Path(sandbox.workspace, "gate").touch()
    assert (await ended(run)).rc == 7


async def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """A person learns what to add to the image, before anything was started."""
    bare = PlainSandbox(tmp_path, shell="/bin/dash", path="/nowhere")
    with pytest.raises(CommandFailed, match="the sandbox has no program env"):
        await Supervisor(bare, "job-1.1").lay_down([])


async def test_files_are_for_their_owner_only(sandbox: PlainSandbox, run: Supervisor) -> None:
    """The prompt is not for other accounts of the machine; what the agent makes is ordinary."""
    assert in_run(sandbox, "prompt").stat().st_mode & 0o777 == 0o600
    assert in_run(sandbox, "").stat().st_mode & 0o777 == 0o700
    await start(run, "umask")
    assert (await follow(run))[1] == b"0022\n"
    assert json.loads(in_run(sandbox, "exit.json").read_text())["rc"] == 0
    assert in_run(sandbox, "out.jsonl").stat().st_mode & 0o777 == 0o600
