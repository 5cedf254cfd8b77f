"""`/sessions/{id}/timeline`: what happened in a session, row by row; and the rows of its page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta

from metrics_service.dashboards.pictures.figures import figure
from metrics_service.db.pages import Position
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import InvalidQueryError, NotFoundError
from metrics_service.fields import ShortText
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.sessions.repository import find_start
from metrics_service.sessions.timeline import (
    KINDS,
    USUAL,
    Kind,
    Moment,
    Timeline,
    fetch_timeline,
    position_before,
)
from metrics_service.web.environment import size
from metrics_service.web.page import page
from metrics_service.web.query import page_query

PAGE_ROWS = 200
# So many rows are laid out together, when they come near the window.
CHUNK_ROWS = 25

TOGGLES: Mapping[Kind, str] = {
    "prompts": "Prompts",
    "models": "Model calls",
    "tools": "Tool calls",
    "marks": "Compactions and errors",
    "other": "Other events",
}
TITLES = {
    "prompt": "Prompt",
    "response": "Response",
    "compaction": "Context compacted",
    "mode": "Mode changed",
    "subagent": "Subagent",
}
# Of the arguments of a tool: what says most, the first of these that is there.
TELLING = (
    "command", "file_path", "path", "pattern", "query", "url", "description", "prompt", "skill",
)  # fmt: skip
# Bars are logarithmic, from a millisecond to ten minutes: else all but the longest were dots.
FULL_BAR_MS = 600_000.0


class TimelineQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rows, and from where on."""

    kinds: str | None = None
    """Names of kinds with commas between them."""
    failed: bool = False
    q: ShortText | None = None
    at: Annotated[datetime, Meta(tz=True)] | None = None
    after: str | None = None


class Asked(msgspec.Struct, frozen=True):
    """A part of a session's timeline, and the addresses of others."""

    session_id: UUID
    query: TimelineQuery
    kinds: frozenset[Kind]

    @classmethod
    def of(cls, session_id: UUID, query: TimelineQuery) -> Asked:
        """Raises `InvalidQueryError` that names the parameter."""
        if query.q is not None and "\0" in query.q:
            raise InvalidQueryError("parameter q: must not contain U+0000")
        if query.at is not None and query.after is not None:
            raise InvalidQueryError("give at or after, not both")
        if query.at is not None and not 1 < query.at.year < 9999:
            # Somewhere on earth it is another year.
            raise InvalidQueryError("parameter at: is out of range")
        return cls(session_id, query, _kinds(query.kinds))

    @property
    def timeline(self) -> Timeline:
        query = self.query
        return Timeline(
            session_id=self.session_id, kinds=self.kinds, failed=query.failed, q=query.q
        )

    @property
    def listing(self) -> bytes:
        """What a cursor is bound to."""
        path, kinds = f"{self.path}/timeline", sorted(self.kinds)
        return msgspec.json.encode([path, kinds, self.query.failed, self.query.q])

    @property
    def path(self) -> str:
        return f"/sessions/{self.session_id}"

    @property
    def kept(self) -> dict[str, str]:
        """The filters, as an address says them."""
        given: dict[str, str] = {}
        if self.kinds != USUAL:
            given["kinds"] = ",".join(kind for kind in KINDS if kind in self.kinds)
        if self.query.failed:
            given["failed"] = "true"
        if self.query.q is not None:
            given["q"] = self.query.q
        return given

    def address(self, part: str = "", **changes: str | None) -> str:
        """The page of the session, or a part of it, with other parameters."""
        changed = {**self.kept, **changes}
        query = urlencode({name: value for name, value in changed.items() if value})
        return f"{self.path}{part}" + (f"?{query}" if query else "")

    def at(self, moment: datetime) -> str:
        return self.address(at=spelt(moment))

    def toggled(self, kind: Kind) -> str:
        """With a kind that is not shown, or without one that is; never without all."""
        kinds = (self.kinds ^ {kind}) or USUAL
        spelt_kinds = ",".join(one for one in KINDS if one in kinds)
        return self.address(kinds=None if kinds == USUAL else spelt_kinds)

    @property
    def is_filtered(self) -> bool:
        return bool(self.kept)

    @property
    def begins_later(self) -> bool:
        return self.query.at is not None or self.query.after is not None

    @property
    def here(self) -> str:
        """Where scripts find these very rows again."""
        query = self.query
        at = None if query.at is None else spelt(query.at)
        return self.address("/timeline", at=at, after=query.after)


