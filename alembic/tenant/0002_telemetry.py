"""What telemetry says: the other columns of sessions and calls, counters, events, streams, settings."""

from alembic import op

revision = "tenant_0002"
down_revision = "tenant_0001"
branch_labels = None
depends_on = None

SESSION_COLUMNS = (
    "project text",
    "environment text",
    "commit_sha text",
    "cost_center text",
    "workspace_paths text[]",
    "parent_session_id uuid",
    "is_subagent boolean NOT NULL DEFAULT false",
    "start_type text",
    "end_reason text",
    "agent_version text",
    "entrypoint text",
    "terminal_type text",
    "os_type text",
    "os_version text",
    "host_arch text",
    "surface text",
    "user_key text",
    "user_key_kind text",
    "claims jsonb",
    "permission_mode text",
    "sandbox_policy text",
    "approval_policy text",
    "reasoning_effort text",
    "prompt_count bigint NOT NULL DEFAULT 0",
    "turn_count bigint NOT NULL DEFAULT 0",
    "compactions bigint NOT NULL DEFAULT 0",
    "tool_reject_count bigint NOT NULL DEFAULT 0",
    "model_error_count bigint NOT NULL DEFAULT 0",
    "cache_read_tokens bigint NOT NULL DEFAULT 0",
    "cache_write_tokens bigint NOT NULL DEFAULT 0",
    "reasoning_tokens bigint NOT NULL DEFAULT 0",
    "commits bigint NOT NULL DEFAULT 0",
    "pull_requests bigint NOT NULL DEFAULT 0",
    "active_seconds_user double precision NOT NULL DEFAULT 0",
    "active_seconds_agent double precision NOT NULL DEFAULT 0",
    "signals text[] NOT NULL DEFAULT '{}'",
    "resource jsonb",
    # What the write path must remember to give the same row whatever order things arrive in.
    "telemetry jsonb",
)

TOOL_COLUMNS = (
    "external_call_id text",
    "turn_id text",
    "trace_id text",
    "span_id text",
    "parent_span_id text",
    "tool_kind text",
    "mcp_server text",
    "mcp_tool text",
    "skill_name text",
    "subagent_type text",
    "agent_instance_id text",
    "parent_agent_instance_id text",
    "ended_at timestamptz",
    (
        "total_ms double precision CONSTRAINT tool_metrics_total"
        " CHECK (total_ms >= 0 AND total_ms < 'Infinity')"
    ),
    "error_message text",
    (
        "decision text CONSTRAINT tool_metrics_decision"
        " CHECK (decision IN ('accept', 'modify', 'reject', 'cancel'))"
    ),
    (
        "decision_mode text CONSTRAINT tool_metrics_decision_mode CHECK"
        " (decision_mode IN ('user_once', 'user_always', 'auto', 'hook', 'timeout', 'unknown'))"
    ),
    "decision_raw text",
    "decision_source_raw text",
    "output_tokens_approx bigint",
    "arguments text",
    "result text",
    "lines_added bigint",
    "lines_removed bigint",
    "language text",
    "git_commit_id text",
    "model text",
    "exit_code integer",
)

MODEL_COLUMNS = (
    "request_id text",
    "client_request_id text",
    "turn_id text",
    "trace_id text",
    "span_id text",
    "parent_span_id text",
    "ended_at timestamptz",
    "operation text",
    "error_message text",
    "http_status integer",
    "finish_reasons text[]",
    "tool_prompt_tokens bigint",
    "total_tokens_reported bigint",
    "price_version text",
    (
        "billing_units double precision CONSTRAINT model_calls_billing"
        " CHECK (billing_units > '-Infinity' AND billing_units < 'Infinity')"
    ),
    "billing_unit_kind text",
    "query_source text",
    "agent_name text",
    "agent_instance_id text",
    "skill_name text",
    "plugin_name text",
    "mcp_server text",
    "mcp_tool text",
    "effort text",
    "speed text",
    "service_tier text",
)

CALL_COLUMNS = (
    "signal text NOT NULL DEFAULT 'api'",
    # Where several signals tell of one call without a common name, the best of its session counts.
    "source_rank smallint NOT NULL DEFAULT 4",
    "is_counted boolean NOT NULL DEFAULT true",
    # What said it; when several did, what each of them said, so that any order gives the same row.
    "part text",
    "parts jsonb",
    "extra jsonb",
)

