"""What happened in one session, in order: its events, model calls and tool calls as one list.

Each of the three tables is read by its index of sessions, from where the page before ended, and only as
far as a page goes; so a page costs the same wherever it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, cast, get_args
from uuid import UUID

import msgspec

from metrics_service.db.pages import Position
from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection
from metrics_service.sessions.repository import like

Kind = Literal["prompts", "models", "tools", "marks", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
USUAL: frozenset[Kind] = frozenset(KINDS) - {"other"}

PROMPTS = ("prompt", "response")
# What explains the calls around it; all others are the clients' own words about them.
MARKS = ("compaction", "error", "mode", "subagent")

# More of a text stands in no list.
LONGEST = 600

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Of a position: its microseconds, and which of the three tables comes first in one of them.
RANKS = 4


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows of a session are asked for."""

    session_id: UUID
    kinds: frozenset[Kind] = USUAL
    failed: bool = False
    q: str | None = None


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One row: something that happened, and what is known of it."""

    rank: int
    id: UUID
    at: datetime
    kind: str
    """tool, model, or what kind of event."""
    name: str
    said: str | None
    """What a person or a model wrote, where that is kept; the beginning of it."""
    said_length: int | None
    input_bytes: int | None
    output_bytes: int | None
    status: str | None
    has_failed: bool
    duration_ms: float | None
    wait_ms: float | None
    error_type: str | None
    error_message: str | None
    input_tokens: int | None
    cache_read_tokens: int | None
    output_tokens: int | None
    cost_usd_micros: int | None
    cost_source: str | None
    decision: str | None
    decision_mode: str | None
    lines_added: int | None
    lines_removed: int | None
    note: str | None
    """Where a tool is from, or what asked for a model call."""
    depth: int
    """How many agents stand between it and the session's own."""

    @property
    def position(self) -> Position:
        return position_at(self.at, self.rank, self.id)


class _Source(msgspec.Struct, frozen=True):
    """One of the three tables: `f` in every expression."""

    table: str
    at: str
    failed: str
    searched: tuple[str, ...]
    columns: Mapping[str, str]
    counted: str | None = None


SUBAGENT_DEPTH = """CASE WHEN f.parent_agent_instance_id IS NOT NULL THEN 2
    WHEN f.agent = 'claude-code' AND f.agent_instance_id IS NOT NULL THEN 1 ELSE 0 END"""

# The type of each, for where a table has nothing to say.
TYPES = {
    "kind": "text",
    "name": "text",
    "said": "text",
    "said_length": "integer",
    "input_bytes": "bigint",
    "output_bytes": "bigint",
    "status": "text",
    "duration_ms": "double precision",
    "wait_ms": "double precision",
    "error_type": "text",
    "error_message": "text",
    "input_tokens": "bigint",
    "cache_read_tokens": "bigint",
    "output_tokens": "bigint",
    "cost_usd_micros": "bigint",
    "cost_source": "text",
    "decision": "text",
    "decision_mode": "text",
    "lines_added": "bigint",
    "lines_removed": "bigint",
    "note": "text",
    "depth": "integer",
}


def _text(column: str) -> dict[str, str]:
    return {"said": f"left({column}, {LONGEST})", "said_length": f"length({column})"}


EVENTS = _Source(
    table="session_events",
    at="f.occurred_at",
    failed="""(f.kind = 'error' OR f.severity >= 17 OR f.attributes ->> 'status' = 'error')""",
    searched=("f.name", "f.content"),
    columns={
        "kind": "f.kind",
        "name": "f.name",
        **_text("f.content"),
        # Clients say how long it is where they do not send it, and where they do we count.
        "input_bytes": """CASE WHEN jsonb_typeof(coalesce(f.attributes -> 'prompt_bytes',
            f.attributes -> 'prompt_length')) = 'number' THEN trunc(coalesce(
            f.attributes -> 'prompt_bytes', f.attributes -> 'prompt_length')::numeric)::bigint END""",
        "duration_ms": "f.duration_ms",
    },
)
MODELS = _Source(
    table="model_calls",
    at="f.started_at",
    counted="f.is_counted",
    failed="f.status = 'error'",
    searched=("f.request_model", "f.response_model", "f.error_type", "f.error_message"),
    columns={
        "kind": "'model'",
        "name": "coalesce(f.response_model, f.request_model, f.provider, 'model')",
        "status": "f.status",
        "duration_ms": "f.duration_ms",
        "error_type": "f.error_type",
        "error_message": f"left(f.error_message, {LONGEST})",
        "input_tokens": "f.input_tokens",
        "cache_read_tokens": "f.cache_read_tokens",
        "output_tokens": "f.output_tokens",
        "cost_usd_micros": "f.cost_usd_micros",
        "cost_source": "f.cost_source",
        "note": "coalesce(f.agent_name, nullif(f.query_source, 'main'))",
        "depth": "CASE WHEN f.agent = 'claude-code' AND f.agent_instance_id IS NOT NULL THEN 1 ELSE 0 END",
    },
)
TOOLS = _Source(
    table="tool_metrics",
    at="f.started_at",
    counted="f.is_counted",
    failed="f.status IN ('error', 'timeout')",
    searched=("f.tool_name", "f.error_type", "f.error_message", "f.arguments", "f.mcp_server"),
    columns={
        "kind": "'tool'",
        "name": "f.tool_name",
        **_text("f.arguments"),
        "input_bytes": "f.input_bytes",
        "output_bytes": "f.output_bytes",
        "status": "f.status",
        "duration_ms": "f.duration_ms",
        "wait_ms": "f.wait_ms",
        "error_type": "f.error_type",
        "error_message": f"left(f.error_message, {LONGEST})",
        "decision": "f.decision",
        "decision_mode": "f.decision_mode",
        "lines_added": "f.lines_added",
        "lines_removed": "f.lines_removed",
        "note": "coalesce(f.subagent_type, f.skill_name, f.mcp_server)",
        "depth": SUBAGENT_DEPTH,
    },
)
# By rank: a prompt stands before the call that it caused.
SOURCES = (EVENTS, MODELS, TOOLS)


