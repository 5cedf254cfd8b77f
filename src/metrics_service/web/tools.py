"""`/tools`: which tools are called, how often they fail and how long they take; `?tool=` is about one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from metrics_service.dashboards.data import Row
from metrics_service.dashboards.widgets import Widget
from metrics_service.db.tenancy import ContextConnection, hot_door
from metrics_service.fields import ShortText
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.web.about import (
    About,
    FilterQuery,
    question,
    total,
)
from metrics_service.web.choices import Choices, Option, fetch_choices, option
from metrics_service.web.elsewhere import Elsewhere, find_elsewhere
from metrics_service.web.figures import Figure
from metrics_service.web.page import page_of, remembered, render
from metrics_service.web.query import page_query
from metrics_service.web.tool import read_tool
from metrics_service.web.viewer import Viewer

PATH = "/tools"
# A tenant has no more names of tools; of so many the rest is found by searching.
MAX_TOOLS = 5_000
MAX_LISTED = 200

COLUMNS = {
    "tool_name": "Tool",
    "count": "Calls",
    "error_rate": "Failed",
    "p50_ms": "p50",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "total_ms": "Run time",
    "avg_wait_ms": "Waited",
}
"""What the table can be sorted by, and what stands above it."""

Sort = Literal[
    "tool_name", "-tool_name", "count", "-count", "error_rate", "-error_rate", "p50_ms", "-p50_ms",
    "p95_ms", "-p95_ms", "p99_ms", "-p99_ms", "total_ms", "-total_ms", "avg_wait_ms",
    "-avg_wait_ms",
]  # fmt: skip


class ToolsQuery(FilterQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`q` is part of a name; with `tool` the page is about that one."""

    q: ShortText | None = None
    category: ShortText | None = None
    sort: Sort = "-count"
    tool: ShortText | None = None

    @property
    def kept(self) -> dict[str, str]:
        """What an address of the list says besides time and filters."""
        given = {"q": self.q, "category": self.category}
        kept = {name: value for name, value in given.items() if value is not None}
        return kept if self.sort == "-count" else {**kept, "sort": self.sort}


class Heading(msgspec.Struct, frozen=True):
    """A column's heading, which sorts by it."""

    label: str
    address: str


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the list shows."""

    elsewhere: Elsewhere | None
    choices: Choices
    categories: list[Option]
    calls_chart: Figure
    rate_chart: Figure
    whole: float
    """How many calls there were of all tools."""
    rows: list[Row]
    matching: int
    """How many tools there are that are looked for; no more than `MAX_LISTED` are listed."""
    error: str | None
    """Why there is no table."""


@get(PATH, opt=requires("read"))
async def get_tools(request: AnyRequest, caller: NamedDependency[Caller]) -> Response[bytes]:
    query = page_query(request, ToolsQuery)
    about = About.of(query, Viewer.of(request))

    async def make() -> str:
        async with caller.snapshot() as tx:
            connection = await hot_door(tx)
            values: dict[str, Any] = {"about": about, "query": query, "path": PATH}
            if query.tool is None:
                values["found"] = await _read(connection, about, query)
                values["headings"] = _headings(about, query)
            else:
                values["found"] = await read_tool(connection, about, query.tool)
        return render(request, "tools.html" if query.tool is None else "tool.html", values)

    key = ("tools", about.key, query.tool, *query.kept.items())
    main = await remembered(request, caller, key, make)
    return page_of(request, main, title="Tools", caller=caller, styles=["tools.css"])


async def _read(connection: ContextConnection, about: About, query: ToolsQuery) -> Tools:
    asked = _questions(about, query)
    found = await about.read(connection, list(asked.values()))
    tools, over_time = found["tools"], found["over-time"]
    rows = _sorted(_matching(tools.rows[:MAX_TOOLS], query), query.sort)
    is_empty = not tools.rows and tools.error is None
    return Tools(
        elsewhere=await find_elsewhere(connection, about) if is_empty else None,
        choices=await fetch_choices(connection, about.period),
        categories=_categories(tools.rows, query),
        calls_chart=about.drawn(asked["over-time"], over_time, "count", columns=6),
        rate_chart=about.drawn(
            asked["over-time"], over_time, "error_rate", columns=6,
            id="error-rate", title="Share of calls that failed", mark="line",
        ),
        whole=total(tools.rows, "count"),
        rows=rows[:MAX_LISTED],
        matching=len(rows),
        error=tools.error,
    )  # fmt: skip


def _questions(about: About, query: ToolsQuery) -> dict[str, Widget]:
    bucket = about.period.bucket
    # The table is of all categories, because it tells which there are. By category and team together
    # there are no hours in the rollups: single calls would be read, up to half a million of them.
    is_of_kind = query.category is not None and not about.is_placed
    kind = {"tool_category": query.category} if is_of_kind else {}
    whose = "of all categories" if query.category and not is_of_kind else ""
    measures = "count error_count error_rate p50_ms p95_ms p99_ms total_ms avg_wait_ms"
    asked = [
        question("tools", "tool_metrics", measures, "tool_name tool_category"),
        question(
            "over-time", "tool_metrics", "count error_rate", bucket,
            filters=kind, title="Calls", description=whose, mark="bar",
        ),
    ]  # fmt: skip
    return {one.id: one for one in asked}


def _matching(rows: Sequence[Row], query: ToolsQuery) -> list[Row]:
    wanted = (query.q or "").casefold()
    return [
        row
        for row in rows
        if wanted in row["tool_name"].casefold() and query.category in {None, row["tool_category"]}
    ]


def _sorted(rows: list[Row], sort: Sort) -> list[Row]:
    """What has no value stands last, whichever way."""
    column = sort.removeprefix("-")
    known = [row for row in rows if row[column] is not None]
    known.sort(key=lambda row: row[column], reverse=sort.startswith("-"))
    return [*known, *(row for row in rows if row[column] is None)]


def _categories(rows: Sequence[Row], query: ToolsQuery) -> list[Option]:
    known = {row["tool_category"] for row in rows if row["tool_category"]}
    names = sorted(known | ({query.category} if query.category else set()))
    return [option(name, name, query.category) for name in names]


def _headings(about: About, query: ToolsQuery) -> dict[str, Heading]:
    return {name: _heading(about, query, name) for name in COLUMNS}


def _heading(about: About, query: ToolsQuery, name: str) -> Heading:
    """Names ascend at first, figures descend; another press turns that round."""
    usual = name if name == "tool_name" else f"-{name}"
    other = f"-{name}" if usual == name else name
    sort = other if query.sort == usual else usual
    address = about.address(PATH, **{**query.kept, "sort": sort})
    return Heading(COLUMNS[name], address)
