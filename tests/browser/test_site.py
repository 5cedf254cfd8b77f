"""What holds of every page: who may see it, what it asks for, whom it can be read by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from browser.conftest import PASSWORD, OpenPage, Site
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.tenants.passwords import Passwords

AXE = Path(__file__).resolve().parents[1] / "clients" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = ("/", "/sessions", "/tools", "/models", "/people", "/dashboards", "/set-up", "/settings")
WIDTHS = (360, 768, 1600)
# Nothing else is different in the dark.
OF_COLOURS = ["color-contrast", "link-in-text-block"]
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm install --prefix tests/clients")
    return AXE.read_text()


async def faults(page: Any, axe: str) -> list[str]:
    """What the accessibility check finds, each with where it is: in light, and in dark."""
    await page.emulate_media(color_scheme="light")
    # Not as a script of the page's, which its policy would refuse.
    await page.evaluate(axe)
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    await page.emulate_media(color_scheme="dark")
    await page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished))")
    dark = await page.evaluate(
        "(rules) => axe.run(document, {resultTypes: ['violations'], runOnly: rules})", OF_COLOURS
    )
    return [
        f"{theme} {fault['id']}: {node['html'][:200]} ({node.get('failureSummary', '')[:300]})"
        for theme, violations in (("light", found["violations"]), ("dark", dark["violations"]))
        for fault in violations
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]


async def too_wide(page: Any, paths: Iterable[str]) -> dict[tuple[str, int], int]:
    """By how much which page is wider than a window of which width.

    Charts fit as soon as they are drawn: so the window only grows, and none has to be waited for.
    """
    found = {}
    for path in paths:
        await page.set_viewport_size({"width": WIDTHS[0], "height": 800})
        await page.goto(path)
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": 800})
            over = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if over > 0:
                found[path, width] = over
    return found


async def drawn(page: Any) -> None:
    """Wait until the charts in sight are there."""
    await page.wait_for_function(
        """() => [...document.querySelectorAll("figure[data-chart]")].every((figure) =>
            figure.getBoundingClientRect().top > innerHeight || figure.querySelector(".chart[data-drawn], .chart-failed, .notice"))"""
    )


async def first_session(page: Any) -> str:
    await page.goto("/sessions?last=90d")
    return await page.locator("main a[href^='/sessions/']").first.get_attribute("href")


async def test_no_page_has_serious_faults_for_people_who_cannot_see_it_or_use_a_mouse(
    open_page: OpenPage, axe: str
) -> None:
    page = await open_page("/sign-in", role=None)
    found = {"/sign-in": await faults(page, axe)}
    page = await open_page("/")
    for path in (*PAGES, await first_session(page)):
        answer = await page.goto(f"{path}?last=90d" if path in PAGES[:5] else path)
        assert answer.status == 200, path
        await drawn(page)
        found[path] = await faults(page, axe)

    assert {path: some for path, some in found.items() if some} == {}


async def test_no_page_scrolls_sideways(open_page: OpenPage) -> None:
    page = await open_page("/")

    assert await too_wide(page, (*PAGES, await first_session(page))) == {}


async def test_signing_in_leads_back_to_where_one_was_and_signing_out_ends_it(
    open_page: OpenPage, site: Site
) -> None:
    await give_password(site)
    page = await open_page("/tools?last=30d", role=None)
    assert "/sign-in?next=" in page.url

    await page.get_by_label("Email").fill(site.home.email())
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/tools?last=30d")
    heading = await page.locator("h1").inner_text()
    cookies = [one for one in await page.context.cookies() if one["httpOnly"]]
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url("**/sign-in")
    await page.goto("/tools")

    assert heading == "Tools"
    (cookie,) = cookies
    assert (cookie["secure"], cookie["sameSite"], cookie["domain"]) == (
        True,
        "Lax",
        site.home.url.removeprefix("http://").rpartition(":")[0],
    )
    assert "/sign-in?next=" in page.url


async def test_a_sign_in_at_one_tenant_is_none_at_another(open_page: OpenPage, site: Site) -> None:
    page = await open_page("/")
    cookies = await page.context.cookies()
    theirs = site.other.url.removeprefix("http://").rpartition(":")[0]
    await page.context.add_cookies([{**one, "domain": theirs} for one in cookies])

    other = await page.context.new_page()
    await other.goto(f"{site.other.url}/")

    assert re.search(r"/sign-in$", other.url)


async def test_everything_is_reached_by_keyboard(open_page: OpenPage) -> None:
    page = await open_page("/")

    await page.keyboard.press("Tab")
    first = await page.evaluate("document.activeElement.textContent")
    await page.keyboard.press("Enter")
    inside = await page.evaluate("document.activeElement.id")
    reached: set[str] = set()
    for _ in range(40):
        await page.keyboard.press("Shift+Tab")
        reached.add(await page.evaluate("document.activeElement.textContent.trim()"))

    assert (first, inside) == ("Skip to the content", "main")
    assert {"Sessions", "Dashboards", "Settings", "Sign out"} <= reached


async def test_figures_are_there_without_scripts(open_page: OpenPage) -> None:
    page = await open_page("/?last=90d", java_script_enabled=False)

    figures = await page.locator(".stat-value").all_inner_texts()
    rows = await page.locator("table.data tbody tr").count()

    assert len(figures) >= 4
    assert any(re.search(r"[1-9]", figure) for figure in figures)
    assert rows > 5


async def give_password(site: Site) -> None:
    hashed = await Passwords().hash(PASSWORD)
    async with tenant_connection(site.engine, TenantContext(site.home.id)) as connection:
        await connection.execute(
            """
            INSERT INTO user_passwords (user_id, password_hash) VALUES ($1, $2)
            ON CONFLICT (tenant_id, user_id) DO UPDATE SET password_hash = excluded.password_hash
            """,
            site.home.people["owner"][0],
            hashed,
        )
