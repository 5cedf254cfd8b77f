"""Does again what the database undid by chance, before anybody has heard of it.

A deadlock, a connection that broke, a server that was restarted: the same request succeeds a moment
later, and its client need not know. It is done again where nothing of it can have been stored, or where
doing it twice comes to the same as doing it once.
"""

from __future__ import annotations

from typing import Any, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from metrics_service.db.again import UNDONE, Undone, repeated
from metrics_service.db.attempts import ATTEMPT, Attempt
from metrics_service.http import limits
from metrics_service.http.body import Replayed
from metrics_service.http.problems import send_problem

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
BY_CONTENT = limits.BATCH_PATHS | {"/api/v1/sessions"}
"""Where sending the same again changes nothing, whatever it is sent with."""
KEYED_PREFIXES = ("/api/v1/", "/operator/api/v1/")
PASSWORD_PATH = "/api/v1/me/password"  # noqa: S105  # a path
KEY_HEADER = b"idempotency-key"


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
