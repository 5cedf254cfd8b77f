"""Prompts, turns and compactions that both live telemetry and a transcript tell of: each counts once.

Where both call an event the same, it is one row, and what was said live replaces what was brought in.
Where they do not, what transcripts told of a session gives way as soon as anything live tells of its
like: so any order of arrival leaves the same rows, and those counted are those there.
"""

from __future__ import annotations

from collections.abc import Iterable

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.held_sessions import Held
from metrics_service.ingest.parts import IMPORT
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.session_state import Tally
from metrics_service.ingest.telemetry import COUNT_OF

# A line of a transcript that live telemetry names too says so by its own name.
GIVE_WAY = """
DELETE FROM session_events t
USING json_to_recordset($1::json) AS r(session_id uuid, kind text, keeps_named boolean)
WHERE t.session_id = r.session_id AND t.kind = r.kind AND t.signal = 'import'
  AND NOT (r.keeps_named AND coalesce(t.attributes ? 'message.uuid', false))
RETURNING t.session_id, t.kind
"""


async def give_way(connection: ContextConnection, sessions: Iterable[Held]) -> None:
    """Remove what transcripts told of sessions of which something live tells the same."""
    by_id = {held.id: held for held in sessions}
    outdone = [
        {"session_id": held.id, "kind": kind, "keeps_named": keeps_named}
        for held in by_id.values()
        for kind, keeps_named in _outdone(held)
    ]
    if not outdone:
        return
    for gone in await connection.fetch(GIVE_WAY, as_json(outdone)):
        tally = Tally()
        tally.count(COUNT_OF[gone["kind"]], IMPORT, sign=-1)
        by_id[gone["session_id"]].count(tally)


def _outdone(held: Held) -> Iterable[tuple[str, bool]]:
    """Which kinds live telemetry tells of too, and whether by names that the transcript has."""
    for kind, name in COUNT_OF.items():
        recorded = held.state.recorded.get(name, 0)
        live = held.row[name] + held.tallies.get(name, 0) - recorded
        if recorded > 0 and live > 0:
            # One that has another name may be any of those in the transcript.
            yield kind, live == held.state.named.get(name, 0)
