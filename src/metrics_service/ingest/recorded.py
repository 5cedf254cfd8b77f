"""What mappers fill when an item comes from a transcript that somebody brought in.

Transcripts tell of the same calls and prompts as live telemetry does, later and with less: what they
say is kept apart by name, so that whatever was said live wins, in any order of arrival.
"""

from __future__ import annotations

from metrics_service.ingest.parts import (
    IMPORT,
    RANK_RECORDED,
    RANK_SURE,
    RECORDED,
    ModelPart,
    ToolPart,
)
from metrics_service.ingest.telemetry import EventRecord, Key, SessionPart, Telemetry

IMPORT_SCOPE = "metrics-service.import"
"""The instrumentation scope of records that are made of transcripts."""
LONG_BEFORE_NS = 5 * 10**18
"""So much earlier than it happened does a transcript say who and where: what was said live stays."""


class Recorded(Telemetry):
    """The same telemetry, filled by a transcript."""

    def __init__(self, out: Telemetry) -> None:
        # One store, another voice: what is added here is there.
        self.__dict__ = out.__dict__

    def tool(
        self,
        session: SessionPart | None,
        agent: str,
        key: Key,
        name: str,  # noqa: ARG002  # a transcript is one teller, whatever it tells
        part: ToolPart,
        *,
        rank: int = RANK_SURE,
        span: tuple[str, str] | None = None,
    ) -> None:
        rank = rank if key == part.external_call_id else RANK_RECORDED
        super().tool(session, agent, key, RECORDED, part, rank=rank, span=span)

    def model(
        self,
        session: SessionPart | None,
        agent: str,
        key: Key,
        name: str,  # noqa: ARG002  # a transcript is one teller, whatever it tells
        part: ModelPart,
        *,
        rank: int = RANK_SURE,
    ) -> None:
        rank = rank if key == part.request_id else RANK_RECORDED
        super().model(session, agent, key, RECORDED, part, rank=rank)

    def event(
        self,
        session: SessionPart | None,
        agent: str,
        key: Key,
        record: EventRecord,
        *,
        has_common_name: bool = False,
    ) -> None:
        record.signal = IMPORT
        super().event(session, agent, key, record, has_common_name=has_common_name)
