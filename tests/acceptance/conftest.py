"""The service whole: in this process behind an ASGI client, or as a server that is talked to by wire."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from acceptance.talk import check_answer
from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.cookies import NAME
from metrics_service.settings import Settings
from metrics_service.tenants.initialise import target_of
from metrics_service.tenants.keys import SCOPES, create_key
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import Tenant
from metrics_service.tenants.sign_ins import begin_sign_in

with warnings.catch_warnings():
    # A library below the repositories warns about itself while it is imported.
    warnings.simplefilter("ignore")
    from metrics_service.app import create_app

SOURCE = Path(__file__).parents[2] / "src"
SERVER_STARTS_S = 90.0

QUIET = 50  # critical


@pytest.fixture(scope="package", autouse=True)
def quiet_logs() -> Iterator[None]:
    """A line for every request of thousands would take longer than the requests."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(QUIET))
    yield
    structlog.configure(**before)


OpenApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def _lived(app: Any) -> AsyncIterator[None]:
    """Take an application through its lifespan, as a server does."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    life = asyncio.create_task(app(scope, told.get, heard.put))
    await told.put({"type": "lifespan.startup"})
    started = await heard.get()
    assert started["type"] == "lifespan.startup.complete", started
    try:
        yield
    finally:
        await told.put({"type": "lifespan.shutdown"})
        stopped = await heard.get()
        assert stopped["type"] == "lifespan.shutdown.complete", stopped
        await life


@asynccontextmanager
async def client_of(
    app: Any, peer: tuple[str, int] = ("192.0.2.7", 40000)
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that lives in this process."""
    # What the service answers is read whole; so a failure in it must not hide behind an exception.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=peer)
    async with (
        _lived(app),
        httpx.AsyncClient(
            transport=transport,
            base_url="http://testserver",
            event_hooks={"response": [check_answer]},
        ) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def open_app(settings: Settings, addresses: Addresses) -> OpenApp:
    """Start a further application, as another process would run it, with settings of its own."""

    @asynccontextmanager
    async def opened(
        dsn: str | None = None, peer: tuple[str, int] = ("192.0.2.7", 40000), **changes: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        changed = msgspec.structs.replace(settings, **changes)
        app = create_app(
            changed, runtime_dsn=dsn or addresses.runtime, direct_dsn=dsn or addresses.direct
        )
        async with client_of(app, peer) as client:
            yield client

    return opened


@pytest.fixture(scope="package")
async def client(open_app: OpenApp) -> AsyncIterator[httpx.AsyncClient]:
    """Gone when the tests of this directory are: what it does by itself is in the way of others."""
    async with open_app() as opened:
        yield opened


class Wire:
    """A server in a process of its own."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            event_hooks={"response": [check_answer]},
            timeout=20,
            **options,
        )

    async def say(self, *pieces: bytes, pause_s: float = 0.0, patience_s: float = 10.0) -> bytes:
        """Write the bytes as they are, in these pieces, and read until the server is done."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        heard = b""
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if pause_s:
                    await asyncio.sleep(pause_s)
            async with asyncio.timeout(patience_s):
                while chunk := await reader.read(65536):
                    heard += chunk
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        return heard


@pytest.fixture(scope="package")
def wire(settings: Settings, addresses: Addresses) -> Iterator[Wire]:
    """The server that the product ships, on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METRICS_")}
    environ = {
        **kept,
        "PYTHONPATH": str(SOURCE),
        "PYTHONWARNINGS": "ignore",
        "DATABASE_URL": addresses.runtime,
        "DATABASE_DIRECT_URL": addresses.direct,
        "METRICS_SECRET_KEY": str(settings.metrics_secret_key),
        "METRICS_AUTH_FAILURES_PER_MINUTE": "0",
        "METRICS_LOG_LEVEL": "warning",
    }
    environ.pop("DATABASE_OWNER_URL", None)
    command = [sys.executable, "-m", "metrics_service", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environ)
    try:
        _wait_until_healthy(port, process)
        yield Wire(port, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + SERVER_STARTS_S
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended by itself"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server does not become ready")


class Together(msgspec.Struct, frozen=True):
    """A tenant that many tests share, none of which leaves anything behind."""

    tenant: Tenant
    key: str

    @property
    def id(self) -> UUID:
        return self.tenant.id

    @property
    def slug(self) -> str:
        return self.tenant.slug

    @property
    def headers(self) -> dict[str, str]:
        return {"Host": f"{self.tenant.domain}.localhost", "Authorization": f"Bearer {self.key}"}


async def _together(addresses: Addresses) -> Together:
    new = NewTenant.of(
        f"t{uuid4().hex[:16]}", name=None, domain=None, plan="basic", base_domain="localhost"
    )
    async with owner_connection(addresses.require_owner()) as connection:
        tenant = await create_tenant(connection, new, target_of(addresses))
        async with connection.begin():
            issued = await create_key(connection, tenant.id, scopes=list(SCOPES), name="test")
    return Together(tenant, issued.key)


@pytest.fixture(scope="session")
def new_together(addresses: Addresses) -> Callable[[], Awaitable[Together]]:
    """Make a tenant for several tests."""
    return lambda: _together(addresses)


@pytest.fixture(scope="session")
async def tenant_once(new_together: Callable[[], Awaitable[Together]]) -> Together:
    """One tenant for all tests that only look, or are refused."""
    return await new_together()


@pytest.fixture(scope="module")
async def shared_tenant(new_together: Callable[[], Awaitable[Together]]) -> Together:
    """One tenant for tests of one module that leave nothing by which another would go wrong."""
    return await new_together()


class Person(msgspec.Struct, frozen=True):
    """A user of a tenant, with a key that is theirs."""

    id: UUID
    key_id: UUID
    key: str
    host: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Host": self.host, "Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="session")
def new_key(addresses: Addresses) -> Callable[..., Any]:
    """Issue a key as the operator does."""

    async def issue(tenant, *, scopes=SCOPES, **options):
        async with owner_connection(addresses.require_owner()) as connection, connection.begin():
            return await create_key(
                connection, tenant.id, scopes=list(scopes), name="test", **options
            )

    return issue


@pytest.fixture(scope="session")
def new_person(engine: AsyncEngine, new_key: Callable[..., Any]) -> Callable[..., Any]:
    """Make a user of a tenant, and a key for them."""

    async def make(tenant, email, *, team=None, scopes=("read", "write"), **options):
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            user_id = await connection.fetchval(
                "INSERT INTO users (email, team) VALUES ($1, $2) RETURNING id", email, team
            )
        # asyncpg's own kind of UUID is not what a struct wants.
        user_id = UUID(str(user_id))
        issued = await new_key(tenant, scopes=scopes, user_id=user_id, **options)
        return Person(user_id, issued.id, issued.key, tenant.headers["Host"])

    return make


TABLES = (
    "users",
    "metrics_sessions",
    "session_tags",
    "tool_names",
    "tool_metrics",
    "model_calls",
    "dashboard_configs",
    "dashboard_versions",
    "dashboard_shares",
    "idempotency_keys",
    "user_passwords",
    "sign_ins",
)


@pytest.fixture(scope="session")
def count_rows(engine: AsyncEngine) -> Callable[..., Any]:
    """How many rows each table of a tenant has."""

    async def count(tenant) -> dict[str, int]:
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            return {
                table: int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
                for table in TABLES
            }

    return count


@pytest.fixture(scope="session")
def as_owner(addresses: Addresses) -> Callable[..., Any]:
    """Run one statement on the registry, as its owner."""

    async def run(statement: str, **values: Any) -> None:
        async with owner_connection(addresses.require_owner()) as connection, connection.begin():
            await connection.execute(text(statement), values)

    return run


@pytest.fixture(scope="session")
def sign_in(engine: AsyncEngine) -> Callable[..., Awaitable[dict[str, str]]]:
    """Make a person of a tenant; the headers of the last of their browsers, one for each of `agents`."""

    async def make(
        tenant: Any,
        role: str = "owner",
        name: str = "Viewer",
        agents: tuple[str, ...] = ("a test",),
    ) -> dict[str, str]:
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            user_id = await connection.fetchval(
                "INSERT INTO users (email, name, role) VALUES ($1, $2, $3) RETURNING id",
                f"{uuid4().hex}@example.com",
                name,
                role,
            )
            for agent in agents:
                made = await begin_sign_in(connection, UUID(str(user_id)), user_agent=agent)
        return {
            "Host": tenant.headers["Host"],
            "Cookie": f"{NAME}={made.token}",
            "Sec-Fetch-Site": "same-origin",
        }

    return make
