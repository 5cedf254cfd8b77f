"""What transcripts tell, in figures."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from metrics_service.transcripts.records import EPOCH, Record


class Summary(msgspec.Struct, kw_only=True):
    """What was, or in a dry run would be, sent."""

    is_dry_run: bool = False
    files: int = 0
    files_done_before: int = 0
    """Nothing happened in them since they were brought in."""
    sessions: int = 0
    prompts: int = 0
    model_calls: int = 0
    failed_model_calls: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    sent_records: int = 0
    refused_records: int = 0
    server_said: list[str] = []
    other_lines: int = 0
    """Of kinds that are not read, those of later versions among them."""
    unreadable_lines: int = 0
    long_lines: int = 0
    unreadable_files: list[str] = []


class Count(Summary, kw_only=True):
    """A summary being made."""

    session_ids: set[str] = set()


INPUT = ("input_tokens", "cache_read_tokens", "cache_creation_tokens", "input_token_count")
OUTPUT = ("output_tokens", "output_token_count")


def add_record(count: Count, record: Record) -> None:
    """Count one record."""
    count.session_ids.add(record.session_id)
    match record.name:
        case "user_prompt":
            count.prompts += 1
        case "tool_result":
            count.tool_calls += 1
        case "api_request" | "sse_event" | "api_error":
            count.model_calls += 1
            count.failed_model_calls += record.name == "api_error"
            count.input_tokens += _sum(record, INPUT)
            count.output_tokens += _sum(record, OUTPUT)
        case _:
            pass
    at = EPOCH + timedelta(microseconds=record.time_ns // 1000)
    count.first_at = at if count.first_at is None else min(count.first_at, at)
    count.last_at = at if count.last_at is None else max(count.last_at, at)


def summed_up(count: Count) -> Summary:
    """The figures alone."""
    values = {name: getattr(count, name) for name in Summary.__struct_fields__}
    return Summary(**{**values, "sessions": len(count.session_ids)})


def _sum(record: Record, names: tuple[str, ...]) -> int:
    return sum(value for name in names if isinstance(value := record.attributes.get(name), int))
