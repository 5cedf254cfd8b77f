"""What was looked up of tenants, remembered: in memory, and behind it in Redis where there is one.

What is remembered holds for as long as changes are heard of, or for a second where they are not. What
Redis has is believed only when it is certain that it has seen every change that this process heard of.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from metrics_service.cache.flights import Flights
from metrics_service.cache.second_level import NOBODY, SecondLevel
from metrics_service.db.again import UNDONE, repeated
from metrics_service.db.attempts import Attempt
from metrics_service.observability import catalog
from metrics_service.tenants.database_time import Moment

# Not everything that changes is announced: somebody may have written into the registry by hand. So what
# is older is looked up again, behind the back of whoever is served from memory meanwhile.
FRESH_S = 60.0
# A refresh that failed is not tried again by everyone who asks.
REFRESHED_EVERY_S = 1.0
# What was looked up in one burst is old all at once: nobody waits for it, so it takes its time.
MAX_REFRESHES = 2
# More tenants than these that changed are taken for all.
MAX_CHANGED = 1_000
# Who comes later may know of a change that a look-up under way has missed.
JOINED_FOR_S = 1.0

V = TypeVar("V", bound=msgspec.Struct)
Place: TypeAlias = tuple[UUID, bytes]


class Found(msgspec.Struct, Generic[V], frozen=True):
    """What a look-up gave, and when it began by the database's clock."""

    value: V
    moment: Moment


class Hears(Protocol):
    """Whoever hears of changes."""

    def age_s(self, tenant_id: UUID, moment: Moment) -> float | None: ...

    def announce(self, tenant_id: UUID) -> None: ...


class Shared(msgspec.Struct, frozen=True):
    """What processes remember together, and who knows whether it still holds."""

    second: SecondLevel
    listener: Hears


class _Remembered(msgspec.Struct, Generic[V]):
    since: float
    owner: UUID
    value: V
    refreshed_at: float