STATEMENTS = (
    """
    CREATE TABLE user_identities (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        kind text NOT NULL,
        value text NOT NULL,
        user_id uuid NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT user_identities_pk PRIMARY KEY (tenant_id, kind, value)
    )
    """,
    """
    CREATE TABLE tenant_settings (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        name text NOT NULL,
        value jsonb NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT tenant_settings_pk PRIMARY KEY (tenant_id, name)
    )
    """,
    # What was told of before its name was known: a trace of no session yet, a span inside a call.
    """
    CREATE TABLE trace_sessions (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        trace_id text NOT NULL,
        session_id uuid,
        agent text,
        external_id text,
        waiting text[] NOT NULL DEFAULT '{}',
        seen_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT trace_sessions_pk PRIMARY KEY (tenant_id, trace_id)
    )
    """,
    """
    CREATE TABLE tool_spans (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL,
        tool_metric_id uuid,
        parts jsonb,
        seen_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT tool_spans_pk PRIMARY KEY (tenant_id, id)
    )
    """,
    """
    CREATE TABLE metric_streams (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL,
        start_ns bigint,
        time_ns bigint,
        value double precision,
        count bigint,
        bounds double precision[],
        buckets bigint[],
        seen_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT metric_streams_pk PRIMARY KEY (tenant_id, id)
    )
    """,
    """
    CREATE TABLE counter_deltas (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL,
        session_id uuid,
        agent text,
        user_id uuid,
        metric text NOT NULL,
        kind text,
        unit text,
        instrument text NOT NULL,
        is_delta boolean NOT NULL DEFAULT true,
        window_start timestamptz,
        window_end timestamptz NOT NULL,
        value double precision,
        count bigint,
        bounds double precision[],
        buckets bigint[],
        model text,
        tool_name text,
        language text,
        status text,
        attributes jsonb,
        received_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT counter_deltas_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT counter_deltas_finite CHECK (value > '-Infinity' AND value < 'Infinity')
    )
    """,
    "CREATE INDEX counter_deltas_page_ix ON counter_deltas (tenant_id, metric, window_end, id)",
    """
    CREATE INDEX counter_deltas_session_ix ON counter_deltas (tenant_id, session_id)
        WHERE session_id IS NOT NULL
    """,
    """
    CREATE TABLE session_events (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL,
        session_id uuid,
        agent text,
        user_id uuid,
        kind text NOT NULL,
        name text NOT NULL,
        occurred_at timestamptz NOT NULL,
        duration_ms double precision,
        turn_id text,
        trace_id text,
        span_id text,
        parent_span_id text,
        severity integer,
        signal text NOT NULL,
        attributes jsonb,
        content text,
        received_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT session_events_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT session_events_finite CHECK (duration_ms >= 0 AND duration_ms < 'Infinity')
    )
    """,
    """
    CREATE INDEX session_events_session_ix
        ON session_events (tenant_id, session_id, occurred_at, id) WHERE session_id IS NOT NULL
    """,
    """
    CREATE INDEX tool_metrics_uncounted_ix ON tool_metrics (tenant_id, session_id)
        WHERE source_rank < 4
    """,
    """
    CREATE INDEX model_calls_uncounted_ix ON model_calls (tenant_id, session_id)
        WHERE source_rank < 4
    """,
    """
    CREATE INDEX metrics_sessions_repository_ix
        ON metrics_sessions (tenant_id, repository, started_at, id) WHERE repository IS NOT NULL
    """,
    """
    CREATE INDEX metrics_sessions_parent_ix ON metrics_sessions (tenant_id, parent_session_id)
        WHERE parent_session_id IS NOT NULL
    """,
    """
    CREATE INDEX tool_spans_call_ix ON tool_spans (tenant_id, tool_metric_id)
        WHERE tool_metric_id IS NOT NULL
    """,
    """
    CREATE INDEX trace_sessions_session_ix ON trace_sessions (tenant_id, session_id)
        WHERE session_id IS NOT NULL
    """,
)

TABLES = (
    "user_identities",
    "tenant_settings",
    "trace_sessions",
    "tool_spans",
    "metric_streams",
    "counter_deltas",
    "session_events",
)
CALL_TABLES = ("tool_metrics", "model_calls")
ADDED = {
    # Locked in the order of who stores a batch, calls before their sessions.
    "tool_metrics": TOOL_COLUMNS + CALL_COLUMNS,
    "model_calls": MODEL_COLUMNS + CALL_COLUMNS,
    "metrics_sessions": SESSION_COLUMNS,
}


def upgrade() -> None:
    op.execute("ALTER TABLE users ALTER COLUMN email DROP NOT NULL")
    for table, columns in ADDED.items():
        # Constant defaults: no table is written anew. One statement: its checks read it once.
        additions = ", ".join(f"ADD COLUMN {column}" for column in columns)
        op.execute(f"ALTER TABLE {table} {additions}")
    for statement in STATEMENTS:
        op.execute(statement)
    for table in TABLES:
        op.protect_tenant_table(table)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
    for index in ("metrics_sessions_repository_ix", "metrics_sessions_parent_ix"):
        op.execute(f"DROP INDEX {index}")
    # Who is known by something else than an email did not exist before.
    op.execute("UPDATE users SET email = id::text WHERE email IS NULL")
    op.execute("ALTER TABLE users ALTER COLUMN email SET NOT NULL")
    for table in CALL_TABLES:
        # Without the column that says so, a call that was told of twice would count twice.
        op.execute(f"DELETE FROM {table} WHERE NOT is_counted")
    for table, columns in ADDED.items():
        removals = ", ".join(f"DROP COLUMN {column.split()[0]}" for column in columns)
        op.execute(f"ALTER TABLE {table} {removals}")
