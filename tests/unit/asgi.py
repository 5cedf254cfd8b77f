"""Drives a piece of ASGI middleware in a test, without a server around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Step = bytes | Exception | float
"""What the client does next: send bytes, leave (an exception of any kind), or wait (seconds)."""

Application = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass
class Reply:
    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name.encode()]
        assert len(values) <= 1, f"{name} is repeated"
        return values[0].decode() if values else None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Inner:
    """The application behind the middleware: remembers what reaches it, and answers 200."""

    reads: bool = True
    scope: dict[str, Any] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    answer_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    set_state: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        scope.setdefault("state", {}).update(self.set_state)
        while self.reads and scope["method"] in {"POST", "PUT", "PATCH"}:
            self.messages.append(await receive())
            if not self.messages[-1].get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": self.answer_headers})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})


def make_scope(
    method: str = "GET",
    path: str = "/",
    *,
    headers: Iterable[tuple[str | bytes, str | bytes]] = (),
    host: str | bytes | None = "acme.localhost",
    query: bytes = b"",
    raw_path: bytes | None = None,
    client: tuple[str, int] | None = ("192.0.2.1", 40000),
) -> dict[str, Any]:
    named = ([("host", host)] if host is not None else []) + list(headers)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode() if raw_path is None else raw_path,
        "root_path": "",
        "query_string": query,
        "headers": [(_bytes(name), _bytes(value)) for name, value in named],
        "client": client,
        "server": ("127.0.0.1", 8000),
    }


async def exchange(app: Application, scope: dict[str, Any], steps: Iterable[Step] = ()) -> Reply:
    """One request whose body arrives in steps."""
    reply = Reply()
    left = list(steps)

    async def receive() -> dict[str, Any]:
        while left:
            step = left.pop(0)
            if isinstance(step, float):
                await asyncio.sleep(step)
                continue
            if isinstance(step, Exception):
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": step, "more_body": bool(left)}
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert reply.status is None, "the answer began twice"
            reply.status = message["status"]
            reply.headers = list(message["headers"])
        else:
            reply.body += message.get("body", b"")

    await app(scope, receive, send)
    return reply


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
