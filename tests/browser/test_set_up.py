"""Set-up and settings by keyboard in a real browser: a key that is shown once, what arrives live."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from browser.conftest import OpenPage, Site
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.otlp.openapi import LOGS


def send(site: Site, key: str) -> int:
    """Send logs with the key, as a client does."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{site.port}/v1/logs",
        data=json.dumps(LOGS).encode(),
        headers={
            "Host": urlsplit(site.other.url).netloc,
            "X-Api-Key": key,
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)


async def test_a_key_is_made_shown_once_used_and_revoked(open_page: OpenPage, site: Site) -> None:
    page = await open_page("/set-up?client=claude-code", tenant=site.other)
    form = page.locator("#make-key")
    snippet = page.locator("#part-1")
    before = await snippet.inner_text()

    # Without a name: said at the field, where the focus is then.
    await form.get_by_role("button", name="Make a key").press("Enter")
    wrong = await page.evaluate("document.activeElement.name")
    told = await form.locator("#make-key-name-error").inner_text()
    await form.get_by_label("Name").fill("a <b>laptop</b>")
    await page.keyboard.press("Enter")
    await page.locator("#key-shown").wait_for(state="visible")
    shown = await snippet.inner_text()
    focused = await page.evaluate("document.activeElement.dataset.copy")
    key = shown.split("x-api-key=")[1].split(",")[0].strip().strip("'")
    status = await asyncio.to_thread(send, site, key)
    # By itself, without being asked.
    await page.locator("#diary td", has_text="a <b>laptop</b>").first.wait_for(timeout=20_000)
    arrived = await page.locator("#arrival").inner_text()
    await page.reload()
    again = await page.content()

    assert "msk_..." in before
    assert (wrong, focused, status) == ("name", "part-1", 200)
    assert "name" in told
    assert key.startswith("msk_")
    assert len(key) > 40
    assert "Arrived" in arrived
    assert key not in again

    revoke = page.get_by_role("button", name="Revoke a <b>laptop</b>")
    await revoke.press("Enter")
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").press("Enter")
    assert await revoke.is_visible()
    await revoke.press("Enter")
    await page.get_by_role("dialog").get_by_role("button", name="Revoke").press("Enter")
    await page.get_by_text("Revoked a <b>laptop</b>").wait_for()
    assert await revoke.count() == 0
    with pytest.raises(urllib.error.HTTPError, match="401"):
        await asyncio.to_thread(send, site, key)


async def test_settings_are_saved_with_an_error_at_the_field_and_a_question_before_deleting(
    open_page: OpenPage, site: Site
) -> None:
    page = await open_page("/settings", tenant=site.other)
    hours, saved = page.get_by_label("Keep requests"), page.locator("#privacy-form .saved")

    async def save() -> None:
        await page.locator("#privacy-form").get_by_role("button", name="Save").press("Enter")

    await hours.fill("200")
    await save()
    wrong = await page.locator("[data-error=raw_hours]").inner_text()
    invalid = await hours.get_attribute("aria-invalid")
    await hours.fill("24")
    await page.get_by_label("Hide people").press("Space")
    await save()
    await saved.filter(has_text="Saved").wait_for()
    kept = await settings_of(site)
    await hours.fill("1")
    await save()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").press("Enter")
    not_yet = await settings_of(site)
    await page.get_by_label("Hide people").press("Space")
    await save()
    await page.get_by_role("dialog").get_by_role("button", name="Save and delete").press("Enter")
    await saved.filter(has_text="Saved").wait_for()

    assert "0 to 168" in wrong
    assert invalid == "true"
    assert kept == not_yet == {"hide_people": True, "raw_hours": 24}
    assert await settings_of(site) == {"hide_people": False, "raw_hours": 1}


async def settings_of(site: Site) -> dict[str, object]:
    async with tenant_connection(site.engine, TenantContext(site.other.id)) as connection:
        rows = await connection.fetch("SELECT name, value::text AS value FROM tenant_settings")
    return {row["name"]: json.loads(row["value"]) for row in rows}


async def test_what_telemetry_claims_is_assigned_to_somebody(
    open_page: OpenPage, site: Site
) -> None:
    async with tenant_connection(site.engine, TenantContext(site.other.id)) as connection:
        await connection.execute(
            "INSERT INTO user_identities (kind, value) VALUES ('installation.id', 'i-1')"
        )
        await connection.execute(
            """
            UPDATE metrics_sessions SET user_key_kind = 'installation.id', user_key = 'i-1'
            WHERE id = (SELECT id FROM metrics_sessions ORDER BY started_at DESC LIMIT 1)
            """
        )
    page = await open_page("/people?last=90d", tenant=site.other)
    row = page.locator("#who-is-who tr", has_text="i-1")

    await row.get_by_role("button", name="Assign").press("Enter")
    wrong = await row.locator(".error").inner_text()
    await row.get_by_label("Whose it is").select_option(index=1)
    await row.get_by_role("button", name="Assign").press("Enter")
    await page.locator(".toast", has_text="Assigned").wait_for()
    async with tenant_connection(site.engine, TenantContext(site.other.id)) as connection:
        assigned = await connection.fetchval(
            "SELECT assigned_user_id IS NOT NULL FROM user_identities WHERE value = 'i-1'"
        )

    assert wrong == "Choose a person"
    assert await row.count() == 0
    assert assigned is True
