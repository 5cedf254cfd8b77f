"""The pages of figures in Chromium: charts, filters that hold at once, and the way from a figure on."""

from __future__ import annotations

from typing import Any

from browser.conftest import OpenPage

DRAWN = "figure[data-chart] .chart[data-drawn] svg"


async def stat(page: Any, label: str) -> str:
    """The figure under a label."""
    found = page.locator(".stat", has=page.get_by_text(label, exact=True))
    return str(await found.locator(".stat-value").inner_text())


async def test_a_filter_holds_at_once_and_stays_when_the_time_changes(open_page: OpenPage) -> None:
    page = await open_page("/?last=90d")
    await page.locator(DRAWN).first.wait_for()
    whole = await stat(page, "Tool calls")

    await page.get_by_role("combobox", name="Agent").select_option("codex")
    await page.wait_for_url("**/?last=90d&agent=codex")
    part = await stat(page, "Tool calls")
    await page.get_by_role("link", name="30 days").click()
    await page.wait_for_url("**/?last=30d&agent=codex")
    kept = await page.get_by_role("combobox", name="Agent").input_value()
    await page.get_by_role("link", name="Clear").click()
    await page.wait_for_url("**/?last=30d")

    assert int(part.replace(",", "")) < int(whole.replace(",", ""))
    assert kept == "codex"


async def test_a_tool_that_failed_leads_to_its_failures_and_those_to_their_sessions(
    open_page: OpenPage,
) -> None:
    page = await open_page("/?last=90d")

    failed = page.get_by_role("table", name="Tools that failed most").get_by_role("link").first
    name = await failed.inner_text()
    await failed.click()
    await page.wait_for_url("**/tools?**")
    heading = await page.locator("h1").inner_text()
    await page.locator(DRAWN).first.wait_for()
    await (
        page.get_by_role("table", name="Latest calls that failed").get_by_role("link").first.click()
    )
    await page.wait_for_url("**/sessions/*")

    assert heading == name


async def test_tools_are_sorted_and_searched_by_keyboard(open_page: OpenPage) -> None:
    page = await open_page("/tools?last=90d")
    names = page.locator("table.tools tbody th")

    await page.get_by_role("columnheader", name="Tool").get_by_role("link").press("Enter")
    await page.wait_for_url("**sort=tool_name**")
    ascending = await page.get_by_role("columnheader", name="Tool").get_attribute("aria-sort")
    in_order = await names.all_inner_texts()
    await page.keyboard.press("/")
    await page.keyboard.type("EDIT")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**q=EDIT**")
    found = await names.all_inner_texts()

    assert ascending == "ascending"
    assert in_order == sorted(in_order)
    assert found
    assert all("edit" in name.casefold() for name in found)
    assert "sort=tool_name" in page.url


async def test_keys_pass_by_filters_that_are_not_meant_and_the_focus_stays(
    open_page: OpenPage,
) -> None:
    page = await open_page("/tools?last=90d")
    asked: list[str] = []
    page.on(
        "request", lambda request: request.is_navigation_request() and asked.append(request.url)
    )
    agents = page.get_by_role("combobox", name="Agent")
    values = await agents.evaluate("select => [...select.options].map(({ value }) => value)")

    await agents.focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("ArrowDown")
    await page.wait_for_url(f"**/tools?last=90d&agent={values[2]}")
    focused = await page.evaluate("document.activeElement.name")

    assert len(asked) == 1
    assert focused == "agent"


async def test_the_time_that_was_chosen_holds_on_the_next_page(open_page: OpenPage) -> None:
    page = await open_page("/?last=90d")

    await page.get_by_role("navigation", name="Pages").get_by_role("link", name="Tools").click()

    await page.wait_for_url("**/tools?last=90d")


async def test_ages_have_the_units_of_other_figures_and_old_times_their_date(
    open_page: OpenPage,
) -> None:
    page = await open_page("/")

    told = await page.evaluate("""async () => {
        const { ago } = await import(document.querySelector('script[src$="/page.js"]').src);
        return [0, 59e3, 90e3, 20 * 3600e3, -60e3, 25 * 3600e3].map((before) => ago(Date.now() - before));
    }""")

    assert told[:4] == ["just now", "59\xa0s ago", "1\xa0min ago", "20\xa0h ago"]
    assert told[4].startswith("in ")
    assert told[5] is None
