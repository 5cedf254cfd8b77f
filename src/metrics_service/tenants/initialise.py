"""From an empty database to one that can hold tenants: roles, then the registry at its head."""

from __future__ import annotations

import os

from sqlalchemy import text

from metrics_service.db.addresses import SUPERUSER, Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import Login, create_roles
from metrics_service.tenants.ledger import ledger
from metrics_service.tenants.migrate import Outcome, Target
from metrics_service.tenants.upgrade import upgrade_all, upgrade_registry


def target_of(addresses: Addresses) -> Target:
    return Target(owner_dsn=addresses.require_owner(), runtime_role=addresses.runtime_role)


def default_jobs() -> int:
    return min(4, os.cpu_count() or 1)


async def initialise(addresses: Addresses, admin_dsn: str) -> list[str]:
    """Create roles and registry; return what an operator should know. Safe to repeat."""
    notes = await create_roles(
        admin_dsn,
        runtime=Login.of(addresses.runtime),
        migrator=Login.of(addresses.require_owner()),
    )
    await upgrade_registry(target_of(addresses))
    return notes


async def prepare_embedded(addresses: Addresses, *, upgrade: bool) -> list[Outcome]:
    """Initialise the embedded database if it is empty; on request bring it to head too.

    Returns what became of the schemas that were behind.
    """
    if addresses.embedded is None:
        return []
    admin = addresses.embedded.dsn(SUPERUSER)
    async with owner_connection(admin) as connection, connection.begin():
        is_empty = await connection.scalar(
            text("SELECT to_regclass('public.tenant_schemas') IS NULL")
        )
        behind = not is_empty and any(state.is_behind for state in await ledger(connection))
    if is_empty:
        await initialise(addresses, admin)
    elif behind and upgrade:
        return await upgrade_all(target_of(addresses), jobs=default_jobs())
    return []
