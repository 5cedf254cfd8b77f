"""What one attempt at a request has done to the database, for whoever decides whether to try again."""

from __future__ import annotations

import time
from contextvars import ContextVar


class Attempt:
    """A request's handler on its way to an answer, also when it is run again."""

    __slots__ = ("has_committed", "moment_ns")

    def __init__(self) -> None:
        self.has_committed = False
        """Whether the COMMIT of a change was sent: from then on it may be stored, whatever was heard of it."""
        self.moment_ns: int | None = None


ATTEMPT: ContextVar[Attempt | None] = ContextVar("attempt", default=None)
"""The attempt under way; None where nobody would try again."""


def moment_ns() -> int:
    """Now, to the microsecond; for a request that is done again, when that was asked the first time.

    What is stored by the time of its arrival is the same then, and not another.
    """
    attempt = ATTEMPT.get()
    if attempt is not None and attempt.moment_ns is not None:
        return attempt.moment_ns
    now = time.time_ns() // 1000 * 1000
    if attempt is not None:
        attempt.moment_ns = now
    return now
