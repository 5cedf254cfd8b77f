"""Reads attribute values leniently: every client has its own idea of numbers and booleans.

Each function takes any attribute value and returns None for one that it cannot use, never a zero.
"""

from __future__ import annotations

from datetime import datetime
from math import isfinite
from typing import Any

import msgspec

from metrics_service.ingest.content import MAX_NAME, REDACTED
from metrics_service.ingest.telemetry import EPOCH
from metrics_service.otlp.items import Value

MAX_TEXT = 8192
MAX_CONTENT = 64 * 1024
# As the native API has it: a bound that keeps sums within 64 bits.
MAX_COUNT = 10**12
MAX_MS = 1e13

_TRUTHS: dict[Any, bool] = {
    True: True, False: False, "true": True, "false": False, "1": True, "0": False,
}  # fmt: skip


def text(value: Value, limit: int = MAX_NAME) -> str | None:
    """Text of at most `limit` characters."""
    if value is None:
        return None
    if value.__class__ is str:
        return value[:limit] or None
    if isinstance(value, (list, dict)):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)[:limit]


def number(value: Value) -> float | None:
    """A finite number, also from text."""
    if value.__class__ is str:
        # Python's own underscores are nobody's numbers.
        if "_" in value:
            return None
        try:
            value = float(value)
        except ValueError:
            return None
    elif value.__class__ is int:
        return float(value) if -(10**300) < value < 10**300 else None
    if value.__class__ is not float or not isfinite(value):
        return None
    return value


def milliseconds(value: Value) -> float | None:
    """A duration that is not negative."""
    if value is None:
        return None
    found = number(value)
    return found if found is not None and 0 <= found <= MAX_MS else None


def seconds(value: Value) -> float | None:
    """Seconds, as milliseconds."""
    found = number(value)
    return milliseconds(found * 1000) if found is not None else None


def count(value: Value) -> int | None:
    """A whole number from 0 to 10^12."""
    if value is None:
        return None
    found = value if value.__class__ is int else number(value)
    return int(found) if found is not None and 0 <= found <= MAX_COUNT else None


def flag(value: Value) -> bool | None:
    """A boolean, also from `"true"`, `"False"`, `"1"`, 0."""
    if isinstance(value, (list, dict)):
        return None
    known = _TRUTHS.get(value)
    return _TRUTHS.get(value.strip().lower()) if known is None and isinstance(value, str) else known


def strings(value: Value) -> list[str] | None:
    """A list of text: an array, or one as JSON in a text, or a single text."""
    if isinstance(value, str):
        value = parsed(value) if value.startswith("[") else [value]
    if not isinstance(value, list):
        return None
    return [item[:MAX_NAME] for item in value if isinstance(item, str)] or None


def parsed(value: Value) -> Value:
    """JSON that came as text; None when it is not JSON."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)  # type: ignore[no-any-return]  # JSON's values are ours
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def mapping(value: Value) -> dict[str, Value]:
    """An object, also as JSON in a text; empty when it is none."""
    found = parsed(value)
    return found if isinstance(found, dict) else {}


def content(value: Value) -> str | None:
    """Prompts, arguments and outputs as text; None where the client redacted them."""
    if value is None or (isinstance(value, str) and value in REDACTED):
        return None
    if isinstance(value, str):
        return value[:MAX_CONTENT]
    return msgspec.json.encode(value).decode()[:MAX_CONTENT]


def nanoseconds(value: Value) -> int | None:
    """An ISO 8601 moment, or a number of nanoseconds, milliseconds or seconds since 1970."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=EPOCH.tzinfo)
            since = aware - EPOCH
            since_ns = (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000
            # No client's clock says so; and counting back from year 1 leads nowhere.
            return since_ns if since_ns > 0 else None
    found = number(value)
    if found is None or found <= 0:
        return None
    # A number says its unit by its size: seconds are ten digits in our time, milliseconds thirteen.
    factor = 10**9 if found < 1e11 else 10**6 if found < 1e14 else 10**3 if found < 1e17 else 1
    return int(found * factor)
