"""The dashboards of the demonstration: what a team looks at first."""

from __future__ import annotations

from typing import Any

import msgspec

from metrics_service.seeds.companies import Role
from metrics_service.tenants.provision import Plan

WIDGET_HEIGHT = 4
COLUMNS = 12

DAYS_SHOWN = 30


class Widget(msgspec.Struct, frozen=True, kw_only=True):
    """One tile: a query, how it is drawn, and how many of the twelve columns it takes."""

    id: str
    title: str
    kind: str
    source: str
    measures: list[str]
    group_by: list[str] = []
    mark: str | None = None
    filters: dict[str, str] = {}
    limit: int | None = None
    width: int = 6

    def stored(self) -> dict[str, Any]:
        query: dict[str, Any] = {
            "source": self.source,
            "measures": self.measures,
            "group_by": self.group_by,
            "range": {"last": f"{DAYS_SHOWN}d"},
        }
        if self.filters:
            query["filters"] = self.filters
        if self.limit is not None:
            query["limit"] = self.limit
        widget: dict[str, Any] = {
            "id": self.id,
            "title": self.title,
            "kind": self.kind,
            "query": query,
        }
        if self.mark is not None:
            widget["mark"] = self.mark
        return widget


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """One dashboard; `key` is what its id is derived from."""

    key: str
    name: str
    description: str
    visibility: str
    tags: list[str]
    owner_role: Role
    widgets: list[Widget]

    def layout(self) -> dict[str, dict[str, int]]:
        """Place the widgets in rows, from the left."""
        placed, x, y = {}, 0, 0
        for widget in self.widgets:
            if x + widget.width > COLUMNS:
                x, y = 0, y + WIDGET_HEIGHT
            placed[widget.id] = {"x": x, "y": y, "w": widget.width, "h": WIDGET_HEIGHT}
            x += widget.width
        return placed


OVERVIEW = Dashboard(
    key="overview",
    name="Team overview",
    description="How much the agents work, how well it goes, and what it costs.",
    visibility="tenant",
    tags=["overview"],
    owner_role="owner",
    widgets=[
        Widget(
            id="sessions",
            title="Sessions",
            kind="number",
            source="sessions",
            measures=["count"],
            width=4,
        ),
        Widget(
            id="error-rate",
            title="Failed tool calls",
            kind="number",
            source="tool_metrics",
            measures=["error_rate"],
            width=4,
        ),
        Widget(
            id="cost",
            title="Cost",
            kind="number",
            source="model_calls",
            measures=["cost_usd_micros"],
            width=4,
        ),
        Widget(
            id="calls-by-day",
            title="Tool calls by day",
            kind="chart",
            source="tool_metrics",
            measures=["count"],
            group_by=["day", "agent"],
            mark="bar",
            width=8,
        ),
        Widget(
            id="top-tools",
            title="Most used tools",
            kind="table",
            source="tool_metrics",
            measures=["count", "error_rate", "p95_ms"],
            group_by=["tool_name"],
            limit=10,
            width=4,
        ),
    ],
)

RELIABILITY = Dashboard(
    key="reliability",
    name="Tool reliability",
    description="Which tools fail, which are slow, and since when.",
    visibility="tenant",
    tags=["tools", "reliability"],
    owner_role="admin",
    widgets=[
        Widget(
            id="latency",
            title="Latency by day",
            kind="chart",
            source="tool_metrics",
            measures=["p50_ms", "p95_ms", "p99_ms"],
            group_by=["day"],
            mark="line",
        ),
        Widget(
            id="errors",
            title="Error rate by category",
            kind="chart",
            source="tool_metrics",
            measures=["error_rate"],
            group_by=["day", "tool_category"],
            mark="line",
        ),
        Widget(
            id="slowest",
            title="Slowest tools",
            kind="table",
            source="tool_metrics",
            measures=["count", "p50_ms", "p95_ms", "p99_ms"],
            group_by=["tool_name"],
            limit=20,
        ),
        Widget(
            id="mcp-errors",
            title="Failures of MCP tools",
            kind="chart",
            source="tool_metrics",
            measures=["error_count"],
            group_by=["tool_name"],
            filters={"tool_category": "mcp"},
            mark="bar",
        ),
    ],
)

COST = Dashboard(
    key="cost",
    name="Models and cost",
    description="Tokens, cache use and spending by model.",
    visibility="team",
    tags=["cost"],
    owner_role="editor",
    widgets=[
        Widget(
            id="cost-by-day",
            title="Cost by day",
            kind="chart",
            source="model_calls",
            measures=["cost_usd_micros"],
            group_by=["day", "request_model"],
            mark="area",
            width=12,
        ),
        Widget(
            id="tokens",
            title="Tokens by model",
            kind="table",
            source="model_calls",
            measures=["count", "input_tokens", "cache_read_tokens", "output_tokens"],
            group_by=["request_model"],
        ),
        Widget(
            id="failures",
            title="Failed model calls",
            kind="chart",
            source="model_calls",
            measures=["error_count"],
            group_by=["day"],
            mark="bar",
        ),
    ],
)

BY_PLAN: dict[Plan, tuple[Dashboard, ...]] = {
    "basic": (OVERVIEW, RELIABILITY),
    "pro": (OVERVIEW, RELIABILITY, COST),
    "enterprise": (OVERVIEW, RELIABILITY, COST),
}
