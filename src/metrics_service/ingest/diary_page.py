"""What is noted of one tenant and not yet written: lines and their refusals, bounded; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from uuid import UUID

import msgspec

from metrics_service.ingest.telemetry import row_id_of

OTHER = "other"
"""The client, or the reason, of what is more than a diary has room for."""

UNKNOWN_SIGNAL = "unknown"
"""Of what was sent to a path that names none."""

MAX_LINES = 160
# Apart from those of keys: strangers can call themselves what they like, and must not use up the room.
MAX_STRANGERS_LINES = 40
MAX_REASONS = 20
MAX_REASON_LENGTH = 300
PARTLY = 200
"""The status of items that were refused within a request that was accepted."""

_MAX_PRODUCT_BYTES = 200
# `Product/1.2 (comment) other/3`; the exporters in Go have spaces in their name.
_product = re.compile(
    r"([A-Za-z][A-Za-z0-9 ._+-]{0,63})(?:/([A-Za-z0-9._+-]{1,40}))?(?=[ (;,/]|$)"
).match
# Nobody means to send a key as his name, but what is written down here stays.
_key = re.compile(r"ms[ko]_[\w-]+")
_has_key = re.compile(r"ms[ko]_|[A-Za-z0-9]{32}").search


class Sender(msgspec.Struct, frozen=True):
    """Who sent a request, and how; by all but the version there is one line."""

    key_id: UUID | None
    """None: a credential that is nobody's."""
    signal: str
    encoding: str
    client: str
    client_version: str | None = None

    @property
    def id(self) -> UUID:
        """The id of the line."""
        key = self.key_id.bytes if self.key_id is not None else bytes(16)
        name = f"{self.signal}\0{self.encoding}\0{self.client}"
        return UUID(int=row_id_of(key, "ingest_log", name))

    def without_name(self) -> Sender:
        return msgspec.structs.replace(self, client=OTHER, client_version=None)


@lru_cache(maxsize=1024)
def client_of(user_agent: bytes) -> tuple[str, str | None]:
    """The first product that a User-Agent names, and its version."""
    text = user_agent[:_MAX_PRODUCT_BYTES].decode("latin-1").strip()
    if not text:
        return "unknown", None
    found = _product(text)
    if found is None or _has_key(found[0]):
        return OTHER, None
    return found[1].strip(), found[2]


class Taken(msgspec.Struct, frozen=True):
    """What became of the items of a request that was accepted."""

    items: int
    refused: Mapping[str, int] = {}
    """How many were refused for each reason."""
    agent: str | None = None
    agent_version: str | None = None
    duplicates: int = 0
    """How many of the items were there already, as far as their way in tells."""


class Refused(msgspec.Struct):
    """How often one thing was said, and when."""

    refused: int
    first_at: datetime
    last_at: datetime

    def add(self, other: Refused) -> None:
        self.refused += other.refused
        self.first_at = min(self.first_at, other.first_at)
        self.last_at = max(self.last_at, other.last_at)


class Line(msgspec.Struct):
    """What is to be added to one line."""

    sender: Sender
    first_at: datetime
    last_at: datetime
    agent: str | None = None
    agent_version: str | None = None
    accepted_requests: int = 0
    accepted_items: int = 0
    refused_requests: int = 0
    refused_items: int = 0
    last_accepted_at: datetime | None = None
    last_accepted_items: int | None = None
    last_refused_at: datetime | None = None
    refusals: dict[tuple[int, str], Refused] = {}
    """By status and reason."""

    def accept(self, taken: Taken, at: datetime) -> None:
        self.accepted_requests += 1
        self.accepted_items += taken.items
        self.last_at = self.last_accepted_at = at
        self.last_accepted_items = taken.items
        self._recognise(_named(taken.agent), _named(taken.agent_version))
        for reason, count in taken.refused.items():
            self.refused_items += count
            self.last_refused_at = at
            self._note(PARTLY, _told(reason), Refused(count, at, at))

    def refuse(self, status: int, reason: str, at: datetime) -> None:
        self.refused_requests += 1
        self.last_at = self.last_refused_at = at
        self._note(status, _told(reason), Refused(1, at, at))

    def add(self, later: Line) -> None:
        """Add what was noted after this."""
        if later.last_at >= self.last_at:
            self.sender = later.sender
        self.first_at = min(self.first_at, later.first_at)
        self.last_at = max(self.last_at, later.last_at)
        self._recognise(later.agent, later.agent_version)
        self.accepted_requests += later.accepted_requests
        self.accepted_items += later.accepted_items
        self.refused_requests += later.refused_requests
        self.refused_items += later.refused_items
        if later.last_accepted_at is not None:
            self.last_accepted_at = later.last_accepted_at
            self.last_accepted_items = later.last_accepted_items
        self.last_refused_at = later.last_refused_at or self.last_refused_at
        for (status, reason), refused in later.refusals.items():
            self._note(status, reason, refused)

    def _recognise(self, agent: str | None, version: str | None) -> None:
        if agent is not None and agent != self.agent:
            self.agent, self.agent_version = agent, version
        elif agent is not None:
            # Not every request says it.
            self.agent_version = version or self.agent_version

    def _note(self, status: int, reason: str, refused: Refused) -> None:
        known = self.refusals.get((status, reason))
        if known is None and reason != OTHER and len(self.refusals) >= MAX_REASONS:
            reason = OTHER
            known = self.refusals.get((status, OTHER))
        if known is None:
            self.refusals[status, reason] = refused
        else:
            known.add(refused)


class DiaryPage:
    """The lines of one tenant; those beyond the bounds are written down without a client's name."""

    def __init__(self) -> None:
        self._lines: dict[tuple[UUID | None, str, str, str], Line] = {}
        self._named = 0
        self._strangers = 0

    @property
    def lines(self) -> list[Line]:
        return list(self._lines.values())

    def accept(self, sender: Sender, taken: Taken, at: datetime) -> None:
        self._line(sender, at).accept(taken, at)

    def refuse(self, sender: Sender, status: int, reason: str, at: datetime) -> None:
        self._line(sender, at).refuse(status, reason, at)

    def add(self, later: DiaryPage | None) -> None:
        """Add what was noted after this."""
        for line in later.lines if later is not None else ():
            self._line(line.sender, line.first_at).add(line)

    def _line(self, sender: Sender, at: datetime) -> Line:
        name = (sender.key_id, sender.signal, sender.encoding, sender.client)
        line = self._lines.get(name)
        if line is None:
            if not self._has_room(sender):
                return self._line(sender.without_name(), at)
            line = self._lines[name] = Line(sender, at, at)
        elif sender.client_version != line.sender.client_version:
            line.sender = sender
        return line

    def _has_room(self, sender: Sender) -> bool:
        if sender.client == OTHER:
            return True
        if sender.key_id is None:
            self._strangers += 1
            return self._strangers <= MAX_STRANGERS_LINES
        self._named += 1
        return self._named <= MAX_LINES


def _named(name: str | None) -> str | None:
    """What a client calls itself, as it can be stored: one that cannot would take the page with it."""
    return None if name is None else _told(name)


def _told(reason: str) -> str:
    """The sentence as it can be stored."""
    printable = "".join(sign if sign.isprintable() else " " for sign in reason)
    # A reason may name a parameter, and somebody may have taken his key for one.
    printable = _key.sub("msk_…", printable)
    if len(printable) > MAX_REASON_LENGTH:
        return printable[: MAX_REASON_LENGTH - 1] + "…"
    return printable
