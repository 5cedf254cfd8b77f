"""What the service knows of itself, and the operators who may look at it.

Like the registry's other tables these have no grants: the runtime login writes through functions that
take what it saw, and reads only with the hash of an operator's key that lives. Everything is bounded
where it is written, so that nothing has to be running to keep it small; and what cannot have been is
made plausible there, so that no process whose clock or counter is wrong hides what the others saw, or
leaves anything that cannot be read.
"""

from alembic import op

revision = "registry_0003"
down_revision = "registry_0002"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE public.operator_keys (
        id uuid NOT NULL,
        prefix varchar(16) NOT NULL,
        key_hash bytea NOT NULL,
        name varchar(255) NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz,
        revoked_at timestamptz,
        CONSTRAINT operator_keys_pk PRIMARY KEY (id),
        CONSTRAINT operator_keys_prefix_key UNIQUE (prefix),
        CONSTRAINT operator_keys_hash CHECK (octet_length(key_hash) = 32)
    )
    """,
    """
    CREATE TABLE public.service_processes (
        id uuid NOT NULL,
        kind text NOT NULL,
        host text NOT NULL,
        pid integer NOT NULL,
        version text NOT NULL,
        started_at timestamptz NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        status text NOT NULL,
        report jsonb NOT NULL,
        CONSTRAINT service_processes_pk PRIMARY KEY (id),
        CONSTRAINT service_processes_kind CHECK (kind IN ('http', 'otlp-grpc', 'maintenance')),
        CONSTRAINT service_processes_status CHECK (status IN ('healthy', 'degraded', 'unhealthy')),
        CONSTRAINT service_processes_report CHECK
            (jsonb_typeof(report) = 'object' AND octet_length(report::text) <= 65536)
    )
    """,
    """
    CREATE TABLE public.health_events (
        id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        at timestamptz NOT NULL,
        process_id uuid,
        kind text NOT NULL,
        check_name text NOT NULL,
        status_before text,
        status text,
        detail text NOT NULL DEFAULT '',
        CONSTRAINT health_events_pk PRIMARY KEY (id),
        CONSTRAINT health_events_kind CHECK
            (kind IN ('health-change', 'connection-error', 'connection-recovery', 'failover')),
        CONSTRAINT health_events_detail CHECK (length(detail) <= 1000)
    )
    """,
    "CREATE INDEX health_events_at_ix ON public.health_events (at)",
    # The plan is text, in which nothing is looked for, and which must come back as it was.
    """
    CREATE TABLE public.slow_queries (
        id uuid NOT NULL,
        at timestamptz NOT NULL,
        tenant_id uuid,
        fingerprint text NOT NULL,
        statement text NOT NULL,
        operation text NOT NULL,
        table_name text,
        route text NOT NULL,
        duration_ms double precision NOT NULL,
        wait_ms double precision,
        row_count bigint,
        trace_id text,
        request_id text,
        error text,
        plan text,
        CONSTRAINT slow_queries_pk PRIMARY KEY (id),
        CONSTRAINT slow_queries_fingerprint CHECK (fingerprint ~ '^[0-9a-f]{16}$'),
        CONSTRAINT slow_queries_statement CHECK (length(statement) <= 8192),
        CONSTRAINT slow_queries_plan CHECK (length(plan) <= 65536)
    )
    """,
    "CREATE INDEX slow_queries_at_ix ON public.slow_queries (at, id)",
    "CREATE INDEX slow_queries_tenant_at_ix ON public.slow_queries (tenant_id, at, id)",
    # By five minutes.
    """
    CREATE TABLE public.tenant_activity (
        tenant_id uuid NOT NULL,
        bucket timestamptz NOT NULL,
        requests bigint NOT NULL,
        failures bigint NOT NULL,
        refusals bigint NOT NULL,
        records bigint NOT NULL,
        duplicates bigint NOT NULL,
        bytes bigint NOT NULL,
        CONSTRAINT tenant_activity_pk PRIMARY KEY (tenant_id, bucket),
        CONSTRAINT tenant_activity_tenant_fk FOREIGN KEY (tenant_id)
            REFERENCES public.tenants (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX tenant_activity_bucket_ix ON public.tenant_activity (bucket)",
    """
    CREATE TABLE public.tenant_sizes (
        tenant_id uuid NOT NULL,
        measured_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        bytes bigint NOT NULL,
        row_count bigint NOT NULL,
        sessions bigint NOT NULL,
        sessions_today bigint NOT NULL,
        CONSTRAINT tenant_sizes_pk PRIMARY KEY (tenant_id),
        CONSTRAINT tenant_sizes_tenant_fk FOREIGN KEY (tenant_id)
            REFERENCES public.tenants (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE public.fleet_jobs (
        id uuid NOT NULL,
        kind text NOT NULL,
        arguments jsonb NOT NULL,
        status text NOT NULL DEFAULT 'queued',
        queued_by text NOT NULL,
        queued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at timestamptz,
        finished_at timestamptz,
        done integer NOT NULL DEFAULT 0,
        total integer,
        result jsonb,
        error text,
        CONSTRAINT fleet_jobs_pk PRIMARY KEY (id),
        CONSTRAINT fleet_jobs_kind CHECK (kind IN ('provision', 'upgrade', 'suspend', 'resume')),
        CONSTRAINT fleet_jobs_status CHECK (status IN ('queued', 'running', 'done', 'failed'))
    )
    """,
    "CREATE INDEX fleet_jobs_queued_ix ON public.fleet_jobs (queued_at, id)",
)

FUNCTIONS = (
    """
    CREATE FUNCTION public.find_operator_key(p_prefix text)
    RETURNS TABLE (id uuid, name text, key_hash bytea, expires_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT k.id, k.name::text, k.key_hash, least(k.expires_at, k.revoked_at)
        FROM public.operator_keys k
        WHERE k.prefix = p_prefix
          AND (k.expires_at IS NULL OR k.expires_at > now())
          AND (k.revoked_at IS NULL OR k.revoked_at > now())
    $$
    """,
    # What operators see is told to nobody else, whatever mistake asks for it: the functions below ask
    # this one first, in a condition, because a column that nobody reads is never computed.
    """
    CREATE FUNCTION public.acting_operator(p_key_hash bytea) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE found_name text;
    BEGIN
        SELECT k.name INTO found_name FROM public.operator_keys k
        WHERE k.key_hash = p_key_hash
          AND (k.expires_at IS NULL OR k.expires_at > now())
          AND (k.revoked_at IS NULL OR k.revoked_at > now());
        IF found_name IS NULL THEN
            RAISE EXCEPTION 'no operator' USING ERRCODE = '28000';
        END IF;
        RETURN found_name;
    END $$
    """,
    """
    CREATE FUNCTION public.operator_tenants(p_operator bytea)
    RETURNS TABLE (id uuid, slug text, name text, domain text, plan text, status text,
                   created_at timestamptz, updated_at timestamptz, schema_name text,
                   schema_revision text, schema_status text, schema_error text,
                   measured_at timestamptz, bytes bigint, row_count bigint, sessions bigint,
                   sessions_today bigint, requests_hour bigint, failures_hour bigint,
                   refusals_hour bigint, records_hour bigint, records_day bigint, bytes_day bigint,
                   active_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT t.id, t.slug::text, t.name::text, t.domain::text, t.subscription_plan::text, t.status,
               t.created_at, t.updated_at, t.schema_name::text, s.revision, s.status, s.last_error,
               z.measured_at, z.bytes, z.row_count, z.sessions, z.sessions_today,
               coalesce(a.requests_hour, 0), coalesce(a.failures_hour, 0),
               coalesce(a.refusals_hour, 0), coalesce(a.records_hour, 0),
               coalesce(a.records_day, 0), coalesce(a.bytes_day, 0), a.active_at
        FROM public.tenants t
        LEFT JOIN public.tenant_schemas s ON s.schema_name = t.schema_name
        LEFT JOIN public.tenant_sizes z ON z.tenant_id = t.id
        LEFT JOIN (
            SELECT tenant_id,
                   sum(requests) FILTER (WHERE bucket > now() - interval '1 hour')::bigint AS requests_hour,
                   sum(failures) FILTER (WHERE bucket > now() - interval '1 hour')::bigint AS failures_hour,
                   sum(refusals) FILTER (WHERE bucket > now() - interval '1 hour')::bigint AS refusals_hour,
                   sum(records) FILTER (WHERE bucket > now() - interval '1 hour')::bigint AS records_hour,
                   sum(records)::bigint AS records_day, sum(bytes)::bigint AS bytes_day,
                   max(bucket) AS active_at
            FROM public.tenant_activity WHERE bucket > now() - interval '1 day' GROUP BY tenant_id
        ) a ON a.tenant_id = t.id
        WHERE (SELECT public.acting_operator(p_operator)) IS NOT NULL AND t.status <> 'deleted'
    $$
    """,
    """
    CREATE FUNCTION public.operator_activity(p_operator bytea, p_tenant uuid)
    RETURNS TABLE (bucket timestamptz, requests bigint, failures bigint, refusals bigint,
                   records bigint, duplicates bigint, bytes bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT a.bucket, sum(a.requests)::bigint, sum(a.failures)::bigint, sum(a.refusals)::bigint,
               sum(a.records)::bigint, sum(a.duplicates)::bigint, sum(a.bytes)::bigint
        FROM public.tenant_activity a
        WHERE (SELECT public.acting_operator(p_operator)) IS NOT NULL
          AND (p_tenant IS NULL OR a.tenant_id = p_tenant) AND a.bucket > now() - interval '1 day'
        GROUP BY a.bucket
    $$
    """,
    """
    CREATE FUNCTION public.operator_schemas(p_operator bytea)
    RETURNS TABLE (schema_name text, tenant_id uuid, slug text, revision text, status text,
                   last_error text, updated_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT s.schema_name::text, t.id, t.slug::text, s.revision, s.status, s.last_error, s.updated_at
        FROM public.tenant_schemas s
        LEFT JOIN public.tenants t ON t.schema_name = s.schema_name
        WHERE (SELECT public.acting_operator(p_operator)) IS NOT NULL
    $$
    """,
    """
    CREATE FUNCTION public.operator_processes(p_operator bytea)
    RETURNS TABLE (id uuid, kind text, host text, pid integer, version text, started_at timestamptz,
                   seen_at timestamptz, status text, report jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT p.id, p.kind, p.host, p.pid, p.version, p.started_at, p.seen_at, p.status, p.report
        FROM public.service_processes p
        WHERE (SELECT public.acting_operator(p_operator)) IS NOT NULL
    $$
    """,
    """
    CREATE FUNCTION public.operator_health_events(p_operator bytea, p_since timestamptz)
    RETURNS TABLE (id bigint, at timestamptz, process_id uuid, kind text, check_name text,
                   status_before text, status text, detail text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT e.id, e.at, e.process_id, e.kind, e.check_name, e.status_before, e.status, e.detail
        FROM public.health_events e
        WHERE (SELECT public.acting_operator(p_operator)) IS NOT NULL AND e.at >= p_since
    $$
    """,
    """
    CREATE FUNCTION public.operator_slow_queries(p_operator bytea, p_since timestamptz)
    RETURNS TABLE (id uuid, at timestamptz, tenant_id uuid, fingerprint text, statement text,
                   operation text, table_name text, route text, duration_ms double precision,
                   wait_ms double precision, row_count bigint, trace_id text, request_id text,
                   error text, plan text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT q.id, q.at, q.tenant_id, q.fingerprint, q.statement, q.operation, q.table_name, q.route,
               q.duration_ms, q.wait_ms, q.row_count, q.trace_id, q.request_id, q.error, q.plan
        FROM public.slow_queries q
        WHERE (SELECT public.acting_operator(p_operator)) IS NOT NULL AND q.at >= p_since
    $$
    """,
    """
    CREATE FUNCTION public.operator_jobs(p_operator bytea)
    RETURNS TABLE (id uuid, kind text, arguments jsonb, status text, queued_by text,
                   queued_at timestamptz, started_at timestamptz, finished_at timestamptz,
                   done integer, total integer, result jsonb, error text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT j.id, j.kind, j.arguments, j.status, j.queued_by, j.queued_at, j.started_at,
               j.finished_at, j.done, j.total, j.result, j.error
        FROM public.fleet_jobs j
        WHERE (SELECT public.acting_operator(p_operator)) IS NOT NULL
    $$
    """,
    """
    CREATE FUNCTION public.operator_audit_log(p_operator bytea)
    RETURNS TABLE (id uuid, at timestamptz, actor text, action text, tenant_id uuid, detail jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT a.id, a.at, a.actor, a.action, a.tenant_id, a.detail
        FROM public.operator_audit a
        WHERE (SELECT public.acting_operator(p_operator)) IS NOT NULL
    $$
    """,
    # What is queued is done by a process that owns the schemas; a thousand wait at most.
    """
    CREATE FUNCTION public.queue_job
        (p_operator bytea, p_id uuid, p_kind text, p_arguments jsonb, p_tenant uuid)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE actor text := public.acting_operator(p_operator);
    BEGIN
        IF (SELECT count(*) FROM public.fleet_jobs WHERE status = 'queued') >= 1000 THEN
            RAISE EXCEPTION 'too many jobs' USING ERRCODE = '53400';
        END IF;
        INSERT INTO public.fleet_jobs (id, kind, arguments, queued_by)
        VALUES (p_id, p_kind, p_arguments, actor);
        INSERT INTO public.operator_audit (actor, action, tenant_id, detail)
        VALUES (actor, 'queue ' || p_kind, p_tenant,
                p_arguments || jsonb_build_object('job', p_id::text));
        PERFORM pg_notify('metrics_jobs', p_id::text);
    END $$
    """,
    # So much at once is more than any process has to say.
    """
    CREATE FUNCTION public.check_rows(p_rows json) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        IF json_array_length(p_rows) > 1000 THEN
            RAISE EXCEPTION 'too many rows' USING ERRCODE = '54000';
        END IF;
    END $$
    """,
    # By the database's clock, which all processes have in common: theirs may be set, and a row of
    # tomorrow would be the newest until then.
    """
    CREATE FUNCTION public.plausible_time(p_at timestamptz, p_oldest interval) RETURNS timestamptz
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT CASE WHEN p_at BETWEEN clock_timestamp() - p_oldest AND clock_timestamp() THEN p_at
                    ELSE clock_timestamp() END
    $$
    """,
    """
    CREATE FUNCTION public.report_process
        (p_id uuid, p_kind text, p_host text, p_pid integer, p_version text,
         p_started_at timestamptz, p_status text, p_report jsonb)
    RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        INSERT INTO public.service_processes AS p
            (id, kind, host, pid, version, started_at, status, report)
        VALUES (p_id, p_kind, left(p_host, 255), p_pid, left(p_version, 64),
                public.plausible_time(p_started_at, interval '10 years'), p_status, p_report)
        ON CONFLICT (id) DO UPDATE
        SET status = excluded.status, report = excluded.report, seen_at = clock_timestamp();
        DELETE FROM public.service_processes WHERE seen_at < clock_timestamp() - interval '1 hour';
        DELETE FROM public.service_processes WHERE id IN
            (SELECT o.id FROM public.service_processes o ORDER BY o.seen_at DESC, o.id OFFSET 1000);
    END $$
    """,
    """
    CREATE FUNCTION public.leave_process(p_id uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        DELETE FROM public.service_processes WHERE id = p_id
    $$
    """,
    """
    CREATE FUNCTION public.note_health_events(p_events json) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        PERFORM public.check_rows(p_events);
        INSERT INTO public.health_events
            (at, process_id, kind, check_name, status_before, status, detail)
        SELECT public.plausible_time(e.at, interval '30 days'), e.process_id, e.kind,
               left(e.check_name, 63), left(e.status_before, 63), left(e.status, 63),
               left(coalesce(e.detail, ''), 1000)
        FROM json_to_recordset(p_events) AS e
            (at timestamptz, process_id uuid, kind text, check_name text, status_before text,
             status text, detail text)
        ON CONFLICT DO NOTHING;
        DELETE FROM public.health_events WHERE id <=
            (SELECT id FROM public.health_events ORDER BY id DESC OFFSET 10000 LIMIT 1);
    END $$
    """,
    # No tenant's rows push out another's: each keeps its newest two thousand. Of a tenant that is none
    # there is nothing to keep.
    """
    CREATE FUNCTION public.note_slow_queries(p_rows json) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        PERFORM public.check_rows(p_rows);
        INSERT INTO public.slow_queries
            (id, at, tenant_id, fingerprint, statement, operation, table_name, route, duration_ms,
             wait_ms, row_count, trace_id, request_id, error)
        SELECT r.id, public.plausible_time(r.at, interval '14 days'), r.tenant_id, r.fingerprint,
               left(r.statement, 8192), left(r.operation, 63), left(r.table_name, 255),
               left(r.route, 255), least(greatest(r.duration_ms, 0), 1e9),
               CASE WHEN r.wait_ms IS NOT NULL THEN least(greatest(r.wait_ms, 0), 1e9) END,
               CASE WHEN r.row_count IS NOT NULL
                    THEN least(greatest(r.row_count, 0), 1000000000000) END,
               left(r.trace_id, 64), left(r.request_id, 64), left(r.error, 255)
        FROM json_to_recordset(p_rows) AS r
            (id uuid, at timestamptz, tenant_id uuid, fingerprint text, statement text, operation text,
             table_name text, route text, duration_ms double precision, wait_ms double precision,
             row_count bigint, trace_id text, request_id text, error text)
        WHERE r.tenant_id IS NULL OR EXISTS (SELECT FROM public.tenants t WHERE t.id = r.tenant_id)
        ON CONFLICT (id) DO NOTHING;
        DELETE FROM public.slow_queries q
        USING (SELECT DISTINCT r.tenant_id FROM json_to_recordset(p_rows) AS r (tenant_id uuid)) t,
              LATERAL (SELECT o.at, o.id FROM public.slow_queries o
                       WHERE o.tenant_id IS NOT DISTINCT FROM t.tenant_id
                       ORDER BY o.at DESC, o.id DESC OFFSET 2000 LIMIT 1) last
        WHERE q.tenant_id IS NOT DISTINCT FROM t.tenant_id AND (q.at, q.id) <= (last.at, last.id);
        DELETE FROM public.slow_queries WHERE at < clock_timestamp() - interval '14 days';
    END $$
    """,
    """
    CREATE FUNCTION public.note_plan(p_id uuid, p_plan text) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        UPDATE public.slow_queries SET plan = p_plan
        WHERE id = p_id AND json_typeof(p_plan::json -> 0 -> 'Plan') = 'object'
    $$
    """,
    # A tenant that is gone meanwhile has no activity.
    """
    CREATE FUNCTION public.note_activity(p_rows json) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        PERFORM public.check_rows(p_rows);
        INSERT INTO public.tenant_activity AS a
            (tenant_id, bucket, requests, failures, refusals, records, duplicates, bytes)
        SELECT r.tenant_id, r.bucket, least(greatest(r.requests, 0), 1000000000000),
               least(greatest(r.failures, 0), 1000000000000),
               least(greatest(r.refusals, 0), 1000000000000),
               least(greatest(r.records, 0), 1000000000000),
               least(greatest(r.duplicates, 0), 1000000000000),
               least(greatest(r.bytes, 0), 1000000000000)
        FROM json_to_recordset(p_rows) AS r
            (tenant_id uuid, bucket timestamptz, requests bigint, failures bigint, refusals bigint,
             records bigint, duplicates bigint, bytes bigint)
        JOIN public.tenants t ON t.id = r.tenant_id
        WHERE r.bucket BETWEEN clock_timestamp() - interval '25 hours' AND clock_timestamp()
        ORDER BY r.tenant_id, r.bucket
        ON CONFLICT (tenant_id, bucket) DO UPDATE
        SET requests = a.requests + excluded.requests, failures = a.failures + excluded.failures,
            refusals = a.refusals + excluded.refusals, records = a.records + excluded.records,
            duplicates = a.duplicates + excluded.duplicates, bytes = a.bytes + excluded.bytes;
        DELETE FROM public.tenant_activity WHERE bucket < clock_timestamp() - interval '25 hours';
    END $$
    """,
    """
    CREATE FUNCTION public.count_schemas(p_known text[])
    RETURNS TABLE (schemas bigint, behind bigint, failed bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT count(*),
               count(*) FILTER (WHERE s.revision IS NULL OR s.revision = ANY (p_known)),
               count(*) FILTER (WHERE s.status = 'failed')
        FROM public.tenant_schemas s WHERE s.schema_name <> 'public'
    $$
    """,
    # Empty without the extension, and while it is not loaded; one line a statement, whoever ran it.
    """
    CREATE FUNCTION public.statement_statistics()
    RETURNS TABLE (query text, calls bigint, total_ms double precision, row_count bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE place text;
    BEGIN
        SELECT n.nspname INTO place FROM pg_extension e
        JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements';
        IF place IS NULL THEN
            RETURN;
        END IF;
        RETURN QUERY EXECUTE format(
            'SELECT s.query, sum(s.calls)::bigint, sum(s.total_exec_time), sum(s.rows)::bigint'
            ' FROM %I.pg_stat_statements s'
            ' WHERE s.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())'
            '   AND s.queryid IS NOT NULL'
            ' GROUP BY s.query ORDER BY 3 DESC LIMIT 5000', place);
    EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege THEN
        RETURN;
    END $$
    """,
    """
    CREATE FUNCTION public.operator_statements(p_operator bytea)
    RETURNS TABLE (query text, calls bigint, total_ms double precision, row_count bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT s.query, s.calls, s.total_ms, s.row_count FROM public.statement_statistics() s
        WHERE (SELECT public.acting_operator(p_operator)) IS NOT NULL
    $$
    """,
    """
    CREATE FUNCTION shared.list_slow_queries(p_since timestamptz)
    RETURNS TABLE (id uuid, at timestamptz, fingerprint text, statement text, operation text,
                   table_name text, route text, duration_ms double precision,
                   wait_ms double precision, row_count bigint, trace_id text, request_id text,
                   error text, plan text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT q.id, q.at, q.fingerprint, q.statement, q.operation, q.table_name, q.route,
               q.duration_ms, q.wait_ms, q.row_count, q.trace_id, q.request_id, q.error, q.plan
        FROM public.slow_queries q
        WHERE q.tenant_id = (SELECT public.acting_tenant()) AND q.at >= p_since
    $$
    """,
)

FOR_THE_RUNTIME = (
    "public.find_operator_key(text)",
    "public.operator_tenants(bytea)",
    "public.operator_activity(bytea, uuid)",
    "public.operator_schemas(bytea)",
    "public.operator_processes(bytea)",
    "public.operator_health_events(bytea, timestamptz)",
    "public.operator_slow_queries(bytea, timestamptz)",
    "public.operator_statements(bytea)",
    "public.operator_jobs(bytea)",
    "public.operator_audit_log(bytea)",
    "public.queue_job(bytea, uuid, text, jsonb, uuid)",
    "public.report_process(uuid, text, text, integer, text, timestamptz, text, jsonb)",
    "public.leave_process(uuid)",
    "public.note_health_events(json)",
    "public.note_slow_queries(json)",
    "public.note_plan(uuid, text)",
    "public.note_activity(json)",
    "public.count_schemas(text[])",
)
FOR_TENANTS = ("shared.list_slow_queries(timestamptz)",)
# Asked by the functions above alone.
INNER = (
    "public.statement_statistics()",
    "public.acting_operator(bytea)",
    "public.check_rows(json)",
    "public.plausible_time(timestamptz, interval)",
)

TABLE_NAMES = (
    "fleet_jobs",
    "tenant_sizes",
    "tenant_activity",
    "slow_queries",
    "health_events",
    "service_processes",
    "operator_keys",
)


def upgrade() -> None:
    runtime = op.get_context().opts["runtime_role"]
    for statement in (*TABLES, *FUNCTIONS):
        op.execute(statement)
    for function in FOR_THE_RUNTIME:
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {runtime}")
    for function in FOR_TENANTS:
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO app_tenant")


def downgrade() -> None:
    for function in (*FOR_TENANTS, *FOR_THE_RUNTIME, *INNER):
        op.execute(f"DROP FUNCTION {function}")
    for table in TABLE_NAMES:
        op.execute(f"DROP TABLE public.{table}")
