"""Does again what the database undid by chance, where nothing of it is stored or twice is as once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import stamina
import stamina.instrumentation
import structlog

from metrics_service.db.attempts import ATTEMPT, Attempt
from metrics_service.errors import CommitUnknownError, TransientError
from metrics_service.observability import catalog

ATTEMPTS = 3
WITHIN_S = 2.0
"""After the first failure; later than that no attempt begins."""
WAIT_S, WAIT_MAX_S, JITTER_S = 0.02, 0.5, 0.08

UNDONE = (TransientError, CommitUnknownError)
"""What the database does to a request that may succeed at once."""

Undone: TypeAlias = TransientError | CommitUnknownError
ResultT = TypeVar("ResultT")

_log = structlog.get_logger(__name__)


async def attempted(do: Callable[[], Awaitable[ResultT]], *, is_repeatable: bool) -> ResultT:
    """Do it, and again where the database undid it; `is_repeatable`: even if it may be stored."""
    attempt = Attempt()
    token = ATTEMPT.set(attempt)
    try:
        return await do()
    except UNDONE as error:
        return await repeated(do, error, attempt, is_repeatable=is_repeatable)
    finally:
        ATTEMPT.reset(token)


async def repeated(
    again: Callable[[], Awaitable[ResultT]],
    error: Undone,
    attempt: Attempt,
    *,
    is_repeatable: bool,
) -> ResultT:
    """What comes of it when it is done again after `error`; raises what undid it the last time."""

    def may_repeat(undone: Exception) -> bool:
        if not isinstance(undone, UNDONE):
            return False
        _let_go(undone)
        is_stored = attempt.has_committed or isinstance(undone, CommitUnknownError)
        return is_repeatable or not is_stored

    if not may_repeat(error):
        raise error
    # Its own lines would be in its words, not in ours.
    stamina.instrumentation.set_on_retry_hooks(())
    async for one in stamina.retry_context(
        on=may_repeat,
        attempts=ATTEMPTS,
        timeout=WITHIN_S,
        wait_initial=WAIT_S,
        wait_max=WAIT_MAX_S,
        wait_jitter=JITTER_S,
    ):
        with one:
            if one.num == 1:
                # That was the first attempt, before it was known that there would be others.
                raise error
            _log.info("request tried again", attempt=one.num, reason=str(error))
            catalog.REQUEST_RETRIES.add(1, _cause(error))
            attempt.has_committed = False
            return await again()
    raise error


def _cause(error: Undone) -> str:
    return "commit_unknown" if isinstance(error, CommitUnknownError) else "interrupted"


def _let_go(error: BaseException) -> None:
    """Forget where it happened: the frames hold all that the attempt had parsed."""
    seen: set[BaseException] = set()
    link: BaseException | None = error
    # What is raised again while it is handled leads back to itself.
    while link is not None and link not in seen:
        seen.add(link)
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
