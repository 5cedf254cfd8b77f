"""Any split, order, repetition and encoding of the same items leaves the same tables."""

from __future__ import annotations

import random
import re
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import settings
from rolled import ROLLUPS, check_rollups
from sqlalchemy.ext.asyncio import AsyncEngine
from stories import Item, Sent, all_stories, groups_of, request_of

from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.ingest.prices import load_prices
from metrics_service.ingest.telemetry import Telemetry
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.otlp.decode import read_request

ORDERS = settings().max_examples // 10
RECEIVED = 1_760_003_600_000_000_000
TABLES = {
    "metrics_sessions": "s.agent, s.external_id",
    "tool_metrics": "s.id",
    "model_calls": "s.id",
    "session_events": "s.id",
    "counter_deltas": "s.id",
    "trace_sessions": "s.trace_id",
    "tool_spans": "s.id",
    "user_identities": "s.kind, s.value",
}
# When it was stored, and who waited for a session that has come.
NOT_THE_SAME = {"tenant_id", "received_at", "created_at", "updated_at", "seen_at", "waiting"}
UUID_TEXT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def send(engine: AsyncEngine, tenant_id: UUID, requests: list[Sent]) -> None:
    writer = TelemetryWriter(ToolNames(), load_prices())
    for signal, body, is_json in requests:
        out = Telemetry(tenant_id)
        read_request(signal, body, is_json=is_json, received_ns=RECEIVED, out=out)
        async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
            await writer.write(connection, out, owner=None)


async def tables(engine: AsyncEngine, tenant_id: UUID) -> dict[str, list[dict[str, Any]]]:
    """Everything stored, with people by name instead of by an id that chance gave them."""
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        await check_rollups(connection)
        people = {
            str(row["id"]): f"<{row['email'] or row['name']}>"
            for row in await connection.fetch("SELECT id, email, name FROM users")
        }
        return {
            table: [
                _comparable(row["row"], people) for row in await _rows(connection, table, order)
            ]
            for table, order in TABLES.items()
        }


async def _rows(connection: ContextConnection, table: str, order: str) -> list[Any]:
    return await connection.fetch(
        f"SELECT to_jsonb(s)::text AS row FROM {table} s ORDER BY {order}"
    )


def _comparable(encoded: str, people: dict[str, str]) -> dict[str, Any]:
    named = UUID_TEXT.sub(lambda found: people.get(found[0], found[0]), encoded)
    row = msgspec.json.decode(named)
    return {name: value for name, value in row.items() if name not in NOT_THE_SAME}


async def clear(engine: AsyncEngine, tenant_id: UUID) -> None:
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        for table in (*TABLES, *ROLLUPS, "users", "metric_streams"):
            await connection.execute(f"DELETE FROM {table}")


def in_order(items: list[Item]) -> list[Sent]:
    return [request_of(group, is_json=True) for group in groups_of(items)]


def shuffled(items: list[Item], seed: int) -> list[Sent]:
    """Every item at least once, in any order, split anyhow, in either encoding."""
    rng = random.Random(seed)
    given = [*items, *rng.sample(items, k=rng.randrange(len(items)))]
    rng.shuffle(given)
    requests = []
    while given:
        size = rng.choice((1, 2, 3, 5, 8, 30))
        piece, given = given[:size], given[size:]
        requests += [request_of(group, is_json=rng.random() < 0.5) for group in groups_of(piece)]
    rng.shuffle(requests)
    return requests


@pytest.fixture(scope="module")
async def expected(engine, new_tenant):
    tenant_id = (await new_tenant()).id
    await send(engine, tenant_id, in_order(all_stories()))
    return await tables(engine, tenant_id)


@pytest.fixture(scope="module")
async def other(new_tenant):
    return (await new_tenant()).id


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for table, rows in expected.items():
        for place, (one, other) in enumerate(zip(found[table], rows, strict=False)):
            differences = {
                name: (one.get(name), other.get(name))
                for name in one.keys() | other.keys()
                if one.get(name) != other.get(name)
            }
            assert differences == {}, (table, place, other.get("id"))
        assert len(found[table]) == len(rows), table


def test_the_stories_leave_something_in_every_table(expected):
    assert {table: len(rows) for table, rows in expected.items() if not rows} == {}


async def test_sending_everything_again_changes_nothing(engine, other, expected):
    await clear(engine, other)
    requests = in_order(all_stories())

    await send(engine, other, [*requests, *reversed(requests)])

    assert_same(_anonymous(await tables(engine, other)), _anonymous(expected))


@pytest.mark.parametrize("seed", range(ORDERS))
async def test_any_order_and_split_leaves_the_same_tables(addresses, engine, other, expected, seed):
    await clear(engine, other)

    await send(engine, other, shuffled(all_stories(), seed))

    assert_same(_anonymous(await tables(engine, other)), _anonymous(expected))


IDS = {"id", "session_id", "parent_session_id", "tool_metric_id", "user_id"}


def _anonymous(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Without the ids of rows, which follow from the tenant's; in an order of their content."""
    return {
        table: sorted(
            (
                {name: _without_ids(value) for name, value in row.items() if name not in IDS}
                for row in rows
            ),
            key=lambda row: msgspec.json.encode(row, order="deterministic"),
        )
        for table, rows in found.items()
    }


def _without_ids(value: Any) -> Any:
    return UUID_TEXT.sub("<id>", value) if isinstance(value, str) else value
