"""How a long session scrolls in Chromium, and what its pages of rows cost the server.

    python scripts/bench/timeline.py --data DIR --tenant SLUG [--calls 5000] [--screens-a-second 8]

DIR is a data directory of `demo`. The session is made there if it is not there yet: so many tool calls,
half as many model calls. It is scrolled to its end at an even speed, faster than anybody reads; rows are
fetched on the way as for everybody. Needs the development environment and Debian's chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import psutil
from common import Running, admin_dsn, database, median, mib, serving, table
from playwright.async_api import CDPSession, async_playwright

from metrics_service.db.engine import runtime_engine
from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.http.cookies import NAME
from metrics_service.ingest.records import ModelCallRecord, SessionRecord, ToolMetricRecord
from metrics_service.ingest.sessions import session_id_of
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write import admit_facts, write_facts, write_sessions
from metrics_service.tenants.sign_ins import begin_sign_in

AGENT = "claude-code"
TOOLS = ("Bash", "Read", "Edit", "Grep", "Task", "WebFetch")
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
APART_S = 4
BATCH = 2_000
FRAME_MS = 50
PATIENCE_S = 300
ROUNDS = 40

# Scrolls at an even speed until the end is in sight and there is nothing more to fetch, and writes
# down how far apart the frames are. `arguments` are pixels a second and the milliseconds it may take.
SCROLL = """
async ([speed, patience]) => {
  const frames = [], tasks = [];
  new PerformanceObserver((list) => tasks.push(...list.getEntries().map((one) => one.duration)))
    .observe({entryTypes: ["longtask"]});
  const begun = performance.now();
  let before = begun;
  for (;;) {
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - before);
    scrollBy({top: (now - before) * speed / 1000, behavior: "instant"});
    before = now;
    const page = document.documentElement;
    const isAtTheEnd = page.scrollTop + innerHeight >= page.scrollHeight - 2;
    if (isAtTheEnd && !document.querySelector("[data-more]")) break;
    if (now - begun > patience) throw new Error("the end was not reached");
  }
  return {
    frames, tasks, took: performance.now() - begun,
    rows: document.querySelectorAll(".tl-row").length,
    elements: document.getElementsByTagName("*").length,
    height: document.documentElement.scrollHeight,
  };
}
"""


class Scrolled(msgspec.Struct, frozen=True):
    """One way to the end."""

    frames: list[float]
    tasks: list[float]
    took: float
    rows: int
    elements: int
    height: int


class Cost(msgspec.Struct, frozen=True):
    """What that took of the page's main thread, and what its process holds in the end."""

    busy_s: float
    heap_mib: float
    resident_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--screens-a-second", type=float, default=8)
    chosen = parser.parse_args()
    with database(chosen.data) as addresses:
        made = _prepare(admin_dsn(addresses), addresses.runtime, chosen.tenant, chosen.calls)
        host, token, session_id = asyncio.run(made)
        with serving("service", addresses.runtime, data=chosen.data) as server:
            times = _pages(server, host, token, session_id)
            scrolled, cost = asyncio.run(
                _browse(server, host, token, session_id, chosen.screens_a_second)
            )
    _print(times, scrolled, cost)


# -- the session ------------------------------------------------------------------------------------------


async def _prepare(admin: str, runtime: str, slug: str, calls: int) -> tuple[str, str, UUID]:
    """The host, somebody's sign-in, and the session."""
    connection = await asyncpg.connect(admin)
    found = await connection.fetchrow("SELECT id, domain FROM public.tenants WHERE slug = $1", slug)
    await connection.close()
    if found is None:
        raise SystemExit(f"there is no tenant {slug}")
    external_id = f"bench-{calls}"
    session_id = session_id_of(found["id"], AGENT, external_id)
    engine = runtime_engine(runtime, pool_max=1)
    context = TenantContext(found["id"])
    async with tenant_connection(engine, context) as tx:
        user_id = await tx.fetchval("SELECT id FROM users WHERE role <> 'service' LIMIT 1")
        token = (await begin_sign_in(tx, user_id, user_agent="a benchmark")).token
        is_there = await tx.fetchval("SELECT 1 FROM metrics_sessions WHERE id = $1", session_id)
    for start in range(0, 0 if is_there else calls, BATCH):
        async with tenant_connection(engine, context) as tx:
            places = range(start, min(start + BATCH, calls))
            await _store(tx, found["id"], external_id, places, calls)
    await engine.dispose()
    return f"{found['domain']}.localhost", token, session_id


async def _store(
    tx: ContextConnection, tenant_id: UUID, external_id: str, places: range, calls: int
) -> None:
    session = SessionRecord(
        agent=AGENT,
        external_id=external_id,
        started_at=START,
        ended_at=START + timedelta(seconds=calls * APART_S),
        repository="bench/long",
    )
    await write_sessions(tx, tenant_id, [session])
    of: dict[str, Any] = {"agent": AGENT, "external_session_id": external_id}
    tools = [_tool(place, of) for place in places]
    models = [_model(place, of) for place in places if place % 2 == 0]
    await admit_facts(tx, tenant_id, tools, ToolNames())
    await write_facts(tx, tenant_id, tools)
    await admit_facts(tx, tenant_id, models, ToolNames())
    await write_facts(tx, tenant_id, models)


