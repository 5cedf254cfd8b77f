"""Does again what the database undid by chance, before anybody has heard of it.

A deadlock, a connection that broke, a server that was restarted: the same request succeeds a moment
later, and its client need not know. It is done again where nothing of it can have been stored, or where
doing it twice comes to the same as doing it once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, cast

import stamina
import stamina.instrumentation
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from metrics_service.db.attempts import ATTEMPT, Attempt
from metrics_service.errors import CommitUnknownError, TransientError
from metrics_service.http import limits
from metrics_service.http.body import Replayed
from metrics_service.http.problems import send_problem
from metrics_service.observability import catalog

ATTEMPTS = 3
WITHIN_S = 2.0
"""After the first failure; later than that no attempt begins."""
WAIT_S, WAIT_MAX_S, JITTER_S = 0.02, 0.5, 0.08

UNDONE = (TransientError, CommitUnknownError)
"""What the database does to a request that may succeed at once."""

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
BY_CONTENT = limits.BATCH_PATHS | {"/api/v1/sessions"}
"""Where sending the same again changes nothing, whatever it is sent with."""
KEYED_PREFIXES = ("/api/v1/", "/operator/api/v1/")
PASSWORD_PATH = "/api/v1/me/password"  # noqa: S105  # a path
KEY_HEADER = b"idempotency-key"

Undone: TypeAlias = TransientError | CommitUnknownError
ResultT = TypeVar("ResultT")

_log = structlog.get_logger(__name__)


class _Before:
    """What a request was when it came to the framework, which leaves a lot in it."""

    __slots__ = ("_state", "_state_before", "scope")

    def __init__(self, scope: dict[str, Any]) -> None:
        state = scope.setdefault("state", {})
        self.scope, self._state, self._state_before = scope.copy(), state, state.copy()

    def restore(self, scope: dict[str, Any]) -> None:
        """Make it so again; in place, because the layers in front hold the same two."""
        for mapping, before in ((scope, self.scope), (self._state, self._state_before)):
            mapping.clear()
            mapping.update(before)


class RetryGate:
    """Middleware around the framework, which lets `UNDONE` out to it instead of answering."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            # What the lifespan starts is no attempt at a request.
            await self._app(scope, receive, send)
            return
        # Every request pays for these lines; what is copied are two small dictionaries.
        before = _Before(cast("dict[str, Any]", scope))
        attempt = Attempt()
        token = ATTEMPT.set(attempt)
        try:
            await self._app(scope, receive, send)
        except UNDONE as error:
            await self._again(scope, receive, send, before, attempt, error)
        finally:
            ATTEMPT.reset(token)

    async def _again(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        before: _Before,
        attempt: Attempt,
        error: Undone,
    ) -> None:
        async def again() -> None:
            before.restore(cast("dict[str, Any]", scope))
            if isinstance(receive, Replayed):
                receive.rewind()
            await self._app(scope, receive, send)

        try:
            await repeated(again, error, attempt, is_repeatable=is_repeatable(before.scope))
        except UNDONE as last:
            await send_problem(last, scope, send)


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


def is_repeatable(scope: dict[str, Any]) -> bool:
    """Whether doing the request twice comes to the same as doing it once."""
    method, path = scope["method"], limits.routed_path(scope["path"])
    if method in READING_METHODS:
        return True
    if method != "POST":
        return False
    if path in BY_CONTENT or limits.is_otlp(path):
        return True
    # A changed password is not the one that the same request changes it from.
    return (
        path.startswith(KEYED_PREFIXES)
        and path != PASSWORD_PATH
        and any(name == KEY_HEADER for name, _ in scope["headers"])
    )


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
