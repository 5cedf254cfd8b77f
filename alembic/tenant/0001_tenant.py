"""The tables of one tenant: users, sessions, tool metrics, model calls, dashboards."""

from alembic import op

revision = "tenant_0001"
down_revision = None
branch_labels = ("tenant",)
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE users (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL DEFAULT shared.uuid_v7(),
        email text NOT NULL,
        name text,
        role text NOT NULL DEFAULT 'viewer',
        team text,
        last_seen_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT users_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT users_email_key UNIQUE (tenant_id, email),
        CONSTRAINT users_role CHECK (role IN ('owner', 'admin', 'editor', 'viewer', 'service'))
    )
    """,
    # The id follows from agent and external_id, so two transactions that make one session meet at the
    # primary key, where ON CONFLICT lets one wait. At a second key that is checked at once the loser
    # would fail instead.
    """
    CREATE TABLE metrics_sessions (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL,
        agent text NOT NULL,
        external_id text NOT NULL,
        session_type text,
        started_at timestamptz NOT NULL,
        ended_at timestamptz,
        last_event_at timestamptz NOT NULL,
        user_id uuid,
        repository text,
        branch text,
        team text,
        productivity_score double precision,
        metadata jsonb NOT NULL DEFAULT '{}',
        tool_call_count bigint NOT NULL DEFAULT 0,
        tool_error_count bigint NOT NULL DEFAULT 0,
        model_call_count bigint NOT NULL DEFAULT 0,
        input_tokens bigint NOT NULL DEFAULT 0,
        output_tokens bigint NOT NULL DEFAULT 0,
        cost_usd_micros bigint NOT NULL DEFAULT 0,
        lines_added bigint NOT NULL DEFAULT 0,
        lines_removed bigint NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT metrics_sessions_pk PRIMARY KEY (tenant_id, id),
        -- The id follows from agent and external_id, so ON CONFLICT looks at the primary key alone;
        -- checked at once, this one would fail whoever makes the same session in the same moment.
        CONSTRAINT metrics_sessions_external_key UNIQUE (tenant_id, agent, external_id)
            DEFERRABLE INITIALLY DEFERRED,
        CONSTRAINT metrics_sessions_score
            CHECK (productivity_score >= 0 AND productivity_score <= 100)
    )
    """,
    "CREATE INDEX metrics_sessions_page_ix ON metrics_sessions (tenant_id, started_at, id)",
    "CREATE INDEX metrics_sessions_user_ix ON metrics_sessions (tenant_id, user_id, started_at, id)",
    """
    CREATE TABLE session_tags (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        session_id uuid NOT NULL,
        tag text NOT NULL,
        CONSTRAINT session_tags_pk PRIMARY KEY (tenant_id, session_id, tag)
    )
    """,
    "CREATE INDEX session_tags_tag_ix ON session_tags (tenant_id, tag, session_id)",
    """
    CREATE TABLE tool_names (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        name text NOT NULL,
        CONSTRAINT tool_names_pk PRIMARY KEY (tenant_id, name)
    )
    """,
    """
    CREATE TABLE tool_metrics (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL,
        session_id uuid,
        agent text,
        user_id uuid,
        tool_name text NOT NULL,
        tool_category text,
        started_at timestamptz NOT NULL,
        duration_ms double precision,
        wait_ms double precision,
        status text NOT NULL,
        error_type text,
        cpu_ms double precision,
        memory_bytes bigint,
        input_bytes bigint,
        output_bytes bigint,
        metadata jsonb,
        received_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT tool_metrics_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT tool_metrics_status CHECK
            (status IN ('success', 'error', 'rejected', 'cancelled', 'timeout', 'unknown')),
        CONSTRAINT tool_metrics_finite CHECK
            (duration_ms >= 0 AND duration_ms < 'Infinity'
             AND wait_ms >= 0 AND wait_ms < 'Infinity'
             AND cpu_ms >= 0 AND cpu_ms < 'Infinity')
    )
    """,
    "CREATE INDEX tool_metrics_page_ix ON tool_metrics (tenant_id, started_at, id)",
    """
    CREATE INDEX tool_metrics_session_ix ON tool_metrics (tenant_id, session_id, started_at, id)
        WHERE session_id IS NOT NULL
    """,
    """
    CREATE TABLE model_calls (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL,
        session_id uuid,
        agent text,
        user_id uuid,
        started_at timestamptz NOT NULL,
        duration_ms double precision,
        ttft_ms double precision,
        status text NOT NULL,
        error_type text,
        provider text,
        request_model text,
        response_model text,
        input_tokens bigint,
        input_uncached_tokens bigint,
        cache_read_tokens bigint,
        cache_write_tokens bigint,
        output_tokens bigint,
        reasoning_tokens bigint,
        cost_usd_micros bigint,
        cost_source text NOT NULL DEFAULT 'none',
        attempts integer NOT NULL DEFAULT 1,
        received_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT model_calls_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT model_calls_status CHECK (status IN ('success', 'error', 'cancelled')),
        CONSTRAINT model_calls_source CHECK (cost_source IN ('reported', 'estimated', 'none')),
        CONSTRAINT model_calls_finite CHECK
            (duration_ms >= 0 AND duration_ms < 'Infinity'
             AND ttft_ms >= 0 AND ttft_ms < 'Infinity')
    )
    """,
    "CREATE INDEX model_calls_page_ix ON model_calls (tenant_id, started_at, id)",
    """
    CREATE INDEX model_calls_session_ix ON model_calls (tenant_id, session_id, started_at, id)
        WHERE session_id IS NOT NULL
    """,
    """
    CREATE TABLE dashboard_configs (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL DEFAULT shared.uuid_v7(),
        name text NOT NULL,
        description text NOT NULL DEFAULT '',
        layout jsonb NOT NULL DEFAULT '{}',
        widgets jsonb NOT NULL DEFAULT '[]',
        visibility text NOT NULL DEFAULT 'tenant',
        tags text[] NOT NULL DEFAULT '{}',
        owner_id uuid,
        version integer NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT dashboard_configs_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT dashboard_configs_visibility
            CHECK (visibility IN ('private', 'team', 'tenant')),
        CONSTRAINT dashboard_configs_owner
            CHECK (visibility = 'tenant' OR owner_id IS NOT NULL)
    )
    """,
    "CREATE INDEX dashboard_configs_page_ix ON dashboard_configs (tenant_id, updated_at, id)",
    """
    CREATE TABLE dashboard_versions (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        dashboard_id uuid NOT NULL,
        version integer NOT NULL,
        name text NOT NULL,
        description text NOT NULL,
        layout jsonb NOT NULL,
        widgets jsonb NOT NULL,
        visibility text NOT NULL,
        tags text[] NOT NULL,
        author_id uuid,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT dashboard_versions_pk PRIMARY KEY (tenant_id, dashboard_id, version),
        CONSTRAINT dashboard_versions_config_fk FOREIGN KEY (tenant_id, dashboard_id)
            REFERENCES dashboard_configs (tenant_id, id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE idempotency_keys (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        principal_id uuid NOT NULL,
        key text NOT NULL,
        fingerprint bytea NOT NULL,
        sealed_answer bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT idempotency_keys_pk PRIMARY KEY (tenant_id, principal_id, key)
    )
    """,
    "CREATE INDEX idempotency_keys_age_ix ON idempotency_keys (tenant_id, created_at)",
)

TABLES = (
    "users",
    "metrics_sessions",
    "session_tags",
    "tool_names",
    "tool_metrics",
    "model_calls",
    "dashboard_configs",
    "dashboard_versions",
    "idempotency_keys",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    for table in TABLES:
        op.protect_tenant_table(table)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
