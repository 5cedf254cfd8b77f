"""The operators' pages as an operator meets them: read at three in the morning, on a phone, by keyboard."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from command_line import free_port, on_database, running
from sqlalchemy.ext.asyncio import AsyncEngine

from browser.conftest import READY, OpenPage, SiteTenant
from browser.test_site import axe, faults, too_wide
from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.db.tenancy import registry_writing
from metrics_service.fleet.operator_keys import create_operator_key
from metrics_service.fleet.processes import ThisProcess, leave_process, report_process

__all__ = ["axe"]

DOMAIN = "operations"
PAGES = ("/", "/tenants", "/slow-queries", "/health-history", "/migrations", "/jobs")
PLAN = msgspec.json.encode(
    [
        {
            "Plan": {
                "Node Type": "Limit",
                "Plan Rows": 50,
                "Total Cost": 200.0,
                "Plans": [
                    {
                        "Node Type": "Seq Scan",
                        "Relation Name": "tool_metrics",
                        "Filter": f"(tool_name = ANY ({'x' * 300}))",
                        "Plan Rows": 9000,
                        "Total Cost": 190.0,
                    }
                ],
            }
        }
    ]
).decode()


@pytest.fixture(scope="module")
def operations(addresses: Addresses) -> Iterator[SiteTenant]:
    """A server with an operators' domain, told of as the windows of `open_page` want it."""
    line = on_database(addresses)
    line = msgspec.structs.replace(
        line, environ={**line.environ, "METRICS_OPERATOR_DOMAIN": DOMAIN}
    )
    port = free_port()
    with running(line, "serve", "--port", str(port)) as (_, output):
        output.wait_for(READY)
        yield SiteTenant(UUID(int=0), DOMAIN, f"http://{DOMAIN}.localhost:{port}", {})


@pytest.fixture(scope="module")
async def key(addresses: Addresses) -> str:
    async with owner_connection(addresses.require_owner()) as owner, owner.begin():
        return (await create_operator_key(owner, name="Night shift")).key


@pytest.fixture(scope="module")
async def slow(engine: AsyncEngine) -> str:
    """The fingerprint of a slow statement with a plan."""
    fingerprint = uuid4().hex[:16]
    row = {
        "id": uuid4(),
        "at": datetime.now(UTC),
        "tenant_id": None,
        "fingerprint": fingerprint,
        "statement": "SELECT tool_name FROM tool_metrics WHERE " + "tool_name = $1 OR " * 60,
        "operation": "SELECT",
        "table_name": "tool_metrics",
        "route": "GET /tools",
        "duration_ms": 5200.0,
        "trace_id": uuid4().hex,
        "request_id": uuid4().hex,
    }
    async with registry_writing(engine) as connection:
        rows = msgspec.json.encode([row]).decode()
        await connection.execute("SELECT public.note_slow_queries($1::json)", rows)
        await connection.execute("SELECT public.note_plan($1, $2)", row["id"], PLAN)
    return fingerprint


