"""Open pages that bring themselves up to date."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from browser.conftest import OpenPage, Site, SiteTenant
from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.tenants.keys import create_key
from metrics_service.tenants.sign_ins import SignIns

# An overview asks again ten seconds after it was loaded at the soonest, and not at once.
REFRESHED_MS = 20_000

LOCKS = """async () => {
  const {held, pending} = await navigator.locks.query();
  return [held, pending].map((all) => all.filter((lock) => lock.name === "metrics-live").length);
}"""


@pytest.fixture
def new_session(site: Site, addresses: Addresses) -> Any:
    async def make(tenant: SiteTenant) -> str:
        """Have a session stored as its agent would; its repository, which pages show."""
        async with owner_connection(addresses.require_owner()) as owner, owner.begin():
            issued = await create_key(owner, tenant.id, scopes=["ingest"], name="test")
        repository = f"live/{uuid4().hex[:12]}"
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"http://127.0.0.1:{site.port}/api/v1/sessions",
                headers={
                    "Host": tenant.url.removeprefix("http://"),
                    "Authorization": f"Bearer {issued.key}",
                },
                json={
                    "agent": "codex",
                    "external_id": uuid4().hex,
                    "started_at": datetime.now(UTC).isoformat(),
                    "repository": repository,
                },
            )
        assert answer.status_code == 201, answer.text
        return repository

    return make


async def is_listening(page: Any) -> None:
    await page.wait_for_function(f"async () => (await ({LOCKS})())[0] === 1")


async def test_all_tabs_of_a_browser_share_one_stream_and_show_what_happens(
    open_page: OpenPage, site: Site, new_session: Any
) -> None:
    first = await open_page("/")
    second = await first.context.new_page()
    await second.goto("/")
    other = await open_page("/", tenant=site.other)
    await is_listening(first)
    locks = await second.evaluate(LOCKS)
    link = first.locator("#overview-latest a").first
    await link.focus()
    before = await other.locator("#overview-latest").inner_html()

    repository = await new_session(site.home)
    shown = f"#overview-latest >> text={repository}"
    await first.wait_for_selector(shown, timeout=REFRESHED_MS)
    await second.wait_for_selector(shown, timeout=REFRESHED_MS)

    assert locks == [1, 1]
    assert await first.evaluate(
        "document.getElementById('overview-latest').contains(document.activeElement)"
    )
    assert "Updated" in await first.locator(".refreshed").inner_text()
    assert await other.locator("#overview-latest").inner_html() == before

    # The one that holds the stream leaves, and the other takes it over.
    await first.close()
    await second.wait_for_function(
        f"async () => String(await ({LOCKS})()) === '1,0'", timeout=REFRESHED_MS
    )
    repository = await new_session(site.home)
    await second.wait_for_selector(f"#overview-latest >> text={repository}", timeout=REFRESHED_MS)


async def test_a_page_whose_sign_in_ends_says_so_and_stays(open_page: OpenPage, site: Site) -> None:
    page = await open_page("/")
    await is_listening(page)
    cookies = await page.context.cookies()
    token = next(one["value"] for one in cookies if one["httpOnly"])

    await SignIns(site.engine, ttl_s=lambda: 0.0).end(site.home.id, token)

    notice = page.locator("#signed-out")
    await notice.wait_for()
    assert await notice.locator("a").get_attribute("href") == "/sign-in?next=%2F"
    assert await page.locator("h1").count() == 1
    assert await page.evaluate(LOCKS) == [0, 0]


async def test_what_somebody_types_stays(open_page: OpenPage, site: Site, new_session: Any) -> None:
    page = await open_page("/")
    await is_listening(page)
    # A part of the page as its makers may write one, and as the server will say that it is.
    await page.evaluate(
        """() => {
            const latest = document.getElementById("overview-latest");
            latest.insertAdjacentHTML("afterbegin", "<input id=typed>");
        }"""
    )
    await page.locator("#typed").fill("half a word")

    repository = await new_session(site.home)
    await page.locator(".refreshed").wait_for(timeout=REFRESHED_MS)
    assert await page.locator("#typed").input_value() == "half a word"
    await page.evaluate("document.activeElement.blur()")

    await page.wait_for_selector(f"#overview-latest >> text={repository}", timeout=REFRESHED_MS)
    assert await page.locator("#typed").count() == 0


async def test_without_a_stream_the_page_asks_by_itself(
    open_page: OpenPage, site: Site, new_session: Any
) -> None:
    page = await open_page("/sign-in", role="viewer", allowed=("Failed to load resource",))
    await page.route("**/live", lambda route: route.fulfill(status=503))
    await page.clock.install()
    await page.goto("/")
    await page.wait_for_timeout(500)
    repository = await new_session(site.home)

    await page.clock.run_for(60_000)

    await page.wait_for_selector(f"#overview-latest >> text={repository}", timeout=REFRESHED_MS)
