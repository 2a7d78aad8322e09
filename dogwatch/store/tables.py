"""The tables: sessions, jobs, attempts, sandboxes, events, manifests, blobs, transitions, deployment."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _time(name: str, *, now: bool = False, null: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=null and not now, server_default=text("now()") if now else None)


def _json(name: str) -> Column[object]:
    return Column(name, JSONB, nullable=False, server_default=text("'{}'::jsonb"))


def _one_of(column: str, *values: str) -> CheckConstraint:
    return CheckConstraint(f"{column} in ({', '.join(repr(value) for value in values)})", name=column)


deployment = Table(
    "deployment",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("single", Boolean, nullable=False, unique=True, server_default=text("true")),
    _time("created_at", now=True),
    CheckConstraint("single", name="single"),
)

manifests = Table(
    "manifests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("files", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("limit_hit", Text),
    _time("created_at", now=True),
    _one_of("kind", "workspace", "transcript"),
)

manifest_entries = Table(
    "manifest_entries",
    metadata,
    Column("manifest_id", Text, ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("path", LargeBinary, nullable=False),
    Column("kind", Text, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", LargeBinary),
    Column("target", LargeBinary),
    Column("reason", Text),
    Column("repo_config", Boolean, nullable=False),
    _one_of("kind", "file", "directory", "symlink", "skipped"),
    CheckConstraint("(kind = 'file') = (sha256 is not null)", name="file_has_digest"),
    # By digest: a path may have 4,096 bytes, an index entry has 2,704.
    Index("uq_manifest_entries_path", "manifest_id", text("sha256(path)"), unique=True),
    Index("ix_manifest_entries_sha256", "sha256", postgresql_where=text("sha256 is not null")),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("ttl_s", Double, nullable=False),
    Column("input_manifest", Text, ForeignKey("manifests.id")),
    Column("workspace_manifest", Text, ForeignKey("manifests.id")),
    Column("transcript_manifest", Text, ForeignKey("manifests.id")),
    Column("latest_job_id", Text),
    Column("idempotency_key", Text),
    Column("request_hash", LargeBinary),
    _json("labels"),
    _time("created_at", now=True),
    _time("expires_at", null=False),
    _time("ended_at"),
    UniqueConstraint("tenant", "idempotency_key"),
    _one_of("state", "open", "closing", "closed", "expired"),
    Index("ix_sessions_tenant_created", "tenant", "created_at", "id"),
    Index("ix_sessions_due", "expires_at", postgresql_where=text("state in ('open', 'closing')")),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("session_id", Text),
    Column("idempotency_key", Text),
    Column("request_hash", LargeBinary),
    Column("request", JSONB, nullable=False),
    Column("prompt", Text, nullable=False, server_default=text("''")),
    Column("prompt_sha256", LargeBinary),
    Column("status", Text, nullable=False),
    Column("verdict", JSONB),
    Column("text", Text, nullable=False, server_default=text("''")),
    _json("usage"),
    _json("changes"),
    _json("labels"),
    Column("events", BigInteger, nullable=False, server_default=text("0")),
    Column("input_manifest", Text, ForeignKey("manifests.id")),
    Column("input_transcript", Text, ForeignKey("manifests.id")),
    Column("output_manifest", Text, ForeignKey("manifests.id")),
    Column("transcript_manifest", Text, ForeignKey("manifests.id")),
    _time("created_at", now=True),
    _time("started_at"),
    _time("finished_at"),
    UniqueConstraint("tenant", "idempotency_key"),
    _one_of("status", "accepted", "queued", "running", "succeeded", "failed", "timed_out", "cancelled"),
    Index("ix_jobs_tenant_created", "tenant", "created_at", "id"),
    Index("ix_jobs_session", "session_id", "created_at", postgresql_where=text("session_id is not null")),
    Index("ix_jobs_prompt_sha256", "prompt_sha256", postgresql_where=text("prompt_sha256 is not null")),
    Index("ix_jobs_unfinished", "created_at", postgresql_where=text("status in ('accepted', 'queued', 'running')")),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("number", SmallInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("sandbox_id", Text),
    Column("lease", Integer, nullable=False, server_default=text("1")),
    Column("next_offset", BigInteger, nullable=False, server_default=text("0")),
    Column("next_seq", BigInteger, nullable=False, server_default=text("1")),
    Column("tail", LargeBinary, nullable=False, server_default=text("''::bytea")),
    _json("progress"),
    Column("stop_reason", Text),
    _time("stop_requested_at"),
    Column("verdict", JSONB),
    _json("usage"),
    Column("workspace_manifest", Text, ForeignKey("manifests.id")),
    Column("transcript_manifest", Text, ForeignKey("manifests.id")),
    _time("created_at", now=True),
    _time("started_at"),
    _time("ended_at"),
    UniqueConstraint("job_id", "number"),
    _one_of("state", "intended", "prepared", "launching", "running", "ended"),
    _one_of("cause", "first", "resumed", "restarted"),
    CheckConstraint("(state = 'ended') = (ended_at is not null)", name="ended"),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("session_id", Text),
    Column("owner_attempt", Text),
    Column("sandbox_id", Text),
    Column("state", Text, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("reason", Text),
    _time("created_at", now=True),
    _time("expires_at"),
    _time("ended_at"),
    _one_of("state", "intended", "created", "ended"),
    Index("ix_sandboxes_job", "job_id"),
    Index("ix_sandboxes_unsettled", "created_at", postgresql_where=text("state <> 'ended'")),
)

events = Table(
    "events",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("attempt_id", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("subtype", Text),
    Column("raw", LargeBinary),
    Column("sha256", LargeBinary),
    _time("received_at", now=True),
    UniqueConstraint("attempt_id", "offset"),
    CheckConstraint("(raw is null) <> (sha256 is null)", name="one_body"),
    Index("ix_events_sha256", "sha256", postgresql_where=text("sha256 is not null")),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", LargeBinary, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("stored", Boolean, nullable=False, server_default=text("false")),
    _time("deleting_since"),
    _time("created_at", now=True),
    _time("last_put_at", now=True),
    Index("ix_blobs_last_put_at", "last_put_at"),
)

transitions = Table(
    "transitions",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("subject", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("from_state", Text),
    Column("to_state", Text, nullable=False),
    Column("reason", Text),
    _time("at", now=True),
    Index("ix_transitions_subject", "subject", "subject_id", "id"),
)
