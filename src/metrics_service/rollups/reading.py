"""The statement that a plan is read with: rollup rows and facts together, summed by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from metrics_service.db.statements import Where
from metrics_service.rollups.plan import Plan
from metrics_service.rollups.queries import Value
from metrics_service.rollups.ranges import Piece, Time


def statement_of(plan: Plan) -> tuple[str, list[Any]]:
    where = Where()
    bounds = {unit: _bound(where, moments) for unit, moments in plan.starts.items()}
    filters = {
        name: condition_of(where, name, values) for name, values in plan.query.filters.items()
    }
    parts = " UNION ALL ".join(_part(plan, piece, where, bounds, filters) for piece in plan.pieces)
    groups = "".join(f"{name}, " for name in plan.query.group_by)
    sums = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in plan.columns)
    figures = "".join(
        f"{measure.sql} AS {name}, "
        for name, measure in plan.measures.items()
        if measure.share is None
    )
    if plan.has_percentiles:
        figures += "numeric_send(durations) AS durations, "
    # A group that nothing is left of is none; all of it together is one even of nothing.
    grouping = f"GROUP BY {', '.join(plan.query.group_by)} HAVING sum(count) > 0" if groups else ""
    order = f"ORDER BY {', '.join(plan.sql_order)}" if groups else ""
    limit = plan.most
    if plan.query.limit is not None and plan.order is None:
        limit = min(limit, plan.query.limit)
    # One row too many tells that there are too many.
    return (
        f"""
        SELECT {groups} {figures} max(updated_at) OVER () AS updated_at
        FROM (
            SELECT {groups} {sums}, max(updated_at) AS updated_at
            FROM ({parts}) part {grouping}
        ) summed {order} LIMIT {where.bind(limit + 1)}
        """,
        where.values,
    )


def _bound(where: Where, moments: Sequence[datetime]) -> str:
    # As text, because the driver asks the catalog about types of arrays; read once, not a row.
    written = ",".join(moment.isoformat() for moment in moments)
    return f"(SELECT {where.bind('{' + written + '}')}::text::timestamptz[])"


def condition_of(where: Where, name: str, values: Sequence[Value]) -> str:
    """One condition on the column that stands for `?`."""
    kind = "uuid" if name == "user_id" else "text"
    known = [value for value in values if value is not None]
    options = []
    if len(known) == 1:
        options.append(f"? = {where.bind(known[0])}::{kind}")
    elif known:
        bound = where.bind(msgspec.json.encode(known).decode())
        options.append(f"? IN (SELECT value::{kind} FROM json_array_elements_text({bound}::json))")
    if len(known) < len(values):
        options.append("? IS NULL")
    return f"({' OR '.join(options)})" if options else "false"


def _part(
    plan: Plan,
    piece: Piece,
    where: Where,
    bounds: Mapping[Time, str],
    filters: Mapping[str, str],
) -> str:
    source = plan.source
    start, end = where.bind(piece.start), where.bind(piece.end)
    if piece.grain == "raw":
        relation, moment = f"{source.table} f {sessions_of(plan)}", "f.started_at"
        columns = {name: source.placed(name) for name in source.dimensions}
        columns["hour"] = f"date_trunc('hour', {moment}, 'UTC')"
        sums = {name: f"({source.added(name)})::{_type(name)}" for name in plan.columns}
        # Where a clock was wrong the fact stands elsewhere in the rollups, and is not looked for.
        conditions = [
            f"{source.moment} = f.started_at",
            *([] if source.is_of_sessions else ["f.is_counted"]),
        ]
        updated_at = "NULL::timestamptz"
    else:
        cube = plan.cubes[piece.grain]
        relation, moment = f"{source.table_of(piece.grain, cube)} f", "f.bucket"
        columns = {"hour": moment, **{name: f"f.{name}" for name in source.dimensions}}
        sums = {name: f"f.{name}" for name in plan.columns}
        conditions = [f"f.cube = '{cube}'"]
        updated_at = "f.updated_at"
    for name in plan.starts:
        columns[name] = f"width_bucket({moment}, {bounds[name]})"
    groups = "".join(f"{columns[name]} AS {name}, " for name in plan.query.group_by)
    conditions += [
        f"{moment} >= {start}",
        f"{moment} < {end}",
        *(condition.replace("?", columns[name]) for name, condition in filters.items()),
    ]
    figures = ", ".join(f"{value} AS {name}" for name, value in sums.items())
    return f"""
        SELECT {groups} {figures}, {updated_at} AS updated_at
        FROM {relation} WHERE {" AND ".join(conditions)}
    """


def sessions_of(plan: Plan) -> str:
    """The join to the session of a fact, where its team or repository is asked for."""
    asked = {*plan.query.group_by, *plan.query.filters}
    return plan.source.session_join if {"team", "repository"} & asked else ""


def _type(name: str) -> str:
    """The parts of a UNION have the same types, or each is copied."""
    return "bigint" if name == "count" else "numeric"
