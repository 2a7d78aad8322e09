"""Prepare: intent, sandbox, bind, workspace, conversation, start the agent detached; then on to activities/run.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic_core import PydanticCustomError
from temporalio import activity

from activities.boundary import boundary
from activities.conversation import RESTORED, main_of
from dogwatch import names
from dogwatch.agent.command import AgentRun, arguments, environment, new_session_id, run_files
from dogwatch.agent.supervisor import RunFile, Supervisor
from dogwatch.contracts.agent import check_prompt
from dogwatch.contracts.sandbox import Provider, SandboxRef
from dogwatch.contracts.steps import Prepared, PrepareInput
from dogwatch.contracts.workspace import Manifest
from dogwatch.errors import ERRORS, AttemptEnded, InvalidRequest, OutOfRange, ProviderUnknown, SandboxLost
from dogwatch.ports import Blobs, Opening, Records, Sandbox, Sandboxes, Secrets
from dogwatch.workspace.push import push

PROVISION_S = 600.0
"""Share of a sandbox's lifetime for preparing."""
COLLECT_S = 900.0
"""Share for collecting, also after a worker's death."""
TEARDOWN_S = 120.0
"""Share for releasing."""


@dataclass(frozen=True)
class Limits:
    """What a deployment allows and assumes, from its settings."""

    provider: Provider
    model: str
    real_model: bool
    max_timeout_s: float
    max_output_bytes: int
    result_grace_s: float


class Prepare:
    """Step of the workflow `Job`."""

    def __init__(self, sandboxes: Mapping[Provider, Sandboxes], records: Records, blobs: Blobs, secrets: Secrets, limits: Limits) -> None:
        """`sandboxes` by make; a job that names none takes the one of `limits`."""
        self.sandboxes, self.records, self.blobs, self.secrets, self.limits = sandboxes, records, blobs, secrets, limits

    @activity.defn(name=names.PREPARE_SANDBOX)
    @boundary
    async def prepare_sandbox(self, step: PrepareInput) -> Prepared:
        """Have the attempt's agent running in the attempt's sandbox. Repeating it finds what is there and never starts a second agent.

        Raises SandboxLost where the attempt's sandbox was there and is gone, AttemptEnded where a stop came first.
        """
        request = step.request
        provider = self._provider(step)
        if request.timeout_s > self.limits.max_timeout_s:
            raise OutOfRange(f"timeout_s: at most {self.limits.max_timeout_s:g} seconds in this deployment (DOGWATCH_MAX_TIMEOUT_S)")
        provider.check(request.sandbox.network, real_model=self.limits.real_model)
        opening = await self.records.open_attempt(step.job_id, step.attempt, request, provider.provider)
        sandbox = await self._sandbox(provider, step, opening)
        files = 0
        if not opening.launched:
            files = await self._fill(sandbox, step, opening)
        return Prepared(
            sandbox=SandboxRef(provider=provider.provider, sandbox_id=sandbox.sandbox_id, name=sandbox.name, workspace=sandbox.workspace),
            conversation=opening.conversation,
            summary=f"{sandbox.isolation}, {files} files, {opening.conversation} conversation",
        )

    def _provider(self, step: PrepareInput) -> Sandboxes:
        wanted = step.request.sandbox.provider or self.limits.provider
        provider = self.sandboxes.get(wanted)
        if provider is None:
            raise ProviderUnknown(f"this deployment has no sandbox provider {wanted}")
        return provider

    async def _sandbox(self, provider: Sandboxes, step: PrepareInput, opening: Opening) -> Sandbox:
        """The one sandbox of this attempt: the recorded one, or a new one that is recorded before anything is put into it."""
        if opening.sandbox_id is not None:
            return await provider.attach(opening.sandbox_id)
        lifetime = timedelta(seconds=PROVISION_S + step.run_s + step.request.cancel_grace_s + COLLECT_S + TEARDOWN_S)
        tags = {"deployment": opening.deployment, "job": step.job_id, "attempt": str(step.attempt)}
        sandbox = await provider.create(step.request.sandbox, name=opening.sandbox_name, tags=tags, lifetime=lifetime)
        expires_at = datetime.now(UTC) + lifetime
        try:
            recorded = await self.records.bind_sandbox(opening.attempt_id, opening.lease, sandbox.sandbox_id, expires_at)
        except AttemptEnded:  # the job ended while we were creating: nobody else knows of this sandbox
            await provider.terminate(sandbox.sandbox_id)
            raise
        if recorded != sandbox.sandbox_id:  # another execution was faster, or its sandbox has died since: never two for one attempt
            await provider.terminate(sandbox.sandbox_id)
            raise SandboxLost(f"attempt {step.attempt} had the sandbox {recorded}")
        return sandbox

    async def _fill(self, sandbox: Sandbox, step: PrepareInput, opening: Opening) -> int:
        """Push the workspace and the conversation, lay down the run's files, start the agent. Returns the number of files pushed."""
        manifest = await self.records.manifest(opening.input.manifest_id) if opening.input else Manifest()
        if manifest.entries:
            await push(sandbox, manifest, self.blobs, sandbox.workspace)
        supervisor = Supervisor(sandbox, opening.attempt_id)
        restored = f"{supervisor.directory}/{RESTORED}"
        conversation = await self.records.manifest(opening.transcript.manifest_id) if opening.transcript else None
        run = AgentRun(
            options=step.request.task.options,
            command=sandbox.agent_command,
            directory=supervisor.directory,
            prompt=await self._prompt(step),
            session_id=new_session_id(),
            budget_usd=step.budget_usd,
            model=self.limits.model,
            model_key=await self.secrets.resolve(step.request.model_credential, step.request.tenant),
            model_url=sandbox.model_url,
            secrets=await self._secrets(step),
            transcript=f"{restored}/{main_of(conversation)}" if conversation else None,
        )
        await supervisor.lay_down([*run_files(run), RunFile(f"{RESTORED}/")])
        if conversation is not None:
            await push(sandbox, conversation, self.blobs, restored)
        await self.records.mark_launching(opening.attempt_id, opening.lease)
        await supervisor.start(
            arguments(run),
            environment(run),
            deadline_s=step.run_s,
            grace_s=step.request.cancel_grace_s,
            output_limit=self.limits.max_output_bytes,
            result_grace_s=self.limits.result_grace_s,
        )
        return manifest.files

    async def _prompt(self, step: PrepareInput) -> str:
        task = step.request.task
        if task.prompt is not None:
            return task.prompt
        stored = await self.blobs.get(task.prompt_sha256 or "")
        prompt = stored.decode("utf-8", "replace")
        try:
            return check_prompt(prompt, allow_slash_commands=task.options.allow_slash_commands)
        except PydanticCustomError as error:
            raise ERRORS.get(error.type, InvalidRequest)(error.message()) from None

    async def _secrets(self, step: PrepareInput) -> dict[str, str]:
        request = step.request
        return {variable: await self.secrets.resolve(reference, request.tenant) for variable, reference in request.secrets.items()}
