"""What is rolled up: three tables of facts, by which dimensions, into which sums.

A rollup row is an hour or a UTC day of one cube: of the columns that it is kept by. All dimensions
together are kept by the day only, because by the hour they hardly group anything: a session has one
user, one team and one repository, so a row would stand for three calls (measured on 10 million).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from metrics_service.rollups.histogram import bucket_of, one_of

Cube = Literal["agent", "user", "place", "what", "who", "all"]
Grain = Literal["hourly", "daily"]

UNIT: Mapping[Grain, str] = {"hourly": "hour", "daily": "day"}

WHO = ("agent", "user_id", "team", "repository")
"""Who did it, and where."""

# Telemetry keeps the times that its clients' clocks say; those that cannot be stand at the edge.
_WITHIN = "least(greatest(f.{0}, '2015-01-01T00:00:00Z'::timestamptz), f.{1} + interval '1 day')"

# Up to more than a duration can be; sums are numeric, and never overflow. Null for null.
_MICROSECONDS = "CASE WHEN f.{0} >= 0 THEN round(least(f.{0}, 1e13) * 1000)::bigint END"


class Rollup(msgspec.Struct, frozen=True):
    """A table of rollups."""

    table: str
    grain: Grain
    cubes: dict[Cube, tuple[str, ...]]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One table of facts, called `f` in every expression."""

    name: str
    table: str
    own: tuple[str, ...]
    """The dimensions that only this source has."""
    moment: str
    """When it happened, within what can be."""
    sums: Mapping[str, str]
    """The columns of its rollups, each with what one fact adds."""
    has_durations: bool = False
    """Whether there is a histogram of `duration_ms`, in the column `durations`."""
    needs: tuple[str, ...]
    """The columns of a fact that all of this is made of."""
    is_of_sessions: bool = False
    """Whether a fact is a session, and knows its team and repository itself."""

    def needed(self, alias: str) -> str:
        """The columns that `needs` names, for a list after SELECT or RETURNING."""
        return ", ".join(f"{alias}.{name}" for name in self.needs)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """All of them, in the order of the rollups' columns."""
        return (*self.own, *WHO)

    def table_of(self, grain: Grain, cube: Cube) -> str:
        # By itself: ten times the rows of the others, which would lie scattered among them.
        return f"{self.name}_{grain}_all" if cube == "all" else f"{self.name}_{grain}"

    def cubes(self, grain: Grain) -> dict[Cube, tuple[str, ...]]:
        """The dimensions of each cube that is kept at this grain, those with the fewest rows first."""
        agent: dict[Cube, tuple[str, ...]] = {"agent": ("agent",)}
        others: dict[Cube, tuple[str, ...]] = {
            "place": ("team", "repository"),
            "user": ("user_id",),
        }
        if self.is_of_sessions:
            # Few enough to be kept by all dimensions everywhere.
            who: dict[Cube, tuple[str, ...]] = {"who": self.dimensions}
            return {**agent, **who} if grain == "hourly" else {**agent, **others, **who}
        both: dict[Cube, tuple[str, ...]] = {"what": (*self.own, "agent"), "who": WHO}
        if grain == "hourly":
            return {**agent, **both}
        return {**agent, **others, **both, "all": self.dimensions}

    @property
    def rollups(self) -> list[Rollup]:
        """Its rollup tables, in the order in which they are locked."""
        tables: dict[str, Rollup] = {}
        for grain in UNIT:
            for cube, kept in self.cubes(grain).items():
                table = self.table_of(grain, cube)
                tables.setdefault(table, Rollup(table, grain, {})).cubes[cube] = kept
        return list(tables.values())

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that add up."""
        return (*self.sums, "durations") if self.has_durations else tuple(self.sums)

    @property
    def session_join(self) -> str:
        """What makes a fact's session `s`, after the table; nothing where it is one itself."""
        if self.is_of_sessions:
            return ""
        return "LEFT JOIN metrics_sessions s ON s.tenant_id = f.tenant_id AND s.id = f.session_id"

    def placed(self, name: str) -> str:
        """A dimension of a fact; its team and repository are those of its session."""
        is_elsewhere = not self.is_of_sessions and name in ("team", "repository")
        return f"s.{name}" if is_elsewhere else f"f.{name}"

    def added(self, name: str) -> str:
        """What a fact adds to one of `columns`."""
        return one_of(self.duration_bucket) if name == "durations" else self.sums[name]

    @property
    def duration_bucket(self) -> str:
        return bucket_of("f.duration_ms")


