"""How fast dashboards are answered from what is kept, beside being read anew each time.

    python scripts/bench/dashboards.py --data DIR --tenant SLUG [--rounds 5] [--requests 60] [--clients 4]

DIR is a data directory of `demo`, or of `rollup_data.py`. Every template is a dashboard, of the latest 30
days; each client has its own, whose titles differ. Uncached is the same question with the version of
the tenant's data changed before each, cached is with the same statement changing nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from common import Running, admin_dsn, database, median, serving, table

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.tenants.keys import create_key

PATH = "/api/v1/dashboards"
PATIENCE_S = 60
CHANGES = {"uncached": 1, "cached": 0}


class Place(msgspec.Struct, frozen=True):
    """Whom to ask for, and where its version stands."""

    host: str
    key: str
    schema: str
    admin: str


class Measured(msgspec.Struct):
    """One round of one way."""

    p50_ms: float
    """Of one client alone."""
    cpu_ms: float
    """Of the service, for each request of all clients together."""
    rate: float
    """How many of them were answered in a second."""


class Client:
    """One connection to the service, and one to the database."""

    def __init__(self, server: Running, place: Place, template: str, number: int) -> None:
        self._place = place
        self._http = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        self._loop = asyncio.new_event_loop()
        self._database = self._loop.run_until_complete(asyncpg.connect(place.admin))
        made = self.ask("POST", f"/api/v1/dashboard-templates/{template}/copy", {})
        for widget in made["widgets"]:
            widget["title"] = f"{widget['title'][:200]} {number}"
        wanted = {name: made[name] for name in ("name", "layout", "widgets", "version")}
        self.ask("PUT", f"{PATH}/{made['id']}", wanted)
        self._path = f"{PATH}/{made['id']}/data"
        self.widgets = len(made["widgets"])
        self.bytes = 0

    def ask(self, method: str, path: str, body: Any) -> Any:
        headers = {
            "Host": self._place.host,
            "Authorization": f"Bearer {self._place.key}",
            "Content-Type": "application/json",
        }
        self._http.request(method, path, msgspec.json.encode(body), headers)
        answer = self._http.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{path} was answered with {answer.status}: {content[:500]!r}")
        self.bytes = len(content)
        return msgspec.json.decode(content)

    def measure(self, requests: int, change: int) -> list[float]:
        times = []
        for _ in range(requests):
            self._loop.run_until_complete(
                self._database.execute(
                    f"UPDATE {self._place.schema}.data_versions SET version = version + {change}"
                )
            )
            began = time.perf_counter()
            self.ask("POST", self._path, {})
            times.append((time.perf_counter() - began) * 1000)
        return times

    def close(self) -> None:
        self._http.close()
        self._loop.run_until_complete(self._database.close())
        self._loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--clients", type=int, default=4)
    chosen = parser.parse_args()
    with database(chosen.data) as addresses:
        place = asyncio.run(_place(addresses, chosen.tenant))
        with serving(
            "service",
            addresses.runtime,
            data=chosen.data,
        ) as server:
            rows = [
                _row(server, place, template, chosen.rounds, chosen.requests, chosen.clients)
                for template in _templates(server, place)
            ]
    ways = [f"{way} {what}" for what in ("p50 ms", "CPU ms", "per s") for way in CHANGES]
    print(table(["template", "widgets", "KiB", *ways, "times"], rows))


async def _place(addresses: Addresses, slug: str) -> Place:
    admin = admin_dsn(addresses)
    connection = await asyncpg.connect(admin)
    found = await connection.fetchrow(
        "SELECT id, domain, schema_name FROM public.tenants WHERE slug = $1", slug
    )
    await connection.close()
    if found is None:
        raise SystemExit(f"there is no tenant {slug}")
    async with owner_connection(addresses.require_owner()) as owner, owner.begin():
        issued = await create_key(owner, found["id"], scopes=["read", "write"], name="bench")
    return Place(f"{found['domain']}.localhost", issued.key, found["schema_name"], admin)


def _templates(server: Running, place: Place) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    headers = {"Host": place.host, "Authorization": f"Bearer {place.key}"}
    connection.request("GET", "/api/v1/dashboard-templates", headers=headers)
    found = msgspec.json.decode(connection.getresponse().read())
    connection.close()
    return [one["name"] for one in found["data"]]


def _row(
    server: Running, place: Place, template: str, rounds: int, requests: int, clients: int
) -> list[str]:
    asking = [Client(server, place, template, number) for number in range(clients)]
    for client in asking:
        client.measure(3, 1)
    found: dict[str, list[Measured]] = {way: [] for way in CHANGES}
    for _ in range(rounds):
        for way, change in CHANGES.items():
            found[way].append(_measure(server, asking, requests, change))
    for client in asking:
        client.close()
    rounds_of = list(zip(found["uncached"], found["cached"], strict=True))
    return [
        template,
        str(asking[0].widgets),
        f"{asking[0].bytes / 1024:.0f}",
        *(f"{median([one.p50_ms for one in found[way]]):.1f}" for way in CHANGES),
        *(f"{median([one.cpu_ms for one in found[way]]):.2f}" for way in CHANGES),
        *(f"{median([one.rate for one in found[way]]):.0f}" for way in CHANGES),
        f"{median([cached.rate / uncached.rate for uncached, cached in rounds_of]):.1f}",
    ]


def _measure(server: Running, asking: Sequence[Client], requests: int, change: int) -> Measured:
    each = max(1, requests // len(asking))
    alone = asking[0].measure(each, change)
    cpu_before = server.cpu_s()
    with ThreadPoolExecutor(len(asking)) as pool:
        times = list(pool.map(lambda client: client.measure(each, change), asking))
    cpu_s = server.cpu_s() - cpu_before
    # Without the time of the statement in between.
    rate = sum(1000 * each / sum(one) for one in times)
    return Measured(median(alone), cpu_s * 1000 / (each * len(asking)), rate)


if __name__ == "__main__":
    main()
