"""`/models`: which models are asked, how well and how fast they answer, and what that costs."""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from metrics_service.dashboards.data import Row, WidgetData
from metrics_service.dashboards.pictures.figures import figure
from metrics_service.dashboards.widgets import Widget
from metrics_service.db.tenancy import ContextConnection, hot_door
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.web.about import (
    FILTERS,
    About,
    FilterQuery,
    question,
    share,
    total,
    troubles,
)
from metrics_service.web.choices import Choices, fetch_choices
from metrics_service.web.elsewhere import Elsewhere, find_elsewhere
from metrics_service.web.figures import Figure
from metrics_service.web.page import page_of, remembered, render
from metrics_service.web.query import page_query
from metrics_service.web.viewer import Viewer

PATH = "/models"
MAX_MODELS = 200
PAYERS = 8

TOTALS = (
    "cost_usd_micros estimated_cost_usd_micros count error_rate input_tokens output_tokens"
    " cache_hit_rate"
)
FIGURES = (
    "cost_usd_micros estimated_cost_usd_micros count error_count error_rate input_tokens"
    " cache_read_tokens cache_hit_rate output_tokens reasoning_tokens p50_ms p95_ms avg_ttft_ms"
)


class Model(msgspec.Struct, frozen=True):
    """A row of the table."""

    name: str | None
    provider: str | None
    figures: Row
    share: float | None
    """Of the whole cost."""
    source: str
    """Where its cost is from, in words."""


class Payer(msgspec.Struct, frozen=True):
    """What one agent, team or repository costs."""

    name: str | None
    cost: float
    share: float | None
    source: str


class Payers(msgspec.Struct, frozen=True):
    """Who costs most, by one column."""

    column: str
    rows: list[Payer]
    rest: float
    """What all others cost together."""
    error: str | None


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows."""

    elsewhere: Elsewhere | None
    choices: Choices
    whole: Row
    before: Row
    source: str
    cost_chart: Figure
    models: list[Model]
    is_cut: bool
    payers: list[Payers]
    troubles: list[str]
    """Why some of it could not be answered."""


@get(PATH, opt=requires("read"))
async def get_models(request: AnyRequest, caller: NamedDependency[Caller]) -> Response[bytes]:
    about = About.of(page_query(request, FilterQuery), Viewer.of(request))

    async def make() -> str:
        async with caller.snapshot() as tx:
            found = await _read(await hot_door(tx), about)
        return render(request, "models.html", {"about": about, "path": PATH, "found": found})

    main = await remembered(request, caller, ("models", about.key), make)
    return page_of(request, main, title="Models and cost", caller=caller, styles=["models.css"])


def _questions(about: About) -> dict[str, Widget]:
    bucket = about.period.bucket
    # By team or repository models are not rolled up by the hour, and agents are.
    which = "agent" if about.is_placed else "request_model"
    cost = "cost_usd_micros estimated_cost_usd_micros"
    asked = [
        question("whole", "model_calls", TOTALS, compare="previous_period"),
        question(
            "cost", "model_calls", "cost_usd_micros", f"{bucket} {which}", title="Cost",
            description="by agent" if about.is_placed else "by model", mark="bar",
        ),
        question("models", "model_calls", FIGURES, "request_model provider", limit=MAX_MODELS),
        *(question(name, "model_calls", cost, name, limit=PAYERS) for name in FILTERS),
    ]  # fmt: skip
    return {one.id: one for one in asked}


async def _read(connection: ContextConnection, about: About) -> Models:
    asked = _questions(about)
    found = await about.read(connection, list(asked.values()))
    whole = found["whole"]
    now = whole.rows[0] if whole.rows else {}
    is_empty = not now.get("count") and whole.error is None
    cost = now.get("cost_usd_micros") or 0
    return Models(
        elsewhere=await find_elsewhere(connection, about) if is_empty else None,
        choices=await fetch_choices(connection, about.period),
        whole=now,
        before=whole.previous.rows[0] if whole.previous else {},
        source=source_in_words(now) if now else "",
        cost_chart=about.drawn(
            asked["cost"], found["cost"], "cost_usd_micros", columns=12, height=260
        ),
        models=[_model(row, cost) for row in found["models"].rows],
        is_cut=found["models"].truncated,
        payers=[_payers(found[name], name, cost) for name in FILTERS],
        troubles=troubles(found[name] for name in ("whole", "models")),
    )


def _model(row: Row, whole: float) -> Model:
    return Model(
        row["request_model"],
        row["provider"],
        row,
        share(row["cost_usd_micros"] or 0, whole),
        source_in_words(row),
    )


def _payers(data: WidgetData, column: str, whole: float) -> Payers:
    rows = [
        Payer(row[column], cost, share(cost, whole), source_in_words(row))
        for row in data.rows
        if (cost := row["cost_usd_micros"])
    ]
    rest = whole - total(data.rows, "cost_usd_micros") if data.truncated else 0
    return Payers(column, rows, rest, data.error)


def source_in_words(row: Row) -> str:
    """Whether a cost is what agents reported, or estimated from the prices of a list."""
    cost, estimated = row["cost_usd_micros"], row["estimated_cost_usd_micros"]
    if not cost:
        return "not known"
    if not estimated:
        return "reported"
    if estimated >= cost:
        return "estimated"
    return f"{figure(estimated, 'usd_micros')} estimated"
