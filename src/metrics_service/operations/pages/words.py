"""How operators' pages call things, and how long something took or lasts."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

GAP = "\xa0"

_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

_CHECKS = {
    "database": "Database connection",
    "latency": "Database latency",
    "cache": "Cache invalidation",
    "migrations": "Migrations",
    "tables": "Tables",
    "coverage": "Row security",
    "pool": "Connection pool",
    "disk": "Disk space",
    "exporter": "Telemetry export",
    "server-version": "Server version",
}
_KINDS = {"http": "HTTP", "otlp-grpc": "OTLP/gRPC", "maintenance": "Maintenance"}


def span(seconds: float | timedelta | None) -> str:
    """A length of time as one says it: `19 min`, `3 h 12 min`, `2 d 5 h`."""
    if seconds is None:
        return "\N{EN DASH}"
    left = int(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)
    for (size, unit), smaller in pairwise(_STEPS):
        if left < size:
            continue
        shown = f"{left // size}{GAP}{unit}"
        # Seconds beside minutes are news at every look, and none to anybody.
        rest = left % size // smaller[0] if smaller[1] != "s" else 0
        return f"{shown} {rest}{GAP}{smaller[1]}" if rest else shown
    return f"{left}{GAP}s"


def ago(moment: datetime, now: datetime) -> str:
    """How long something has been so."""
    return span(max((now - moment).total_seconds(), 0))


def is_recent(moment: datetime, now: datetime) -> bool:
    """Whether the time of day says which day."""
    return now - moment < timedelta(hours=20)


def check_name(check: str) -> str:
    return _CHECKS.get(check, check.replace("_", " ").replace("-", " ").capitalize())


def kind_name(kind: str) -> str:
    return _KINDS.get(kind, kind)
