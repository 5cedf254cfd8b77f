"""The list of sessions and the timeline of one, in a browser: by hand, by keyboard, and live."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from browser.conftest import OpenPage

AGENT = "claude-code"
PAGE_ROWS = 200

SEND = """
async ([path, body]) => {
  const headers = {"Content-Type": "application/json"};
  const answer = await fetch(path, {method: "POST", headers, body: JSON.stringify(body)});
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
"""
ROWS = "document.querySelectorAll('.tl-row').length"


async def make_session(page: Any, calls: int, *, is_open: bool = True) -> str:
    """A session of so many tool calls, of which every fiftieth failed; what its page is called."""
    begun = datetime.now(UTC) - timedelta(hours=2)
    external_id = uuid4().hex
    body = {"agent": AGENT, "external_id": external_id, "started_at": begun.isoformat()}
    if not is_open:
        body["ended_at"] = (begun + timedelta(hours=1)).isoformat()
    view = await page.evaluate(SEND, ["/api/v1/sessions", body])
    await send_calls(page, external_id, begun, range(calls))
    return f"/sessions/{view['id']}"


async def send_calls(page: Any, external_id: str, begun: datetime, places: range) -> None:
    calls = [
        {
            "agent": AGENT,
            "external_session_id": external_id,
            "tool_name": f"Tool{place}",
            "started_at": (begun + timedelta(seconds=place)).isoformat(),
            "duration_ms": 40,
            "status": "error" if place % 50 == 49 else "success",
        }
        for place in places
    ]
    await page.evaluate(SEND, ["/api/v1/tool-metrics/batch", calls])


async def test_a_session_is_found_by_search_and_filter_and_opened(open_page: OpenPage) -> None:
    page = await open_page("/sessions?last=90d")
    rows = await page.locator(".sessions-table tbody tr").count()
    assert rows > 1

    await page.select_option("select[name=agent]", index=1)
    await page.wait_for_url("**agent=**")
    chosen = await page.locator(".chip").inner_text()
    assert "Agent" in chosen
    assert "team=" not in page.url
    await page.locator(".sessions-table tbody tr").first.click()

    await page.wait_for_url("**/sessions/*-*")
    assert await page.locator("h1").count() == 1
    assert await page.locator(".tl-row").count() > 0


async def test_rows_come_as_one_scrolls_and_failures_by_keyboard(open_page: OpenPage) -> None:
    page = await open_page("/sessions")
    await page.goto(await make_session(page, 3 * PAGE_ROWS + 10, is_open=False))

    assert await page.evaluate(ROWS) < 3 * PAGE_ROWS
    await page.locator("h1").click()
    found = []
    for _ in range(12):
        await page.keyboard.press("n")
        await page.wait_for_function(
            "seen => document.activeElement.matches('.is-failed') &&"
            " document.activeElement.innerText !== seen",
            arg=found[-1] if found else "",
        )
        found.append(await page.evaluate("document.activeElement.innerText"))
    assert [next(word for word in one.split() if word.startswith("Tool")) for one in found] == [
        f"Tool{place}" for place in range(49, 600, 50)
    ]
    await page.keyboard.press("p")
    assert "Tool549" in await page.evaluate("document.activeElement.innerText")

    await page.keyboard.press("End")
    await page.wait_for_function(f"() => {ROWS} === {3 * PAGE_ROWS + 10}")
    ids = await page.evaluate("[...document.querySelectorAll('.tl-row')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    assert await page.locator("[data-more]").count() == 0


async def test_what_arrives_in_an_open_session_is_shown_where_it_belongs(
    open_page: OpenPage,
) -> None:
    page = await open_page("/sessions")
    address = await make_session(page, 60)
    other = await open_page("/sessions")
    await page.goto(address)
    view = await page.evaluate("path => fetch(path).then((one) => one.json())", f"/api/v1{address}")
    begun = datetime.fromisoformat(view["started_at"])
    row = page.locator(".tl-row").nth(3)
    await row.scroll_into_view_if_needed()
    before = await row.bounding_box()

    await send_calls(other, view["external_id"], begun, range(60, 63))

    news = page.locator("#timeline-news button")
    await news.wait_for(timeout=15_000)
    assert await news.inner_text() == "3 new"
    assert await page.evaluate(ROWS) == 63
    assert await page.locator("#session-figures").get_by_text("63", exact=True).count() == 1
    after = await row.bounding_box()
    assert abs(after["y"] - before["y"]) < 2
    await news.click()
    await page.locator(".tl-row", has_text="Tool62").wait_for()
    await page.wait_for_function("() => document.getElementById('timeline-news').hidden")

    # Whoever is at the end stays there.
    await send_calls(other, view["external_id"], begun, range(63, 64))
    await page.wait_for_function(f"() => {ROWS} === 64", timeout=15_000)
    assert await page.locator("#timeline-news").is_hidden()


async def test_without_scripts_links_lead_on_and_filter(open_page: OpenPage) -> None:
    maker = await open_page("/sessions")
    address = await make_session(maker, PAGE_ROWS + 5, is_open=False)
    page = await open_page(address, java_script_enabled=False)

    assert await page.locator(".tl-row").count() == PAGE_ROWS
    assert "205" in await page.locator("#session-figures").inner_text()
    await page.locator("a[rel=next]").click()
    assert await page.locator(".tl-row").count() == 5
    await page.get_by_role("link", name="From the start").click()
    assert await page.locator(".tl-row").count() == PAGE_ROWS
    await page.get_by_role("link", name="Only failures").click()
    assert await page.locator(".tl-row").count() == 4


async def test_a_session_that_is_gone_is_a_page_that_says_so(open_page: OpenPage) -> None:
    gone = "/sessions/01890000-0000-7000-8000-000000000000"
    page = await open_page(gone, allowed=("Failed to load resource",))

    assert await page.locator("h1").inner_text() == "Not found"
