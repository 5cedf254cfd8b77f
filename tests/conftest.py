"""A migrated database per run and worker, a fresh tenant per test.

Without options everything runs on the embedded server. `--admin-url DSN` runs the same tests on
another one, whose login may create roles and databases; `--pooler` puts PgBouncer between the service
and the server.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import places
import pytest
import structlog
from hypothesis import settings as hypothesis_settings
from poolers import pooler_to
from said import latest_of_postgresql, latest_of_processes
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import MIGRATOR_LOGIN, RUNTIME_LOGIN, SUPERUSER, Addresses
from metrics_service.db.embedded import embedded_server
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.settings import Settings
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.keys import SCOPES, Scope, create_key
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import Tenant

# What searches tries a hundred examples, or as `thorough` a thousand; where each of them asks the
# database, it is the share of them that the test says.
# None is timed: the machine may be busy.
hypothesis_settings.register_profile("usual", deadline=None)
hypothesis_settings.register_profile("thorough", max_examples=1000, deadline=None)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))

# Else each client would read the certificates of all authorities anew, longer than most requests take.
httpx._transports.default.create_ssl_context = cache(httpx.create_ssl_context)

PASSWORD = "only-for-tests"
SERVER_ROOT = "TEST_SERVER_ROOT"


class SomeTenant(msgspec.Struct, frozen=True):
    """A tenant of the test's own, which nothing else touches."""

    tenant: Tenant
    key: str

    @property
    def id(self):
        return self.tenant.id

    @property
    def slug(self) -> str:
        return self.tenant.slug

    @property
    def headers(self) -> dict[str, str]:
        return {"Host": f"{self.tenant.domain}.localhost", "Authorization": f"Bearer {self.key}"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--admin-url",
        default=os.environ.get("TEST_ADMIN_URL"),
        help="run on this server instead of the embedded one (or TEST_ADMIN_URL)",
    )
    parser.addoption(
        "--pooler",
        action="store_true",
        help="the runtime login reaches the server through PgBouncer in transaction mode",
    )
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failed one")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.failed:
        report.sections += [("a process said", text) for text in latest_of_processes()]
        if said := latest_of_postgresql(Path(os.environ[SERVER_ROOT])):
            report.sections.append(("PostgreSQL said", said))
    if report.skipped and item.config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report


def pytest_configure(config: pytest.Config) -> None:
    if threading.current_thread() is threading.main_thread():
        # In the background of a shell it is ignored, by us and then by all that we start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Commands run in this process too, beside applications that log: no line is a command's output.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if SERVER_ROOT in os.environ:
        return
    # Not pytest's own directory: sockets want it short, and the server, which is another user when
    # we are root, must be able to enter. Worker processes inherit the variable.
    root = Path(tempfile.mkdtemp(prefix="metrics-service-tests-", dir=places.for_run()))
    root.chmod(0o755)
    os.environ[SERVER_ROOT] = str(root)
    config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))


@pytest.fixture(scope="session")
def server_root() -> Path:
    """The data directory of the embedded server that this run's processes share."""
    return Path(os.environ[SERVER_ROOT])


@pytest.fixture(scope="session")
def admin_url(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """The administrator's DSN for a database of the server under test."""
    given: str | None = request.config.getoption("--admin-url")
    if given is not None:
        parts = urlsplit(given)
        yield lambda database: urlunsplit(parts._replace(path=f"/{database}"))
        return
    root = request.getfixturevalue("server_root")
    _prepare(root)
    with embedded_server(root) as server:
        yield lambda database: server.dsn(SUPERUSER, database)


def _prepare(root: Path) -> None:
    """Make the server as tests want it: once, by whichever process comes first."""
    with (root / "prepared").open("a") as prepared:
        fcntl.flock(prepared, fcntl.LOCK_EX)
        if prepared.tell() == 0:
            with embedded_server(root) as server:
                asyncio.run(_hurry(server.dsn(SUPERUSER, "postgres")))
            prepared.write("yes")


async def _hurry(admin_dsn: str) -> None:
    """Wait for no disk and tidy up nothing, as what is stored here is thrown away; serve all of a run."""
    connection = await asyncpg.connect(admin_dsn)
    for setting in (
        "fsync = off",
        "full_page_writes = off",
        # Else somebody is always busy with the catalogs of some of all the tests' databases.
        "autovacuum_naptime = '1h'",
        "max_connections = 400",
    ):
        await connection.execute(f"ALTER SYSTEM SET {setting}")
    await connection.close()


@pytest.fixture(scope="session")
def new_database(admin_url: Callable[[str], str]) -> Callable[[], Addresses]:
    """Create an empty database; its logins get their passwords when it is initialised."""

    def make() -> Addresses:
        name = f"test_{uuid4().hex[:12]}"
        asyncio.run(_create_database(admin_url("postgres"), name))
        return Addresses(
            runtime=_as(admin_url(name), RUNTIME_LOGIN),
            direct=_as(admin_url(name), RUNTIME_LOGIN),
            owner=_as(admin_url(name), MIGRATOR_LOGIN),
        )

    return make


async def _create_database(admin_dsn: str, name: str) -> None:
    connection = await asyncpg.connect(admin_dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()


def _as(dsn: str, login: str) -> str:
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{login}:{PASSWORD}@{host}"))


@pytest.fixture(scope="session")
def addresses(
    request: pytest.FixtureRequest,
    new_database: Callable[[], Addresses],
    admin_url: Callable[[str], str],
) -> Iterator[Addresses]:
    """A database with roles and registry, shared by the tests of one worker."""
    made = new_database()
    asyncio.run(initialise(made, admin_url(urlsplit(made.runtime).path.removeprefix("/"))))
    if not request.config.getoption("--pooler"):
        yield made
        return
    with pooler_to(made.runtime) as pooler:
        yield msgspec.structs.replace(made, runtime=pooler.dsn)


@pytest.fixture(scope="session")
def settings(addresses: Addresses, server_root: Path) -> Settings:
    return Settings(
        metrics_data_dir=str(server_root),
        database_url=addresses.runtime,
        database_direct_url=addresses.direct,
        database_owner_url=addresses.owner,
        metrics_secret_key="a secret key that only tests ever use",
        metrics_auth_failures_per_minute=0,
    )


@pytest.fixture(scope="session")
async def engine(addresses: Addresses) -> AsyncIterator[AsyncEngine]:
    """A pool of the runtime login: what the service itself has, and no more."""
    made = runtime_engine(addresses.runtime, pool_max=4)
    yield made
    await made.dispose()


NewTenantFixture = Callable[..., Awaitable[SomeTenant]]


@pytest.fixture(scope="session")
async def new_tenant(addresses: Addresses) -> AsyncIterator[NewTenantFixture]:
    """Make a tenant of the test's own, so that tests need no cleaning up and run in parallel."""
    async with owner_connection(addresses.require_owner()) as connection:
        # Several may be asked for at once.
        turn = asyncio.Lock()

        async def make(*, scopes: tuple[Scope, ...] = SCOPES, plan: str = "basic") -> SomeTenant:
            slug = f"t{uuid4().hex[:16]}"
            new = NewTenant.of(slug, name=None, domain=None, plan=plan, base_domain="localhost")
            async with turn:
                tenant = await create_tenant(connection, new, target_of(addresses))
                async with connection.begin():
                    issued = await create_key(
                        connection, tenant.id, scopes=list(scopes), name="test"
                    )
            return SomeTenant(tenant, issued.key)

        yield make
