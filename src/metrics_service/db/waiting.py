"""Waits at the start until the database answers, and says what for."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable
from itertools import zip_longest
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import stamina
import stamina.instrumentation

from metrics_service.db.connect import UNREACHABLE, connect
from metrics_service.db.engine import CONNECT_TIMEOUT_S
from metrics_service.errors import DatabaseUnreachableError

WAIT_MAX_S = 30.0
CLOSE_WITHIN_S = 1.0

PASSING_STATES = ("08", "53", "57P")

DEFAULT_PORT = "5432"
_has_port = re.compile(r"(?:^|[^:]|\])(:\d+)$").search


async def wait_for_database(
    dsn: str, *, attempts: int, delay_ms: int, say: Callable[[str], None]
) -> None:
    """Return when the database answers, be it by a refusal that waiting does not change.

    Waits twice as long after each attempt, and says so. Raises `DatabaseUnreachableError` in the end.
    """
    where, delay_s = servers_of(dsn), delay_ms / 1000
    # Its own lines would go where scripts read answers.
    stamina.instrumentation.set_on_retry_hooks(())
    try:
        async for attempt in stamina.retry_context(
            on=is_passing,
            attempts=attempts,
            timeout=None,
            wait_initial=delay_s,
            wait_max=WAIT_MAX_S,
            # Or all processes that were started together would come back together.
            wait_jitter=delay_s / 2,
        ):
            with attempt:
                try:
                    await _ask(dsn)
                except UNREACHABLE as error:
                    if is_passing(error) and attempt.num < attempts:
                        say(
                            f"waiting for the database at {where}: {reason_of(error)};"
                            f" attempt {attempt.num + 1} of {attempts}"
                            f" in about {attempt.next_wait:.1f} s"
                        )
                    raise
    except UNREACHABLE as error:
        if is_passing(error):
            raise DatabaseUnreachableError(
                f"the database at {where} cannot be reached: {reason_of(error)}"
            ) from error
        # A wrong password, an unknown database: whoever connects next is told, and knows what to say.


def is_passing(error: Exception) -> bool:
    """Whether it may be over a moment later."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(PASSING_STATES)
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        # None of several servers is the first one yet.
        return True
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLCertVerificationError)


def reason_of(error: BaseException) -> str:
    """A few words for an operator; a DSN is never part of them."""
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_S} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, (FileNotFoundError, socket.gaierror)):
        return str(error.strerror)
    return (str(error).splitlines() or [type(error).__name__])[0]


def servers_of(dsn: str) -> str:
    """Where a DSN leads to, as host:port; of several servers all, with commas between them."""
    parts = urlsplit(dsn)
    # As the driver has it: the query before the rest, the environment last.
    asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    hosts = (
        asked.get("host")
        or unquote(parts.netloc.rpartition("@")[2])
        or os.environ.get("PGHOST", "localhost")
    ).split(",")
    ports = (asked.get("port") or os.environ.get("PGPORT", DEFAULT_PORT)).split(",")
    return ", ".join(
        host if _has_port(host) else f"{host}:{port}"
        for host, port in zip_longest(hosts, ports[: len(hosts)], fillvalue=ports[-1])
    )


async def _ask(dsn: str) -> None:
    connection: asyncpg.Connection = await connect(
        dsn, application_name="metrics-service", timeout=float(CONNECT_TIMEOUT_S)
    )
    await connection.close(timeout=CLOSE_WITHIN_S)