def spelt(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _kinds(given: str | None) -> frozenset[Kind]:
    if given is None:
        return USUAL
    names = given.split(",")
    known = frozenset(kind for kind in KINDS if kind in names)
    if len(known) != len(names):
        raise InvalidQueryError(f"parameter kinds: must be of {', '.join(KINDS)}")
    return known


class Rows(msgspec.Struct, frozen=True):
    """A page of rows, and where the next one begins."""

    moments: list[Moment]
    cursor: str | None

    @property
    def chunks(self) -> list[list[Moment]]:
        moments = self.moments
        return [moments[at : at + CHUNK_ROWS] for at in range(0, len(moments), CHUNK_ROWS)]


async def read_rows(caller: Caller, connection: ContextConnection, asked: Asked) -> Rows:
    """Raises `InvalidCursorError`."""
    signer, query = caller.database.signer, asked.query
    after: Position | None = None
    if query.after is not None:
        after = signer.verify(caller.tenant_id, asked.listing, query.after)
    elif query.at is not None:
        after = position_before(query.at)
    moments = await fetch_timeline(connection, asked.timeline, after=after, limit=PAGE_ROWS + 1)
    if len(moments) <= PAGE_ROWS:
        return Rows(moments, None)
    moments = moments[:PAGE_ROWS]
    cursor = signer.sign(caller.tenant_id, asked.listing, moments[-1].position)
    return Rows(moments, cursor)


@get("/sessions/{session_id:uuid}/timeline", opt=requires("read"))
async def get_timeline(
    request: AnyRequest, caller: NamedDependency[Caller], session_id: FromPath[UUID]
) -> Response[bytes]:
    """A page of rows, for scripts that put it below the one before."""
    asked = Asked.of(session_id, page_query(request, TimelineQuery))
    # What filters reads all of a session, and of the longest that takes its time.
    door = caller.summarising if asked.query.q or asked.query.failed else caller.reading
    async with door() as connection:
        started_at = await find_start(connection, session_id)
        if started_at is None:
            raise NotFoundError("session", session_id)
        rows = await read_rows(caller, connection, asked)
    return page(
        request,
        "timeline.html",
        title="Timeline",
        values=values_of(asked, rows, started_at),
        caller=caller,
        styles=["session.css"],
    )


def values_of(asked: Asked, rows: Rows, started_at: datetime) -> dict[str, Any]:
    """What the template of rows is given."""
    return {
        "asked": asked,
        "rows": rows,
        "started_at": started_at,
        "offset": offset,
        "bar_of": bar_of,
        "preview": preview,
        "title_of": title_of,
        "sizes": sizes,
        "tokens": tokens,
    }


# -- how a row is written --------------------------------------------------------------------------------


def offset(at: datetime, started_at: datetime) -> str:
    """How long after the start: 1:02:03."""
    seconds = math.floor((at - started_at) / timedelta(seconds=1))
    sign = "+" if seconds >= 0 else "\N{MINUS SIGN}"
    minutes, second = divmod(abs(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{sign}{hours}:{minute:02}:{second:02}" if hours else f"{sign}{minute}:{second:02}"


def bar_of(moment: Moment) -> tuple[str, str] | None:
    """The widths of waiting and of running; together they are as long as both took."""
    wait, run = moment.wait_ms or 0.0, moment.duration_ms or 0.0
    if not wait and not run:
        return None
    whole = min(100.0, max(1.5, 100 * math.log1p(wait + run) / math.log1p(FULL_BAR_MS)))
    waited = whole * wait / (wait + run)
    return f"{waited:.1f}%", f"{whole - waited:.1f}%"


def title_of(moment: Moment) -> str:
    return TITLES.get(moment.kind, moment.name)


def preview(moment: Moment) -> str | None:
    """The part of what was said that tells most, in one line."""
    if moment.said is None or moment.kind != "tool":
        return moment.said
    try:
        given = msgspec.json.decode(moment.said)
    except msgspec.DecodeError:
        # Cut, or no JSON at all.
        return moment.said
    if isinstance(given, dict):
        for name in TELLING:
            if isinstance(value := given.get(name), str) and value:
                return value
    return moment.said


def sizes(moment: Moment) -> str:
    """How much went in and came out, where that is all that is known."""
    if moment.kind in {"tool", "prompt"} and moment.said is None:
        words = " in" if moment.kind == "tool" else ""
        told = [f"{size(moment.input_bytes)}{words}"] if moment.input_bytes is not None else []
        told += [f"{size(moment.output_bytes)} out"] if moment.output_bytes is not None else []
        return ", ".join(told)
    return f"{size(moment.output_bytes)} out" if moment.output_bytes is not None else ""


def tokens(moment: Moment) -> str:
    """In and out, and how much of what went in was cached."""
    if moment.input_tokens is None and moment.output_tokens is None:
        return ""
    return f"{figure(moment.input_tokens, '')} → {figure(moment.output_tokens, '')}"