def _each(column: str, *values: str) -> Iterator[tuple[str, str]]:
    for value in values:
        yield f"{column}_{value}", f"(f.{column} = '{value}')::int"


def _timed(name: str) -> Iterator[tuple[str, str]]:
    yield f"{name}_count", f"(f.{name}_ms IS NOT NULL)::int"
    yield f"{name}_us", _MICROSECONDS.format(f"{name}_ms")


def _plain(*columns: str) -> Iterator[tuple[str, str]]:
    for column in columns:
        yield column, f"f.{column}"


TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd_micros",
)

TOOL_METRICS = Source(
    name="tool_metrics",
    table="tool_metrics",
    own=("tool_name", "tool_category"),
    moment=_WITHIN.format("started_at", "received_at"),
    sums=dict(
        [
            ("count", "1"),
            *_each("status", "success", "error", "rejected", "cancelled", "timeout", "unknown"),
            *_each("decision", "accept", "modify", "reject", "cancel"),
            *_timed("duration"),
            *_timed("wait"),
            ("cpu_us", _MICROSECONDS.format("cpu_ms")),
        ]
    ),
    has_durations=True,
    needs=(
        "session_id", "agent", "user_id", "tool_name", "tool_category", "started_at",
        "received_at", "status", "decision", "duration_ms", "wait_ms", "cpu_ms", "is_counted",
    ),
)  # fmt: skip

MODEL_CALLS = Source(
    name="model_calls",
    table="model_calls",
    own=("provider", "request_model"),
    moment=_WITHIN.format("started_at", "received_at"),
    sums=dict(
        [
            ("count", "1"),
            *_each("status", "success", "error", "cancelled"),
            *_timed("duration"),
            *_timed("ttft"),
            *_plain(*TOKENS, "input_uncached_tokens"),
            (
                "estimated_cost_usd_micros",
                "CASE WHEN f.cost_source = 'estimated' THEN f.cost_usd_micros END",
            ),
        ]
    ),
    has_durations=True,
    needs=(
        "session_id", "agent", "user_id", "provider", "request_model", "started_at",
        "received_at", "status", "duration_ms", "ttft_ms", *TOKENS, "input_uncached_tokens",
        "cost_source", "is_counted",
    ),
)  # fmt: skip

_FIGURES = (
    "tool_call_count",
    "tool_error_count",
    "tool_reject_count",
    "model_call_count",
    "model_error_count",
    *TOKENS,
    "lines_added",
    "lines_removed",
    "commits",
    "pull_requests",
    "prompt_count",
    "turn_count",
    "compactions",
)

SESSIONS = Source(
    name="sessions",
    table="metrics_sessions",
    own=("session_type",),
    moment=_WITHIN.format("started_at", "created_at"),
    sums=dict(
        [
            ("count", "1"),
            *_plain(*_FIGURES),
            ("active_ms_user", "round(f.active_seconds_user * 1000)::bigint"),
            ("active_ms_agent", "round(f.active_seconds_agent * 1000)::bigint"),
            ("score_count", "(f.productivity_score IS NOT NULL)::int"),
            ("score_milli", "round(f.productivity_score * 1000)::bigint"),
        ]
    ),
    needs=(
        "id", "agent", "user_id", "team", "repository", "session_type", "started_at", "created_at",
        *_FIGURES, "active_seconds_user", "active_seconds_agent", "productivity_score",
    ),
    is_of_sessions=True,
)  # fmt: skip

SOURCES: Mapping[str, Source] = {
    source.name: source for source in (TOOL_METRICS, MODEL_CALLS, SESSIONS)
}
