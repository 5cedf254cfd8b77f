"""The statements that store tool calls and model calls from telemetry; every name is a constant."""

from __future__ import annotations

from typing import Generic

import msgspec

from metrics_service.ingest.parts import RANK_SURE, ModelPart, PartT, ToolPart
from metrics_service.rollups import sources
from metrics_service.rollups.sources import Source
from metrics_service.rollups.statements import contributions

_TYPES = {
    "str": "text",
    "int": "bigint",
    "float": "double precision",
    "datetime": "timestamptz",
    "list[str]": "text[]",
    "dict[str, Any]": "jsonb",
}
_COMMON = {
    "id": "uuid",
    "session_id": "uuid",
    "agent": "text",
    "user_id": "uuid",
    "signal": "text",
    "source_rank": "smallint",
    "is_counted": "boolean",
    "part": "text",
    "parts": "jsonb",
}


class CallTable(msgspec.Struct, Generic[PartT], frozen=True):
    """One of the two tables of calls: how to insert, find and change rows of telemetry."""

    kind: type[PartT]
    source: Source
    counted: tuple[str, ...]
    """The columns that a session's figures are made of."""
    insert: str
    """$1: rows; returns the ids of those that are new, as JSON, and what they add to rollups."""
    find: str
    """$1: ids; returns what the parts were, locked."""
    change: str
    """$1: rows, each with all of its columns; returns what they add to rollups now."""
    outdone: str
    """$1: sessions with a rank; returns what `demote` takes from rollups."""
    demote: str
    """$1: sessions with a rank; what ranks below no longer counts."""
    adopt: str
    """$1: pairs of sessions, the old one's rows become the new one's."""
    attribute: str
    """$1: sessions with a user: their rows become that user's."""


def _columns(kind: type[ToolPart | ModelPart], others: dict[str, str]) -> dict[str, str]:
    types = {
        name: _TYPES[str(annotation).removesuffix(" | None")]
        for name, annotation in kind.__annotations__.items()
    }
    return _COMMON | types | others


def _table(
    source: Source,
    kind: type[PartT],
    others: dict[str, str],
    defaults: dict[str, str],
    counted: tuple[str, ...],
) -> CallTable[PartT]:
    table = source.table
    seen = ", ".join(f"t.{name}" for name in counted)
    columns = _columns(kind, others)
    record = ", ".join(f"{name} {type_}" for name, type_ in columns.items())
    names = ", ".join(columns)
    values = ", ".join(
        f"coalesce({name}, {defaults[name]})" if name in defaults else name for name in columns
    )
    changes = ", ".join(
        f"{name} = coalesce(r.{name}, {defaults[name]})"
        if name in defaults
        else f"{name} = r.{name}"
        for name in columns
        if name not in ("id", "agent")
    )
    outdone = f"""
        t.session_id = r.session_id AND t.source_rank < r.rank AND t.is_counted
        AND t.source_rank < {RANK_SURE}
    """
    return CallTable(
        kind=kind,
        source=source,
        counted=counted,
        insert=f"""
            WITH item AS MATERIALIZED (SELECT * FROM json_to_recordset($1::json) AS r({record})),
            stored AS (
                INSERT INTO {table} AS t ({names}) SELECT {values} FROM item
                ON CONFLICT (tenant_id, id) DO NOTHING RETURNING t.id, {source.needed("t")}
            )
            SELECT true AS is_ids, NULL::uuid AS session_id, json_agg(id)::text AS rows FROM stored
            UNION ALL SELECT false, c.session_id, c.rows FROM ({contributions(source, "stored")}) c
        """,
        find=f"""
            SELECT t.id, t.session_id, t.agent, t.user_id, t.source_rank, t.is_counted, t.part,
                   t.parts::text, CASE WHEN t.parts IS NULL THEN to_json(t)::text END AS row, {seen}
            FROM {table} t
            WHERE id IN (SELECT value::uuid FROM json_array_elements_text($1::json))
              AND part IS NOT NULL
            ORDER BY id FOR UPDATE
        """,
        change=f"""
            WITH changed AS (
                UPDATE {table} t SET {changes}
                FROM json_to_recordset($1::json) AS r({record}) WHERE t.id = r.id
                RETURNING {source.needed("t")}
            ) {contributions(source, "changed")}
        """,
        outdone=contributions(
            source,
            f"""(SELECT {source.needed("t")} FROM {table} t
                JOIN json_to_recordset($1::json) AS r(session_id uuid, rank smallint)
                ON {outdone})""",
        ),
        demote=f"""
            UPDATE {table} t SET is_counted = false
            FROM json_to_recordset($1::json) AS r(session_id uuid, rank smallint)
            WHERE {outdone}
            RETURNING t.session_id, {seen}
        """,
        adopt=f"""
            UPDATE {table} t SET session_id = r.new_id, agent = r.agent
            FROM json_to_recordset($1::json) AS r(old_id uuid, new_id uuid, agent text)
            WHERE t.session_id = r.old_id
        """,
        attribute=f"""
            UPDATE {table} t SET user_id = r.user_id
            FROM json_to_recordset($1::json) AS r(session_id uuid, user_id uuid)
            WHERE t.session_id = r.session_id AND t.part IS NOT NULL
              AND t.user_id IS DISTINCT FROM r.user_id
        """,
    )


TOOL_METRICS: CallTable[ToolPart] = _table(
    sources.TOOL_METRICS,
    ToolPart,
    {},
    {
        "tool_name": "'unknown'",
        "status": "'unknown'",
        "source_rank": str(RANK_SURE),
        "is_counted": "true",
    },
    ("status", "lines_added", "lines_removed"),
)
MODEL_CALLS: CallTable[ModelPart] = _table(
    sources.MODEL_CALLS,
    ModelPart,
    {"cost_source": "text", "price_version": "text"},
    {
        "status": "'success'",
        "cost_source": "'none'",
        "attempts": "1",
        "source_rank": str(RANK_SURE),
        "is_counted": "true",
    },
    (
        "status",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "cost_usd_micros",
    ),
)
