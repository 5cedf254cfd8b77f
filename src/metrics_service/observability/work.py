"""What one process does, piece by piece: a request, a job, one turn of a task; and the spans in it.

A work knows who and what it is for, gathers its slow statements, and, where it is sampled, its spans.
Spans are plain records, made for a microsecond each; whoever exports them turns them into what a
collector understands, in a thread of its own. Where nothing is sampled, a span costs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from random import getrandbits
from time import perf_counter
from typing import Literal, Self, TypeAlias

import msgspec

from metrics_service.observability.slow import MAX_SLOW, SlowStatement, tell
from metrics_service.observability.statements import Statement

Attribute: TypeAlias = str | int | float | bool
Kind: TypeAlias = Literal["server", "client", "internal"]

MAX_SPANS = 512
SLOW_EVENT = "slow statement"
"""The event that a span gets whose statement took too long."""

WAIT = "wait for a connection"


class Span(msgspec.Struct):
    """Something that happened in a work and is over."""

    name: str
    span_id: bytes
    parent_id: bytes
    started: float
    """By `perf_counter`; the work knows when that was."""
    ended: float
    kind: Kind = "internal"
    attributes: dict[str, Attribute] | None = None
    error: str | None = None
    """SQLSTATE or the class of an exception; never its text."""
    statement: Statement | None = None
    """What was executed, by a span of kind client: all spans with the same one have this in common."""
    row_count: int | None = None
    is_slow: bool = False
    """Whether it gets the event `SLOW_EVENT`, at its end."""


class Work(msgspec.Struct, kw_only=True):
    """One request, one job, one turn of a background task."""

    name: str
    """Such as `GET /api/v1/sessions` or `maintenance measure`; a request's is known at its end."""
    kind: Kind = "internal"
    route: str = ""
    """A route's template or a job's name; "" until it is known."""
    request_id: str | None = None
    tenant_id: str | None = None
    trace_id: bytes = b""
    """Empty, as `span_id` is, while nobody samples: most works of most installations need none."""
    span_id: bytes = b""
    parent_id: bytes | None = None
    """The caller's span, which is in another process."""
    trace_state: str | None = None
    is_sampled: bool = False
    """Whether spans are kept; a work that is not sampled is told to nobody."""
    is_own_export: bool = False
    """Whether it takes in, or writes down, what this service says about itself.

    Nothing is told of that, or it would go round for ever.
    """
    started: float
    """By `perf_counter`, as all times in here."""
    started_ns: int
    """The same moment as nanoseconds since 1970."""
    ended: float | None = None
    attributes: dict[str, Attribute] = msgspec.field(default_factory=dict)
    error: str | None = None
    spans: list[Span] = msgspec.field(default_factory=list)
    dropped_spans: int = 0
    slow: list[SlowStatement] = msgspec.field(default_factory=list)

    def unix_ns(self, moment: float) -> int:
        """When it was, by the clock as it stood when the work began: a clock that jumps bends nothing."""
        return self.started_ns + round((moment - self.started) * 1e9)

    def keep(self, span: Span) -> None:
        """Add a span, unless there are too many or the work is over."""
        if len(self.spans) >= MAX_SPANS:
            self.dropped_spans += 1
        elif self.ended is None:
            self.spans.append(span)

    def note_slow(self, slow: SlowStatement) -> None:
        self.slow.append(slow)
        if self.ended is not None or len(self.slow) >= MAX_SLOW:
            # Over already, or a stream that stays open for a day.
            self._tell_slow()

    def _tell_slow(self) -> None:
        told, self.slow = self.slow, []
        tell(self, told)


Sampler: TypeAlias = Callable[[bytes, bool | None], bool]
"""Told a trace's id and whether the caller, if there is one, keeps it."""


class _Keeping:
    """Which works are sampled and who takes them; nobody, until somebody asks for them."""

    __slots__ = ("sampler", "take")

    def __init__(self) -> None:
        self.sampler: Sampler | None = None
        self.take: Callable[[Work], None] | None = None


_keeping = _Keeping()
CURRENT: ContextVar[Work | None] = ContextVar("work", default=None)
# What is open in this task; tasks that run beside each other in one work have each their own.
_OPEN: ContextVar[bytes] = ContextVar("open_span")


def keep_spans(sampler: Sampler, take: Callable[[Work], None]) -> Callable[[], None]:
    """Sample works from now on, and give those that ended to `take`, which must not wait.

    Call what this gives to end it.
    """
    _keeping.sampler, _keeping.take = sampler, take

    def stop() -> None:
        if _keeping.take is take:
            _keeping.sampler = _keeping.take = None

    return stop


def is_tracing() -> bool:
    """Whether any work may be sampled."""
    return _keeping.sampler is not None


def current() -> Work | None:
    """The work that this task belongs to, while it lasts."""
    work = CURRENT.get()
    return work if work is not None and work.ended is None else None


