"""The registry: tenants, their hosts, keys and schemas, and the functions that open it a crack.

Nobody but the owner has a right on these tables. The runtime login and the tenant roles reach them
through the SECURITY DEFINER functions below, each with a pinned search_path.
"""

from alembic import op

revision = "registry_0001"
down_revision = None
branch_labels = ("registry",)
depends_on = None

TABLES = (
    """
    CREATE TABLE public.tenant_schemas (
        schema_name varchar(63) NOT NULL,
        revision text,
        status text NOT NULL,
        last_error text,
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT tenant_schemas_pk PRIMARY KEY (schema_name),
        CONSTRAINT tenant_schemas_status CHECK (status IN ('ready', 'failed'))
    )
    """,
    """
    CREATE TABLE public.tenants (
        id uuid NOT NULL,
        slug varchar(63) NOT NULL,
        name varchar(255) NOT NULL,
        domain varchar(255) NOT NULL,
        schema_name varchar(63) NOT NULL,
        subscription_plan varchar(50) NOT NULL DEFAULT 'basic',
        status text NOT NULL DEFAULT 'provisioning',
        is_active boolean NOT NULL GENERATED ALWAYS AS (status = 'active') STORED,
        metadata jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT tenants_pk PRIMARY KEY (id),
        CONSTRAINT tenants_slug_key UNIQUE (slug),
        CONSTRAINT tenants_domain_key UNIQUE (domain),
        CONSTRAINT tenants_plan CHECK (subscription_plan IN ('basic', 'pro', 'enterprise')),
        CONSTRAINT tenants_status CHECK
            (status IN ('provisioning', 'active', 'suspended', 'deleting', 'deleted')),
        CONSTRAINT tenants_schema_name CHECK (schema_name ~ '^t_[a-z0-9]{1,50}$')
    )
    """,
    """
    CREATE TABLE public.tenant_domains (
        host varchar(255) NOT NULL,
        tenant_id uuid NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT tenant_domains_pk PRIMARY KEY (host),
        CONSTRAINT tenant_domains_tenant_fk FOREIGN KEY (tenant_id)
            REFERENCES public.tenants (id) ON DELETE CASCADE,
        CONSTRAINT tenant_domains_host CHECK (host = lower(host) AND host <> '')
    )
    """,
    "CREATE INDEX tenant_domains_tenant_ix ON public.tenant_domains (tenant_id)",
    """
    CREATE TABLE public.api_keys (
        id uuid NOT NULL,
        tenant_id uuid NOT NULL,
        prefix varchar(16) NOT NULL,
        key_hash bytea NOT NULL,
        name varchar(255) NOT NULL,
        scopes text[] NOT NULL,
        user_id uuid,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz,
        revoked_at timestamptz,
        CONSTRAINT api_keys_pk PRIMARY KEY (tenant_id, id),
        CONSTRAINT api_keys_prefix_key UNIQUE (tenant_id, prefix),
        CONSTRAINT api_keys_id_key UNIQUE (id),
        CONSTRAINT api_keys_tenant_fk FOREIGN KEY (tenant_id)
            REFERENCES public.tenants (id) ON DELETE CASCADE,
        CONSTRAINT api_keys_hash CHECK (octet_length(key_hash) = 32),
        CONSTRAINT api_keys_scopes CHECK
            (scopes <@ ARRAY['ingest', 'read', 'write', 'admin'] AND cardinality(scopes) > 0)
    )
    """,
    """
    CREATE TABLE public.operator_audit (
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        actor text NOT NULL DEFAULT session_user,
        action text NOT NULL,
        tenant_id uuid,
        detail jsonb NOT NULL DEFAULT '{}',
        CONSTRAINT operator_audit_pk PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX operator_audit_at_ix ON public.operator_audit (at)",
)

# Types and functions only: a table here would answer for a tenant's table of the same name.
SHARED = (
    """
    CREATE FUNCTION shared.current_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('app.tenant_id', true), '')::uuid $$
    """,
    # Raises unless role and variable name the same active tenant, so that a definer function never
    # acts on the word of one of them alone. Inside it the setting `role` is still the caller's.
    """
    CREATE FUNCTION public.acting_tenant() RETURNS uuid LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
    DECLARE found_id uuid;
    BEGIN
        SELECT t.id INTO found_id FROM public.tenants t
        WHERE t.id = shared.current_tenant() AND t.schema_name = current_setting('role')
          AND t.is_active;
        IF found_id IS NULL THEN
            RAISE EXCEPTION 'tenant unavailable' USING ERRCODE = 'P0002';
        END IF;
        RETURN found_id;
    END $$
    """,
    """
    CREATE FUNCTION public.tenant_ctx(p_tenant uuid, p_timeout_ms integer)
    RETURNS TABLE (id uuid, path text, role text, tmo text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT t.id, format('%I, shared, pg_temp', t.schema_name), t.schema_name::text,
               least((t.metadata ->> 'statement_timeout_ms')::integer, p_timeout_ms)::text
        FROM public.tenants t
        WHERE t.id = p_tenant AND t.is_active
    $$
    """,
    # SECURITY INVOKER: SET ROLE is refused inside definer functions. Real SET LOCAL statements, each
    # in a string of its own, because nothing else travels to the workers of a Citus cluster.
    """
    CREATE FUNCTION shared.enter_tenant
        (p_tenant uuid, p_user uuid DEFAULT NULL, p_timeout_ms integer DEFAULT 10000)
    RETURNS void LANGUAGE plpgsql AS $$
    DECLARE c record;
    BEGIN
        SELECT * INTO c FROM public.tenant_ctx(p_tenant, p_timeout_ms);
        IF NOT FOUND THEN
            RAISE EXCEPTION 'tenant unavailable' USING ERRCODE = 'P0002';
        END IF;
        SET LOCAL citus.propagate_set_commands = 'local';
        EXECUTE format('SET LOCAL app.tenant_id = %L', c.id);
        EXECUTE format('SET LOCAL app.user_id = %L', coalesce(p_user::text, ''));
        EXECUTE format('SET LOCAL search_path = %s', c.path);
        EXECUTE format('SET LOCAL statement_timeout = %L', c.tmo);
        EXECUTE format('SET LOCAL role = %I', c.role);
    END $$
    """,
    """
    CREATE FUNCTION public.resolve_host(p_host text)
    RETURNS TABLE (id uuid, slug text, name text, domain text, plan text, status text,
                   schema_revision text, schema_status text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT t.id, t.slug::text, t.name::text, t.domain::text, t.subscription_plan::text, t.status,
               s.revision, s.status
        FROM public.tenant_domains d
        JOIN public.tenants t ON t.id = d.tenant_id
        LEFT JOIN public.tenant_schemas s ON s.schema_name = t.schema_name
        WHERE d.host = p_host
    $$
    """,
    """
    CREATE FUNCTION public.find_api_key(p_tenant uuid, p_prefix text)
    RETURNS TABLE (id uuid, name text, key_hash bytea, scopes text[], user_id uuid,
                   expires_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT k.id, k.name::text, k.key_hash, k.scopes, k.user_id,
               least(k.expires_at, k.revoked_at)
        FROM public.api_keys k
        JOIN public.tenants t ON t.id = k.tenant_id AND t.is_active
        WHERE k.tenant_id = p_tenant AND k.prefix = p_prefix
          AND (k.expires_at IS NULL OR k.expires_at > now())
          AND (k.revoked_at IS NULL OR k.revoked_at > now())
    $$
    """,
    """
    CREATE FUNCTION public.schema_revision(p_schema text) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT s.revision FROM public.tenant_schemas s WHERE s.schema_name = p_schema
    $$
    """,
    """
    CREATE FUNCTION shared.list_api_keys()
    RETURNS TABLE (id uuid, prefix text, name text, scopes text[], user_id uuid,
                   created_at timestamptz, expires_at timestamptz, revoked_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT k.id, k.prefix::text, k.name::text, k.scopes, k.user_id,
               k.created_at, k.expires_at, k.revoked_at
        FROM public.api_keys k WHERE k.tenant_id = public.acting_tenant()
    $$
    """,
    """
    CREATE FUNCTION shared.create_api_key
        (p_id uuid, p_prefix text, p_hash bytea, p_name text, p_scopes text[], p_user uuid,
         p_expires_at timestamptz)
    RETURNS void LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
        INSERT INTO public.api_keys
            (id, tenant_id, prefix, key_hash, name, scopes, user_id, expires_at)
        VALUES (p_id, public.acting_tenant(), p_prefix, p_hash, p_name, p_scopes, p_user,
                p_expires_at)
    $$
    """,
    # By the database's clock, as the look-up is; a revoked key never comes back to life.
    """
    CREATE FUNCTION shared.revoke_api_key(p_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE tenant uuid := public.acting_tenant();
    BEGIN
        UPDATE public.api_keys SET revoked_at = least(revoked_at, now())
        WHERE tenant_id = tenant AND id = p_id;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        PERFORM pg_notify('metrics_registry', tenant::text);
        RETURN true;
    END $$
    """,
)

UUID_V7_ON_18 = """
    CREATE FUNCTION shared.uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$ SELECT uuidv7() $$
"""

# RFC 9562: 48 bits of Unix milliseconds over a random uuid, the version bits set to 7.
UUID_V7_BEFORE_18 = """
    CREATE FUNCTION shared.uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$
        SELECT encode(
            set_bit(set_bit(
                overlay(uuid_send(gen_random_uuid()) PLACING
                    substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)
                              FROM 3)
                    FROM 1 FOR 6),
                52, 1), 53, 1), 'hex')::uuid
    $$
"""

FOR_THE_RUNTIME = (
    "public.tenant_ctx(uuid, integer)",
    "public.resolve_host(text)",
    "public.find_api_key(uuid, text)",
    "public.schema_revision(text)",
    "shared.enter_tenant(uuid, uuid, integer)",
)
FOR_TENANTS = (
    "shared.current_tenant()",
    "shared.uuid_v7()",
    "shared.list_api_keys()",
    "shared.create_api_key(uuid, text, bytea, text, text[], uuid, timestamptz)",
    "shared.revoke_api_key(uuid)",
)


def upgrade() -> None:
    runtime = op.get_context().opts["runtime_role"]
    version = op.get_bind().dialect.server_version_info

    op.execute("CREATE SCHEMA shared")
    op.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    for statement in (*TABLES, *SHARED, UUID_V7_ON_18 if version >= (18,) else UUID_V7_BEFORE_18):
        op.execute(statement)
    op.execute(f"GRANT USAGE ON SCHEMA shared TO {runtime}, app_tenant")
    for function in FOR_THE_RUNTIME:
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {runtime}")
    for function in FOR_TENANTS:
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO app_tenant")


def downgrade() -> None:
    op.execute("DROP SCHEMA shared CASCADE")
    for function in (
        "acting_tenant()",
        "tenant_ctx(uuid, integer)",
        "resolve_host(text)",
        "find_api_key(uuid, text)",
        "schema_revision(text)",
    ):
        op.execute(f"DROP FUNCTION IF EXISTS public.{function}")
    for table in ("operator_audit", "api_keys", "tenant_domains", "tenants", "tenant_schemas"):
        op.execute(f"DROP TABLE public.{table}")
