"""Sets up the logs: one line per event, JSON or readable, and never the text of an exception."""

from __future__ import annotations

import json as plain_json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePath
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MAX_FRAMES = 15
MAX_LINKS = 5
QUIET = ("asyncio", "httpx", "httpcore", "alembic", "metrics_service.db.pool")

GRANIAN_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {},
    "handlers": {},
    "loggers": {
        "_granian": {"handlers": [], "propagate": True},
        "granian.access": {"handlers": [], "propagate": False},
    },
}
"""For Granian's `log_dictconfig`: its lines go through ours, its access log is replaced by ours."""


Tracing = Callable[[], tuple[str, str] | None]
"""The ids of the trace and of the span that a line belongs to."""


class _Outside:
    """Who, besides standard output, has to do with the lines; nobody, until somebody asks for them."""

    __slots__ = ("take", "tracing")

    def __init__(self) -> None:
        self.take: Callable[[EventDict], None] | None = None
        self.tracing: Tracing | None = None


_outside = _Outside()


class ExceptionSummary(msgspec.Struct, frozen=True):
    """One exception as the log shows it."""

    type: str
    frames: list[str]


def configure_logging(level: str, *, json: bool) -> None:
    """Send the logs of this product and of its libraries to standard output."""
    number = logging.getLevelNamesMapping()[level.upper()]
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        describe_exception,
    ]
    render: list[Processor] = (
        [_tell_outside, render_json]
        if json
        else [_tell_outside, _spell_out_exception, structlog.dev.ConsoleRenderer()]
    )
    structlog.configure(
        processors=[*common, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=(
            structlog.BytesLoggerFactory(sys.stdout.buffer)
            if json
            else structlog.PrintLoggerFactory(sys.stdout)
        ),
        cache_logger_on_first_use=True,
    )
    _configure_stdlib(number, common, render)


def log_beside_output() -> None:
    """Send warnings to standard error, for a command whose standard output is what it was asked for."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def name_traces(tracing: Tracing) -> Callable[[], None]:
    """Write the ids of trace and span into every line that belongs to one. Call what this gives to end it."""
    _outside.tracing = tracing

    def stop() -> None:
        if _outside.tracing is tracing:
            _outside.tracing = None

    return stop


def tell_lines(take: Callable[[EventDict], None]) -> Callable[[], None]:
    """Give every line that is written to `take` too, which must not wait, raise or keep the dict itself.

    Call what this gives to end it.
    """
    _outside.take = take

    def stop() -> None:
        if _outside.take is take:
            _outside.take = None

    return stop


def exception_summary(error: BaseException) -> list[ExceptionSummary]:
    """What went wrong and where, without the texts: they may carry a client's values or a secret.

    The exception itself comes first, what it was raised from or what it groups comes after it.
    """
    return [
        ExceptionSummary(
            type=type(link).__name__,
            frames=[
                f"{_short(frame.filename)}:{frame.lineno}"
                for frame in traceback.extract_tb(link.__traceback__)[-MAX_FRAMES:]
            ],
        )
        for link in islice(_links(error), MAX_LINKS)
    ]


def describe_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Processor: replace `exc_info` by a summary of the exception."""
    error = event.pop("exc_info", None)
    if error is True or isinstance(error, tuple):
        error = (sys.exc_info() if error is True else error)[1]
    if isinstance(error, BaseException):
        event["exception"] = exception_summary(error)
    return event


def render_json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    """Processor: the event as one line of JSON; a value that has no JSON form becomes its type."""
    try:
        return _encoder.encode(event)
    except UnicodeEncodeError:
        # A lone surrogate, from a file name or an argument: no reason to lose the line.
        return plain_json.dumps(event, default=_plain).encode()


def _type_name(value: object) -> str:
    return f"<{type(value).__name__}>"


def _plain(value: object) -> object:
    try:
        return msgspec.to_builtins(value, enc_hook=_type_name)
    except (TypeError, ValueError):
        return _type_name(value)


_encoder = msgspec.json.Encoder(enc_hook=_type_name)


def _configure_stdlib(level: int, common: list[Processor], render: list[Processor]) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*common[:-1], structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            describe_exception,
            *render,
            _as_text,
        ],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    handler.addFilter(_drop_details)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if _outside.tracing is not None and (found := _outside.tracing()) is not None:
        event.setdefault("trace_id", found[0])
        event.setdefault("span_id", found[1])
    return event


def _tell_outside(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if _outside.take is not None:
        _outside.take(event)
    return event


def _spell_out_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if links := event.get("exception"):
        event["exception"] = "\nfrom ".join(
            "\n  at ".join([link.type, *reversed(link.frames)]) for link in links
        )
    return event


def _as_text(_: WrappedLogger, __: str, rendered: Any) -> str:
    return rendered.decode() if isinstance(rendered, bytes) else rendered


def _drop_details(record: logging.LogRecord) -> bool:
    # Both print an exception, text and all, from the second line of their message on.
    if record.name.startswith(("asyncio", "_granian")):
        record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True


def _links(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            waiting.extend(link.exceptions)
        cause = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        waiting.extend([] if cause is None else [cause])


def _short(filename: str) -> str:
    return "/".join(PurePath(filename).parts[-3:])
