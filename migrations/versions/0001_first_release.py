"""The tables of the first release."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


# States move forward only, whoever writes, and every step leaves a row: enforced here, so that no code can forget it.
_FORWARD = """
create function state_rank(subject text, state text) returns int language sql immutable parallel safe as $$
  select case subject
    when 'jobs' then coalesce(array_position(array['accepted', 'queued', 'running'], state), 9)
    when 'sessions' then coalesce(array_position(array['open', 'closing'], state), 9)
    when 'attempts' then array_position(array['intended', 'prepared', 'launching', 'running', 'ended'], state)
    when 'sandboxes' then array_position(array['intended', 'created', 'ended'], state)
  end
$$;
create function keep_order() returns trigger language plpgsql as $$
declare
  was jsonb := case when tg_op = 'UPDATE' then to_jsonb(old) end;
  becomes jsonb := to_jsonb(new);
  before_state text := coalesce(was ->> 'status', was ->> 'state');
  after_state text := coalesce(becomes ->> 'status', becomes ->> 'state');
begin
  if before_state is not distinct from after_state then
    return null;
  end if;
  if before_state is not null and state_rank(tg_table_name, after_state) <= state_rank(tg_table_name, before_state) then
    raise exception '% %: % cannot follow %', tg_table_name, coalesce(becomes ->> 'id', becomes ->> 'name'), after_state, before_state
      using errcode = 'check_violation';
  end if;
  insert into transitions (subject, subject_id, from_state, to_state, reason)
  values (tg_table_name, coalesce(becomes ->> 'id', becomes ->> 'name'), before_state, after_state,
    coalesce(becomes ->> 'reason', becomes -> 'verdict' ->> 'code'));
  return null;