def _tool(place: int, of: dict[str, Any]) -> ToolMetricRecord:
    has_failed = place % 40 == 39
    return ToolMetricRecord(
        tool_name=TOOLS[place % len(TOOLS)],
        started_at=START + timedelta(seconds=place * APART_S),
        duration_ms=20 + place * 7919 % 9000,
        wait_ms=4000 if place % 17 == 0 else None,
        status="error" if has_failed else "success",
        error_type="exit_1" if has_failed else None,
        input_bytes=120 + place % 900,
        output_bytes=4000 + place,
        **of,
    )


def _model(place: int, of: dict[str, Any]) -> ModelCallRecord:
    return ModelCallRecord(
        started_at=START + timedelta(seconds=place * APART_S - 1),
        duration_ms=800 + place * 31 % 9000,
        request_model="claude-sonnet-4-5",
        input_tokens=24_000 + place,
        cache_read_tokens=20_000,
        output_tokens=400 + place % 700,
        cost_usd_micros=21_000,
        cost_source="reported",
        **of,
    )


# -- the server alone -------------------------------------------------------------------------------------


def _pages(server: Running, host: str, token: str, session_id: UUID) -> dict[str, list[float]]:
    """Milliseconds of the page, of its refresh, and of pages of rows one after the other."""
    path = f"/sessions/{session_id}"
    whole = [_ask(server, host, token, path)[0] for _ in range(ROUNDS // 4)]
    rows: list[float] = []
    more: str | None = f"{path}/timeline"
    while more is not None and len(rows) < ROUNDS:
        took, html = _ask(server, host, token, more)
        rows.append(took)
        found = re.search(r'data-more="([^"]+)"', html)
        more = found[1].replace("&amp;", "&") if found else None
    return {"the page": whole, "200 rows": rows}


def _ask(server: Running, host: str, token: str, path: str) -> tuple[float, str]:
    headers = {"Host": host, "Cookie": f"{NAME}={token}"}
    if path.partition("?")[0].endswith("/timeline"):
        headers["X-Refresh"] = "main"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    begun = time.perf_counter()
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    took = (time.perf_counter() - begun) * 1000
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path} answered {answer.status}: {body[:300]}")
    return took, body


# -- in the browser ---------------------------------------------------------------------------------------


async def _browse(
    server: Running, host: str, token: str, session_id: UUID, screens: float
) -> tuple[Scrolled, Cost]:
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        context = await browser.new_context(viewport={"width": 1280, "height": 900})
        await context.add_cookies(
            [
                {"name": name, "value": value, "url": f"https://{host}", "sameSite": "Lax"}
                for name, value in ((NAME, token), ("tz", "UTC"))
            ]
        )
        page = await context.new_page()
        await page.goto(f"http://{host}:{server.port}/sessions/{session_id}")
        session = await page.context.new_cdp_session(page)
        # The processor's time: what else runs on the machine is no part of it.
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = await _metrics(session)
        found = await page.evaluate(SCROLL, [screens * 900, PATIENCE_S * 1000])
        await session.send("HeapProfiler.collectGarbage")
        after = await _metrics(session)
        system = await browser.new_browser_cdp_session()
        processes = (await system.send("SystemInfo.getProcessInfo"))["processInfo"]
        resident = [
            mib(psutil.Process(one["id"])) for one in processes if one["type"] == "renderer"
        ]
        await browser.close()
        cost = Cost(
            after["TaskDuration"] - before["TaskDuration"],
            after["JSHeapUsedSize"] / 2**20,
            max(resident),
        )
        return msgspec.convert(found, Scrolled, strict=False), cost


async def _metrics(session: CDPSession) -> dict[str, float]:
    answer = await session.send("Performance.getMetrics")
    return {one["name"]: float(one["value"]) for one in answer["metrics"]}


def _print(times: dict[str, list[float]], scrolled: Scrolled, cost: Cost) -> None:
    print(table(["the server", "median", "slowest"], [_line(*one) for one in times.items()]))
    slow = [frame for frame in scrolled.frames if frame > FRAME_MS]
    rows = [
        ["rows", f"{scrolled.rows:,}"],
        ["elements", f"{scrolled.elements:,}"],
        ["height", f"{scrolled.height:,} px"],
        ["to the end", f"{scrolled.took / 1000:.1f} s, {len(scrolled.frames):,} frames"],
        [f"frames over {FRAME_MS} ms", f"{len(slow)}, longest {max(scrolled.frames):.0f} ms"],
        ["frames, median", f"{median(scrolled.frames):.0f} ms"],
        ["main thread, a frame", f"{cost.busy_s * 1000 / len(scrolled.frames):.1f} ms"],
        ["long tasks", f"{len(scrolled.tasks)}, longest {max(scrolled.tasks, default=0):.0f} ms"],
        ["scripts hold", f"{cost.heap_mib:.1f} MiB"],
        ["the page's process", f"{cost.resident_mib:.0f} MiB"],
    ]
    print(table(["in Chromium", ""], rows))


def _line(what: str, times: list[float]) -> list[str]:
    return [what, f"{median(times):.0f} ms", f"{max(times):.0f} ms"]


if __name__ == "__main__":
    main()
