"""Past sessions follow a change of who is who, step by step, also after the answer was sent."""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog

from metrics_service.errors import UnavailableError
from metrics_service.http.dependencies import Caller
from metrics_service.identities.schemas import Followed
from metrics_service.ingest.past_sessions import Concerned, follow, wait_for_ingest

PATIENCE_S = 2.0
"""How long an answer waits for the past; most tenants' is over by then."""
MAX_WAITING = 100

FIRST = UUID(int=0)

_log = structlog.get_logger()


class _Following:
    """One change on its way through the past."""

    def __init__(self, concerned: Concerned) -> None:
        self.concerned = concerned
        self.moved = 0
        self.is_complete = False
        self.is_over = asyncio.Event()


class Followers:
    """One walk through a tenant's past at a time; others wait for it."""

    def __init__(self) -> None:
        self._waiting: dict[UUID, dict[Concerned, _Following]] = {}
        self._walks: dict[UUID, asyncio.Task[None]] = {}

    async def follow(self, caller: Caller, concerned: Concerned) -> Followed:
        """Begin, and wait a moment for the end. Raises `UnavailableError` when too many wait.

        What the change itself says must be committed before.
        """
        waiting = self._waiting.setdefault(caller.tenant_id, {})
        if len(waiting) >= MAX_WAITING:
            raise UnavailableError("too many changes of identities wait", retry_after_s=30)
        # One that has begun has passed sessions that this change is about.
        following = waiting.setdefault(concerned, _Following(concerned))
        if caller.tenant_id not in self._walks:
            self._walks[caller.tenant_id] = asyncio.create_task(self._walk_all(caller))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await following.is_over.wait()
        except TimeoutError:
            pass
        return Followed(following.moved, following.is_complete)

    async def aclose(self) -> None:
        """Stop where each walk is; nothing is half done."""
        for walk in (walks := list(self._walks.values())):
            walk.cancel()
        await asyncio.gather(*walks, return_exceptions=True)

    async def _walk_all(self, caller: Caller) -> None:
        waiting = self._waiting[caller.tenant_id]
        try:
            while waiting:
                concerned = next(iter(waiting))
                following = waiting.pop(concerned)
                try:
                    await _walk(caller, following)
                except Exception as error:  # noqa: BLE001  # a walk that fails ends itself alone
                    # Whoever asked is told that it is not complete, and asks again.
                    _log.error("past sessions do not follow", exc_info=error)
                finally:
                    following.is_over.set()
        finally:
            del self._walks[caller.tenant_id], self._waiting[caller.tenant_id]


async def _walk(caller: Caller, following: _Following) -> None:
    async with caller.writing() as connection:
        await wait_for_ingest(connection, caller.tenant_id)
    after = FIRST
    while True:
        async with caller.writing() as connection:
            step = await follow(connection, caller.tenant_id, following.concerned, after)
        following.moved += step.moved
        if step.moved:
            caller.database.changes.note(caller.tenant_id, None)
        if step.last_id is None:
            following.is_complete = True
            return
        after = step.last_id
