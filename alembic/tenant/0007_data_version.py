"""Whether a tenant's data changed since somebody looked, without looking at the data."""

from alembic import op

revision = "tenant_0007"
down_revision = "tenant_0006"
branch_labels = None
depends_on = None

# The version is their sum. Several rows, because whoever changes data holds one until it is committed.
# Updated with each batch: there is room beside each row for what it becomes.
STATEMENTS = (
    """
    CREATE TABLE data_versions (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        part smallint NOT NULL,
        version bigint NOT NULL,
        CONSTRAINT data_versions_pk PRIMARY KEY (tenant_id, part)
    ) WITH (fillfactor = 20)
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    op.protect_tenant_table("data_versions")


def downgrade() -> None:
    op.execute("DROP TABLE data_versions")
