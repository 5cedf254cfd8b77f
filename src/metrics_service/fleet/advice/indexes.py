"""The indexes that a schema at head has, each as it is made again.

Held against the migrations by a test.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["index", "unique index", "primary key", "unique key", "deferred unique key"]
# What stands before and after the index of a constraint.
_CONSTRAINTS: dict[Kind, tuple[str, str]] = {
    "primary key": ("PRIMARY KEY", ""),
    "unique key": ("UNIQUE", ""),
    "deferred unique key": ("UNIQUE", " DEFERRABLE INITIALLY DEFERRED"),
}


class Index(msgspec.Struct, frozen=True):
    """One index of a table; a key is the index of a constraint with the same name."""

    name: str
    table: str
    definition: str
    """Its columns, and what else its statement says after them."""
    kind: Kind = "index"

    def made_again(self, schema: str) -> list[str]:
        """The statements that make it while others read and write; each runs by itself."""
        unique = "" if self.kind == "index" else "UNIQUE "
        statements = [
            f"CREATE {unique}INDEX CONCURRENTLY {self.name} ON {schema}.{self.table} {self.definition}"
        ]
        if self.kind in _CONSTRAINTS:
            before, after = _CONSTRAINTS[self.kind]
            statements.append(
                f"ALTER TABLE {schema}.{self.table} ADD CONSTRAINT {self.name}"
                f" {before} USING INDEX {self.name}{after}"
            )
        return statements


TENANT_INDEXES = (
    Index("counter_deltas_page_ix", "counter_deltas", "(tenant_id, metric, window_end, id)"),
    Index("counter_deltas_pk", "counter_deltas", "(tenant_id, id)", "primary key"),
    Index(
        "counter_deltas_session_ix",
        "counter_deltas",
        "(tenant_id, session_id) WHERE (session_id IS NOT NULL)",
    ),
    Index("dashboard_configs_page_ix", "dashboard_configs", "(tenant_id, updated_at, id)"),
    Index("dashboard_configs_pk", "dashboard_configs", "(tenant_id, id)", "primary key"),
    Index(
        "dashboard_shares_page_ix", "dashboard_shares", "(tenant_id, dashboard_id, created_at, id)"
    ),
    Index("dashboard_shares_pk", "dashboard_shares", "(tenant_id, id)", "primary key"),
    Index(
        "dashboard_shares_user_ix",
        "dashboard_shares",
        "(tenant_id, user_id, dashboard_id) WHERE ((user_id IS NOT NULL) AND (revoked_at IS NULL))",
        "unique index",
    ),
    Index(
        "dashboard_versions_pk",
        "dashboard_versions",
        "(tenant_id, dashboard_id, version)",
        "primary key",
    ),
    Index("data_versions_pk", "data_versions", "(tenant_id, part)", "primary key"),
    Index("idempotency_keys_age_ix", "idempotency_keys", "(tenant_id, created_at)"),
    Index(
        "idempotency_keys_pk", "idempotency_keys", "(tenant_id, principal_id, key)", "primary key"
    ),
    Index("identity_rules_pk", "identity_rules", "(tenant_id, id)", "primary key"),
    Index("identity_rules_value_key", "identity_rules", "(tenant_id, kind, value)", "unique key"),
    Index("ingest_log_page_ix", "ingest_log", "(tenant_id, last_at, id)"),
    Index("ingest_log_pk", "ingest_log", "(tenant_id, id)", "primary key"),
    Index(
        "ingest_refusals_pk",
        "ingest_refusals",
        "(tenant_id, log_id, status, reason)",
        "primary key",
    ),
    Index("metric_streams_pk", "metric_streams", "(tenant_id, id)", "primary key"),
    Index(
        "metrics_sessions_external_key",
        "metrics_sessions",
        "(tenant_id, agent, external_id)",
        "deferred unique key",
    ),
    Index(
        "metrics_sessions_identity_ix",
        "metrics_sessions",
        "(tenant_id, user_key_kind, user_key, started_at)",
    ),
    Index("metrics_sessions_page_ix", "metrics_sessions", "(tenant_id, started_at, id)"),
    Index(
        "metrics_sessions_parent_ix",
        "metrics_sessions",
        "(tenant_id, parent_session_id) WHERE (parent_session_id IS NOT NULL)",
    ),
    Index("metrics_sessions_pk", "metrics_sessions", "(tenant_id, id)", "primary key"),
    Index(
        "metrics_sessions_repository_ix",
        "metrics_sessions",
        "(tenant_id, repository, started_at, id) WHERE (repository IS NOT NULL)",
    ),
    Index("metrics_sessions_user_ix", "metrics_sessions", "(tenant_id, user_id, started_at, id)"),
    Index("model_calls_page_ix", "model_calls", "(tenant_id, started_at, id)"),
    Index("model_calls_pk", "model_calls", "(tenant_id, id)", "primary key"),
    Index(
        "model_calls_session_ix",
        "model_calls",
        "(tenant_id, session_id, started_at, id) WHERE (session_id IS NOT NULL)",
    ),
    Index(
        "model_calls_uncounted_ix", "model_calls", "(tenant_id, session_id) WHERE (source_rank < 4)"
    ),
    Index(
        "model_calls_daily_key",
        "model_calls_daily",
        "(tenant_id, cube, bucket, provider, request_model, agent, user_id, team, repository) NULLS NOT DISTINCT",
        "unique key",
    ),
    Index(
        "model_calls_daily_all_key",
        "model_calls_daily_all",
        "(tenant_id, cube, bucket, provider, request_model, agent, user_id, team, repository) NULLS NOT DISTINCT",
        "unique key",
    ),
    Index(
        "model_calls_hourly_key",
        "model_calls_hourly",
        "(tenant_id, cube, bucket, provider, request_model, agent, user_id, team, repository) NULLS NOT DISTINCT",
        "unique key",
    ),
    Index("raw_requests_pk", "raw_requests", "(tenant_id, id)", "primary key"),
    Index("raw_requests_received_ix", "raw_requests", "(tenant_id, received_at, id)"),
    Index("session_events_pk", "session_events", "(tenant_id, id)", "primary key"),
    Index(
        "session_events_session_ix",
        "session_events",
        "(tenant_id, session_id, occurred_at, id) WHERE (session_id IS NOT NULL)",
    ),
    Index("session_tags_pk", "session_tags", "(tenant_id, session_id, tag)", "primary key"),
    Index("session_tags_tag_ix", "session_tags", "(tenant_id, tag, session_id)"),
    Index(
        "sessions_daily_key",
        "sessions_daily",
        "(tenant_id, cube, bucket, session_type, agent, user_id, team, repository) NULLS NOT DISTINCT",
        "unique key",
    ),
    Index(
        "sessions_hourly_key",
        "sessions_hourly",
        "(tenant_id, cube, bucket, session_type, agent, user_id, team, repository) NULLS NOT DISTINCT",
        "unique key",
    ),
    Index("sign_ins_pk", "sign_ins", "(tenant_id, id)", "primary key"),
    Index("sign_ins_token_key", "sign_ins", "(tenant_id, token_hash)", "unique key"),
    Index("sign_ins_user_ix", "sign_ins", "(tenant_id, user_id, expires_at)"),
    Index("tenant_settings_pk", "tenant_settings", "(tenant_id, name)", "primary key"),
    Index("tool_metrics_page_ix", "tool_metrics", "(tenant_id, started_at, id)"),
    Index("tool_metrics_pk", "tool_metrics", "(tenant_id, id)", "primary key"),
    Index(
        "tool_metrics_session_ix",
        "tool_metrics",
        "(tenant_id, session_id, started_at, id) WHERE (session_id IS NOT NULL)",
    ),
    Index(
        "tool_metrics_uncounted_ix",
        "tool_metrics",
        "(tenant_id, session_id) WHERE (source_rank < 4)",
    ),
    Index(
        "tool_metrics_daily_key",
        "tool_metrics_daily",
        "(tenant_id, cube, bucket, tool_name, tool_category, agent, user_id, team, repository) NULLS NOT DISTINCT",
        "unique key",
    ),
    Index(
        "tool_metrics_daily_all_key",
        "tool_metrics_daily_all",
        "(tenant_id, cube, bucket, tool_name, tool_category, agent, user_id, team, repository) NULLS NOT DISTINCT",
        "unique key",
    ),
    Index(
        "tool_metrics_hourly_key",
        "tool_metrics_hourly",
        "(tenant_id, cube, bucket, tool_name, tool_category, agent, user_id, team, repository) NULLS NOT DISTINCT",
        "unique key",
    ),
    Index("tool_names_pk", "tool_names", "(tenant_id, name)", "primary key"),
    Index(
        "tool_spans_call_ix",
        "tool_spans",
        "(tenant_id, tool_metric_id) WHERE (tool_metric_id IS NOT NULL)",
    ),
    Index("tool_spans_pk", "tool_spans", "(tenant_id, id)", "primary key"),
    Index("trace_sessions_pk", "trace_sessions", "(tenant_id, trace_id)", "primary key"),
    Index(
        "trace_sessions_session_ix",
        "trace_sessions",
        "(tenant_id, session_id) WHERE (session_id IS NOT NULL)",
    ),
    Index("user_identities_id_ix", "user_identities", "(tenant_id, id)", "unique index"),
    Index("user_identities_page_ix", "user_identities", "(tenant_id, created_at, id)"),
    Index("user_identities_pk", "user_identities", "(tenant_id, kind, value)", "primary key"),
    Index("user_passwords_pk", "user_passwords", "(tenant_id, user_id)", "primary key"),
    Index("users_email_key", "users", "(tenant_id, email)", "unique key"),
    Index("users_pk", "users", "(tenant_id, id)", "primary key"),
)
REGISTRY_INDEXES = (
    Index("api_keys_id_key", "api_keys", "(id)", "unique key"),
    Index("api_keys_pk", "api_keys", "(tenant_id, id)", "primary key"),
    Index("api_keys_prefix_key", "api_keys", "(tenant_id, prefix)", "unique key"),
    Index("fleet_jobs_pk", "fleet_jobs", "(id)", "primary key"),
    Index("fleet_jobs_queued_ix", "fleet_jobs", "(queued_at, id)"),
    Index("health_events_at_ix", "health_events", "(at)"),
    Index("health_events_pk", "health_events", "(id)", "primary key"),
    Index("operator_audit_at_ix", "operator_audit", "(at)"),
    Index("operator_audit_pk", "operator_audit", "(id)", "primary key"),
    Index("operator_keys_pk", "operator_keys", "(id)", "primary key"),
    Index("operator_keys_prefix_key", "operator_keys", "(prefix)", "unique key"),
    Index("service_processes_pk", "service_processes", "(id)", "primary key"),
    Index("slow_queries_at_ix", "slow_queries", "(at, id)"),
    Index("slow_queries_pk", "slow_queries", "(id)", "primary key"),
    Index("slow_queries_tenant_at_ix", "slow_queries", "(tenant_id, at, id)"),
    Index("tenant_activity_bucket_ix", "tenant_activity", "(bucket)"),
    Index("tenant_activity_pk", "tenant_activity", "(tenant_id, bucket)", "primary key"),
    Index("tenant_domains_pk", "tenant_domains", "(host)", "primary key"),
    Index("tenant_domains_tenant_ix", "tenant_domains", "(tenant_id)"),
    Index("tenant_schemas_pk", "tenant_schemas", "(schema_name)", "primary key"),
    Index("tenant_sizes_pk", "tenant_sizes", "(tenant_id)", "primary key"),
    Index("tenants_domain_key", "tenants", "(domain)", "unique key"),
    Index("tenants_pk", "tenants", "(id)", "primary key"),
    Index("tenants_slug_key", "tenants", "(slug)", "unique key"),
)
