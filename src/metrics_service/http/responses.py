"""Answers in JSON, without what the framework prepares for cookies, headers and other encodings."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class JsonResponse(Response[T]):
    """The application's `response_class`: a plain struct in, a plain answer out."""

    def to_asgi_response(self, app: Any, request: Request[Any, Any, Any], **options: Any) -> Any:
        is_plain = isinstance(self.content, msgspec.Struct) and not (
            self.headers or self.cookies or self.background or any(options.values())
        )
        if not is_plain:
            return super().to_asgi_response(app, request, **options)
        return _Encoded(self.status_code or 200, _encode(self.content))


class _Encoded(ASGIResponse):
    """An answer that is ready to be sent."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status_code = status
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
        ]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
