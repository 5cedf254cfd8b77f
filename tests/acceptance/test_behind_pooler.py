"""The service with no address but that of a pooler in transaction mode: all of it works, some of it later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from poolers import Pooler, is_installed, pooler_to

from acceptance.talk import (
    rows_of,
    stored_batch,
    stored_dashboard,
    stored_session,
    tool_metric,
)
from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.tenants import lifecycle

pytestmark = pytest.mark.skipif(not is_installed(), reason="PgBouncer is not installed")

DATA = "/api/v1/dashboards/{id}/data"
# Where a name comes back that was given.
NAMED = {
    "/api/v1/sessions": "external_id",
    "/api/v1/tool-metrics": "tool_name",
    "/api/v1/dashboards": "name",
}
HOLDS_AFTER_S = 2.0
PATIENCE_S = 10.0
AT_ONCE = 12
"""More than the pooler has connections to the server."""


@pytest.fixture(scope="module")
def pooler(addresses: Addresses) -> Iterator[Pooler]:
    with pooler_to(addresses.direct) as started:
        yield started


async def test_tenants_at_once_are_served_and_see_their_own(open_app, pooler, new_tenant):
    tenants = [await new_tenant() for _ in range(3)]

    async with open_app(pooler.dsn) as client:

        async def use(tenant, name: str) -> None:
            made = await stored_session(client, tenant, external_id=name)
            await stored_batch(client, tenant, [tool_metric(session_id=made["id"], tool_name=name)])
            board = await stored_dashboard(client, tenant, name=name)
            answer = await client.post(DATA.format(id=board["id"]), json={}, headers=tenant.headers)
            assert answer.status_code == 200, answer.text

        names = {
            tenant.slug: [f"{tenant.slug}-{number}" for number in range(AT_ONCE // len(tenants))]
            for tenant in tenants
        }
        await asyncio.gather(
            *(use(tenant, name) for tenant in tenants for name in names[tenant.slug])
        )

        for tenant in tenants:
            for path, field in NAMED.items():
                found = {row[field] for row in await rows_of(client, path, tenant)}
                assert found == set(names[tenant.slug]), path


async def test_who_is_suspended_is_refused_within_two_seconds_although_nothing_is_heard(
    open_app, pooler, new_tenant, addresses
):
    tenant = await new_tenant()

    async with open_app(pooler.dsn) as client:

        async def status() -> int:
            return (await client.get("/api/v1/me", headers=tenant.headers)).status_code

        async def seconds_until(wanted: int) -> float:
            begun = time.monotonic()
            async with asyncio.timeout(PATIENCE_S):
                while await status() != wanted:
                    await asyncio.sleep(0.02)
            return time.monotonic() - begun

        assert await status() == 200
        async with owner_connection(addresses.require_owner()) as owner:
            await lifecycle.suspend(owner, tenant.slug)
            suspended_after = await seconds_until(403)
            await lifecycle.resume(owner, tenant.slug)
            resumed_after = await seconds_until(200)

    assert suspended_after < HOLDS_AFTER_S
    assert resumed_after < HOLDS_AFTER_S
