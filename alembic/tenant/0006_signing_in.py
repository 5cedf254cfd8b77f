"""How people sign in: passwords, and the sign-ins that browsers hold."""

from alembic import op

revision = "tenant_0006"
down_revision = "tenant_0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE user_passwords (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        user_id uuid NOT NULL,
        -- Of argon2, with its parameters and its salt.
        password_hash text NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT user_passwords_pk PRIMARY KEY (tenant_id, user_id),
        CONSTRAINT user_passwords_user_fk FOREIGN KEY (tenant_id, user_id)
            REFERENCES users (tenant_id, id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE sign_ins (
        tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
        id uuid NOT NULL DEFAULT shared.uuid_v7(),
        -- SHA-256; the token itself is in one browser and nowhere else.
        token_hash bytea NOT NULL,
        user_id uuid NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        user_agent text,
        CONSTRAINT sign_ins_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT sign_ins_token_key UNIQUE (tenant_id, token_hash),
        CONSTRAINT sign_ins_user_fk FOREIGN KEY (tenant_id, user_id)
            REFERENCES users (tenant_id, id) ON DELETE CASCADE
    )
    """,
    # A user's, of which those that ended go when they sign in again.
    "CREATE INDEX sign_ins_user_ix ON sign_ins (tenant_id, user_id, expires_at)",
)
TABLES = ("user_passwords", "sign_ins")


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    for table in TABLES:
        op.protect_tenant_table(table)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
