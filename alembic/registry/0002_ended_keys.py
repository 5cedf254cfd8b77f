"""Keys that ended can be told from keys that never were, so that their holders learn what to do."""

from alembic import op

revision = "registry_0002"
down_revision = "registry_0001"
branch_labels = None
depends_on = None

# Whether it is this very key, its hash tells: the caller compares it, and says nothing unless it does.
FIND_ENDED = """
    CREATE FUNCTION public.find_ended_api_key(p_tenant uuid, p_prefix text)
    RETURNS TABLE (id uuid, key_hash bytea, expires_at timestamptz, revoked_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT k.id, k.key_hash, k.expires_at, k.revoked_at
        FROM public.api_keys k
        JOIN public.tenants t ON t.id = k.tenant_id AND t.is_active
        WHERE k.tenant_id = p_tenant AND k.prefix = p_prefix
          AND (k.expires_at <= now() OR k.revoked_at <= now())
    $$
"""


def upgrade() -> None:
    runtime = op.get_context().opts["runtime_role"]
    op.execute(FIND_ENDED)
    op.execute(f"GRANT EXECUTE ON FUNCTION public.find_ended_api_key(uuid, text) TO {runtime}")


def downgrade() -> None:
    op.execute("DROP FUNCTION public.find_ended_api_key(uuid, text)")
