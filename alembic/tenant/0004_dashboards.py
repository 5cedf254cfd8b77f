"""Dashboards are shared: with users, and by links; and a version says what it was made for."""

from alembic import op

revision = "tenant_0004"
down_revision = "tenant_0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE dashboard_versions ADD COLUMN note text NOT NULL DEFAULT ''",
    """
    CREATE TABLE dashboard_shares (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL DEFAULT shared.uuid_v7(),
        dashboard_id uuid NOT NULL,
        kind text NOT NULL,
        user_id uuid,
        role text NOT NULL DEFAULT 'viewer',
        expires_at timestamptz,
        created_by uuid,
        created_at timestamptz NOT NULL DEFAULT now(),
        revoked_at timestamptz,
        CONSTRAINT dashboard_shares_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT dashboard_shares_config_fk FOREIGN KEY (tenant_id, dashboard_id)
            REFERENCES dashboard_configs (tenant_id, id) ON DELETE CASCADE,
        CONSTRAINT dashboard_shares_role CHECK (role IN ('viewer', 'editor')),
        -- Whoever has a link is not known: it ends by itself, and changes nothing.
        CONSTRAINT dashboard_shares_kind CHECK (
            (kind = 'user' AND user_id IS NOT NULL)
            OR (kind = 'link' AND user_id IS NULL AND role = 'viewer' AND expires_at IS NOT NULL)
        )
    )
    """,
    """
    CREATE INDEX dashboard_shares_page_ix
        ON dashboard_shares (tenant_id, dashboard_id, created_at, id)
    """,
    """
    CREATE UNIQUE INDEX dashboard_shares_user_ix
        ON dashboard_shares (tenant_id, user_id, dashboard_id)
        WHERE user_id IS NOT NULL AND revoked_at IS NULL
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    op.protect_tenant_table("dashboard_shares")


def downgrade() -> None:
    op.execute("DROP TABLE dashboard_shares")
    op.execute("ALTER TABLE dashboard_versions DROP COLUMN note")
