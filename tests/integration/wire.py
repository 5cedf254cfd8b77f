"""A proxy in front of PostgreSQL that takes down what a client says, and how often it waits."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

PORT = 5432
READY_FOR_QUERY = b"Z"


class Wire:
    """What went over the wire since `clear`: one entry for each time the client waited."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.said: list[str] = []
        self.answers = 0
        """How often the server said that it is ready for the next query."""
        self._is_servers_turn = True

    def clear(self) -> None:
        self.said, self.answers, self._is_servers_turn = [], 0, True

    def client_says(self, kind: bytes, body: bytes) -> None:
        message = kind.decode()
        if message == "Q":
            statement = body[:-1].decode()
            message += f"({statement})"
        if self._is_servers_turn:
            self.said.append("")
        self._is_servers_turn = False
        self.said[-1] += message

    def server_says(self, kind: bytes, _body: bytes) -> None:
        self._is_servers_turn = True
        self.answers += kind == READY_FOR_QUERY


@asynccontextmanager
async def wire_to(dsn: str) -> AsyncIterator[Wire]:
    """Listen on a socket of its own; `wire.dsn` leads through it to the server of `dsn`."""
    with tempfile.TemporaryDirectory(prefix="wire-", dir="/tmp") as directory:
        parts = urlsplit(dsn)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        host = query.get("host", parts.hostname or "127.0.0.1")
        port = int(query.get("port", parts.port or PORT))
        query |= {"host": directory, "port": str(PORT)}
        credentials = parts.netloc.rpartition("@")[0]
        wire = Wire(urlunsplit(parts._replace(netloc=f"{credentials}@", query=urlencode(query))))
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if host.startswith("/"):
                there = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                there = await asyncio.open_connection(host, port)
            startup = await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
            there[1].write((len(startup) + 4).to_bytes(4) + startup)
            for task in (
                asyncio.create_task(_pass_on(reader, there[1], wire.client_says)),
                asyncio.create_task(_pass_on(there[0], writer, wire.server_says)),
            ):
                tasks.add(task)

        server = await asyncio.start_unix_server(serve, Path(directory) / f".s.PGSQL.{PORT}")
        try:
            yield wire
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
            note(head[:1], body)
            writer.write(head + body)
    writer.close()
