"""Says whether a database is reachable, at head and safe: what `db check` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db import coverage
from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import Login
from metrics_service.db.tables import missing_tables
from metrics_service.errors import DatabaseUnreachableError, SettingsError
from metrics_service.settings import Settings
from metrics_service.tenants.ledger import SchemaState, ledger
from metrics_service.tenants.revisions import REGISTRY

OLDEST_MAJOR, NEWEST_MAJOR = 15, 18
# The releases that close CVE-2026-116311 and CVE-2026-120154, both holes in row security.
FIRST_SAFE_MINOR = {15: 20, 16: 16, 17: 12, 18: 6}

Status = Literal["ok", "warning", "failed"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    is_about_reach: bool = False


class Report(msgspec.Struct, frozen=True):
    """All of it; the worst check is the status of the whole."""

    status: Status
    checks: list[Check]

    @property
    def is_unreachable(self) -> bool:
        return any(check.is_about_reach and check.status == "failed" for check in self.checks)


async def check(settings: Settings, addresses: Addresses) -> Report:
    checks = [_secret(settings)]
    reached = [await _reach("runtime", addresses.runtime)]
    reached.append(await _reach("owner", addresses.owner))
    if addresses.direct != addresses.runtime:
        reached.append(await _reach("direct", addresses.direct))
    checks += reached
    if all(one.status == "ok" for one in reached):
        async with owner_connection(addresses.require_owner()) as connection, connection.begin():
            checks += await _inside(connection, addresses)
    worst: Status = "ok"
    for status in ("warning", "failed"):
        if any(one.status == status for one in checks):
            worst = status
    return Report(worst, checks)


async def find_holes(addresses: Addresses) -> list[str]:
    """Name every hole in the wall between tenants: in all their tables, in roles and functions."""
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        return [
            *await coverage.tenant_holes(connection),
            *await coverage.role_holes(connection, addresses.runtime_role),
        ]


def _secret(settings: Settings) -> Check:
    try:
        settings.secret_key()
    except SettingsError as error:
        return Check("secret key", "failed", str(error))
    return Check(
        "secret key", "ok", "set" if settings.metrics_secret_key else "kept in the data directory"
    )


async def _reach(name: str, dsn: str | None) -> Check:
    what = f"connect as {name}"
    if dsn is None:
        return Check(what, "failed", "DATABASE_OWNER_URL is not set")
    try:
        async with owner_connection(dsn):
            return Check(what, "ok", f"as {Login.of(dsn).name}", is_about_reach=True)
    except DatabaseUnreachableError as error:
        return Check(what, "failed", str(error), is_about_reach=True)


async def _inside(connection: AsyncConnection, addresses: Addresses) -> list[Check]:
    version = await connection.scalar(text("SELECT current_setting('server_version_num')::int"))
    logins = [addresses.runtime_role, Login.of(addresses.require_owner()).name]
    return [
        check_version(version),
        await _logins(connection, logins),
        *_revisions(await ledger(connection)),
        await _tables(connection),
        _holes("tenant tables", await coverage.tenant_holes(connection)),
        _holes("roles and functions", await coverage.role_holes(connection, logins[0])),
    ]


def check_version(number: int) -> Check:
    """Judge a server by its version number, such as 150018."""
    major, minor = divmod(number, 10_000)
    detail = f"PostgreSQL {major}.{minor}"
    if not OLDEST_MAJOR <= major <= NEWEST_MAJOR:
        supported = f"{OLDEST_MAJOR} to {NEWEST_MAJOR} are supported"
        return Check("server version", "failed", f"{detail}; {supported}")
    if minor < FIRST_SAFE_MINOR[major]:
        better = f"{major}.{FIRST_SAFE_MINOR[major]}"
        return Check(
            "server version", "warning", f"{detail}; row security has known holes before {better}"
        )
    return Check("server version", "ok", detail)


async def _logins(connection: AsyncConnection, names: list[str]) -> Check:
    rows = await connection.execute(
        text(
            """
            SELECT rolname FROM pg_roles
            WHERE rolname = ANY(CAST(:names AS text[])) AND (rolsuper OR rolbypassrls)
            """
        ),
        {"names": names},
    )
    above = list(rows.scalars())
    if above:
        return Check("logins", "failed", f"above row security: {', '.join(above)}")
    if len(set(names)) < len(names):
        return Check("logins", "failed", f"{names[0]} both serves and migrates")
    return Check("logins", "ok", "neither is a superuser")


def _revisions(states: list[SchemaState]) -> Iterator[Check]:
    registry = [state for state in states if state.schema_name == REGISTRY]
    if not registry:
        yield Check("registry", "failed", "not there; run `metrics-service db init`")
        return
    yield _at_head("registry", registry)
    yield _at_head("tenant schemas", [state for state in states if state not in registry])


def _at_head(name: str, states: list[SchemaState]) -> Check:
    failed = [state.schema_name for state in states if state.status != "ready"]
    behind = [state.schema_name for state in states if state.is_behind]
    wrong = sorted({*failed, *behind})
    if wrong:
        detail = f"{len(behind)} behind, {len(failed)} failed ({_some(wrong)})"
        return Check(name, "failed", f"{detail}; run `metrics-service db upgrade`")
    return Check(name, "ok", f"at head ({len(states)})" if name != "registry" else "at head")


async def _tables(connection: AsyncConnection) -> Check:
    missing = await missing_tables((await connection.get_raw_connection()).driver_connection)
    if missing:
        return Check("tables", "failed", f"missing: {_some(missing)}")
    return Check("tables", "ok", "every tenant has all")


def _holes(name: str, holes: list[str]) -> Check:
    if holes:
        return Check(name, "failed", "; ".join(holes))
    return Check(name, "ok", "no hole in the wall")


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
