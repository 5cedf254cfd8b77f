"""A proxy in front of PostgreSQL that cuts, stalls or delays a connection at a moment of its protocol."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from enum import Enum
from pathlib import Path
from uuid import UUID

import msgspec

COMMAND_COMPLETE, READY_FOR_QUERY = b"C", b"Z"
PARSE, BIND, EXECUTE, QUERY = b"P", b"B", b"E", b"Q"
ENTERS = re.compile(r"enter_tenant\('([0-9a-f]{32})'")


class Moment(Enum):
    """Where in a transaction that changes something."""

    BEGIN = "BEGIN is not sent on"
    CONTEXT = "it begins, and the answer to its context does not come back"
    WRITE = "the statement that writes is not sent on"
    WRITTEN = "that statement is done, and its answer does not come back"
    COMMIT = "COMMIT is not sent on"
    COMMITTED = "it is committed, and the answer does not come back"


class Cut(Exception):  # noqa: N818  # no error: what was asked for
    """Both sides of the connection are to be reset."""


class Fault(msgspec.Struct):
    """What is done to transactions of a tenant that write a table, and how often it was."""

    moment: Moment
    tenant_id: UUID
    table: str
    """BEGIN and its context come before it is known what is written: there it is any that may write."""
    times: int
    act: Callable[[], Awaitable[None]]
    happened: int = 0
    begun: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set when it happens for the first time."""

    async def happen(self) -> None:
        self.happened += 1
        self.begun.set()
        await self.act()


class CuttingProxy:
    """Listens on loopback; `dsn_of` leads through it to the server behind the socket."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.port = 0
        self._faults: list[Fault] = []
        self._open: set[asyncio.Task[None]] = set()

    def dsn_of(self, login: str) -> str:
        return f"postgresql://{login}@127.0.0.1:{self.port}/metrics?sslmode=disable"

    # -- what is to go wrong --------------------------------------------------------------------------

    def cutting(
        self, moment: Moment, tenant_id: UUID, table: str, *, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """Reset the connection there."""

        async def cut() -> None:
            raise Cut

        return self._armed(Fault(moment, tenant_id, table, times, cut))

    def delaying(
        self, moment: Moment, tenant_id: UUID, table: str, *, by_s: float, times: int = 1
    ) -> AbstractContextManager[Fault]:
        """Say there nothing for so long, and then go on."""
        return self._armed(Fault(moment, tenant_id, table, times, lambda: asyncio.sleep(by_s)))

    def stalling(
        self, moment: Moment, tenant_id: UUID, table: str, released: asyncio.Event
    ) -> AbstractContextManager[Fault]:
        """Hold back there what was said until it is released; it then arrives, whoever has given up."""

        async def wait() -> None:
            await released.wait()

        return self._armed(Fault(moment, tenant_id, table, 1, wait))

    @contextmanager
    def _armed(self, fault: Fault) -> Iterator[Fault]:
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)

    def fault_at(self, moment: Moment, tenant_id: UUID, written: str) -> Fault | None:
        """The one that is to happen there; `written` is all that the transaction wrote with."""
        for fault in self._faults:
            if (
                fault.moment is moment
                and fault.tenant_id == tenant_id
                and fault.happened < fault.times
                and (moment in {Moment.BEGIN, Moment.CONTEXT} or writes(written, fault.table))
            ):
                return fault
        return None

    # -- what goes through ----------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            server = await asyncio.open_unix_connection(str(self.socket_path))
        except OSError:
            writer.transport.abort()
        else:
            await _Conversation(self, (reader, writer), server).go_on()
        finally:
            self._open.discard(task)

    async def end(self) -> None:
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


def writes(statements: str, table: str) -> bool:
    pattern = rf"\b(INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+(ONLY\s+)?(\w+\.)?{table}\b"
    return re.search(pattern, statements, re.IGNORECASE) is not None


Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Conversation:
    """One connection: follows what the client says far enough to know where it stands."""

    def __init__(self, proxy: CuttingProxy, client: Side, server: Side) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._prepared: dict[bytes, str] = {}
        self._bound = ""
        self._tenant_id: UUID | None = None
        self._written = ""
        self._held: Fault | None = None
        """What happens with the answer to what was said last."""

    async def go_on(self) -> None:
        both = [
            asyncio.create_task(self._from_client()),
            asyncio.create_task(self._from_server()),
        ]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        except (Cut, OSError):
            for _, writer in (self._client, self._server):
                writer.transport.abort()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for _, writer in (self._client, self._server):
                writer.close()

    async def _from_client(self) -> None:
        reader, writer = self._client[0], self._server[1]
        with suppress(asyncio.IncompleteReadError):
            length = await reader.readexactly(4)
            # The start-up message, or a request to cancel, has no kind.
            writer.write(length + await reader.readexactly(int.from_bytes(length) - 4))
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
                await self._heard(head[:1], body)
                writer.write(head + body)
                await writer.drain()
        # What it said last arrives; then the server sees that it has gone.
        if writer.can_write_eof():
            writer.write_eof()

    async def _from_server(self) -> None:
        reader, writer = self._server[0], self._client[1]
        kept = b""
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(5)
                message = head + await reader.readexactly(int.from_bytes(head[1:]) - 4)
                held = self._held
                if held is not None and held.moment is Moment.CONTEXT:
                    # BEGIN is answered, and nothing after it.
                    if message.startswith(COMMAND_COMPLETE):
                        writer.write(message)
                        self._held = None
                        await held.happen()
                        continue
                elif held is not None:
                    kept += message
                    if head[:1] != READY_FOR_QUERY:
                        continue
                    self._held, message, kept = None, kept, b""
                    await held.happen()
                writer.write(message)
                await writer.drain()
        raise Cut

    async def _heard(self, kind: bytes, body: bytes) -> None:
        if kind == PARSE:
            name, query, _ = body.split(b"\0", 2)
            self._prepared[name] = query.decode()
        elif kind == BIND:
            self._bound = self._prepared.get(body.split(b"\0", 2)[1], "")
        elif kind == EXECUTE:
            await self._runs(self._bound)
        elif kind == QUERY:
            statement = body[:-1].decode()
            if statement.startswith("BEGIN"):
                await self._begins(statement)
            elif statement.rstrip().endswith("COMMIT"):
                await self._meets(Moment.COMMIT, Moment.COMMITTED, self._written)
            elif statement.startswith("ROLLBACK;") or statement == "ROLLBACK":
                self._tenant_id = None
            else:
                await self._runs(statement)

    async def _begins(self, statement: str) -> None:
        entered = ENTERS.search(statement)
        is_writing = entered is not None and "READ ONLY" not in statement
        self._tenant_id = UUID(entered.group(1)) if entered and is_writing else None
        self._written = ""
        await self._meets(Moment.BEGIN, Moment.CONTEXT, "")

    async def _runs(self, statement: str) -> None:
        self._written += f"\n{statement}"
        await self._meets(Moment.WRITE, Moment.WRITTEN, statement)

    async def _meets(self, before: Moment, after: Moment, written: str) -> None:
        if self._tenant_id is None:
            return
        fault = self._proxy.fault_at(before, self._tenant_id, written)
        if fault is not None:
            await fault.happen()
        self._held = self._proxy.fault_at(after, self._tenant_id, written)


@asynccontextmanager
async def cutting_proxy(socket_path: Path) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(socket_path)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
