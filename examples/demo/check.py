"""What makes the demo's result real, checked from outside of the jobs."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import httpx
import psutil

from dogwatch.client import Client
from dogwatch.client.http import HttpClient
from dogwatch.contracts.job import JobStatus, JobView
from dogwatch.contracts.sandbox import Network, SandboxSpec
from dogwatch.sandbox.local.place import default_root
from dogwatch.settings import Settings
from examples.demo.model import ModelChoice
from worker.embedded.stack import Stack
from worker.sandbox import local_sandboxes

JOB_EVENTS = 29
"""History events of a job of one attempt that neither fails nor is cancelled."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    what: str
    good: bool


async def check_results(stack: Stack, model: ModelChoice, jobs: Sequence[JobView]) -> list[Finding]:
    """The findings while the stack still runs."""
    temporal = (await Client.connect(stack.temporal.address)).temporal
    findings = [Finding(f"job {number} succeeded", job.status is JobStatus.SUCCEEDED) for number, job in enumerate(jobs, 1)]
    for number, job in enumerate(jobs, 1):
        history = await temporal.get_workflow_handle(job.workflow_id).fetch_history()
        one_attempt = len(job.attempts) == 1
        findings.append(
            Finding(f"job {number}: {len(history.events)} history events", not one_attempt or len(history.events) == JOB_EVENTS)
        )
    async with HttpClient(stack.http_url) as door:
        for number, job in enumerate(jobs, 1):
            seqs = [event.seq async for event in door.events(job.job_id)]
            findings.append(Finding(f"job {number}: events 1 to {len(seqs)} without a gap", seqs == list(range(1, job.events + 1))))
        findings.append(await _test_passes_elsewhere(stack, door, jobs[-1]))
    if model.scripted:
        findings.append(await _conversation_went_on(model))
    return findings


async def _test_passes_elsewhere(stack: Stack, door: HttpClient, job: JobView) -> Finding:
    """The collected workspace in a sandbox that no agent has seen: the test that failed must pass."""
    provider = local_sandboxes(Settings(state_dir=stack.state_dir))
    spec = SandboxSpec(network=Network.NONE)
    sandbox = await provider.create(spec, name=f"demo-check-{uuid.uuid4().hex[:8]}", tags={}, lifetime=timedelta(minutes=5))
    try:
        await sandbox.exec(["tar", "--extract", "--file=-"], stdin=door.archive(job.job_id), cwd=sandbox.workspace)
        tested = await sandbox.exec(["sh", "test.sh"], cwd=sandbox.workspace)
    finally:
        await provider.terminate(sandbox.sandbox_id)
    passed = tested.stdout.decode(errors="replace").count("ok ")
    return Finding(f"in a new sandbox ({sandbox.isolation}) the collected workspace passes its test: {passed} cases", tested.exit_code == 0)


async def _conversation_went_on(model: ModelChoice) -> Finding:
    """The scripted model counts what it was asked: every prompt once, and the second job with the whole conversation."""
    async with httpx.AsyncClient(trust_env=False) as http:
        stats = (await http.get(f"{model.environment['DOGWATCH_MODEL_URL']}/__stats")).json()
    repeated, conversations = stats["repeated_prompts"], len(stats["conversations"])
    words = f"the model was asked {stats['requests']} times in {conversations} conversation, {repeated} prompts paid twice"
    return Finding(words, repeated == 0 and conversations == 1)


def no_process_is_left(stack: Stack) -> Finding:
    """After the end: no child of ours, and nothing that works in the demo's directories."""
    places = (str(stack.state_dir), str(default_root(stack.state_dir)))
    left = [process.info for process in psutil.process_iter(["pid", "cmdline"]) if _uses(process, places)]
    return Finding("no process is left", not left)


def _uses(process: psutil.Process, places: Sequence[str]) -> bool:
    words = " ".join(process.info["cmdline"] or ())
    return process.pid != psutil.Process().pid and any(place in words for place in places)
