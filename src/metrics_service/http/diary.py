"""Tells the receiver's diary what became of every request that was to bring something in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from uuid import UUID

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from metrics_service.errors import MetricsServiceError
from metrics_service.http.auth import PROTECTED, credential
from metrics_service.http.diary_notes import refusal_from, sender_of, signal_of, taken_from
from metrics_service.http.headers import content_type_of, values_of
from metrics_service.http.limits import LINE_TYPES
from metrics_service.http.otlp_errors import JSON, PROTOBUF_TYPES, speaks_otlp
from metrics_service.http.tenant import require_served
from metrics_service.ingest.diary import Diary
from metrics_service.ingest.diary_page import Sender
from metrics_service.tenants.authenticate import KeyRing
from metrics_service.tenants.resolve import TenantDirectory

CRASHED = "the service failed"


class DiaryKeeper:
    """Middleware: outside of every layer that refuses, so that none of them has to know of it."""

    def __init__(
        self, app: ASGIApp, diary: Diary, directory: TenantDirectory, keys: KeyRing
    ) -> None:
        self._app = app
        self._diary = diary
        self._directory = directory
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope.get("method") != "POST":
            await self._app(scope, receive, send)
            return
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            # The layer around this one answers it so.
            await self._note(scope, status or (503 if speaks_otlp(scope) else 500))
            raise
        if status is not None:
            await self._note(scope, status)

    async def _note(self, scope: Scope, status: int) -> None:
        signal = signal_of(scope)
        if signal is None:
            return
        taken = taken_from(scope)
        if status >= 400:
            await self._refuse(scope, signal, status)
        elif taken is not None:
            sender = _sender(scope, signal, scope["user"].id)
            self._diary.accept(scope["state"]["tenant"].id, sender, taken)

    async def _refuse(self, scope: Scope, signal: str, status: int) -> None:
        tenant_id = await self._tenant_of(scope)
        if tenant_id is not None:
            refusal = refusal_from(scope)
            reason = CRASHED if refusal is None else refusal.reason
            sender = _sender(scope, signal, await self._key_of(scope, tenant_id))
            self._diary.refuse(tenant_id, sender, status, reason)

    async def _tenant_of(self, scope: Scope) -> UUID | None:
        """Whose diary it is; what is wrong with a request's head is said before anybody asked."""
        state: dict[str, Any] = scope["state"]
        if "tenant" in state:
            tenant_id: UUID = state["tenant"].id
            return tenant_id
        if "host" not in state:
            return None
        try:
            return require_served(await self._directory.find(state["host"])).id
        except MetricsServiceError:
            return None

    async def _key_of(self, scope: Scope, tenant_id: UUID) -> UUID | None:
        if "user" in scope:
            key_id: UUID = scope["user"].id
            return key_id
        was_asked = "tenant" in scope["state"] and scope["path"].startswith(PROTECTED)
        if was_asked or (key := credential(scope)) is None:
            refusal = refusal_from(scope)
            return None if refusal is None else refusal.key_id
        # A wrong path or a wrong head was refused before anybody looked at the key.
        try:
            principal = await self._keys.find_principal(tenant_id, key)
        except MetricsServiceError:
            return None
        return None if principal is None else principal.id


def _sender(scope: Scope, signal: str, key_id: UUID | None) -> Sender:
    types = values_of(scope["headers"], b"content-type")
    encoding = _encoding(types[0] if len(types) == 1 else b"")
    return sender_of(scope["headers"], key_id=key_id, signal=signal, encoding=encoding)


@lru_cache(maxsize=256)
def _encoding(content_type: bytes) -> str:
    media_type, _ = content_type_of([content_type])
    if media_type in PROTOBUF_TYPES:
        return "protobuf"
    return "json" if media_type == JSON or media_type in LINE_TYPES else "other"