def begin(
    name: str,
    *,
    kind: Kind = "internal",
    route: str = "",
    request_id: str | None = None,
    trace_id: bytes | None = None,
    parent_id: bytes | None = None,
    is_sampled_by_caller: bool | None = None,
    trace_state: str | None = None,
    is_own_export: bool = False,
) -> Work:
    """A new work, not yet entered; `trace_id` and what follows is what the caller said."""
    sampler = None if is_own_export else _keeping.sampler
    if sampler is None:
        return Work(
            name=name,
            kind=kind,
            route=route,
            request_id=request_id,
            is_own_export=is_own_export,
            started=perf_counter(),
            started_ns=time.time_ns(),
        )
    trace_id = trace_id or getrandbits(128).to_bytes(16)
    return Work(
        name=name,
        kind=kind,
        route=route,
        request_id=request_id,
        trace_id=trace_id,
        span_id=new_span_id(),
        parent_id=parent_id,
        trace_state=trace_state,
        is_sampled=sampler(trace_id, is_sampled_by_caller),
        started=perf_counter(),
        started_ns=time.time_ns(),
    )


class inside:  # noqa: N801  # read as a function, as `span` is
    """Let everything in this task, and in those that it begins, belong to the work; does not end it."""

    __slots__ = ("_entered", "_opened", "_work")

    def __init__(self, work: Work) -> None:
        self._work = work

    def __enter__(self) -> Work:
        work = self._work
        self._entered = CURRENT.set(work)
        if work.is_sampled:
            self._opened = _OPEN.set(work.span_id)
        return work

    def __exit__(self, *_: object) -> None:
        if self._work.is_sampled:
            _OPEN.reset(self._opened)
        CURRENT.reset(self._entered)


def end(work: Work) -> None:
    """All is known of it: tell its slow statements, hand it over if it is sampled."""
    work.ended = perf_counter()
    if work.slow:
        work._tell_slow()  # noqa: SLF001  # a module's own
    if work.is_sampled and (take := _keeping.take) is not None:
        take(work)


@contextmanager
def working(
    name: str,
    *,
    route: str | None = None,
    kind: Kind = "internal",
    is_own_export: bool = False,
) -> Iterator[Work]:
    """One work from beginning to end; an exception marks it failed and goes on its way.

    It is none of whatever this task did before: what a request starts and does not wait for is a work
    of its own.
    """
    route = name if route is None else route
    work = begin(name, kind=kind, route=route, is_own_export=is_own_export)
    try:
        with inside(work):
            yield work
    except BaseException as error:
        work.error = name_of(error)
        raise
    finally:
        end(work)


class span:  # noqa: N801  # read as a function: `with span("ingest.decode"):`
    """Something that takes time inside the current work, as a child of what is open in this task.

    Free when nothing is sampled. An exception marks it failed and goes on its way.
    """

    __slots__ = ("_attributes", "_name", "_opened", "_parent_id", "_span_id", "_started", "_work")

    def __init__(self, name: str, **attributes: Attribute) -> None:
        self._name = name
        self._attributes = attributes

    def __enter__(self) -> Self:
        work = CURRENT.get()
        if work is None or not work.is_sampled:
            self._work = None
            return self
        self._work = work
        self._span_id = new_span_id()
        self._parent_id = _OPEN.get()
        self._opened = _OPEN.set(self._span_id)
        self._started = perf_counter()
        return self

    def note(self, **attributes: Attribute) -> None:
        """Say what became known while it was open."""
        self._attributes.update(attributes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        work = self._work
        if work is None:
            return
        ended = perf_counter()
        _OPEN.reset(self._opened)
        work.keep(
            Span(
                self._name,
                self._span_id,
                self._parent_id,
                self._started,
                ended,
                attributes=self._attributes or None,
                error=None if error is None else name_of(error),
            )
        )


def keep_statement(
    work: Work,
    statement: Statement,
    *,
    started: float,
    ended: float,
    row_count: int | None,
    error: str | None,
    is_slow: bool,
    attributes: dict[str, Attribute] | None = None,
) -> None:
    """Add the span of a statement to a work that is sampled."""
    work.keep(
        Span(
            statement.summary,
            new_span_id(),
            _OPEN.get(work.span_id),
            started,
            ended,
            "client",
            attributes,
            error,
            statement,
            row_count,
            is_slow,
        )
    )


def keep_wait(work: Work, asked: float, came: float) -> None:
    """Add to a work that is sampled how long it waited for a connection to the database."""
    work.keep(Span(WAIT, new_span_id(), _OPEN.get(work.span_id), asked, came))


def new_span_id() -> bytes:
    # Told from others by chance, kept from nobody; `random` is seeded anew in every process.
    return (getrandbits(64) or 1).to_bytes(8)


def name_of(error: BaseException) -> str:
    """SQLSTATE where the database says one, else the class; never the text, which may hold values."""
    return getattr(error, "sqlstate", None) or type(error).__name__
