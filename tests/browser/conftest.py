"""Pages as people meet them: a real server, a real Chromium, and nobody else in between.

Every page that a test opens is watched: an error in its console, an exception in a script, a request
to another host or a violation of the policy fails the test that caused it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.cookies import NAME
from metrics_service.tenants.registry import get_tenant
from metrics_service.tenants.sign_ins import begin_sign_in

# What runs the command line there runs it here.
sys.path.append(str(Path(__file__).resolve().parents[1] / "integration"))

from command_line import free_port, on_database, running  # it is found only now

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
READY = "Metrics Service serves"
SLUGS = ("fortium-test", "larkspur-test")
PASSWORD = "a password for tests"
ZONE = "Europe/Berlin"

WATCH = """
window.broken = [];
addEventListener("securitypolicyviolation", (event) => {
  broken.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile ?? ""}`);
});
"""


class SiteTenant(msgspec.Struct, frozen=True):
    """A tenant with history, and who may sign in there, by role."""

    id: UUID
    slug: str
    url: str
    people: dict[str, tuple[UUID, str]]

    def email(self, role: str = "owner") -> str:
        return self.people[role][1]


class Site(msgspec.Struct, frozen=True):
    """A server that is running, with two tenants."""

    port: int
    tenants: tuple[SiteTenant, ...]
    engine: AsyncEngine

    @property
    def home(self) -> SiteTenant:
        return self.tenants[0]

    @property
    def other(self) -> SiteTenant:
        return self.tenants[1]

    async def token(self, tenant: SiteTenant, role: str = "owner") -> str:
        """Sign in without the form, which has a test of its own."""
        async with tenant_connection(self.engine, TenantContext(tenant.id)) as connection:
            made = await begin_sign_in(connection, tenant.people[role][0], user_agent="a test")
        return made.token


@pytest.fixture(scope="package")
def served(addresses: Addresses) -> Iterator[int]:
    """The port of a server with seeded tenants, each of whose people has the same password."""
    line = on_database(addresses)
    assert line.here("db", "seed", "--env", "test").code == 0
    port = free_port()
    with running(line, "serve", "--port", str(port)) as (_, output):
        output.wait_for(READY)
        yield port


@pytest.fixture(scope="package")
async def site(served: int, addresses: Addresses, engine: AsyncEngine) -> Site:
    return Site(served, tuple([await _tenant(served, addresses, engine, s) for s in SLUGS]), engine)


async def _tenant(port: int, addresses: Addresses, engine: AsyncEngine, slug: str) -> SiteTenant:
    async with owner_connection(addresses.require_owner()) as owner, owner.begin():
        tenant = await get_tenant(owner, slug)
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        rows = await connection.fetch(
            "SELECT DISTINCT ON (role) role, id, email FROM users WHERE email IS NOT NULL"
            " ORDER BY role, email"
        )
    people = {row["role"]: (UUID(int=row["id"].int), row["email"]) for row in rows}
    return SiteTenant(tenant.id, slug, f"http://{tenant.domain}.localhost:{port}", people)


@pytest.fixture(scope="package")
async def chromium() -> AsyncIterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed")
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    async with playwright.async_playwright() as driver:
        # As root, which CI is, its own sandbox does not start.
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


OpenPage = Callable[..., Awaitable[Any]]


@pytest.fixture
async def open_page(chromium: Any, site: Site) -> AsyncIterator[OpenPage]:
    """Open a page in a window of its own, as somebody of a role.

    Without a role nobody is signed in. `allowed` are beginnings of console errors that are meant.
    """
    contexts: list[Any] = []
    wrong: list[str] = []

    async def opened(
        path: str,
        *,
        tenant: SiteTenant | None = None,
        role: str | None = "owner",
        allowed: tuple[str, ...] = (),
        **options: Any,
    ) -> Any:
        tenant = tenant or site.home
        context = await chromium.new_context(
            **{"timezone_id": ZONE, "locale": "en-GB", "base_url": tenant.url, **options}
        )
        contexts.append(context)
        context.set_default_timeout(10_000)
        host = urlsplit(tenant.url).hostname
        cookies = [{"name": "tz", "value": options.get("timezone_id", ZONE)}]
        if role is not None:
            token = await site.token(tenant, role)
            cookies.append({"name": NAME, "value": token, "secure": True, "httpOnly": True})
        await context.add_cookies(
            [{"domain": host, "path": "/", "sameSite": "Lax", **one} for one in cookies]
        )
        await context.add_init_script(WATCH)
        page = await context.new_page()

        def heard(message: Any) -> None:
            if message.type == "error" and not message.text.startswith(allowed or ("\0",)):
                wrong.append(f"console at {page.url}: {message.text}")

        page.on("console", heard)
        page.on("pageerror", lambda error: wrong.append(f"script at {page.url}: {error}"))
        page.on("request", lambda asked: wrong.extend(_foreign(asked.url, host)))
        await page.goto(path)
        return page

    yield opened
    for context in contexts:
        for page in context.pages:
            wrong += [
                f"policy at {page.url}: {one}" for one in await page.evaluate("window.broken ?? []")
            ]
        await context.close()
    assert not wrong, "\n".join(wrong)


def _foreign(url: str, host: str | None) -> list[str]:
    parts = urlsplit(url)
    is_ours = parts.scheme in {"data", "blob"} or parts.hostname == host
    return [] if is_ours else [f"a request to {url}"]
