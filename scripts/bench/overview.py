"""How fast the overview is in Chromium, and on the server; what it weighs.

    python scripts/bench/overview.py --data DIR --tenant SLUG [--path "/?last=30d"] [--rounds 7]

DIR is a data directory of `demo`, or of `rollup_data.py` (tenant `rollups-10000000`). Cold is a window
without any cache that asks the server for what nobody has asked yet: each round is in another time
zone. Warm is the same page again. Needs the development environment and Debian's chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec
from common import Running, admin_dsn, database, median, serving, table
from playwright.async_api import Browser, Page, async_playwright

from metrics_service.db.engine import runtime_engine
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.cookies import NAME
from metrics_service.tenants.sign_ins import begin_sign_in

# Their days do not begin with those of UTC: rollups of days and of hours are read together. The
# server is asked in some and the browser in others, so that each of them asks first.
ZONES = (
    "Europe/Berlin", "Europe/Paris", "Europe/Madrid", "Europe/Rome", "Europe/Vienna",
    "Europe/Prague", "Europe/Warsaw", "Europe/Oslo", "Europe/Stockholm", "Europe/Copenhagen",
    "Europe/Brussels", "Europe/Amsterdam", "Europe/Budapest", "Europe/Zurich", "Europe/Belgrade",
)  # fmt: skip
SERVER_ZONES = (
    "Africa/Tunis", "Africa/Algiers", "Africa/Lagos", "Africa/Luanda", "Africa/Kinshasa",
    "Europe/Malta", "Europe/Monaco", "Europe/Tirane", "Europe/Skopje", "Europe/Sarajevo",
    "Europe/Andorra", "Europe/Vaduz", "Europe/Vatican", "Europe/Podgorica", "Arctic/Longyearbyen",
)  # fmt: skip
WARMING_ZONE = "Europe/Zagreb"
MOST_ROUNDS = len(ZONES)
CACHED = 20
PATIENCE_MS = 30_000

PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
WEIGHTS = """
    [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
        .map((entry) => [entry.name, entry.encodedBodySize])
"""


class Visitor(msgspec.Struct, frozen=True):
    """Somebody who has signed in."""

    host: str
    token: str

    def cookies(self, zone: str) -> dict[str, str]:
        return {NAME: self.token, "tz": zone}


class Seen(msgspec.Struct, frozen=True):
    """One visit in the browser, in milliseconds since it began."""

    paint: float
    charts: float
    weights: list[tuple[str, int]]
    """Of everything that was loaded its address, and its bytes as sent."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--rounds", type=int, choices=range(1, MOST_ROUNDS + 1), default=7)
    chosen = parser.parse_args()
    with database(chosen.data) as addresses:
        visitor = asyncio.run(_sign_in(admin_dsn(addresses), addresses.runtime, chosen.tenant))
        with serving("service", addresses.runtime, data=chosen.data) as server:
            _ask(server, visitor, chosen.path, WARMING_ZONE)
            answers = _server_times(server, visitor, chosen.path, chosen.rounds)
            cold, warm = asyncio.run(_browse(server, visitor, chosen.path, chosen.rounds))
    _print_times(answers, cold, warm)
    _print_weights(cold[-1])


async def _sign_in(admin: str, runtime: str, slug: str) -> Visitor:
    connection = await asyncpg.connect(admin)
    found = await connection.fetchrow("SELECT id, domain FROM public.tenants WHERE slug = $1", slug)
    await connection.close()
    if found is None:
        raise SystemExit(f"there is no tenant {slug}")
    engine = runtime_engine(runtime, pool_max=1)
    async with tenant_connection(engine, TenantContext(found["id"])) as tx:
        user_id = await tx.fetchval("SELECT id FROM users WHERE role <> 'service' LIMIT 1")
        made = await begin_sign_in(tx, user_id, user_agent="a benchmark")
    await engine.dispose()
    return Visitor(f"{found['domain']}.localhost", made.token)


# -- the server alone ---------------------------------------------------------------------------------


