"""The coverage gate: what in the catalogs would leave a hole in the wall between tenants.

Every row is a failure. Run after each migration and by `db check`; the catalogs are
readable by every login, so it needs no rights.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

TABLES_AND_VIEWS = """
-- Everything is looked up by the table it belongs to, in subqueries that OFFSET 0 and aggregates keep
-- as they are. Joins would be planned by statistics that lag behind when tenants were just made: where
-- those of pg_class alone were renewed, two hundred tenants took more than a minute.
WITH relation AS MATERIALIZED (
    -- No index of pg_class leads to a schema's relations: they are looked for once.
    SELECT nspname, nspname <> 'public' AS is_tenants, relname, oid, relkind,
           relispartition, relrowsecurity, relforcerowsecurity, reloptions, relowner, relacl
    FROM (
        SELECT (SELECT n.nspname FROM pg_namespace n WHERE n.oid = c.relnamespace) AS nspname,
               c.relname, c.oid, c.relkind, c.relispartition, c.relrowsecurity, c.relforcerowsecurity,
               c.reloptions, c.relowner, c.relacl
        FROM pg_class c
        WHERE ($1::text IS NULL
               OR c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = $1))
          -- Indexes and TOAST tables have no rights and no rules of their own.
          AND c.relkind NOT IN ('i', 'I', 't')
        OFFSET 0
    ) c
    WHERE nspname ~ '^t_[a-z0-9]+$' OR nspname = 'public'
), tenant_table AS MATERIALIZED (
    SELECT nspname, relname, oid, relispartition, relrowsecurity, relforcerowsecurity, relowner, relacl
    FROM relation WHERE relkind IN ('r', 'p') AND is_tenants
), expression AS (
    -- The whole of it: whatever is added, by OR for one, makes it another condition.
    SELECT '^\\(tenant_id = (\\( SELECT (shared\\.)?current_tenant\\(\\) AS current_tenant\\)'
           '|(shared\\.)?current_tenant\\(\\))\\)$' AS tenant,
           (SELECT oid FROM pg_namespace WHERE nspname = 'shared') AS shared
)
SELECT nspname || '.' || relname AS object, reason FROM (
    SELECT t.nspname, t.relname, unnest(array_remove(ARRAY[
        CASE WHEN NOT t.relrowsecurity THEN 'row security is not enabled' END,
        CASE WHEN NOT t.relforcerowsecurity THEN 'row security is not forced' END,
        CASE WHEN p.guards = 0 THEN 'the guard policy is missing' END,
        CASE WHEN p.accesses = 0 THEN 'the access policy is missing' END,
        CASE WHEN NOT coalesce(p.sound, true) THEN 'a policy is weaker than the tenant expression'
        END,
        CASE WHEN NOT coalesce(c.holds, false) THEN 'the tenant CHECK is missing' END,
        CASE WHEN NOT coalesce(k.identifies, false) THEN 'there is no primary key' END,
        CASE WHEN t.relispartition AND t.relacl IS NOT NULL
             THEN 'a partition has grants of its own' END
    ], NULL)) AS reason
    FROM tenant_table t CROSS JOIN expression e
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE NOT p.polpermissive) AS guards,
               count(*) FILTER (WHERE p.polpermissive) AS accesses,
               bool_and(p.polqual IS NOT NULL AND p.polwithcheck IS NOT NULL
                        AND p.polcmd = '*' AND p.polroles = '{0}'
                        AND pg_get_expr(p.polqual, p.polrelid) ~ e.tenant
                        AND pg_get_expr(p.polwithcheck, p.polrelid) ~ e.tenant
                        AND coalesce((
                            SELECT bool_and(f.pronamespace = e.shared)
                            FROM pg_depend d JOIN pg_proc f ON f.oid = d.refobjid
                            WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                              AND d.refclassid = 'pg_proc'::regclass), false)) AS sound
        FROM pg_policy p WHERE p.polrelid = t.oid
    ) p
    CROSS JOIN LATERAL (
        -- To read a CHECK takes a lock on its table: so only of this schema's.
        SELECT bool_or(pg_get_constraintdef(k.oid)
                       ~ '^CHECK \\(\\(tenant_id = (ANY|''[0-9a-f-]{36}'')') AS holds
        FROM pg_constraint k WHERE k.conrelid = t.oid AND k.contype = 'c' AND k.convalidated
    ) c
    CROSS JOIN LATERAL (
        -- Or a key in which nulls are values like others.
        SELECT bool_or(k.contype = 'p' OR i.indnullsnotdistinct) AS identifies
        FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid
        WHERE k.conrelid = t.oid
    ) k
    UNION ALL
    SELECT t.nspname, t.relname, 'key ' || k.conname || ' is not led by tenant_id'
    FROM tenant_table t
    CROSS JOIN LATERAL (
        SELECT k.conname,
               (SELECT a.attname FROM pg_attribute a
                WHERE a.attrelid = t.oid AND a.attnum = k.conkey[1]) AS first
        FROM pg_constraint k WHERE k.conrelid = t.oid AND k.contype IN ('p', 'u', 'f', 'x')
        OFFSET 0
    ) k
    WHERE k.first <> 'tenant_id'
    UNION ALL
    SELECT t.nspname, t.relname, 'unique index ' || i.indexrelid::regclass || ' is not led by tenant_id'
    FROM tenant_table t
    CROSS JOIN LATERAL (
        SELECT i.indexrelid,
               (SELECT a.attname FROM pg_attribute a
                WHERE a.attrelid = t.oid AND a.attnum = i.indkey[0]) AS first
        FROM pg_index i WHERE i.indrelid = t.oid AND i.indisunique
        OFFSET 0
    ) i
    WHERE i.first IS DISTINCT FROM 'tenant_id'
    UNION ALL
    SELECT t.nspname, t.relname, 'foreign key ' || k.conname || ' leads out of the schema'
    FROM tenant_table t
    CROSS JOIN LATERAL (
        SELECT k.conname,
               (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE c.oid = k.confrelid) AS leads_to
        FROM pg_constraint k WHERE k.conrelid = t.oid AND k.contype = 'f'
        OFFSET 0
    ) k
    WHERE k.leads_to <> t.nspname
    UNION ALL
    SELECT nspname, relname, 'foreign tables have no row security'
    FROM relation WHERE relkind = 'f' AND is_tenants
    UNION ALL
    SELECT nspname, relname, 'the view does not run as its caller'
    FROM relation
    WHERE relkind = 'v' AND is_tenants
      AND NOT coalesce(reloptions @> ARRAY['security_invoker=true'], false)
    UNION ALL
    SELECT nspname, relname, 'materialized views do not belong in a tenant schema'
    FROM relation WHERE relkind = 'm' AND is_tenants
    UNION ALL
    SELECT r.nspname, r.relname, 'privileges are granted to PUBLIC'
    FROM relation r
    WHERE EXISTS (SELECT FROM aclexplode(r.relacl) acl WHERE acl.grantee = 0)
       OR EXISTS (SELECT FROM pg_attribute a, aclexplode(a.attacl) acl
                  WHERE a.attrelid = r.oid AND acl.grantee = 0)
    UNION ALL
    SELECT t.nspname, t.relname, 'a role holds TRUNCATE, REFERENCES or TRIGGER on it'
    FROM tenant_table t, LATERAL aclexplode(t.relacl) acl
    WHERE acl.grantee <> t.relowner
      AND acl.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')
) hole
ORDER BY 1, 2
"""

ROLES_AND_FUNCTIONS = """
SELECT p.proname::text AS object, 'a SECURITY DEFINER function is owned by a role above row security'
       AS reason
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles r ON r.oid = p.proowner
WHERE p.prosecdef AND (n.nspname IN ('public', 'shared') OR n.nspname ~ '^t_[a-z0-9]+$')
  AND (r.rolsuper OR r.rolbypassrls)
