"""From a submission to a job that runs: the row first, then the start, and an answer only after both."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

from dogwatch import names
from dogwatch.contracts.agent import MAX_INLINE_PROMPT_BYTES, AgentTask
from dogwatch.contracts.job import MAX_REQUEST_BYTES, JobRequest, JobStatus, JobSubmission, JobView
from dogwatch.contracts.session import QueuedJob, SessionInput, SessionRequest, SessionView
from dogwatch.contracts.workspace import (
    EmptyWorkspace,
    InlineWorkspace,
    JobWorkspace,
    ManifestWorkspace,
    SessionWorkspace,
    Upload,
    WorkspaceSource,
)
from dogwatch.errors import (
    DatabaseUnavailable,
    DogwatchError,
    InlineFilesRefused,
    NotFound,
    OutOfRange,
    RequestTooLarge,
    SessionGone,
    SessionMissing,
    TwoWorkspaces,
)
from dogwatch.http.deps import Deps
from dogwatch.ports import Tree
from dogwatch.store.acceptance import AcceptedJob, NewJob, NewSession
from dogwatch.workspace.deposit import Deposit
from dogwatch.workspace.manifest import digest
from dogwatch.workspace.upload import receive

_ROUNDS = 3
"""Another request with the same key may take the row back meanwhile; then everything is done once more."""
Start = Callable[[AcceptedJob], Awaitable[object]]


class Submitter:
    """Accepts jobs and sessions."""

    def __init__(self, deps: Deps) -> None:
        """Works with `deps`."""
        self.deps = deps

    async def alone(self, submission: JobSubmission, key: str | None) -> JobView:
        """A job of its own, with files of its own."""
        await self._check_source(submission.workspace)
        self._check_limits(submission)
        tree = await self._store(submission.upload) if submission.upload is not None else None
        new = await self._new_job(submission, submission.workspace or EmptyWorkspace(), None, key, tree)
        return await self._accept_and_start(
            new, lambda accepted: self.deps.temporal.start_job(accepted.request, accepted.job_id, summary=submission.prompt)
        )

    async def in_session(self, session_id: str, submission: JobSubmission, key: str | None) -> JobView:
        """A job on the files of a session. Raises NotFound, SessionGone, SessionClosing, SessionFull."""
        if submission.upload is not None or isinstance(submission.workspace, ManifestWorkspace | JobWorkspace | InlineWorkspace):
            raise TwoWorkspaces("a job in a session works on the session's files")
        self._check_limits(submission)
        session = await self.deps.doors.session(self.deps.tenant, session_id)

        async def start(accepted: AcceptedJob) -> None:
            if session.state.terminal:
                raise SessionGone
            await self._enqueue(session_id, accepted)

        source = submission.workspace or SessionWorkspace()
        return await self._accept_and_start(await self._new_job(submission, source, session_id, key, None), start)

    async def open_session(self, request: SessionRequest, key: str | None) -> SessionView:
        """A session with its first files."""
        deployment, tenant = self.deps.doors.deployment, self.deps.tenant
        session_id = names.new_id(deployment, tenant, key) if key is not None else names.new_id()
        session = SessionInput(session_id=session_id, tenant=tenant, ttl_s=request.ttl_s)
        new = NewSession(session=session, labels=request.labels, key=key, upload=await self._store(request.upload))
        return await self._open_and_start(new, _ROUNDS)

    async def _open_and_start(self, new: NewSession, rounds: int) -> SessionView:
        doors, tenant = self.deps.doors, self.deps.tenant
        accepted = await doors.accept_session(new)
        if not accepted.state.terminal:
            try:
                await self.deps.temporal.open_session(new.session)
            except DogwatchError:
                with suppress(DatabaseUnavailable):  # cleanup ends a session that has no workflow
                    await doors.drop_session(tenant, accepted)
                raise
            if not await doors.mark_started(tenant, accepted.session_id) and rounds > 1:
                return await self._open_and_start(new, rounds - 1)
        return await doors.session(tenant, accepted.session_id)

    async def _accept_and_start(self, new: NewJob, start: Start, rounds: int = _ROUNDS) -> JobView:
        doors, tenant = self.deps.doors, self.deps.tenant
        accepted = await doors.accept_job(new)
        if accepted.status is JobStatus.ACCEPTED:
            try:
                await start(accepted)
            except DogwatchError:
                with suppress(DatabaseUnavailable):  # cleanup drops an accepted row that nobody knows
                    await doors.drop_accepted(tenant, accepted.job_id)
                raise
            if not await doors.mark_queued(tenant, accepted.job_id) and rounds > 1:
                return await self._accept_and_start(new, start, rounds - 1)
        return await doors.job(tenant, accepted.job_id)

    async def _enqueue(self, session_id: str, accepted: AcceptedJob) -> None:
        await self.deps.temporal.check()  # an update waits longer than a start, because it needs a worker
        try:
            await self.deps.temporal.session(session_id).enqueue(QueuedJob(job_id=accepted.job_id, request=accepted.request))
        except NotFound:
            raise SessionGone from None

    async def _new_job(
        self, submission: JobSubmission, source: WorkspaceSource, session_id: str | None, key: str | None, tree: Tree | None
    ) -> NewJob:
        doors, tenant = self.deps.doors, self.deps.tenant
        request = JobRequest(
            task=await self._task(submission),
            workspace=source,
            session_id=session_id,
            conversation=submission.conversation,
            timeout_s=submission.timeout_s,
            max_attempts=submission.max_attempts,
            cancel_grace_s=submission.cancel_grace_s,
            sandbox=submission.sandbox,
            tenant=tenant,
            model_credential=submission.model_credential,
            secrets=submission.secrets,
            labels=submission.labels,
        )
        if (size := len(request.model_dump_json().encode())) > MAX_REQUEST_BYTES:
            raise RequestTooLarge(f"the request has {size:,} bytes without its prompt and files, at most {MAX_REQUEST_BYTES:,}")
        job_id = names.new_id(doors.deployment, tenant, session_id or "", key) if key is not None else names.new_id()
        return NewJob(job_id=job_id, request=request, prompt=submission.prompt, key=key, upload=tree)

    async def _task(self, submission: JobSubmission) -> AgentTask:
        prompt = submission.prompt.encode()
        if len(prompt) <= MAX_INLINE_PROMPT_BYTES:
            return AgentTask(prompt=submission.prompt, options=submission.options)
        return AgentTask(prompt_sha256=(await self._put([prompt]))[0], options=submission.options)

    async def _store(self, upload: Upload) -> Tree:
        limits = self.deps.limits
        received = await asyncio.to_thread(receive, upload, max_files=limits.max_upload_files, max_bytes=limits.max_upload_bytes)
        await self._put(received.blobs.values())
        return Tree(received.manifest, digest(received.manifest))

    async def _put(self, contents: Iterable[bytes]) -> list[str]:
        deposit = Deposit(self.deps.blobs, self.deps.doors.note_blobs, Path(tempfile.gettempdir()))
        digests = [await deposit.add(content) for content in contents]
        await deposit.flush()
        return digests

    def _check_limits(self, submission: JobSubmission) -> None:
        if submission.timeout_s > self.deps.limits.max_timeout_s:
            raise OutOfRange(f"timeout_s: this deployment allows {self.deps.limits.max_timeout_s:g} seconds")

    async def _check_source(self, source: WorkspaceSource | None) -> None:
        if isinstance(source, InlineWorkspace):
            raise InlineFilesRefused
        if isinstance(source, SessionWorkspace):
            raise SessionMissing
        known = True
        if isinstance(source, JobWorkspace):
            known = await self.deps.doors.has_job(self.deps.tenant, source.job_id)
        elif isinstance(source, ManifestWorkspace):
            known = await self.deps.doors.has_manifest(self.deps.tenant, source.manifest_id)
        if not known:
            raise NotFound("there is no such workspace to start from")
