"""Collect: the last lines, the changed files, the conversation, the usage and the verdict, committed at once."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from temporalio import activity

from activities import conversation
from activities.boundary import boundary
from activities.follow import Follower, until_ended
from dogwatch import names
from dogwatch.agent.supervisor import Supervisor
from dogwatch.contracts.agent import Usage, VerdictCode
from dogwatch.contracts.sandbox import Provider
from dogwatch.contracts.steps import Collected, CollectInput, StopReason
from dogwatch.contracts.workspace import Changes, Manifest
from dogwatch.errors import AttemptEnded, CommandFailed
from dogwatch.ports import Blobs, Collection, CollectionOpening, Records, Sandbox, Sandboxes, Tree
from dogwatch.workspace.deposit import Deposit
from dogwatch.workspace.manifest import changes, digest
from dogwatch.workspace.pull import pull

LAST_LINES_S = 30.0
"""How long the last lines of an agent that was ended may take to store."""
_CLEAN_END = {VerdictCode.SUCCESS, VerdictCode.MAX_TURNS}


class Collect:
    """Step of the workflow `Job`."""

    def __init__(self, sandboxes: Mapping[Provider, Sandboxes], records: Records, blobs: Blobs, scratch: Path) -> None:
        """`scratch` is a directory for files that are too big for memory while they are hashed."""
        self.sandboxes, self.records, self.blobs, self.scratch = sandboxes, records, blobs, scratch

    @activity.defn(name=names.COLLECT_RESULTS)
    @boundary
    async def collect_results(self, step: CollectInput) -> Collected:
        """Save what the attempt left. Repeating it after it has committed gives the same answer."""
        attempt_id = names.attempt_id(step.job_id, step.attempt)
        opening = await self.records.open_collection(attempt_id)
        if opening.done is not None:  # before the sandbox is asked for, which may be gone since
            return opening.done
        lost = step.verdict.code is VerdictCode.SANDBOX_LOST
        sandbox = None if lost else await self.sandboxes[step.sandbox.provider].attach(step.sandbox.sandbox_id)
        usage, text = step.usage, step.text
        supervisor = Supervisor(sandbox, attempt_id) if sandbox is not None else None
        if supervisor is not None and step.verdict.code not in _CLEAN_END:
            usage, text = await self._last_lines(step, attempt_id, supervisor)
            opening = await self.records.open_collection(attempt_id)  # storing the last lines took the lease
        workspace = transcript = None
        if sandbox is not None and supervisor is not None:
            # The conversation first: an agent that repeats an edit is harmless, one that believes in a lost edit is not.
            transcript = await self._transcript(sandbox, supervisor, opening.transcript_of)
            workspace = await self._workspace(sandbox)
        return await self.records.commit_collection(
            Collection(
                job_id=step.job_id,
                attempt_id=attempt_id,
                lease=opening.lease,
                session_id=step.session_id,
                tenant=step.tenant,
                workspace=workspace,
                transcript=transcript,
                changes=await self._changes(opening, workspace),
                verdict=step.verdict,
                ending=step.ending,
                usage=usage,
                text=text,
            )
        )

    async def _last_lines(self, step: CollectInput, attempt_id: str, supervisor: Supervisor) -> tuple[Usage, str]:
        """See that no process of the agent is left, and store what it wrote before it was ended, should nobody have done so yet."""
        await supervisor.stop(StopReason.CANCEL, 0)
        follower = Follower(step.job_id, attempt_id, self.records, self.blobs)
        with suppress(TimeoutError, AttemptEnded):
            await until_ended(follower, supervisor, LAST_LINES_S)
            return follower.progress.usage, follower.progress.text
        return step.usage, step.text

    def _deposit(self) -> Deposit:
        return Deposit(self.blobs, self.records.note_blobs, self.scratch)

    async def _workspace(self, sandbox: Sandbox) -> Tree:
        manifest = await pull(sandbox, sandbox.workspace, self._deposit())
        return Tree(manifest, digest(manifest))

    async def _transcript(self, sandbox: Sandbox, supervisor: Supervisor, session_id: str | None) -> Tree | None:
        """The conversation's files; None where the agent never got to write one."""
        if session_id is None:
            return None
        root = f"{supervisor.directory}/{conversation.WRITTEN}"
        try:
            written = await pull(sandbox, root, self._deposit(), conversation.LIMITS)
        except CommandFailed:
            if (await sandbox.exec(["test", "-d", root])).exit_code == 0:
                raise
            return None
        manifest = conversation.conversation_of(written, session_id)
        return Tree(manifest, digest(manifest)) if manifest.entries else None

    async def _changes(self, opening: CollectionOpening, workspace: Tree | None) -> Changes:
        if workspace is None:
            return Changes()
        if opening.input is not None and opening.input.digest == workspace.digest:
            return Changes()
        before = await self.records.manifest(opening.input.manifest_id) if opening.input else Manifest()
        return changes(before, workspace.manifest)
