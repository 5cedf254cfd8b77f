"""Open streams of server-sent events, by tenant: who is told what, how often, and until when.

A stream waits in memory and asks the database nothing. What changed is gathered and spelt once for all
streams of a tenant; a stream whose reader is slow misses it, and is told that much changed when it can
take something again. So each holds one message, and none waits for another.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import structlog
from litestar.types import Receive, Send

from metrics_service.errors import (
    MetricsServiceError,
    TenantSuspendedError,
    TooManyRequestsError,
    UnavailableError,
)
from metrics_service.observability import catalog
from metrics_service.tenants.authenticate import Principal
from metrics_service.tenants.changed import Changed

APART_S = 1.0
"""Between two messages to a stream."""
BEAT_S = 20.0
"""How long a stream is silent at most: proxies give up connections that say nothing for a minute."""
TICK_S = 1.0
RETRY_AFTER_S = 60
# Whoever cannot be told goodbye is left without.
LAST_WORDS_S = 1.0

MAX_OF_A_PERSON = 50
"""All tabs of a browser share one stream: more is nobody who looks at pages."""

FETCHES_A_SECOND = 20
"""How many pages a message makes ask again in a second, of all that a tenant has open here."""

BEAT = b":\n\n"
DEAF = b"event: deaf\ndata: {}\n\n"
"""What changes is not heard at the moment: whoever wants to know must ask."""
GONE = b"event: gone\ndata: {}\n\n"
"""The sign-in is no longer good."""

Find = Callable[[UUID, str], Awaitable[Principal | None]]

log = structlog.get_logger(__name__)


class Stream:
    """One browser that waits for news."""

    def __init__(self, tenant_id: UUID, person: Principal, token: str) -> None:
        self.tenant_id = tenant_id
        self.person_id = person.id
        self.token = token
        self.ends_at = person.expires_at
        self.written_at = time.monotonic()
        self._send: Send | None = None
        self._writing: asyncio.Task[None] | None = None
        self._next: bytes | None = None
        # What is to be said last; None when nobody listens any more.
        self._over: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    async def run(self, receive: Receive, send: Send, first: bytes) -> None:
        """Write until the client leaves, or until it is ended."""
        leaving = asyncio.create_task(_left(receive))
        leaving.add_done_callback(lambda _: self.end(None))
        self._send = send
        self.tell(first)
        try:
            last = await self._over
        finally:
            leaving.cancel()
            if self._writing is not None:
                self._writing.cancel()
        if last is not None:
            try:
                async with asyncio.timeout(LAST_WORDS_S):
                    await send({"type": "http.response.body", "body": last, "more_body": False})
            except TimeoutError:
                pass

    def tell(self, message: bytes) -> None:
        """Write it, or remember it while the one before is not taken yet."""
        if self._over.done() or self._send is None:
            return
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(self._send, message))
        elif message is DEAF or self._next is None:
            self._next = message
        elif message is not BEAT:
            self._next = many_changed(1)

    def end(self, last: bytes | None) -> None:
        if not self._over.done():
            self._over.set_result(last)

    async def _write(self, send: Send, message: bytes | None) -> None:
        try:
            while message is not None:
                await send({"type": "http.response.body", "body": message, "more_body": True})
                self.written_at = time.monotonic()
                message, self._next = self._next, None
        except OSError:
            # As servers say that nobody is there any more.
            self.end(None)
        self._writing = None


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Room:
    """The streams of one tenant, and what they are to be told."""

    def __init__(self) -> None:
        self.streams: set[Stream] = set()
        self.by_person: Counter[UUID] = Counter()
        self._changed = Changed()
        self._told_at = float("-inf")
        self._due: asyncio.TimerHandle | None = None

    def add(self, changed: Changed) -> None:
        self._changed.join(changed)
        if self._due is None:
            at = self._told_at + APART_S
            self._due = asyncio.get_running_loop().call_at(at, self._tell)

    def close(self) -> None:
        if self._due is not None:
            self._due.cancel()

    def _tell(self) -> None:
        self._told_at, self._due = asyncio.get_running_loop().time(), None
        changed, self._changed = self._changed, Changed()
        if changed.is_many:
            message = many_changed(len(self.streams))
        else:
            message = sessions_changed(changed.sessions, len(self.streams))
        for stream in self.streams:
            stream.tell(message)


class Hub:
    """All streams of one process."""

    def __init__(self, *, max_streams: int, hears: Callable[[], bool], find: Find) -> None:
        self._max = max_streams
        self._max_of_a_tenant = max(1, max_streams // 2)
        self._hears = hears
        self._find = find
        self._rooms: dict[UUID, _Room] = {}
        self._count = 0
        self._heard = True
        self._is_over = False
        self._to_check: dict[Stream, None] = {}
        self._is_to_check = asyncio.Event()

    # -- the streams --------------------------------------------------------------------------------

    @contextmanager
    def joined(self, tenant_id: UUID, person: Principal, token: str) -> Iterator[Stream]:
        """Take a place; raises `UnavailableError` when all of the process or the tenant are taken.

        `TooManyRequestsError` when the person has taken all that one may: colleagues have theirs.
        """
        room = self._rooms.get(tenant_id)
        if room is not None and room.by_person[person.id] >= MAX_OF_A_PERSON:
            catalog.REFUSALS.add(1, "streams_of_a_person")
            raise TooManyRequestsError("you have too many pages open", retry_after_s=RETRY_AFTER_S)
        taken = 0 if room is None else len(room.streams)
        if self._is_over or self._count >= self._max or taken >= self._max_of_a_tenant:
            catalog.REFUSALS.add(1, "streams")
            raise UnavailableError("too many pages are open", retry_after_s=RETRY_AFTER_S)
        stream = Stream(tenant_id, person, token)
        if room is None:
            room = self._rooms[tenant_id] = _Room()
        room.streams.add(stream)
        room.by_person[person.id] += 1
        self._count += 1
        catalog.STREAMS_OPEN.add(1)
        try:
            yield stream
        finally:
            self._count -= 1
            catalog.STREAMS_OPEN.add(-1)
            self._to_check.pop(stream, None)
            room.streams.remove(stream)
            room.by_person[person.id] -= 1
            if not room.by_person[person.id]:
                del room.by_person[person.id]
            if not room.streams:
                room.close()
                del self._rooms[tenant_id]

    def first_words(self) -> bytes:
        """What a stream begins with."""
        return BEAT if self._heard and self._hears() else DEAF

    # -- what is told to it, by whoever hears --------------------------------------------------------

    def changed(self, tenant_id: UUID | None, what: Changed | None) -> None:
        """Tell a tenant's streams what changed; all streams that anything may have, with None."""
        if tenant_id is None or what is None:
            for room in self._rooms.values():
                room.add(Changed(is_many=True))
        elif (found := self._rooms.get(tenant_id)) is not None:
            found.add(what)

    def check(self, tenant_id: UUID | None) -> None:
        """Look up again whether the streams of a tenant, or all, may go on."""
        for stream in self._streams_of(tenant_id):
            self._to_check[stream] = None
        if self._to_check:
            self._is_to_check.set()

    def end(self) -> None:
        """End all streams now, and begin none: the process is about to end."""
        self._is_over = True
        for stream in self._streams_of(None):
            stream.end(b"")

    def _streams_of(self, tenant_id: UUID | None) -> list[Stream]:
        if tenant_id is None:
            return [stream for room in self._rooms.values() for stream in room.streams]
        room = self._rooms.get(tenant_id)
        return [] if room is None else list(room.streams)

    # -- what it does by itself ----------------------------------------------------------------------

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Look after the streams while this is open, and end them with it."""
        keepers = [
            asyncio.create_task(self._keep_ticking(), name="streams"),
            asyncio.create_task(self._keep_checking(), name="streams-check"),
        ]
        try:
            yield
        finally:
            self.end()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._tick()

    def _tick(self) -> None:
        before, self._heard = self._heard, self._hears()
        if self._heard and not before:
            self.changed(None, None)
        has_gone_deaf = before and not self._heard
        silent_since, now = time.monotonic() - BEAT_S, datetime.now(UTC)
        for stream in self._streams_of(None):
            if stream.ends_at is not None and stream.ends_at <= now:
                stream.end(GONE)
            elif has_gone_deaf:
                stream.tell(DEAF)
            elif stream.written_at < silent_since:
                stream.tell(BEAT)

    async def _keep_checking(self) -> None:
        while True:
            await self._is_to_check.wait()
            self._is_to_check.clear()
            # One by one: however many there are, they take one connection.
            while self._to_check:
                stream = next(iter(self._to_check))
                del self._to_check[stream]
                if not await self._check(stream):
                    self._to_check[stream] = None
                    await asyncio.sleep(TICK_S)

    async def _check(self, stream: Stream) -> bool:
        """End the stream if it is no longer anybody's; False when that cannot be found out now."""
        try:
            principal = await self._find(stream.tenant_id, stream.token)
        except TenantSuspendedError:
            principal = None
        except MetricsServiceError as error:
            log.warning("streams are checked later", reason=str(error))
            return False
        except Exception:
            # Nobody waits for it, and the others must be checked.
            log.exception("streams are checked later")
            return False
        if principal is None or not principal.allows("read"):
            stream.end(GONE)
        else:
            stream.ends_at = principal.expires_at
        return True


def sessions_changed(sessions: set[UUID], streams: int) -> bytes:
    return _changed({"sessions": [str(one) for one in sessions], "within": _within(streams)})


def many_changed(streams: int) -> bytes:
    return _changed({"many": True, "within": _within(streams)})


def _changed(data: dict[str, object]) -> bytes:
    return b"event: changed\ndata: %b\n\n" % msgspec.json.encode(data)


def _within(streams: int) -> int:
    """Over how many seconds pages are to spread their next requests."""
    return streams // FETCHES_A_SECOND
