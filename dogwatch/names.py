"""Every name a person meets in the Temporal UI: types, ids and their inverse, queues, messages, search attributes."""

import hashlib
import re
import secrets
from typing import Final

from dogwatch.contracts.base import ID_PATTERN

TASK_QUEUE: Final = "dogwatch"
"""Workflows and activities share one queue: an activity of a workflow on the same worker starts without a dispatch."""

JOB: Final = "Job"
SESSION: Final = "Session"
CLEANUP: Final = "Cleanup"
DELETE: Final = "Delete"
CLEANUP_SCHEDULE: Final = "cleanup"

PREPARE_SANDBOX: Final = "prepare_sandbox"
RUN_AGENT: Final = "run_agent"
COLLECT_RESULTS: Final = "collect_results"
RELEASE_SANDBOX: Final = "release_sandbox"
STOP_AGENT: Final = "stop_agent"
END_SESSION: Final = "end_session"
SWEEP: Final = "sweep"

SUBMIT_JOB: Final = "submit_job"
EXTEND: Final = "extend"
CLOSE: Final = "close"
WITHDRAW_JOB: Final = "withdraw_job"

SEARCH_ATTRIBUTES: Final = {"DogwatchTenant": "Keyword", "DogwatchSession": "Keyword"}
"""Set at the start of a workflow and never again: an upsert costs an event. ExecutionStatus tells running, failed and cancelled apart."""

_ID = re.compile(ID_PATTERN)
_JOB_PREFIX, _SESSION_PREFIX = "job/", "session/"


def job_workflow_id(job_id: str) -> str:
    """The workflow id of a job: `job/<id>`."""
    return _JOB_PREFIX + job_id


def job_id_of(workflow_id: str) -> str | None:
    """The job id in a workflow id; None where it is none. Inverse of `job_workflow_id`: what lives is looked up by that name."""
    job_id = workflow_id.removeprefix(_JOB_PREFIX)
    return job_id if workflow_id.startswith(_JOB_PREFIX) and _ID.fullmatch(job_id) else None


def session_workflow_id(session_id: str) -> str:
    """The workflow id of a session: `session/<id>`."""
    return _SESSION_PREFIX + session_id


def session_id_of(workflow_id: str) -> str | None:
    """The session id in a workflow id; None where it is none. Inverse of `session_workflow_id`."""
    session_id = workflow_id.removeprefix(_SESSION_PREFIX)
    return session_id if workflow_id.startswith(_SESSION_PREFIX) and _ID.fullmatch(session_id) else None


def new_id(*parts: str) -> str:
    """An id of 128 bits: the digest of `parts` (deployment, tenant, session, idempotency key), or random when there are none."""
    if not parts:
        return secrets.token_hex(16)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def attempt_id(job_id: str, number: int) -> str:
    """The id of an attempt's row and the marker its processes carry: `<job id>.<number>`."""
    return f"{job_id}.{number}"


def sandbox_name(deployment: str, job_id: str, number: int) -> str:
    """The deterministic name of an attempt's sandbox: at most 64 characters of `[A-Za-z0-9._-]`, also where the job id is long."""
    return f"dw-{deployment[:8]}-{new_id(deployment, job_id)[:24]}-{number}"


def one_line(words: str, most: int = 160) -> str:
    """Words as they may stand in a summary of the Temporal UI, which renders Markdown: one line, capped, nothing in it acts."""
    flat = "".join(char if char.isprintable() else " " for char in words[: 4 * most])
    inert = " ".join("".join(char for char in flat if char not in "`*_[]<>|#\\!").split())
    return inert if len(inert) <= most else inert[: most - 1] + "…"
