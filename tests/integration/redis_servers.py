"""Redis servers of a test's own, which it may stop, freeze and fill; and one that lies."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

PROGRAM = shutil.which("redis-server")
SOON_S = 10.0


class RedisServer:
    """Keeps nothing on disk: it begins empty whenever it is started."""

    def __init__(self) -> None:
        if PROGRAM is None:
            pytest.skip("redis-server is not installed")
        self.program = PROGRAM
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        where = ["--bind", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [self.program, *where, "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until_it_answers()

    def kill(self) -> None:
        """At once, as a machine that fails."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Connections to it stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def ask(self, *command: str | bytes | int) -> Any:
        """As an administrator, or an intruder, asks it."""
        import redis

        with redis.Redis(port=self.port, protocol=2) as client:
            return client.execute_command(*command)

    def _wait_until_it_answers(self) -> None:
        import redis

        until = time.monotonic() + SOON_S
        while True:
            try:
                self.ask("PING")
            except redis.ConnectionError:
                assert time.monotonic() < until, "redis-server does not start"
                time.sleep(0.02)
            else:
                return


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def lying_server(answer: bytes, *, after: int = 0) -> AsyncIterator[str]:
    """Answers each command as Redis would, and after so many of them always the same; gives its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while command := await _read_command(reader):
                nonlocal after
                after -= 1
                if after < 0:
                    writer.write(answer)
                else:
                    writer.write(b"+PONG\r\n" if command[0] == b"PING" else b"+OK\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def _read_command(reader: asyncio.StreamReader) -> list[bytes]:
    line = await reader.readline()
    words = []
    for _ in range(int(line[1:]) if line else 0):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words
