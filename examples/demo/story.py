"""The story: a session with an example workspace, a job that repairs a test, a second one that goes on where the first ended."""

import base64
from pathlib import Path

from dogwatch.client.http import HttpClient
from dogwatch.contracts.agent import AgentOptions
from dogwatch.contracts.job import JobSubmission, JobView
from dogwatch.contracts.session import SessionRequest
from dogwatch.contracts.workspace import Upload, UploadArchive
from dogwatch.workspace.diff import unified_diff
from dogwatch.workspace.directory import pack
from examples.demo.telling import Teller
from worker.embedded.stack import Stack

FIRST = "A case of test.sh fails. Find out why, repair slug.sh, and run the test again."
SECOND = "Note in CHANGES.md what you just changed, and give test.sh one more case."


async def play(stack: Stack, workspace: Path, tell: Teller) -> list[JobView]:
    """Run both jobs over HTTP, as a service would, and show what comes back."""
    archive = UploadArchive.model_validate({"data_base64": base64.b64encode(pack(workspace))})
    before = {path.name: path.read_bytes() for path in workspace.iterdir()}
    jobs = []
    async with HttpClient(stack.http_url) as door:
        session = await door.open_session(SessionRequest(upload=Upload(archives=(archive,)), labels={"from": "make demo"}))
        tell.headline(f"Session {session.session_id}: {len(before)} files from {workspace}")
        for number, prompt in enumerate((FIRST, SECOND), 1):
            tell.headline(f"Job {number}: {prompt}")
            submission = JobSubmission(prompt=prompt, options=AgentOptions(max_cost_usd=1.0))
            job = await door.submit(submission, session_id=session.session_id)
            tell.note(f"{stack.temporal.ui_url}/namespaces/default/workflows/{job.workflow_id.replace('/', '%2F')}")
            async for event in door.events(job.job_id):
                tell.event(event)
            job = await door.job(job.job_id)
            after = {
                file.path: b"".join([part async for part in door.download(file)]) async for file in door.files(job.job_id) if file.sha256
            }
            tell.diff(unified_diff(before.get(path), after.get(path), path) for path in sorted({*before, *after}))
            tell.result(job)
            before = after
            jobs.append(job)
        await door.close_session(session.session_id)
    return jobs
