"""While no server of a DSN is the one that is asked for, as in a failover, nothing gives up."""

from __future__ import annotations

import asyncio

import pytest

from metrics_service.db.engine import owner_connection
from metrics_service.errors import DatabaseUnreachableError
from metrics_service.maintenance.leader import candidate
from metrics_service.tenants import listener
from metrics_service.tenants.listener import RegistryListener

SOON_S = 20.0


@pytest.fixture
def not_there(addresses) -> str:
    """Leads to a server, which is none of those that are asked for."""
    return f"{addresses.direct}&target_session_attrs=standby"


async def test_who_listens_tries_again(addresses, not_there, monkeypatch):
    monkeypatch.setattr(listener, "LISTENS_AGAIN_AFTER_S", 0.01)
    listening = RegistryListener(not_there)
    listening.start()
    try:
        await asyncio.sleep(0.3)
        listening._hosts._dsn = addresses.direct
        async with asyncio.timeout(SOON_S):
            while not listening.hears():
                await asyncio.sleep(0.01)
    finally:
        await listening.stop()


@pytest.mark.parametrize("connecting", [owner_connection, candidate])
async def test_it_is_a_database_that_cannot_be_reached(not_there, connecting):
    with pytest.raises(DatabaseUnreachableError):
        async with connecting(not_there):
            pytest.fail("connected")