end
$$;
"""
_GUARDED = ("jobs", "sessions", "attempts", "sandboxes")


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("deleting_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_put_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_index("ix_blobs_last_put_at", "blobs", ["last_put_at"], unique=False)
    op.create_table(
        "deployment",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("single", name=op.f("ck_deployment_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment")),
        sa.UniqueConstraint("single", name=op.f("uq_deployment_single")),
    )
    op.create_table(
        "manifests",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("limit_hit", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind in ('workspace', 'transcript')", name=op.f("ck_manifests_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_manifests")),
    )
    op.create_table(
        "sandboxes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("owner_attempt", sa.Text(), nullable=True),
        sa.Column("sandbox_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('intended', 'created', 'ended')", name=op.f("ck_sandboxes_state")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sandboxes")),
    )
    op.create_index("ix_sandboxes_job", "sandboxes", ["job_id"], unique=False)
    op.create_index("ix_sandboxes_unsettled", "sandboxes", ["created_at"], unique=False, postgresql_where=sa.text("state <> 'ended'"))
    op.create_table(
        "transitions",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transitions")),
    )
    op.create_index("ix_transitions_subject", "transitions", ["subject", "subject_id", "id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.LargeBinary(), nullable=True),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("prompt", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("prompt_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("text", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("usage", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("changes", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("input_manifest", sa.Text(), nullable=True),
        sa.Column("input_transcript", sa.Text(), nullable=True),
        sa.Column("output_manifest", sa.Text(), nullable=True),
        sa.Column("transcript_manifest", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status in ('accepted', 'queued', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled')", name=op.f("ck_jobs_status")
        ),
        sa.ForeignKeyConstraint(["input_manifest"], ["manifests.id"], name=op.f("fk_jobs_input_manifest")),
        sa.ForeignKeyConstraint(["input_transcript"], ["manifests.id"], name=op.f("fk_jobs_input_transcript")),
        sa.ForeignKeyConstraint(["output_manifest"], ["manifests.id"], name=op.f("fk_jobs_output_manifest")),
        sa.ForeignKeyConstraint(["transcript_manifest"], ["manifests.id"], name=op.f("fk_jobs_transcript_manifest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("tenant", "idempotency_key", name=op.f("uq_jobs_tenant_idempotency_key")),
    )
    op.create_index("ix_jobs_prompt_sha256", "jobs", ["prompt_sha256"], unique=False, postgresql_where=sa.text("prompt_sha256 is not null"))
    op.create_index(
        "ix_jobs_session", "jobs", ["session_id", "created_at"], unique=False, postgresql_where=sa.text("session_id is not null")
    )
    op.create_index("ix_jobs_tenant_created", "jobs", ["tenant", "created_at", "id"], unique=False)
    op.create_index(
        "ix_jobs_unfinished", "jobs", ["created_at"], unique=False, postgresql_where=sa.text("status in ('accepted', 'queued', 'running')")
    )
    op.create_table(
        "manifest_entries",
        sa.Column("manifest_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("mode", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("target", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("repo_config", sa.Boolean(), nullable=False),
        sa.CheckConstraint("(kind = 'file') = (sha256 is not null)", name=op.f("ck_manifest_entries_file_has_digest")),
        sa.CheckConstraint("kind in ('file', 'directory', 'symlink', 'skipped')", name=op.f("ck_manifest_entries_kind")),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifests.id"], name=op.f("fk_manifest_entries_manifest_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("manifest_id", "position", name=op.f("pk_manifest_entries")),
    )
    op.create_index(
        "ix_manifest_entries_sha256", "manifest_entries", ["sha256"], unique=False, postgresql_where=sa.text("sha256 is not null")
    )
    op.create_index("uq_manifest_entries_path", "manifest_entries", ["manifest_id", sa.literal_column("sha256(path)")], unique=True)
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("ttl_s", sa.Double(), nullable=False),
        sa.Column("input_manifest", sa.Text(), nullable=True),
        sa.Column("workspace_manifest", sa.Text(), nullable=True),
        sa.Column("transcript_manifest", sa.Text(), nullable=True),
        sa.Column("latest_job_id", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.LargeBinary(), nullable=True),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('open', 'closing', 'closed', 'expired')", name=op.f("ck_sessions_state")),
        sa.ForeignKeyConstraint(["input_manifest"], ["manifests.id"], name=op.f("fk_sessions_input_manifest")),
        sa.ForeignKeyConstraint(["transcript_manifest"], ["manifests.id"], name=op.f("fk_sessions_transcript_manifest")),
        sa.ForeignKeyConstraint(["workspace_manifest"], ["manifests.id"], name=op.f("fk_sessions_workspace_manifest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("tenant", "idempotency_key", name=op.f("uq_sessions_tenant_idempotency_key")),
    )
    op.create_index("ix_sessions_due", "sessions", ["expires_at"], unique=False, postgresql_where=sa.text("state in ('open', 'closing')"))
    op.create_index("ix_sessions_tenant_created", "sessions", ["tenant", "created_at", "id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("sandbox_id", sa.Text(), nullable=True),
        sa.Column("lease", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_seq", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("tail", sa.LargeBinary(), server_default=sa.text("''::bytea"), nullable=False),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("stop_reason", sa.Text(), nullable=True),
        sa.Column("stop_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("usage", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("workspace_manifest", sa.Text(), nullable=True),
        sa.Column("transcript_manifest", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'ended') = (ended_at is not null)", name=op.f("ck_attempts_ended")),
        sa.CheckConstraint("cause in ('first', 'resumed', 'restarted')", name=op.f("ck_attempts_cause")),
        sa.CheckConstraint("state in ('intended', 'prepared', 'launching', 'running', 'ended')", name=op.f("ck_attempts_state")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["transcript_manifest"], ["manifests.id"], name=op.f("fk_attempts_transcript_manifest")),
        sa.ForeignKeyConstraint(["workspace_manifest"], ["manifests.id"], name=op.f("fk_attempts_workspace_manifest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("job_id", "number", name=op.f("uq_attempts_job_id_number")),
    )
    op.create_table(
        "events",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("subtype", sa.Text(), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(raw is null) <> (sha256 is null)", name=op.f("ck_events_one_body")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_events_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq", name=op.f("pk_events")),
        sa.UniqueConstraint("attempt_id", "offset", name=op.f("uq_events_attempt_id_offset")),
    )
    op.create_index("ix_events_sha256", "events", ["sha256"], unique=False, postgresql_where=sa.text("sha256 is not null"))
    op.execute(_FORWARD)
    for table in _GUARDED:
        column = "status" if table == "jobs" else "state"
        op.execute(f"create trigger keep_order after insert or update of {column} on {table} for each row execute function keep_order()")
    op.execute("insert into deployment (id) values (gen_random_uuid())")


def downgrade() -> None:
    op.drop_table("events")
    op.drop_table("attempts")
    op.drop_table("sessions")
    op.drop_table("manifest_entries")
    op.drop_table("jobs")
    op.drop_table("transitions")
    op.drop_table("sandboxes")
    op.drop_table("manifests")
    op.drop_table("deployment")
    op.drop_table("blobs")
    op.execute("drop function keep_order()")
    op.execute("drop function state_rank(text, text)")