@pytest.fixture
async def process(engine: AsyncEngine) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Report as a process that has this to say of its connections."""
    this = msgspec.structs.replace(ThisProcess.of("otlp-grpc"), host="a-host")

    async def say(status: str, detail: str = "") -> None:
        since = datetime.now(UTC) - timedelta(minutes=19)
        check = {"name": "pool", "status": status, "detail": detail, "since": since}
        pool = {"size": 10, "in_use": 10, "waiting": 14, "timeouts": 3, "acquire_p95_ms": 4210.0}
        async with registry_writing(engine) as connection:
            await report_process(connection, this, status, {"checks": [check], "pool": pool})

    yield say
    async with registry_writing(engine) as connection:
        await leave_process(connection, this)


@pytest.fixture
async def signed_in(
    open_page: OpenPage, operations: SiteTenant, key: str
) -> Callable[..., Awaitable[Any]]:
    """Open a page by the form, as one does."""

    async def opened(path: str = "/", **options: Any) -> Any:
        page = await open_page(path, tenant=operations, role=None, **options)
        await page.get_by_label("Operator key").fill(key)
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"{operations.url}{path}")
        return page

    return opened


async def test_the_key_leads_to_where_one_was_and_signing_out_ends_it(
    signed_in: Callable[..., Awaitable[Any]],
) -> None:
    page = await signed_in("/slow-queries?since=7d")
    heading = await page.locator("h1").inner_text()

    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url("**/sign-in")
    await page.goto("/tenants")

    assert heading == "Slow queries"
    assert "/sign-in?next=" in page.url


async def test_no_page_has_serious_faults_for_people_who_cannot_see_it_or_use_a_mouse(
    signed_in: Callable[..., Awaitable[Any]],
    process: Callable[..., Awaitable[None]],
    slow: str,
    axe: str,
) -> None:
    await process("unhealthy", "10 of 10 connections in use")
    page = await signed_in("/")
    found = {}
    for path in (*PAGES, await _first_tenant(page), f"/slow-queries/{slow}"):
        answer = await page.goto(path)
        assert answer.status == 200, path
        for closed in await page.locator("details:not([open]) > summary").all():
            await closed.click()
        found[path] = await faults(page, axe)

    assert {path: some for path, some in found.items() if some} == {}


async def test_no_page_scrolls_sideways(
    signed_in: Callable[..., Awaitable[Any]], process: Callable[..., Awaitable[None]], slow: str
) -> None:
    await process("unhealthy", "10 of 10 connections in use " + "x" * 200)
    page = await signed_in("/")

    paths = (*PAGES, await _first_tenant(page), f"/slow-queries/{slow}")

    assert await too_wide(page, paths) == {}


async def test_everything_is_there_without_scripts(
    signed_in: Callable[..., Awaitable[Any]], process: Callable[..., Awaitable[None]]
) -> None:
    await process("unhealthy", "10 of 10 connections in use")
    page = await signed_in("/", java_script_enabled=False)
    wrong = await page.locator("h1").inner_text()
    figures = await page.locator(".stat-value").all_inner_texts()

    await page.goto(await _first_tenant(page))
    await page.locator("summary", has_text="Suspend").click()
    is_asked = await page.get_by_text("Stop serving").is_visible()

    assert re.search(r"(is|are) wrong", wrong)
    assert any(re.search(r"[1-9]", figure) for figure in figures)
    assert is_asked


async def test_the_first_page_turns_by_itself_when_something_breaks_and_when_it_is_well_again(
    signed_in: Callable[..., Awaitable[Any]], process: Callable[..., Awaitable[None]]
) -> None:
    page = await signed_in("/")
    trouble = page.get_by_role("heading", name="All connections are in use, and requests wait")
    assert await trouble.count() == 0

    await process("unhealthy", "10 of 10 connections in use")
    await trouble.wait_for(timeout=20_000)
    since = await page.locator(".trouble-since").first.inner_text()
    await process("healthy")
    await trouble.wait_for(state="detached", timeout=20_000)

    assert since.startswith("for 19\xa0min, since ")


async def test_a_page_whose_server_is_gone_does_not_look_calm(
    signed_in: Callable[..., Awaitable[Any]],
) -> None:
    page = await signed_in("/", allowed=("Failed to load resource",))

    await page.context.set_offline(True)
    alert = page.get_by_role("alert")
    await alert.wait_for(timeout=20_000)
    said = await alert.inner_text()
    await page.context.set_offline(False)
    await alert.wait_for(state="detached", timeout=20_000)

    assert re.search(r"What you see is of \d\d:\d\d:\d\d: the service does not answer", said)


async def test_a_tenant_is_made_by_keyboard(signed_in: Callable[..., Awaitable[Any]]) -> None:
    slug = f"t{uuid4().hex[:10]}"
    page = await signed_in("/tenants")

    await page.locator("#new-tenant summary").focus()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.type(slug)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/jobs#job-*")
    row = await page.locator("tr:target").inner_text()

    assert slug in row
    assert "waiting" in row


async def _first_tenant(page: Any) -> str:
    await page.goto("/tenants")
    return await page.locator("main a[href^='/tenants/']").first.get_attribute("href")