def position_at(at: datetime, rank: int, row_id: UUID) -> Position:
    return Position(((at - EPOCH) // MICROSECOND) * RANKS + rank, row_id)


def position_before(at: datetime) -> Position:
    """Where a page begins that starts at a moment."""
    return position_at(at, 0, UUID(int=0))


async def fetch_timeline(
    connection: ContextConnection, timeline: Timeline, *, after: Position | None, limit: int
) -> list[Moment]:
    """A page, in order of time."""
    where = Where()
    session = where.bind(timeline.session_id)
    most = where.bind(limit)
    pattern = where.bind(like(timeline.q)) if timeline.q is not None else None
    branches = [
        f"""({_branch(where, timeline, rank, session=session, pattern=pattern, after=after)}
            LIMIT {most})"""
        for rank, wanted in enumerate(_wanted(timeline.kinds))
        if wanted is not None
    ]
    if not branches:
        return []
    rows = await connection.fetch(
        f"""
        SELECT {", ".join(Moment.__struct_fields__)} FROM ({" UNION ALL ".join(branches)}) r
        ORDER BY at, rank, id LIMIT {most}
        """,
        *where.values,
    )
    return [Moment(**row) for row in rows]


def _wanted(kinds: frozenset[Kind]) -> tuple[str | None, ...]:
    """What each of the sources is to be asked for besides; None for nothing at all."""
    return (
        _events_of(kinds),
        "true" if "models" in kinds else None,
        "true" if "tools" in kinds else None,
    )


def _events_of(kinds: frozenset[Kind]) -> str | None:
    named: tuple[str, ...] = ()
    if "prompts" in kinds:
        named += PROMPTS
    if "marks" in kinds:
        named += MARKS
    if "other" in kinds:
        # All but those that have a name of their own and are not asked for.
        hidden = [name for name in (*PROMPTS, *MARKS) if name not in named]
        return f"f.kind NOT IN ({_quoted(hidden)})" if hidden else "true"
    return f"f.kind IN ({_quoted(named)})" if named else None


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _branch(
    where: Where,
    timeline: Timeline,
    rank: int,
    *,
    session: str,
    pattern: str | None,
    after: Position | None,
) -> str:
    source = SOURCES[rank]
    columns = [
        f"{source.columns.get(name, 'NULL')}::{kind} AS {name}" for name, kind in TYPES.items()
    ]
    conditions: list[str | None] = [f"f.session_id = {session}"]
    conditions += [source.counted, _wanted(timeline.kinds)[rank]]
    if timeline.failed:
        conditions.append(source.failed)
    if pattern is not None:
        found = " OR ".join(f"{column} ILIKE {pattern}" for column in source.searched)
        conditions.append(f"({found})")
    if after is not None:
        at, row_id = _bound(after, rank)
        conditions.append(f"({source.at}, f.id) > ({where.bind(at)}, {where.bind(row_id)})")
    return f"""
        SELECT {rank} AS rank, f.id, {source.at} AS at, {source.failed} IS TRUE AS has_failed,
               {", ".join(columns)}
        FROM {source.table} f WHERE {" AND ".join(filter(None, conditions))} ORDER BY {source.at}, f.id"""


def _bound(after: Position, rank: int) -> tuple[datetime, UUID]:
    """The last row of a table that is not after a position of all three."""
    microseconds, last = divmod(cast("int", after.value), RANKS)
    at = EPOCH + timedelta(microseconds=microseconds)
    if rank == last:
        return at, after.id
    # A table whose rows come first within a moment has given all of them.
    return at, UUID(int=2**128 - 1 if rank < last else 0)
