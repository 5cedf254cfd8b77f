"""A model that asks for the tools it is told to ask for, in the words of several providers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from model_apis import API_OF, Reply, Wish

__all__ = ["Wish", "fake_model"]

NOT_HERE = Reply("application/json", '{"error": {"message": "not here"}}')


@contextmanager
def fake_model(wishes: Sequence[Wish]) -> Iterator[str]:
    """Serve at an address of loopback: one wish a turn, and after the last a word of farewell."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = self._body()
            path = self.path.partition("?")[0]
            api = next((found for end, found in API_OF.items() if path.endswith(end)), None)
            if api is None:
                # Catalogues, analytics, counts of tokens: agents do without.
                self._answer(404, NOT_HERE)
            else:
                self._answer(200, api(json.loads(asked), wishes, path))

        def do_GET(self) -> None:
            self._answer(404, NOT_HERE)

        def do_HEAD(self) -> None:
            self._answer(200, Reply("text/plain", ""))

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, status: int, reply: Reply) -> None:
            self.send_response(status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body.encode())))
            self.end_headers()
            self.wfile.write(reply.body.encode())

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
