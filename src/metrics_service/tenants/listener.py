"""Hears from the database that a tenant, its hosts, its keys or its data changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from metrics_service.cache.second_level import SecondLevel
from metrics_service.db.connect import UNREACHABLE
from metrics_service.db.engine import CONNECT_TIMEOUT_S
from metrics_service.db.hosts import Hosts
from metrics_service.tenants.changed import CHANGES_CHANNEL, Changed, read_payload
from metrics_service.tenants.database_time import DatabaseTime, Moment
from metrics_service.tenants.looked_up import FRESH_S
from metrics_service.tenants.registry import CHANNEL

# Revocation holds everywhere within two seconds, whatever happens to this connection: so it proves
# twice a second that it is alive, and soon after a missing proof nobody relies on it.
HEARTBEAT_S = 0.5
PROOF_LASTS_S = 1.5
LISTENS_AGAIN_AFTER_S = 1.0
# Long, because what is older than a minute is looked up again while it is served.
TTL_WHILE_HEARING_S = 600.0
TTL_WHILE_DEAF_S = 1.0

# The process that answers is the one that was told to listen, unless a pooler stands between.
HEARTBEAT = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.clock_timestamp(),
       pg_catalog.pg_postmaster_start_time()
"""
BEHIND_A_POOLER = (
    "a pooler stands before the database, and LISTEN does not pass it; set DATABASE_DIRECT_URL"
)

log = structlog.get_logger(__name__)


class PoolerError(Exception):
    """There is nothing to be heard on this connection."""


class RegistryListener:
    """Keeps one connection listening, and tells whoever remembers something about tenants.

    Who hears of a change tells it by Redis too, where there is one: so even a process that the database
    does not reach hears of it at once.
    """

    def __init__(self, dsn: str, *, second: SecondLevel | None = None) -> None:
        self._hosts = Hosts(dsn)
        self._second = second
        self._told: list[Callable[[UUID | None], None]] = []
        self._told_changes: list[Callable[[UUID | None, Changed | None], None]] = []
        self._proved_at = float("-inf")
        self._deafness: str | None = None
        self._database_time = DatabaseTime()
        # What the database said itself of late, which Redis need not repeat.
        self._heard_at: dict[UUID | None, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection | None = None
        if second is not None:
            second.hear(CHANNEL, self._heard_from_another)

    def hears(self) -> bool:
        """Whether the connection has proved of late that it lives."""
        return time.monotonic() - self._proved_at < PROOF_LASTS_S

    @property
    def deafness(self) -> str | None:
        """Why it will not hear however long one waits; None where it hears or tries to."""
        return self._deafness

    def ttl_s(self) -> float:
        """How long a look-up may be remembered at this moment."""
        return TTL_WHILE_HEARING_S if self.hears() else TTL_WHILE_DEAF_S

    def age_s(self, tenant_id: UUID, moment: Moment) -> float | None:
        """How old another process's look-up is at most; None where it may have missed a change."""
        return self._database_time.age_s(tenant_id, moment) if self.hears() else None

    def tell(self, forget: Callable[[UUID | None], None]) -> None:
        """Call `forget` with a tenant's id when it changed, with None after a gap."""
        self._told.append(forget)

    def tell_changes(self, changed: Callable[[UUID | None, Changed | None], None]) -> None:
        """Call `changed` with a tenant's id and what of its data changed; with None after a gap."""
        self._told_changes.append(changed)

    def announce(self, tenant_id: UUID) -> None:
        """Something of the tenant was changed here, and committed: tell it by Redis, if there is one.

        The database tells it as well; this is for processes that it does not reach.
        """
        if self._second is not None:
            self._second.soon(self._second.publish(CHANNEL, str(tenant_id).encode()))

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="registry-listener")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def listen_anew(self) -> None:
        """Another server may answer by now, whose changes nobody hears of on the connection that there is."""
        self._proved_at = float("-inf")
        self._database_time.lose()
        if self._connection is not None:
            self._connection.terminate()

    # -- listening ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except PoolerError:
                if self._deafness is None:
                    self._deafness = BEHIND_A_POOLER
                    log.warning("changes are not heard", reason=BEHIND_A_POOLER)
            except UNREACHABLE as error:
                log.warning("listening for changes was lost", reason=type(error).__name__)
                # Else one that answers and takes no LISTEN, as a standby, would be asked for ever.
                self._hosts.begin_anew()
            self._proved_at = float("-inf")
            self._database_time.lose()
            await asyncio.sleep(LISTENS_AGAIN_AFTER_S)

    async def _listen(self) -> None:
        connection: asyncpg.Connection = await self._hosts.connect(
            application_name=None, timeout=CONNECT_TIMEOUT_S
        )
        self._connection = connection
        try:
            await self._beat(connection)
            await connection.add_listener(CHANNEL, self._heard)
            if self._told_changes:
                await connection.add_listener(CHANGES_CHANNEL, self._heard_of_data)
            # What changed while nobody listened is unknown.
            self._on_change(None)
            self._on_data(None, None)
            while True:
                asked_at = time.monotonic()
                said = await self._beat(connection)
                # Of when it was asked: what the answer took may have been spent on its way back.
                self._proved_at = asked_at
                self._deafness = None
                self._database_time.note_heartbeat(asked_at=asked_at, said=said)
                self._database_time.forget_before(FRESH_S)
                self._forget_what_was_heard(asked_at - PROOF_LASTS_S)
                await asyncio.sleep(HEARTBEAT_S)
        finally:
            self._connection = None
            connection.terminate()

    async def _beat(self, connection: asyncpg.Connection) -> Moment:
        pid, now, server = await connection.fetchrow(HEARTBEAT, timeout=PROOF_LASTS_S)
        if pid != connection.get_server_pid():
            raise PoolerError
        return Moment.of(now, server)

    # -- telling ------------------------------------------------------------------------------------

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        tenant_id = _tenant_of(str(payload))
        self._heard_at[tenant_id] = time.monotonic()
        self._on_change(tenant_id)
        if self._second is not None:
            self._second.soon(self._second.publish(CHANNEL, str(payload).encode()))

    def _heard_from_another(self, message: bytes) -> None:
        tenant_id = _tenant_of(message.decode(errors="replace"))
        heard_at = self._heard_at.get(tenant_id, float("-inf"))
        # Everyone tells it: who has heard it from the database need not forget it over and over.
        if not self.hears() or time.monotonic() - heard_at > PROOF_LASTS_S:
            self._on_change(tenant_id)

    def _forget_what_was_heard(self, before: float) -> None:
        for tenant_id in [one for one, at in self._heard_at.items() if at < before]:
            del self._heard_at[tenant_id]

    def _heard_of_data(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        try:
            for tenant_id, changed in read_payload(str(payload)):
                self._on_data(tenant_id, changed)
        except ValueError:
            self._on_data(None, None)

    def _on_change(self, tenant_id: UUID | None) -> None:
        self._database_time.note_change(tenant_id)
        for forget in self._told:
            forget(tenant_id)

    def _on_data(self, tenant_id: UUID | None, what: Changed | None) -> None:
        for changed in self._told_changes:
            changed(tenant_id, what)


def _tenant_of(payload: str) -> UUID | None:
    try:
        return UUID(payload)
    except ValueError:
        return None
