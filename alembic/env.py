"""Alembic's own commands only write revisions; upgrades go through `metrics-service db upgrade`.

One run of ours goes over many schemas and keeps its ledger in `public.tenant_schemas`, which
Alembic's runner does not know: `metrics_service/tenants/migrate.py`.
"""

raise SystemExit("use `metrics-service db upgrade`, `db downgrade` or `db status`")
