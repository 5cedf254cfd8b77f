"""Statements that took too long, told to whoever keeps them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import msgspec

from metrics_service.observability.statements import Statement

if TYPE_CHECKING:
    from metrics_service.observability.work import Work

MAX_SLOW = 50
"""More than that of one work are told before it ends."""


class SlowStatement(msgspec.Struct, frozen=True):
    """One execution of a statement that took longer than it may."""

    id: UUID
    at: datetime
    """When it ended."""
    text: str
    """As it was sent, for its plan; it may hold literals and is never written anywhere."""
    statement: Statement
    duration_ms: float
    wait_ms: float | None
    """How long its transaction had waited for a connection before."""
    row_count: int | None
    tenant_id: UUID | None
    is_planned_as: Any
    """The context of its transaction where it has a plan: a tenant's, by db/tenancy.py; else None."""
    error: str | None
    """SQLSTATE, or a class of exceptions, where it failed."""


Sink: TypeAlias = "Callable[[Work | None, list[SlowStatement]], None]"


class _Slow:
    """What this process has set: one threshold, and who is told."""

    __slots__ = ("sinks", "threshold_s")

    def __init__(self) -> None:
        self.threshold_s = 1.0
        self.sinks: list[Sink] = []


SLOW = _Slow()


def set_slow_threshold_ms(threshold_ms: float) -> None:
    """Call slow whatever takes as long as that, from now on."""
    SLOW.threshold_s = threshold_ms / 1000


def tell_slow(sink: Sink) -> Callable[[], None]:
    """Tell it of slow statements: when their work ends and is known, at once those of no work.

    It must not wait and not raise. Call what this gives to end it.
    """
    SLOW.sinks.append(sink)

    def stop() -> None:
        if sink in SLOW.sinks:
            SLOW.sinks.remove(sink)

    return stop


def tell(work: Work | None, statements: list[SlowStatement]) -> None:
    for sink in list(SLOW.sinks):
        sink(work, statements)
