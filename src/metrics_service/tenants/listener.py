"""Hears from the database that a tenant, its hosts, its keys or its data changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from metrics_service.db.engine import CONNECT_TIMEOUT_S
from metrics_service.tenants.changed import CHANGES_CHANNEL, Changed, read_payload
from metrics_service.tenants.registry import CHANNEL

# Revocation holds everywhere within two seconds, whatever happens to this connection: so it proves
# every second that it is alive, and soon after a missing proof nobody relies on it.
HEARTBEAT_S = 1.0
PROOF_LASTS_S = 1.5
TTL_WHILE_HEARING_S = 60.0
TTL_WHILE_DEAF_S = 1.0

log = structlog.get_logger(__name__)


class RegistryListener:
    """Keeps one connection listening, and tells whoever remembers something about tenants."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._told: list[Callable[[UUID | None], None]] = []
        self._told_changes: list[Callable[[UUID | None, Changed | None], None]] = []
        self._heard_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def hears(self) -> bool:
        """Whether the connection has proved of late that it lives."""
        return time.monotonic() - self._heard_at < PROOF_LASTS_S

    def ttl_s(self) -> float:
        """How long a look-up may be remembered at this moment."""
        return TTL_WHILE_HEARING_S if self.hears() else TTL_WHILE_DEAF_S

    def tell(self, forget: Callable[[UUID | None], None]) -> None:
        """Call `forget` with a tenant's id when it changed, with None after a gap."""
        self._told.append(forget)

    def tell_changes(self, changed: Callable[[UUID | None, Changed | None], None]) -> None:
        """Call `changed` with a tenant's id and what of its data changed; with None after a gap."""
        self._told_changes.append(changed)

    def _on_data(self, tenant_id: UUID | None, what: Changed | None) -> None:
        for changed in self._told_changes:
            changed(tenant_id, what)

    def _on_change(self, tenant_id: UUID | None) -> None:
        for forget in self._told:
            forget(tenant_id)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="registry-listener")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                log.warning("registry_listener_lost", reason=type(error).__name__)
            self._heard_at = float("-inf")
            await asyncio.sleep(HEARTBEAT_S)

    async def _listen(self) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=CONNECT_TIMEOUT_S)
        try:
            await connection.add_listener(CHANNEL, self._heard)
            if self._told_changes:
                await connection.add_listener(CHANGES_CHANNEL, self._heard_of_data)
            # What changed while nobody listened is unknown.
            self._on_change(None)
            self._on_data(None, None)
            while True:
                await connection.execute("SELECT 1", timeout=PROOF_LASTS_S)
                self._heard_at = time.monotonic()
                await asyncio.sleep(HEARTBEAT_S)
        finally:
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        try:
            self._on_change(UUID(str(payload)))
        except ValueError:
            self._on_change(None)

    def _heard_of_data(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        try:
            for tenant_id, changed in read_payload(str(payload)):
                self._on_data(tenant_id, changed)
        except ValueError:
            self._on_data(None, None)
