"""The processes of one server: each answers what its meters say, so that any of them can tell of all.

A collector that asks a server reaches one worker, whichever has time. So each process answers at a
socket of its own, in a directory that their parent made and only its user can enter; who is asked asks
the others. One that is dead, or too busy to answer in time, is left out.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import structlog

from metrics_service.observability import catalog
from metrics_service.observability.prometheus import Family, exposition, families

VARIABLE = "METERS_DIRECTORY"
"""Where the parent says which directory it is."""

PATIENCE_S = 0.5
MAX_BYTES = 16 * 1024 * 1024
"""More than that no process has to say."""
MAX_OF_A_KIND = 256
_PIECE_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


class Told(msgspec.Struct, frozen=True):
    """What one process says."""

    process: str
    families: list[Family]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Told).decode


class Siblings:
    """What one process knows of the others, and tells them.

    It is called by its kind and the first number that no living one has: so a worker that takes
    another's place goes on with its name. A process that no parent told of a directory is alone.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.process = f"{kind}-1"
        self._directory: Path | None = None

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Answer the others while this is open."""
        named = os.environ.get(VARIABLE)
        async with AsyncExitStack() as held:
            if named:
                try:
                    await self._join(Path(named), held)
                except OSError as error:
                    # Nobody is served less well for it. The others are called otherwise, unseen.
                    self.process = f"{self._kind}-{os.getpid()}"
                    log.warning("meters are told of one process", reason=type(error).__name__)
            yield

    def told(self) -> Told:
        """What this process says itself."""
        return Told(self.process, families(catalog.INSTRUMENTS))

    async def exposition(self) -> str:
        """What all processes of this server say, for Prometheus."""
        others = await asyncio.gather(*(_ask(socket) for socket in self._others()))
        told = [self.told(), *(other for other in others if other is not None)]
        told.sort(key=lambda one: one.process)
        return exposition([(one.process, one.families) for one in told])

    async def _join(self, directory: Path, held: AsyncExitStack) -> None:
        self.process = held.enter_context(_name(directory, self._kind))
        socket = _socket_of(directory, self.process)
        # Of one that had the name before, and was killed.
        socket.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._answer, socket)
        held.callback(socket.unlink, missing_ok=True)
        held.callback(server.close)
        self._directory = directory

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(_encode(self.told()))
            async with asyncio.timeout(PATIENCE_S):
                await writer.drain()
        except (OSError, TimeoutError):
            # Whoever asked does not listen.
            writer.transport.abort()
        finally:
            writer.close()

    def _others(self) -> list[Path]:
        if self._directory is None:
            return []
        own = _socket_of(self._directory, self.process)
        return [socket for socket in sorted(self._directory.glob("*.sock")) if socket != own]


@contextmanager
def meters_directory() -> Iterator[None]:
    """Make the directory, and tell all processes that are started while this is open."""
    with ExitStack() as held:
        try:
            # It is made for this user alone.
            made = held.enter_context(
                TemporaryDirectory(prefix="metrics-service-", ignore_cleanup_errors=True)
            )
        except OSError as error:
            # There are systems on which nothing can be written.
            log.warning("meters are told of one process", reason=type(error).__name__)
        else:
            # systemd-tmpfiles(8), which clears what is old, leaves out what is locked.
            directory = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
            held.callback(os.close, directory)
            fcntl.flock(directory, fcntl.LOCK_SH)
            os.environ[VARIABLE] = made
            held.callback(os.environ.pop, VARIABLE, None)
        yield


@contextmanager
def _name(directory: Path, kind: str) -> Iterator[str]:
    """A name that is this process's while it lives: the system lets go of the lock."""
    for number in range(1, MAX_OF_A_KIND + 1):
        name = f"{kind}-{number}"
        lock = (directory / f"{name}.lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        with lock:
            yield name
        return
    raise FileExistsError(f"there are {MAX_OF_A_KIND} processes")


async def _ask(socket: Path) -> Told | None:
    """What a process says; None when it does not, or not in time."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                return _decode(await _read(reader))
            finally:
                writer.close()
    except (OSError, TimeoutError, msgspec.MsgspecError):
        return None


async def _read(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    while len(answer) < MAX_BYTES and (piece := await reader.read(_PIECE_BYTES)):
        answer += piece
    return answer


def _socket_of(directory: Path, process: str) -> Path:
    return directory / f"{process}.sock"
