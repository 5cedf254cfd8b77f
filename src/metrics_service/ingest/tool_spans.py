"""Spans inside a tool call's span that know no other name for it than that span.

They end, and often arrive, before it does. What they say waits here until the call is known.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.parts import ToolPart, join_parts
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.telemetry import Call, Telemetry

LOCK = """
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(id uuid, tool_metric_id uuid)
)
INSERT INTO tool_spans AS t (id, tool_metric_id)
SELECT id, tool_metric_id FROM given ORDER BY id
ON CONFLICT (tenant_id, id) DO UPDATE SET
    tool_metric_id = coalesce(t.tool_metric_id, excluded.tool_metric_id), seen_at = now()
RETURNING id, tool_metric_id, parts::text
"""

KEEP = """
UPDATE tool_spans t SET parts = r.parts
FROM json_to_recordset($1::json) AS r(id uuid, parts jsonb) WHERE t.id = r.id
"""


_parts = msgspec.json.Decoder(dict[str, ToolPart])


async def find_calls(connection: ContextConnection, out: Telemetry) -> list[UUID]:
    """Add to each call what spans inside it said; keep the rest for later.

    Returns the calls that are not part of this request.
    """
    given = out.spans.keys() | out.inside.keys()
    if not given:
        return []
    rows = await connection.fetch(
        LOCK,
        as_json(
            [{"id": f"{key:032x}", "tool_metric_id": _hex(out.spans.get(key))} for key in given]
        ),
    )
    kept, elsewhere = [], []
    for row in rows:
        waiting = _parts.decode(row["parts"]) if row["parts"] is not None else {}
        join_parts(waiting, out.inside.get(row["id"].int, {}))
        call_id = row["tool_metric_id"]
        if call_id is None:
            kept.append({"id": row["id"], "parts": waiting})
            continue
        if row["parts"] is not None:
            kept.append({"id": row["id"], "parts": None})
        if waiting and not _join(out, call_id, waiting):
            elsewhere.append(call_id)
    if kept:
        await connection.execute(KEEP, as_json(kept))
    return elsewhere


def _join(out: Telemetry, call_id: UUID, parts: dict[str, ToolPart]) -> bool:
    call = out.tools.get(call_id.int)
    if call is not None:
        join_parts(call.parts, parts)
        return True
    # Neither session nor agent: it is not to be inserted, only joined to the row that is there.
    out.tools[call_id.int] = Call(None, "", 0, parts)
    return False


def _hex(row_id: int | None) -> str | None:
    return None if row_id is None else f"{row_id:032x}"