class LookUps(Generic[V]):
    """One kind of look-up; bounded, least recently used out first.

    `refuse` raises `UnavailableError` while the database is away.
    """

    def __init__(
        self,
        name: str,
        kind: type[V],
        *,
        max_entries: int,
        ttl_s: Callable[[], float],
        refuse: Callable[[], None],
        owner_of: Callable[[UUID, V], UUID] = lambda tenant_id, _: tenant_id,
        shared: Shared | None = None,
    ) -> None:
        """`owner_of` says with whose changes an answer is forgotten; it may not be who it was asked of."""
        self._name = name
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._refuse = refuse
        self._owner_of = owner_of
        self._shared = shared
        # Two versions of the service beside each other do not read each other's.
        self._kind = ",".join((name, *kind.__struct_fields__))
        self._decoder = msgspec.msgpack.Decoder(tuple[kind, Moment])  # type: ignore[valid-type]
        self._remembered: OrderedDict[Place, _Remembered[V]] = OrderedDict()
        # What a change of one tenant costs must not grow with what is remembered of all others.
        self._places_of: defaultdict[UUID, set[Place]] = defaultdict(set)
        self._flights: Flights[Place, V | None] = Flights(joined_for_s=JOINED_FOR_S)
        self._refreshing: set[asyncio.Task[V | None]] = set()
        # An answer asked for before a change and arriving after it must not be remembered; but who
        # changes something over and over must not keep those of others from it.
        self._changes = self._all_changed = 0
        self._changed: dict[UUID, int] = {}
        catalog.CACHE_ENTRIES.read_of(self._remembered, len, name)

    async def find(
        self,
        tenant_id: UUID,
        key: bytes,
        look_up: Callable[[], Coroutine[Any, Any, Found[V] | None]],
    ) -> V | None:
        """What is remembered under the key, or what the database says now, asked once for all."""
        place = (tenant_id, key)
        known = self._remembered.get(place)
        if known is not None:
            age = time.monotonic() - known.since
            if age <= self._ttl_s():
                catalog.note_lookup(self._name, is_hit=True)
                self._remembered.move_to_end(place)
                if age > FRESH_S:
                    self._refresh(place, known, look_up)
                return known.value
        if self._shared is None:
            # Nobody else could answer, and a flight for each who asks would cost more than to refuse them.
            self._refuse()
        # Who waits for what is looked up already asks the database nothing either.
        catalog.note_lookup(self._name, is_hit=place in self._flights)
        return await self._flights.join(place, lambda: self._fetch(place, look_up))

    def forget(self, tenant_id: UUID | None) -> None:
        """Forget what is one tenant's, or everything."""
        self._note_change(tenant_id)
        self._flights.part(lambda place: tenant_id is None or place[0] in {tenant_id, NOBODY})
        if tenant_id is None:
            self._remembered.clear()
            self._places_of.clear()
            return
        places = self._places_of.pop(tenant_id, set())
        for place in places:
            del self._remembered[place]
        if self._shared is not None:
            self._delete(self._shared.second, places)

    def forget_everywhere(self, tenant_id: UUID) -> None:
        """Forget what is one tenant's, which was changed here, and tell whom NOTIFY does not reach."""
        self.forget(tenant_id)
        if self._shared is not None:
            self._shared.listener.announce(tenant_id)

    def _note_change(self, tenant_id: UUID | None) -> None:
        self._changes += 1
        if tenant_id is None or len(self._changed) >= MAX_CHANGED:
            self._changed.clear()
            self._all_changed = self._changes
        else:
            self._changed[tenant_id] = self._changes

    def _delete(self, second: SecondLevel, places: set[Place]) -> None:
        keys_of = defaultdict(list)
        for tenant_id, key in places:
            keys_of[tenant_id].append(key)
        for tenant_id, keys in keys_of.items():
            second.soon(second.delete(tenant_id, self._kind, *keys))

    # -- fetching -----------------------------------------------------------------------------------

    def _refresh(
        self,
        place: Place,
        known: _Remembered[V],
        look_up: Callable[[], Coroutine[Any, Any, Found[V] | None]],
    ) -> None:
        now = time.monotonic()
        if (
            len(self._refreshing) >= MAX_REFRESHES
            or now - known.refreshed_at < REFRESHED_EVERY_S
            or place in self._flights
        ):
            return
        known.refreshed_at = now
        # Does it fail, what is known is served on.
        task = self._flights.begin(place, lambda: self._fetch(place, look_up))
        self._refreshing.add(task)
        task.add_done_callback(self._refreshing.discard)

    async def _fetch(
        self, place: Place, look_up: Callable[[], Coroutine[Any, Any, Found[V] | None]]
    ) -> V | None:
        changes, begun_at = self._changes, time.monotonic()
        found = await self._ask_second(place)
        if found is None:
            begun_at = time.monotonic()
            found = await self._ask_database(place, look_up)
        self._remember(place, begun_at, found, changes)
        return None if found is None else found[0]

    async def _ask_second(self, place: Place) -> tuple[V, float] | None:
        shared = self._shared
        if shared is None:
            return None
        kept = await shared.second.get(place[0], self._kind, place[1])
        if kept is None:
            return None
        try:
            value, moment = self._decoder.decode(kept)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        age_s = shared.listener.age_s(self._owner_of(place[0], value), moment)
        return None if age_s is None or age_s > FRESH_S else (value, age_s)

    async def _ask_database(
        self, place: Place, look_up: Callable[[], Coroutine[Any, Any, Found[V] | None]]
    ) -> tuple[V, float] | None:
        try:
            found = await look_up()
        except UNDONE as error:
            # Whoever waits for it has not begun with anything yet.
            found = await repeated(look_up, error, Attempt(), is_repeatable=True)
        if found is None:
            return None
        if self._shared is not None:
            second = self._shared.second
            kept = msgspec.msgpack.encode((found.value, found.moment))
            second.soon(second.put(place[0], self._kind, place[1], kept, ttl_s=FRESH_S))
        return found.value, 0.0

    # -- remembering --------------------------------------------------------------------------------

    def _remember(
        self, place: Place, now: float, found: tuple[V, float] | None, changes: int
    ) -> None:
        if found is None:
            self._drop(place)
            return
        value, age_s = found
        owner = self._owner_of(place[0], value)
        if changes < max(self._all_changed, self._changed.get(owner, 0)):
            return
        self._drop(place)
        self._remembered[place] = _Remembered(now - age_s, owner, value, now)
        self._places_of[owner].add(place)
        if len(self._remembered) > self._max_entries:
            self._drop(next(iter(self._remembered)))

    def _drop(self, place: Place) -> None:
        known = self._remembered.pop(place, None)
        if known is None:
            return
        places = self._places_of[known.owner]
        places.discard(place)
        if not places:
            del self._places_of[known.owner]
