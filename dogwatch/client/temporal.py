"""Starting and finding jobs and sessions: the client that a service holds."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Self

from temporalio import client as temporal
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import WorkflowAlreadyStartedError

from dogwatch import names
from dogwatch.client.handle import JobHandle, SessionHandle
from dogwatch.client.refusal import answered
from dogwatch.contracts.job import JobRequest
from dogwatch.contracts.session import SessionInput

DEFAULT_ADDRESS = "localhost:7233"
DEADLINE_S = 10.0
"""Longest wait for Temporal's answer to one request."""
_TENANT, _SESSION = (SearchAttributeKey.for_keyword(name) for name in names.SEARCH_ATTRIBUTES)


class Client:
    """Jobs and sessions through Temporal, by reference: files go in and out through the HTTP door or as stored manifests."""

    def __init__(self, client: temporal.Client, *, task_queue: str = names.TASK_QUEUE, deadline_s: float = DEADLINE_S) -> None:
        """`client` must use temporalio's pydantic data converter, as `connect` does."""
        self.temporal = client
        self.task_queue = task_queue
        self.deadline_s = deadline_s

    @classmethod
    async def connect(
        cls, address: str | None = None, *, namespace: str | None = None, lazy: bool = False, deadline_s: float = DEADLINE_S
    ) -> Self:
        """Connect as the `temporal` command line would: its variables and files count, `address` and `namespace` go before them.

        With `lazy` nothing is asked until the first use. Raises TemporalUnavailable.
        """
        config = ClientConfig.load_client_connect_config()
        config["target_host"] = address or config.get("target_host", DEFAULT_ADDRESS)
        if namespace is not None:
            config["namespace"] = namespace
        async with answered(deadline_s):
            return cls(await temporal.Client.connect(**config, data_converter=pydantic_data_converter, lazy=lazy), deadline_s=deadline_s)

    async def check(self) -> None:
        """Raise TemporalUnavailable unless Temporal answers."""
        async with answered(self.deadline_s):
            await self.temporal.service_client.check_health(timeout=timedelta(seconds=self.deadline_s))

    async def start_job(self, request: JobRequest, job_id: str | None = None, *, summary: str | None = None) -> JobHandle:
        """Start a job of its own. The same `job_id` again is the same job, also after it has ended: nothing runs twice.

        `summary` is what the Temporal UI lists, instead of the beginning of the prompt. Raises InvalidRequest, TemporalUnavailable.
        """
        job_id = job_id or names.new_id()
        await self._start(
            names.JOB,
            request,
            names.job_workflow_id(job_id),
            _attributes(request.tenant, request.session_id),
            summary=summary or request.task.prompt or "a long prompt",
            details=_job_details(request),
        )
        return JobHandle(self.temporal, job_id, self.deadline_s)

    async def open_session(self, session: SessionInput, *, summary: str | None = None) -> SessionHandle:
        """Open a session with no files. The same id again is the same session. Raises InvalidRequest, TemporalUnavailable."""
        await self._start(
            names.SESSION,
            session,
            names.session_workflow_id(session.session_id),
            _attributes(session.tenant, session.session_id),
            summary=summary or f"a workspace that lives {session.ttl_s:g} s after its last job",
            details=f"tenant {names.one_line(session.tenant)}",
        )
        return SessionHandle(self.temporal, session.session_id, self.deadline_s)

    def job(self, job_id: str) -> JobHandle:
        """The job of that id."""
        return JobHandle(self.temporal, job_id, self.deadline_s)

    def session(self, session_id: str) -> SessionHandle:
        """The session of that id."""
        return SessionHandle(self.temporal, session_id, self.deadline_s)

    async def find_jobs(self, *, tenant: str = "default", session_id: str | None = None) -> AsyncIterator[JobHandle]:
        """Jobs that were started for a tenant, running or ended, newest first; jobs that a session started itself carry no attribute.

        Temporal forgets ended ones after its retention period, and lists new ones a moment late. Raises TemporalUnavailable.
        """
        query = f"WorkflowType = '{names.JOB}' AND {_TENANT.name} = '{_quoted(tenant)}'"
        if session_id is not None:
            query += f" AND {_SESSION.name} = '{_quoted(session_id)}'"
        pages = self.temporal.list_workflows(query, rpc_timeout=timedelta(seconds=self.deadline_s))
        while True:
            async with answered(self.deadline_s):
                await pages.fetch_next_page()
            for execution in pages.current_page or ():
                if job_id := names.job_id_of(execution.id):
                    yield self.job(job_id)
            if not pages.next_page_token:
                return

    async def _start(
        self,
        workflow: str,
        request: JobRequest | SessionInput,
        workflow_id: str,
        attributes: TypedSearchAttributes,
        *,
        summary: str,
        details: str,
    ) -> None:
        """Both policies are needed: by the default reuse policy a second run starts once the first has closed."""
        try:
            async with answered(self.deadline_s):
                await self.temporal.start_workflow(
                    workflow,
                    request,
                    id=workflow_id,
                    task_queue=self.task_queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    search_attributes=attributes,
                    static_summary=names.one_line(summary),
                    static_details=details,
                    rpc_timeout=timedelta(seconds=self.deadline_s),
                )
        except WorkflowAlreadyStartedError:
            return  # it has run and ended: the same thing again


def _attributes(tenant: str, session_id: str | None) -> TypedSearchAttributes:
    pairs = [SearchAttributePair(_TENANT, tenant)]
    return TypedSearchAttributes([*pairs, SearchAttributePair(_SESSION, session_id)] if session_id else pairs)


def _job_details(request: JobRequest) -> str:
    """What the Temporal UI shows of a request, as Markdown in which none of the caller's words acts."""
    facts = {
        "model": request.task.options.model or "the deployment's",
        "agent's time": f"{request.timeout_s:g} s, at most {request.max_attempts} attempts, {request.task.options.max_cost_usd:g} USD",
        "workspace": request.workspace.kind,
        "sandbox": f"{request.sandbox.provider or 'the deployment’s'}, network {request.sandbox.network}",
        "tenant": request.tenant,
    } | {f"label {name}": value for name, value in sorted(request.labels.items())[:20]}
    return "\n".join(f"- {names.one_line(name)}: {names.one_line(value)}" for name, value in facts.items())


def _quoted(value: str) -> str:
    """A value inside single quotes of Temporal's list filter. Ids hold no quotes; anybody else's are taken out."""
    return value.replace("'", "").replace("\\", "")
