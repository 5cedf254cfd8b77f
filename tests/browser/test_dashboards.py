"""Dashboards as people make them: built, saved, shared, taken back, and changed by two at once."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import UUID

from browser.conftest import PASSWORD, OpenPage, Site
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.tenants.passwords import Passwords
from metrics_service.tenants.sign_ins import end_sign_ins

HOSTILE = '"><img src=x onerror=alert(1)>'
# What is refused, signed out or stale is a line on the console of the browser, and meant here.
REFUSED = ("Failed to load resource: the server responded with a status of 4",)


async def make(page: Any, name: str) -> str:
    """An empty dashboard, open in the editor; its id."""
    await page.goto("/dashboards/new")
    await page.get_by_label("Name").fill(name)
    await page.get_by_role("button", name="Make an empty dashboard").click()
    await page.wait_for_url("**/edit")
    return re.search(r"/dashboards/([0-9a-f-]{36})/edit", page.url)[1]


async def add(page: Any, kind: str) -> None:
    await page.get_by_role("button", name=f"Add a {kind}").click()


async def save(page: Any, note: str = "") -> None:
    await page.get_by_label("What you changed").fill(note)
    await page.get_by_role("button", name="Save", exact=True).click()


async def places(page: Any) -> list[str]:
    """Of each tile its title and place, as they are read."""
    handles = await page.locator(".etile-handle").all()
    return [(await handle.get_attribute("aria-label")).removeprefix("Move ") for handle in handles]


async def end(site: Site, page: Any, user_id: UUID) -> None:
    """End all sign-ins of somebody in the database, and wait until the server has heard of it."""
    async with tenant_connection(site.engine, TenantContext(site.home.id)) as connection:
        await end_sign_ins(connection, user_id)
    async with asyncio.timeout(10):
        while await page.evaluate("fetch('/api/v1/me').then((answer) => answer.status)") == 200:
            await asyncio.sleep(0.1)


async def test_a_dashboard_is_built_with_the_mouse_and_the_keyboard_and_then_shown(
    open_page: OpenPage,
) -> None:
    page = await open_page("/dashboards")
    await make(page, HOSTILE)
    for kind in ("number", "chart", "table"):
        await add(page, kind)
    assert await places(page) == [
        "Tool calls: columns 1 to 3, row 1; 3 wide, 2 high",
        "Tool calls by day and agent: columns 4 to 9, row 1; 6 wide, 4 high",
        "Tool calls by tool: columns 1 to 6, row 5; 6 wide, 4 high",
    ]

    # By the keyboard: the table above the others, and wider.
    table = page.get_by_label(re.compile("^Move Tool calls by tool"))
    await table.focus()
    await page.keyboard.press("ArrowUp")
    await page.keyboard.press("Shift+ArrowRight")
    assert (await places(page))[0] == "Tool calls by tool: columns 1 to 7, row 1; 7 wide, 4 high"
    await page.get_by_text("columns 1 to 7, row 1; 7 wide, 4 high", exact=True).wait_for(
        state="attached"
    )

    # By the mouse: back below.
    box = await table.bounding_box()
    await page.mouse.move(box["x"] + 8, box["y"] + 8)
    await page.mouse.down()
    await page.mouse.move(box["x"] + 8, box["y"] + 250, steps=5)
    await page.mouse.move(box["x"] + 8, box["y"] + 400, steps=5)
    await page.mouse.up()
    assert (await places(page))[-1].startswith("Tool calls by tool")
    before = await places(page)
    await page.keyboard.press("Control+z")
    assert (await places(page))[0].startswith("Tool calls by tool")
    await page.keyboard.press("Control+Shift+z")
    assert await places(page) == before

    # What is chosen is shown with the real figures before it is saved.
    await page.get_by_label("Edit Tool calls", exact=True).click()
    await page.get_by_label("Source").select_option("sessions")
    assert await page.get_by_label("Title").input_value() == "Sessions"
    await page.get_by_label("Title").fill(HOSTILE)
    tile = page.get_by_role("group", name=HOSTILE)
    await tile.locator(".stat-value", has_text=re.compile(r"^\d")).wait_for()

    await save(page, "the first")
    await page.wait_for_url(re.compile(r"/dashboards/[0-9a-f-]{36}$"))
    await page.get_by_role("heading", name=HOSTILE, level=1).wait_for()
    await page.get_by_role("heading", name=HOSTILE, level=2).wait_for()
    assert await page.locator("main img").count() == 0
    await page.locator("figure svg[class*=marks]").first.wait_for()
    await page.get_by_text("Version 2").wait_for()


async def test_a_link_opens_a_dashboard_for_strangers_until_it_is_taken_back(
    open_page: OpenPage,
) -> None:
    page = await open_page("/dashboards")
    await page.get_by_role("link", name="Team overview").click()
    await page.get_by_role("button", name="Share").click()
    await page.get_by_role("button", name="Make a link").click()
    address = await page.get_by_label("The link; it is shown this once").input_value()
    path = re.search(r"/shared/[A-Za-z0-9_-]+$", address)[0]

    stranger = await open_page(path, role=None, allowed=REFUSED)
    await stranger.get_by_role("heading", name="Team overview").wait_for()
    await stranger.locator("figure svg[class*=marks]").first.wait_for()
    assert await stranger.get_by_role("navigation", name="Pages").count() == 0
    assert await stranger.locator("meta[name=robots]").get_attribute("content") == "noindex"
    await stranger.get_by_role("link", name="7 days").click()
    await stranger.wait_for_url(f"**{path}?last=7d")

    await page.get_by_role("button", name=re.compile("^Take back: A link")).click()
    await page.get_by_role("button", name="Take back", exact=True).click()
    await page.get_by_text("With nobody but those who see it anyway.").wait_for()
    await stranger.reload()
    await stranger.get_by_role("heading", name="Not found").wait_for()


async def test_an_old_version_is_compared_and_becomes_the_newest_again(
    open_page: OpenPage,
) -> None:
    page = await open_page("/dashboards")
    id_ = await make(page, "Restored")
    await add(page, "number")
    await save(page, "with a number")
    await page.wait_for_url(f"**/dashboards/{id_}")
    await page.goto(f"/dashboards/{id_}/versions?from=1&to=2")
    assert "Tool calls added" in await page.locator("#changes").inner_text()
    await page.get_by_role("button", name="Restore version 1").click()
    await page.get_by_label("Why (optional)").fill("too much")
    await page.get_by_role("button", name="Restore", exact=True).click()
    await page.get_by_text("Nothing on it yet").wait_for()
    await page.goto(f"/dashboards/{id_}/versions")
    assert "too much" in await page.locator("tbody tr").first.inner_text()


async def test_of_two_who_edit_at_once_neither_loses_what_they_did(open_page: OpenPage) -> None:
    one = await open_page("/dashboards", allowed=REFUSED)
    id_ = await make(one, "Both")
    await add(one, "number")
    await save(one)
    await one.wait_for_url(f"**/dashboards/{id_}")
    await one.goto(f"/dashboards/{id_}/edit")
    other = await open_page(f"/dashboards/{id_}/edit")

    await add(other, "table")
    await other.get_by_label("Edit Tool calls", exact=True).click()
    await other.get_by_label("Title").fill("Theirs")
    await save(other, "theirs")
    await other.wait_for_url(f"**/dashboards/{id_}")

    await add(one, "chart")
    await one.get_by_label("Edit Tool calls", exact=True).click()
    await one.get_by_label("Title").fill("Mine")
    await save(one, "mine")
    dialog = one.get_by_role("dialog", name="Somebody else saved this dashboard")
    await dialog.get_by_text("saved version 3").wait_for()
    assert "Tool calls by tool added" in await dialog.inner_text()
    await dialog.get_by_label(re.compile("^Widget")).select_option("theirs")
    await dialog.get_by_role("button", name="Keep editing on top of theirs").click()
    await one.get_by_role("group", name="Theirs").wait_for()
    await save(one, "both")
    await one.wait_for_url(f"**/dashboards/{id_}")
    titles = await one.locator("figcaption h2").all_inner_texts()
    assert sorted(titles) == ["Theirs", "Tool calls by day and agent", "Tool calls by tool"]


async def test_an_ended_sign_in_loses_nothing_that_was_typed(
    open_page: OpenPage, site: Site
) -> None:
    user_id, email = site.home.people["editor"]
    async with tenant_connection(site.engine, TenantContext(site.home.id)) as connection:
        hashed = await Passwords().hash(PASSWORD)
        await connection.execute(
            "INSERT INTO user_passwords (user_id, password_hash) VALUES ($1, $2)"
            " ON CONFLICT (tenant_id, user_id) DO UPDATE SET password_hash = $2",
            user_id,
            hashed,
        )
    page = await open_page("/dashboards", role="editor", allowed=REFUSED)
    id_ = await make(page, "Ended")
    await add(page, "number")
    await page.get_by_label("Title").fill("Still here")
    await end(site, page, user_id)
    await save(page, "after it ended")
    dialog = page.get_by_role("dialog", name="Sign in again")
    await dialog.get_by_label("Email").fill(email)
    await dialog.get_by_label("Password").fill(PASSWORD)
    await dialog.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"**/dashboards/{id_}")
    await page.get_by_role("heading", name="Still here").wait_for()


async def test_what_was_not_saved_is_offered_again_on_return(open_page: OpenPage) -> None:
    page = await open_page("/dashboards", allowed=REFUSED)
    id_ = await make(page, "Left")
    await add(page, "number")
    await page.get_by_label("Title").fill("Not lost")
    await page.get_by_role("link", name="Close").click()
    await page.get_by_role("button", name="Leave").click()
    await page.get_by_text("Nothing on it yet").wait_for()
    await page.goto(f"/dashboards/{id_}/edit")
    await page.get_by_role("button", name="Restore my unsaved changes").click()
    await page.get_by_role("group", name="Not lost").wait_for()

    # What the API does not take is told at its field, and still there.
    await page.get_by_label("Edit Not lost").click()
    await page.get_by_label("Line below it").select_option("day")
    await page.get_by_label("Add a filter").select_option("agent")
    await page.get_by_label("Agent is").fill("")
    await page.get_by_text("must have 1 to 100 values").wait_for()
