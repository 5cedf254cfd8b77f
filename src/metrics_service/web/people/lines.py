"""Who did how much: a line for each person, team or repository, from the rollups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from metrics_service.dashboards.pictures.agents import agent_name
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import InvalidQueryError
from metrics_service.rollups.queries import Filters, SeriesQuery
from metrics_service.rollups.series import read_series
from metrics_service.web.viewer import ChosenPeriod

By = Literal["person", "team", "repository"]

DIMENSIONS: Mapping[By, str] = {"person": "user_id", "team": "team", "repository": "repository"}
"""What the lines are grouped by, as the rollups call it."""

OF_TOOLS = ("count", "error_count", "accept_count", "modify_count", "reject_count")
OF_MODELS = ("count", "input_tokens", "output_tokens", "cost_usd_micros")
OF_SESSIONS = ("count", "lines_added", "lines_removed")


class AgentUsed(msgspec.Struct, frozen=True):
    name: str
    sessions: int


class Line(msgspec.Struct, kw_only=True):
    """One person, team or repository; the figures are of calls and sessions that began in the time."""

    key: str | None
    """A user's id, or the name of a team or repository; None is not known."""
    sessions: int = 0
    active_days: int | None = 0
    """On how many days a session began; None where there are too many to look through."""
    tool_calls: int = 0
    failed: int = 0
    accepted: int = 0
    refused: int = 0
    model_calls: int = 0
    tokens: int = 0
    cost: int = 0
    lines_added: int = 0
    lines_removed: int = 0
    agents: list[AgentUsed] = msgspec.field(default_factory=list)

    @property
    def failure_rate(self) -> float | None:
        return self.failed / self.tool_calls if self.tool_calls else None


class Asking(msgspec.Struct, frozen=True):
    """What all lines of a page are about."""

    period: ChosenPeriod
    filters: Filters

    def query(self, source: str, measures: Sequence[str], *group_by: str) -> SeriesQuery:
        return SeriesQuery(
            source=source,
            measures=tuple(measures),
            group_by=group_by,
            filters=self.filters,
            from_=self.period.start,
            to=self.period.end,
            zone=self.period.zone,
        )


async def read_lines(connection: ContextConnection, asking: Asking, dimension: str) -> list[Line]:
    """Raises `InvalidQueryError` for more than can be read."""
    lines: dict[str | None, Line] = {}

    def line_of(row: Mapping[str, Any]) -> Line:
        key = None if row[dimension] is None else str(row[dimension])
        return lines.setdefault(key, Line(key=key))

    await _add_sessions(connection, asking, dimension, line_of)
    await _add_days(connection, asking, dimension, line_of)
    for row in await _rows(connection, asking, "tool_metrics", OF_TOOLS, dimension):
        line = line_of(row)
        line.tool_calls, line.failed = row["count"], row["error_count"]
        # What a person let through changed is what they wanted in the end.
        line.accepted = row["accept_count"] + row["modify_count"]
        line.refused = row["reject_count"]
    for row in await _rows(connection, asking, "model_calls", OF_MODELS, dimension):
        line = line_of(row)
        line.model_calls, line.cost = row["count"], row["cost_usd_micros"]
        line.tokens = row["input_tokens"] + row["output_tokens"]
    return list(lines.values())


async def _add_sessions(
    connection: ContextConnection,
    asking: Asking,
    dimension: str,
    line_of: Callable[[Mapping[str, Any]], Line],
) -> None:
    groups = dict.fromkeys((dimension, "agent"))
    for row in await _rows(connection, asking, "sessions", OF_SESSIONS, *groups):
        line = line_of(row)
        line.sessions += row["count"]
        line.lines_added += row["lines_added"]
        line.lines_removed += row["lines_removed"]
        # The rows come with the greatest first.
        line.agents.append(AgentUsed(agent_name(row["agent"]), row["count"]))


async def _add_days(
    connection: ContextConnection,
    asking: Asking,
    dimension: str,
    line_of: Callable[[Mapping[str, Any]], Line],
) -> None:
    try:
        rows = await _rows(connection, asking, "sessions", ("count",), dimension, "day")
    except InvalidQueryError:
        # Years of thousands of people: all else can be told.
        rows = None
    for row in rows or ():
        line = line_of(row)
        line.active_days = (line.active_days or 0) + (row["count"] > 0)
    if rows is None:
        for key in await _rows(connection, asking, "sessions", ("count",), dimension):
            line_of(key).active_days = None


async def _rows(
    connection: ContextConnection,
    asking: Asking,
    source: str,
    measures: Sequence[str],
    *group_by: str,
) -> list[dict[str, Any]]:
    """The groups in which there is anything, with 0 where there is nothing to say."""
    series = await read_series(connection, asking.query(source, measures, *group_by))
    return [
        {name: 0 if name in measures and value is None else value for name, value in row.items()}
        for row in series.rows
    ]