def _server_times(
    server: Running, visitor: Visitor, path: str, rounds: int
) -> dict[str, list[float]]:
    fresh = [_ask(server, visitor, path, zone) for zone in SERVER_ZONES[:rounds]]
    known = [_ask(server, visitor, path, WARMING_ZONE) for _ in range(CACHED)]
    return {"uncached": fresh, "cached": known}


def _ask(server: Running, visitor: Visitor, path: str, zone: str) -> float:
    """Milliseconds to the last byte."""
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies(zone).items())
    headers = {"Host": visitor.host, "Cookie": cookie, "Accept-Encoding": "gzip"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_MS / 1000)
    began = time.perf_counter()
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    took = time.perf_counter() - began
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path} was answered with {answer.status}")
    return took * 1000


# -- in the browser -----------------------------------------------------------------------------------


async def _browse(
    server: Running, visitor: Visitor, path: str, rounds: int
) -> tuple[list[Seen], list[Seen]]:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("Debian's chromium is not installed")
    address = f"http://{visitor.host}:{server.port}{path}"
    cold, warm = [], []
    async with async_playwright() as driver:
        # As root its own sandbox does not start.
        browser = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        await _visit(browser, visitor, address, WARMING_ZONE)
        for zone in ZONES[:rounds]:
            first, again = await _visit(browser, visitor, address, zone)
            cold.append(first)
            warm.append(again)
        await browser.close()
    return cold, warm


async def _visit(browser: Browser, visitor: Visitor, address: str, zone: str) -> tuple[Seen, Seen]:
    context = await browser.new_context(
        viewport={"width": 1280, "height": 900}, timezone_id=zone, locale="en-GB"
    )
    parts: dict[str, Any] = {"domain": visitor.host, "path": "/", "sameSite": "Lax"}
    for name, value in visitor.cookies(zone).items():
        is_secret = name == NAME
        cookie = {"name": name, "value": value, "secure": is_secret, "httpOnly": is_secret, **parts}
        await context.add_cookies([cookie])  # type: ignore[list-item]  # a dict, as it takes
    page = await context.new_page()
    await page.goto(address, wait_until="load")
    first = await _seen(page)
    await page.goto(address, wait_until="load")
    again = await _seen(page)
    await context.close()
    return first, again


async def _seen(page: Page) -> Seen:
    await page.wait_for_selector("figure .chart[data-drawn]", timeout=PATIENCE_MS)
    charts = await page.evaluate("performance.now()")
    # A chart is drawn after the first paint.
    paint = await page.evaluate(PAINT)
    weights = await page.evaluate(WEIGHTS)
    return Seen(paint, charts, [tuple(one) for one in weights])


# -- what is said about it ----------------------------------------------------------------------------


def _print_times(answers: dict[str, list[float]], cold: list[Seen], warm: list[Seen]) -> None:
    measured = {
        "server, uncached": answers["uncached"],
        "server, cached": answers["cached"],
        "first paint, cold": [one.paint for one in cold],
        "first paint, warm": [one.paint for one in warm],
        "first chart, cold": [one.charts for one in cold],
        "first chart, warm": [one.charts for one in warm],
    }
    rows = [
        [name, f"{median(times):.0f}", f"{min(times):.0f}", f"{max(times):.0f}"]
        for name, times in measured.items()
    ]
    print(table(["milliseconds", "median", "best", "worst"], rows))


def _print_weights(seen: Seen) -> None:
    kinds: dict[str, int] = defaultdict(int)
    for name, encoded in seen.weights:
        kinds[_kind(name)] += encoded
    rows = [[kind, f"{size / 1024:.1f}"] for kind, size in kinds.items()]
    print()
    print(table(["kind", "KiB as sent"], [*rows, ["all", f"{sum(kinds.values()) / 1024:.1f}"]]))


def _kind(address: str) -> str:
    path = urlsplit(address).path
    if path.endswith("/vega.js"):
        return "charts' library"
    return {".css": "styles", ".js": "scripts", ".svg": "icon"}.get(Path(path).suffix, "page")


if __name__ == "__main__":
    main()
