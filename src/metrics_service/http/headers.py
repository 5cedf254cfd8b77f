"""Reads the headers of a request and adds to those of an answer, on bare ASGI."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from litestar.types import Message, Send

Header: TypeAlias = tuple[bytes, bytes]

_CHARSET = re.compile(r"""charset\s*=\s*"?([^";\s]*)"?""")

# Without a list, HTTP lets a coding be repeated; one is enough for every client that we know.
_CODINGS = {
    b"": "identity",
    b"identity": "identity",
    b"gzip": "gzip",
    b"x-gzip": "gzip",
    b"deflate": "deflate",
    b"zstd": "zstd",
}


def values_of(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Every value of a header, in order; repeated headers matter more than their first value."""
    return [value for key, value in headers if key == name]


def coding_of(values: list[bytes]) -> str | None:
    """The one Content-Encoding of a body, or None when it is not one that we can undo."""
    if not values:
        return "identity"
    return _CODINGS.get(values[0].strip().lower()) if len(values) == 1 else None


def content_type_of(values: list[bytes]) -> tuple[str, str]:
    """The media type and the charset of a Content-Type in lower case; no type when repeated."""
    if len(values) != 1:
        return "", "utf-8"
    media_type, _, parameters = values[0].decode("latin-1").lower().partition(";")
    charset = _CHARSET.search(parameters)
    return media_type.strip(), charset[1] if charset else "utf-8"


def adding(send: Send, *headers: Header) -> Send:
    """A `send` that adds headers to the answer that passes through it."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return send_with_headers
