"""How tenants connect: the receiver's diary, what arrived as it arrived, and who is who."""

from alembic import op

revision = "tenant_0005"
down_revision = "tenant_0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE ingest_log (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        -- It follows from key, signal, encoding and client, so that a line finds itself again.
        id uuid NOT NULL,
        key_id uuid,
        signal text NOT NULL,
        encoding text NOT NULL,
        client text NOT NULL,
        client_version text,
        agent text,
        agent_version text,
        accepted_requests bigint NOT NULL DEFAULT 0,
        accepted_items bigint NOT NULL DEFAULT 0,
        refused_requests bigint NOT NULL DEFAULT 0,
        refused_items bigint NOT NULL DEFAULT 0,
        first_at timestamptz NOT NULL,
        last_at timestamptz NOT NULL,
        last_accepted_at timestamptz,
        last_accepted_items bigint,
        last_refused_at timestamptz,
        CONSTRAINT ingest_log_pk PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX ingest_log_page_ix ON ingest_log (tenant_id, last_at, id)",
    """
    CREATE TABLE ingest_refusals (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        log_id uuid NOT NULL,
        status integer NOT NULL,
        reason text NOT NULL,
        refused bigint NOT NULL,
        first_at timestamptz NOT NULL,
        last_at timestamptz NOT NULL,
        CONSTRAINT ingest_refusals_pk PRIMARY KEY (tenant_id, log_id, status, reason),
        CONSTRAINT ingest_refusals_log_fk FOREIGN KEY (tenant_id, log_id)
            REFERENCES ingest_log (tenant_id, id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE raw_requests (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL DEFAULT shared.uuid_v7(),
        signal text NOT NULL,
        is_json boolean NOT NULL,
        received_at timestamptz NOT NULL,
        owner_id uuid,
        key_id uuid,
        -- Zstandard; `body_bytes` is its size before.
        body bytea NOT NULL,
        body_bytes bigint NOT NULL,
        -- What it told of, and what it no longer tells of since it was mapped again.
        row_ids uuid[] NOT NULL DEFAULT '{}',
        stale_ids uuid[] NOT NULL DEFAULT '{}',
        CONSTRAINT raw_requests_pk PRIMARY KEY (tenant_id, id)
    )
    """,
    # It is compressed already.
    "ALTER TABLE raw_requests ALTER COLUMN body SET STORAGE EXTERNAL",
    "CREATE INDEX raw_requests_received_ix ON raw_requests (tenant_id, received_at, id)",
    """
    ALTER TABLE user_identities
        ADD COLUMN id uuid NOT NULL DEFAULT shared.uuid_v7(),
        ADD COLUMN assigned_user_id uuid,
        ADD COLUMN assigned_by uuid,
        ADD COLUMN assigned_at timestamptz,
        -- Whom a rule names needs no user of their own.
        ALTER COLUMN user_id DROP NOT NULL
    """,
    "CREATE UNIQUE INDEX user_identities_id_ix ON user_identities (tenant_id, id)",
    "CREATE INDEX user_identities_page_ix ON user_identities (tenant_id, created_at, id)",
    # People known by email had no identity of their own.
    """
    WITH known AS MATERIALIZED (
        SELECT s.tenant_id, s.user_key AS value, u.id AS user_id, min(s.created_at) AS created_at
        FROM metrics_sessions s JOIN users u ON u.tenant_id = s.tenant_id AND u.email = s.user_key
        WHERE s.user_key_kind = 'email'
        GROUP BY 1, 2, 3
    )
    INSERT INTO user_identities (tenant_id, kind, value, user_id, created_at)
    SELECT tenant_id, 'email', value, user_id, created_at FROM known
    ON CONFLICT (tenant_id, kind, value) DO NOTHING
    """,
    """
    CREATE TABLE identity_rules (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL DEFAULT shared.uuid_v7(),
        kind text NOT NULL,
        value text NOT NULL,
        user_id uuid,
        to_domain text,
        created_by uuid,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT identity_rules_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT identity_rules_value_key UNIQUE (tenant_id, kind, value),
        CONSTRAINT identity_rules_kind CHECK (
            (kind IN ('account_id', 'key') AND user_id IS NOT NULL AND to_domain IS NULL)
            OR (kind = 'email_domain' AND num_nonnulls(user_id, to_domain) = 1)
        )
    )
    """,
    """
    ALTER TABLE metrics_sessions ADD COLUMN user_source text
        CONSTRAINT metrics_sessions_user_source
        CHECK (user_source IN ('key', 'assigned', 'rule', 'claim', 'stated'))
    """,
    """
    UPDATE metrics_sessions SET user_source = CASE
        WHEN telemetry -> 'known' ->> 'user_id' IS DISTINCT FROM user_id::text THEN 'stated'
        WHEN user_key_kind = 'key' THEN 'key'
        ELSE 'claim' END
    WHERE user_id IS NOT NULL
    """,
    # How much an identity did, without reading its sessions.
    """
    CREATE INDEX metrics_sessions_identity_ix
        ON metrics_sessions (tenant_id, user_key_kind, user_key, started_at)
    """,
)
TABLES = ("ingest_log", "ingest_refusals", "raw_requests", "identity_rules")


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    for table in TABLES:
        op.protect_tenant_table(table)


def downgrade() -> None:
    op.execute("DROP INDEX metrics_sessions_identity_ix")
    op.execute("ALTER TABLE metrics_sessions DROP COLUMN user_source")
    op.execute("DROP INDEX user_identities_page_ix")
    op.execute("DROP INDEX user_identities_id_ix")
    op.execute("""
        ALTER TABLE user_identities DROP COLUMN id, DROP COLUMN assigned_user_id,
            DROP COLUMN assigned_by, DROP COLUMN assigned_at
    """)
    # An email was an identity by the user alone.
    op.execute("DELETE FROM user_identities WHERE kind = 'email' OR user_id IS NULL")
    op.execute("ALTER TABLE user_identities ALTER COLUMN user_id SET NOT NULL")
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
