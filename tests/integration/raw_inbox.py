"""A tenant's way in for telemetry as the receiver takes it, and its kept requests mapped again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import zip_longest
from typing import Any
from uuid import UUID

from inbox import Stored

from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.dependencies import Caller, Database
from metrics_service.ingest.prices import load_prices
from metrics_service.otlp.decode import Reading
from metrics_service.otlp.receive import receive
from metrics_service.otlp.replay import Replay, Replayed, alone
from metrics_service.tenants.authenticate import Principal
from metrics_service.tenants.resolve import ServedTenant

KEY_ID = UUID(int=0x5EED)
# When it was stored or looked at last.
MOMENTS = ("updated_at", "seen_at")
# Every commit changes the version, be it of nothing.
LIST = """
SELECT c.relname::text AS name FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
  AND c.relname <> 'data_versions' ORDER BY 1
"""


class RawInbox(Stored):
    """Takes requests in by the receiver itself, keeps them, and replays them."""

    def __init__(self, database: Database, tenant_id: UUID) -> None:
        super().__init__(database.engine, tenant_id)
        self.database = database
        self.user_id: UUID | None = None

    @property
    def caller(self) -> Caller:
        tenant = ServedTenant(self.tenant_id, "t", "t", "t", "basic", "active", None, "ready")
        key = Principal("key", KEY_ID, "test", frozenset({"ingest"}), self.user_id)
        return Caller(tenant, key, self.database)

    async def set(self, name: str, value: Any) -> None:
        """Set one of the tenant's settings, and let nobody remember another value."""
        await self.execute(
            """
            INSERT INTO tenant_settings (name, value) VALUES ($1, $2::jsonb)
            ON CONFLICT (tenant_id, name) DO UPDATE SET value = excluded.value
            """,
            name,
            json.dumps(value),
        )
        self.database.tenant_settings._known._entries.clear()

    async def send(self, requests: Iterable[tuple[Any, ...]]) -> list[Reading]:
        """Take in requests of a signal, a body, and perhaps whether it is JSON."""
        return [
            await receive(self.caller, signal, body, is_json=all(rest))
            for signal, body, *rest in requests
        ]

    async def replay(self, **options: Any) -> Replayed:
        door = partial(tenant_connection, self.engine, TenantContext(self.tenant_id))
        async with alone(door, self.tenant_id):
            return await Replay(door, self.tenant_id, load_prices(), **options).run()

    async def everything(self) -> dict[str, list[str]]:
        """Every row of every table of the tenant, but for when somebody last touched it."""
        found = {}
        for table in await self.fetch(LIST):
            rows = await self.fetch(
                f"SELECT (to_jsonb(t) - $1::text[])::text AS row FROM {table['name']} t",
                list(MOMENTS),
            )
            found[table["name"]] = sorted(_canonical(row["row"]) for row in rows)
        return found

    async def kept(self) -> list[dict[str, Any]]:
        return await self.fetch("SELECT * FROM raw_requests ORDER BY received_at, id")

    async def age(self, by: timedelta, *, before: datetime | None = None) -> None:
        """Let kept requests have arrived earlier than they did."""
        await self.execute(
            "UPDATE raw_requests SET received_at = received_at - $1::interval"
            " WHERE received_at < coalesce($2, now() + interval '1 day')",
            by,
            before,
        )


@asynccontextmanager
async def nothing_changes(*inboxes: RawInbox):
    """Assert that nothing at all changes in these tenants."""
    before = [await inbox.everything() for inbox in inboxes]
    yield
    for inbox, tables in zip(inboxes, before, strict=True):
        after = await inbox.everything()
        for table, rows in tables.items():
            lost, found = sorted({*rows} - {*after[table]}), sorted({*after[table]} - {*rows})
            assert lost == found, f"{table}: {_differences(lost, found)}"


def _canonical(row: str) -> str:
    """A row in which 2 and 2.0 are the same, as they are to the database."""

    def number(digits: str) -> str:
        return str(Decimal(digits).normalize())

    return json.dumps(json.loads(row, parse_int=number, parse_float=number), sort_keys=True)


def _differences(lost: list[str], found: list[str]) -> list[Any]:
    return [
        {
            name: (before.get(name), after.get(name))
            for name in before.keys() | after.keys()
            if before.get(name) != after.get(name)
        }
        for before, after in zip_longest(
            map(json.loads, lost), map(json.loads, found), fillvalue={}
        )
    ]
