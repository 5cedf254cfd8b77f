"""A request that the database interrupts is done again, and its client sees one good answer."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from acceptance.export import export, good, metrics, point
from acceptance.talk import dashboard, post_batch, rows_of, stored_batch, tool_metric
from acceptance.test_overload import locked
from metrics_service.db.tenancy import ContextConnection, TenantContext
from metrics_service.errors import CommitUnknownError
from metrics_service.observability import catalog

DASHBOARDS = "/api/v1/dashboards"
SOON_S = 30


@pytest.fixture
def admin(admin_url, addresses):
    return admin_url(addresses.runtime.rpartition("/")[2].partition("?")[0])


async def end_who_waits(admin, schema):
    """Terminate the backends that wait for a table of the schema; as an administrator would."""
    connection = await asyncpg.connect(admin)
    try:
        async with asyncio.timeout(SOON_S):
            while True:
                ended = await connection.fetch(
                    "SELECT pg_terminate_backend(l.pid) FROM pg_locks l"
                    " JOIN pg_class c ON c.oid = l.relation"
                    " WHERE NOT l.granted AND c.relnamespace = $1::text::regnamespace",
                    schema,
                )
                if ended:
                    return
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


def retries():
    return sum(number.value for number in catalog.REQUEST_RETRIES.points())


async def interrupted(asking, admin, addresses, tenant, table, schema=None):
    """What is answered to a request whose backend is terminated while it waits for the table."""
    schema = schema or tenant.tenant.schema_name
    async with locked(addresses, schema, table):
        request = asyncio.create_task(asking)
        await end_who_waits(admin, schema)
    async with asyncio.timeout(SOON_S):
        return await request


async def test_a_batch_is_stored_once(client, new_tenant, admin, addresses):
    tenant, other = await new_tenant(), await new_tenant()
    before = retries()

    response = await interrupted(
        post_batch(client, tenant, [tool_metric(), tool_metric(tool_name="Other")]),
        admin, addresses, tenant, "tool_metrics",
    )  # fmt: skip

    assert response.status_code == 200
    assert response.json() == {"inserted": 2, "duplicates": 0}
    assert retries() > before
    assert len(await rows_of(client, "/api/v1/tool-metrics", tenant)) == 2
    assert await rows_of(client, "/api/v1/tool-metrics", other) == []


async def test_telemetry_is_stored_once(client, new_tenant, admin, addresses):
    tenant = await new_tenant()

    response = await interrupted(
        export(client, tenant.headers, "logs", good("logs")),
        admin, addresses, tenant, "metrics_sessions",
    )  # fmt: skip

    assert response.status_code == 200


async def test_what_is_made_is_made_once(client, new_tenant, admin, addresses):
    tenant = await new_tenant()

    response = await interrupted(
        client.post(DASHBOARDS, json=dashboard(), headers=tenant.headers),
        admin, addresses, tenant, "dashboard_configs",
    )  # fmt: skip

    assert response.status_code == 201
    assert len(await rows_of(client, DASHBOARDS, tenant)) == 1


async def test_a_page_is_read(client, new_tenant, admin, addresses):
    tenant = await new_tenant()
    await stored_batch(client, tenant, [tool_metric()])

    response = await interrupted(
        client.get("/api/v1/tool-metrics", headers=tenant.headers),
        admin, addresses, tenant, "tool_metrics",
    )  # fmt: skip

    assert response.status_code == 200
    assert len(response.json()["data"]) == 1


@pytest.mark.parametrize("table", ["tenant_domains", "api_keys"])
async def test_who_asks_is_found_out(client, new_tenant, admin, addresses, table):
    """Hosts and keys are looked up before the request itself begins."""
    tenant = await new_tenant()
    before = retries()

    response = await interrupted(
        client.get("/api/v1/me", headers=tenant.headers),
        admin, addresses, tenant, table, "public",
    )  # fmt: skip

    assert response.status_code == 200
    assert response.json()["tenant"]["slug"] == tenant.slug
    assert retries() > before


async def test_what_has_no_time_of_its_own_is_counted_once_though_no_commit_was_confirmed(
    client, new_tenant, monkeypatch
):
    tenant = await new_tenant()
    commit, lost = ContextConnection._commit, []

    async def unconfirmed(self, query, timeout):  # noqa: ASYNC109  # as it is
        status = await commit(self, query, timeout)
        if isinstance(self.context, TenantContext) and self.context.shared_lock and not lost:
            lost.append(status)
            raise CommitUnknownError
        return status

    monkeypatch.setattr(ContextConnection, "_commit", unconfirmed)
    commits = metrics(point(1, startTimeUnixNano="0", timeUnixNano="0"))

    response = await export(client, tenant.headers, "metrics", commits)

    assert response.status_code == 200
    assert len(lost) == 1
    (session,) = await rows_of(client, "/api/v1/sessions", tenant)
    assert session["commits"] == 1