UNION ALL
SELECT p.proname::text, 'a SECURITY DEFINER function does not pin its search_path'
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.prosecdef AND (n.nspname IN ('public', 'shared') OR n.nspname ~ '^t_[a-z0-9]+$')
  AND NOT coalesce(array_to_string(p.proconfig, ',') LIKE '%search\\_path=%', false)
UNION ALL
SELECT p.proname::text, 'PUBLIC may run a SECURITY DEFINER function'
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace,
     LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) acl
WHERE p.prosecdef AND acl.grantee = 0
  AND (n.nspname IN ('public', 'shared') OR n.nspname ~ '^t_[a-z0-9]+$')
UNION ALL
SELECT m.rolname::text, 'the runtime login can become the owner: ' || r.rolname
FROM pg_roles m JOIN pg_roles r ON pg_has_role(m.oid, r.oid, 'MEMBER')
WHERE m.rolname = $1 AND NOT m.rolsuper
  AND EXISTS (SELECT FROM pg_namespace n
              WHERE n.nspowner = r.oid AND (n.nspname = 'shared' OR n.nspname ~ '^t_[a-z0-9]+$'))
UNION ALL
SELECT m.rolname::text, 'the runtime login can become a role above row security: ' || r.rolname
FROM pg_roles m JOIN pg_roles r ON pg_has_role(m.oid, r.oid, 'MEMBER')
WHERE m.rolname = $1 AND NOT m.rolsuper AND (r.rolsuper OR r.rolbypassrls OR r.rolcreaterole)
UNION ALL
SELECT m.rolname::text, 'the runtime login is above row security'
FROM pg_roles m WHERE m.rolname = $1 AND (m.rolsuper OR m.rolbypassrls)
UNION ALL
SELECT n.nspname::text, 'PUBLIC has rights on the schema'
FROM pg_namespace n, LATERAL aclexplode(n.nspacl) acl
WHERE acl.grantee = 0 AND (n.nspname IN ('public', 'shared') OR n.nspname ~ '^t_[a-z0-9]+$')
ORDER BY 1, 2
"""


async def tenant_holes(connection: AsyncConnection, schema: str | None = None) -> list[str]:
    """Name every hole in one tenant schema, or in all of them: `schema.table: reason`."""
    rows = await connection.exec_driver_sql(TABLES_AND_VIEWS, (schema,))
    return [f"{row.object}: {row.reason}" for row in rows]


async def role_holes(connection: AsyncConnection, runtime_role: str) -> list[str]:
    """Name every hole that roles, functions and schema rights leave."""
    rows = await connection.exec_driver_sql(ROLES_AND_FUNCTIONS, (runtime_role,))
    return [f"{row.object}: {row.reason}" for row in rows]
