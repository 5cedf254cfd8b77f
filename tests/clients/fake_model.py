"""A model that asks for the tools it is told to ask for, in the words of the Gemini API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec


class Wish(msgspec.Struct, frozen=True):
    """One tool that the model wants called."""

    tool: str
    arguments: dict[str, Any]


USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 40,
    "candidatesTokenCount": 20,
    "thoughtsTokenCount": 5,
    "totalTokenCount": 125,
}


@contextmanager
def fake_model(wishes: Sequence[Wish]) -> Iterator[str]:
    """Serve at an address of loopback: one wish a turn, and after the last a word of farewell."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = _reply(asked, wishes)
            is_stream = "streamGenerateContent" in self.path
            body = f"data: {json.dumps(reply)}\n\n" if is_stream else json.dumps(reply)
            self.send_response(200)
            kind = "text/event-stream" if is_stream else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing: the tests have their own words."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _reply(asked: dict[str, Any], wishes: Sequence[Wish]) -> dict[str, Any]:
    parts = [part for turn in asked["contents"] for part in turn["parts"]]
    fulfilled = sum("functionResponse" in part for part in parts)
    if fulfilled < len(wishes):
        wish = wishes[fulfilled]
        said = {"functionCall": {"name": wish.tool, "args": wish.arguments}}
    else:
        said = {"text": "All done."}
    return {
        "candidates": [
            {"index": 0, "content": {"role": "model", "parts": [said]}, "finishReason": "STOP"}
        ],
        "usageMetadata": USAGE,
    }
