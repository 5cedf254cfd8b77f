"""What each layer of a request costs, in CPU time, when the database answers at once.

    python scripts/bench/layers.py [--data DIR] [--rounds 15] [--requests 200]

The page of sessions is asked of the application in this process, without a server or a socket; the
connection gives rows that were read before. The least of all rounds is shown: what disturbs a
measurement only ever adds to it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from common import DATA, SECRET, BenchTenant, database, load_tenants, table

from metrics_service import logs
from metrics_service.app import create_app
from metrics_service.db.engine import runtime_engine
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http import dependencies
from metrics_service.sessions.repository import fetch_sessions, session_view
from metrics_service.sessions.schemas import SessionQuery
from metrics_service.settings import Settings

LIMIT = 50

Scope = dict[str, Any]


class Canned:
    """A connection that has every answer already."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    async def fetch(self, *_: Any) -> list[Any]:
        return self._rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=200)
    chosen = parser.parse_args()
    logs.configure_logging("warning", json=True)
    tenant = load_tenants(chosen.data)[0]
    with database(chosen.data) as addresses:
        print(asyncio.run(_measure(addresses.runtime, tenant, chosen.rounds, chosen.requests)))


async def _measure(dsn: str, tenant: BenchTenant, rounds: int, requests: int) -> str:
    rows = await _rows(dsn, tenant)
    settings = Settings(database_url=dsn, metrics_secret_key=SECRET)
    app: Any = create_app(settings, runtime_dsn=dsn, direct_dsn=dsn)
    # Before the doors are closed: tenant and key are looked up once, and remembered.
    await _ask(app, _scope(tenant))
    dependencies.tenant_connection = _canned_door(rows)  # type: ignore[assignment]
    layers = _layers(app)
    taken: dict[str, float] = {name: float("inf") for name, _ in layers}
    taken["views and JSON"] = float("inf")
    scopes = await _scopes(layers, tenant)
    for _ in range(rounds):
        for (name, layer), scope in zip(layers, scopes, strict=True):
            taken[name] = min(taken[name], await _microseconds(layer, scope, requests))
        began = time.process_time()
        for _ in range(requests):
            msgspec.json.encode([session_view(row) for row in rows[:LIMIT]])
        taken["views and JSON"] = min(
            taken["views and JSON"], (time.process_time() - began) / requests * 1e6
        )
    values = list(taken.values())
    lines = [
        [name, f"{value:.0f}", f"{value - inner:.0f}"]
        for (name, value), inner in zip(taken.items(), [*values[1:], 0.0], strict=True)
    ]
    return table(["from here inwards", "us", "of its own, us"], lines)


async def _rows(dsn: str, tenant: BenchTenant) -> list[Any]:
    engine = runtime_engine(dsn, pool_max=1)
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        rows = await fetch_sessions(
            connection, SessionQuery(limit=LIMIT), after=None, limit=LIMIT + 1, offset=0
        )
    await engine.dispose()
    return rows


def _canned_door(rows: list[Any]) -> Any:
    @asynccontextmanager
    async def door(*_: Any) -> AsyncIterator[Canned]:
        yield Canned(rows)

    return door


def _layers(app: Any) -> list[tuple[str, Any]]:
    """The middleware from the outside in, and the framework."""
    found = []
    while app is not None:
        found.append((type(app).__name__, app))
        app = getattr(app, "_app", None)
    return found


async def _scopes(layers: list[tuple[str, Any]], tenant: BenchTenant) -> list[Scope]:
    """What each layer is given by the one around it."""
    seen: list[Scope] = []
    scope = _scope(tenant)
    outer = layers[0][1]
    inner = [layer for _, layer in layers[1:]]

    def spying(layer: Any) -> Any:
        async def spy(scope: Scope, receive: Any, send: Any) -> None:
            seen.append({**scope, "state": dict(scope["state"])})
            await layer(scope, receive, send)

        return spy

    wrapped = [outer, *inner]
    for place, layer in enumerate(wrapped[:-1]):
        layer._app = spying(wrapped[place + 1])  # noqa: SLF001 - only a benchmark looks behind it
    await _ask(outer, scope)
    for place, layer in enumerate(wrapped[:-1]):
        layer._app = wrapped[place + 1]  # noqa: SLF001
    return [_scope(tenant), *seen]


def _scope(tenant: BenchTenant) -> Scope:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "path": "/api/v1/sessions", "raw_path": b"/api/v1/sessions", "query_string": b"",
        "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "headers": [(b"host", tenant.host.encode()), (b"authorization", f"Bearer {tenant.key}".encode())],
        "state": {}, "extensions": {},
    }  # fmt: skip


async def _microseconds(layer: Any, scope: Scope, requests: int) -> float:
    began = time.process_time()
    for _ in range(requests):
        await _ask(layer, {**scope, "state": dict(scope["state"])})
    return (time.process_time() - began) / requests * 1e6


async def _ask(app: Any, scope: Scope) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message.get("status", 200) != 200:
            raise SystemExit(f"the answer was {message['status']}")

    await app(scope, receive, send)


if __name__ == "__main__":
    main()
