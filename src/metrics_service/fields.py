"""The types of values that clients send: every limit of the contract, in one place."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from metrics_service.errors import FieldError

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Text = Annotated[str, Meta(max_length=8192)]
ShortText = Annotated[str, Meta(min_length=1, max_length=255)]
Email = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=254,
        pattern=r"^[^@\s]+@[^@\s]+$(?!\n)",
        examples=["ada@example.com"],
    ),
]
Instant = Annotated[datetime, Meta(tz=True, examples=["2026-11-20T09:30:00Z"])]
MAX_BIGINT = 2**63 - 1
Count = Annotated[int, Meta(ge=0, le=MAX_BIGINT)]
# Summed over sessions and months: a bound that keeps the sums within 64 bits.
Summed = Annotated[int, Meta(ge=0, le=10**12)]
# A duration of a century is a mistake; the bound keeps sums far from infinity.
Milliseconds = Annotated[float, Meta(ge=0, le=1e13)]
Tags = Annotated[list[ShortText], Meta(max_length=50)]
Metadata = dict[str, Any]

# As OpenTelemetry calls them.
Protocol = Literal["http/protobuf", "http/json", "grpc"]
Signal = Literal["logs", "metrics", "traces"]

EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=1)

MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_LEVELS = 8


def window_error(field: str, value: datetime | None, now: datetime) -> FieldError | None:
    """Times from 2015-01-01 to a day ahead: outside of it a clock or a unit is wrong."""
    if value is None or EARLIEST <= value <= now + AHEAD:
        return None
    return FieldError("must be between 2015-01-01 and a day ahead", field=field)


def metadata_error(value: Metadata | None, field: str = "metadata") -> FieldError | None:
    """Up to 16 KiB and 8 levels."""
    if not value:
        return None
    if not _fits(value, MAX_METADATA_LEVELS):
        return FieldError(f"must not be nested over {MAX_METADATA_LEVELS} levels", field=field)
    size = stored_size(value)
    if size is None:
        return FieldError("has a number that is too large", field=field)
    if size > MAX_METADATA_BYTES:
        return FieldError(f"must not be larger than {MAX_METADATA_BYTES} bytes", field=field)
    return None


def stored_size(value: Any) -> int | None:
    """How many bytes of JSON the database will answer with; None when a number is too large."""
    try:
        encoded = msgspec.json.encode(value)
    except (ValueError, OverflowError):
        return None
    # 1e308 is kept, and answered, with all of its zeros.
    return len(encoded) + (_zeros(value) if _has_exponent(encoded) else 0)


_has_exponent = re.compile(rb"[0-9]e[+-]?[0-9]").search


def _zeros(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_zeros(inner) for inner in value.values())
    if isinstance(value, list):
        return sum(_zeros(inner) for inner in value)
    if isinstance(value, float):
        return abs(int(repr(value).partition("e")[2] or 0))
    return 0


def _fits(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(_fits(inner, levels - 1) for inner in value.values())
    if isinstance(value, list):
        return levels > 0 and all(_fits(inner, levels - 1) for inner in value)
    return True


def now() -> datetime:
    return datetime.now(UTC)
