"""Open pages hear of changes: from the commit, through the database, to a browser's open stream."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import httpx
import msgspec
import pytest
from command_line import CommandLine, free_port, on_database, running
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.cookies import NAME
from metrics_service.ingest.records import session_id_of
from metrics_service.tenants.lifecycle import resume, suspend
from metrics_service.tenants.sign_ins import SignIns, begin_sign_in
from metrics_service.web.live.streams import MAX_OF_A_PERSON

READY = "Metrics Service serves"
SOON_S = 5.0
# Longer than a change takes from one process to the other, shorter than a heartbeat.
QUIET_S = 3.0


class Event(msgspec.Struct, frozen=True):
    kind: str
    data: dict[str, Any]

    def is_about(self, session_id: UUID) -> bool:
        return self.kind == "changed" and str(session_id) in self.data.get("sessions", [])


class Listening:
    """A browser's end of a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def read_head(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in lines)

    async def next(self, *, within_s: float = SOON_S) -> Event | None:
        """The next event; None when the stream ended. Raises `TimeoutError`."""
        async with asyncio.timeout(within_s):
            while True:
                size = int(await self._reader.readline(), 16)
                message = (await self._reader.readexactly(size + 2))[:-2].decode()
                if not size:
                    return None
                fields = dict(
                    line.split(": ", 1) for line in message.split("\n") if line[:1] not in {"", ":"}
                )
                if "event" in fields:
                    return Event(fields["event"], json.loads(fields["data"]))

    async def is_quiet(self) -> bool:
        try:
            await self.next(within_s=QUIET_S)
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class Person(msgspec.Struct, frozen=True):
    """Somebody who signed in, and a key of their tenant to send with."""

    id: UUID
    tenant_id: UUID
    host: str
    token: str
    key: str

    @property
    def cookie(self) -> str:
        return f"{NAME}={self.token}"


@asynccontextmanager
async def asked(
    port: int, host: str, *, method: str = "GET", **headers: str
) -> AsyncIterator[Listening]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} /live HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    listening = Listening(reader, writer)
    try:
        await listening.read_head()
        yield listening
    finally:
        await listening.close()


async def ask(port: int, host: str, *, method: str = "GET", **headers: str) -> Listening:
    """What is answered, to somebody who does not stay."""
    async with asked(port, host, method=method, **headers) as listening:
        return listening


@asynccontextmanager
async def listening(port: int, person: Person) -> AsyncIterator[Listening]:
    async with asked(port, person.host, Cookie=person.cookie) as stream:
        assert stream.status == 200
        yield stream


async def state_session(port: int, person: Person) -> UUID:
    """Have a session stored over HTTP; its id."""
    name = uuid4().hex
    body = {"agent": "codex", "external_id": name, "started_at": "2026-11-20T09:30:00Z"}
    headers = {"Host": person.host, "Authorization": f"Bearer {person.key}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/api/v1/sessions", json=body)
    assert answer.status_code == 201, answer.text
    return session_id_of(person.tenant_id, "codex", name)


def prompt_in(session: str) -> dict[str, Any]:
    """OTLP of one prompt, as Claude Code sends it."""
    attributes = {"session.id": session, "event.name": "user_prompt"}
    record = {
        "timeUnixNano": "1795167000000000000",
        "body": {"stringValue": "claude_code.user_prompt"},
        "attributes": [_attribute(*one) for one in attributes.items()],
    }
    resource = {"attributes": [_attribute("service.name", "claude-code")]}
    scope = {"logRecords": [record]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}


def _attribute(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


@contextmanager
def serving(line: CommandLine, **environ: str) -> Iterator[tuple[int, Any]]:
    port = free_port()
    line = msgspec.structs.replace(line, environ=line.environ | environ)
    with running(line, "serve", "--port", str(port)) as (process, output):
        output.wait_for(READY)
        yield port, process


@pytest.fixture(scope="module")
def ports(line: CommandLine) -> Iterator[tuple[int, int]]:
    """Two servers on one database."""
    with serving(line) as (here, _), serving(line) as (there, _):
        yield here, there


@pytest.fixture
def new_person(engine: AsyncEngine, new_tenant: Any) -> Any:
    async def make(tenant: Any = None) -> Person:
        tenant = tenant or await new_tenant()
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            found = await connection.fetchval(
                "INSERT INTO users (email, role) VALUES ($1, 'viewer') RETURNING id",
                f"{uuid4().hex}@example.com",
            )
            user_id = UUID(str(found))
            made = await begin_sign_in(connection, user_id, user_agent="test")
        return Person(user_id, tenant.id, tenant.headers["Host"], made.token, tenant.key)

    return make


async def registry(addresses: Addresses, change: Any, tenant_id: UUID) -> None:
    async with owner_connection(addresses.require_owner()) as connection:
        await change(connection, str(tenant_id))


# -- who hears what -----------------------------------------------------------------------------------


async def test_a_change_is_heard_in_both_processes_by_its_tenant_alone(ports, new_person):
    here, there = ports
    ada, bob = await new_person(), await new_person()
    async with AsyncExitStack() as stack:
        adas = [await stack.enter_async_context(listening(port, ada)) for port in ports]
        bobs = [await stack.enter_async_context(listening(port, bob)) for port in ports]

        session_id = await state_session(here, ada)
        heard = [await one.next() for one in adas]

        assert all(event is not None and event.is_about(session_id) for event in heard)
        assert all(await asyncio.gather(*(one.is_quiet() for one in bobs)))
        # And they do listen.
        other_id = await state_session(there, bob)
        heard = [await one.next() for one in bobs]
        assert all(event is not None and event.is_about(other_id) for event in heard)
        assert all(await asyncio.gather(*(one.is_quiet() for one in adas)))


async def test_everything_that_is_written_is_told(ports, new_person):
    here, _ = ports
    ada = await new_person()
    headers = {"Host": ada.host, "Authorization": f"Bearer {ada.key}"}
    url = f"http://127.0.0.1:{here}"
    named = session_id_of(ada.tenant_id, "codex", "one")
    call = {
        "tool_name": "Bash",
        "started_at": "2026-11-20T09:30:00Z",
        "agent": "codex",
        "external_session_id": "one",
    }
    async with (
        listening(here, ada) as stream,
        httpx.AsyncClient(trust_env=False, base_url=url, headers=headers) as client,
    ):

        async def told_of(session_id: UUID, answer: httpx.Response) -> bool:
            assert answer.is_success, answer.text
            event = await stream.next()
            return event is not None and event.is_about(session_id)

        path = f"/api/v1/sessions/{named}"
        assert await told_of(named, await client.post("/api/v1/tool-metrics/batch", json=[call]))
        assert await told_of(named, await client.patch(path, json={"productivity_score": 7}))
        assert await told_of(named, await client.delete(path))
        claude = session_id_of(ada.tenant_id, "claude-code", "two")
        assert await told_of(claude, await client.post("/v1/logs", json=prompt_in("two")))
        # What was stored already changes nothing.
        await client.post("/api/v1/tool-metrics/batch", json=[call])
        await stream.next()
        again = await client.post("/api/v1/tool-metrics/batch", json=[call])
        assert again.json()["duplicates"] == 1
        assert await stream.is_quiet()


async def test_what_comes_over_grpc_is_told_by_its_own_process(line, new_person):
    grpc_port = free_port()
    with serving(line, METRICS_OTLP_GRPC_PORT=str(grpc_port)) as (port, _):
        ada = await new_person()
        message = ParseDict(prompt_in("three"), ExportLogsServiceRequest()).SerializeToString()
        async with listening(port, ada) as stream:
            await asyncio.to_thread(_export, grpc_port, ada, message)
            event = await stream.next()

    assert event is not None
    assert event.is_about(session_id_of(ada.tenant_id, "claude-code", "three"))


def _export(port: int, person: Person, message: bytes) -> None:
    options = [("grpc.default_authority", person.host)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        call(message, metadata=[("authorization", f"Bearer {person.key}")], timeout=10)


async def test_many_changes_are_few_messages(ports, new_person):
    here, there = ports
    ada = await new_person()
    async with listening(there, ada) as stream:
        began = time.monotonic()
        for _ in range(60):
            await state_session(here, ada)
        took_s = time.monotonic() - began
        messages = []
        while True:
            try:
                messages.append(await stream.next(within_s=QUIET_S))
            except TimeoutError:
                break

    assert 1 <= len(messages) <= took_s + 3
    assert all(len(message.data.get("sessions", [])) <= 50 for message in messages)


# -- who may listen -----------------------------------------------------------------------------------


async def test_only_a_person_who_signed_in_may_listen(ports, new_person):
    here, _ = ports
    ada, bob = await new_person(), await new_person()

    nobody = await ask(here, ada.host)
    key = await ask(here, ada.host, Authorization=f"Bearer {ada.key}")
    stranger = await ask(here, ada.host, Cookie=bob.cookie)
    posted = await ask(here, ada.host, method="HEAD", Cookie=ada.cookie)

    assert (nobody.status, key.status, stranger.status) == (401, 401, 401)
    assert "location" not in nobody.headers
    assert (posted.status, posted.headers["allow"]) == (405, "get")


async def test_the_answer_is_a_stream_that_nobody_keeps(ports, new_person):
    here, _ = ports
    async with listening(here, await new_person()) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"


async def test_signing_out_ends_the_streams_of_that_sign_in_alone(ports, new_person, engine):
    here, there = ports
    ada = await new_person()
    async with tenant_connection(engine, TenantContext(ada.tenant_id)) as connection:
        second = await begin_sign_in(connection, ada.id, user_agent="test")
    elsewhere = msgspec.structs.replace(ada, token=second.token)
    async with (
        listening(here, ada) as first,
        listening(there, ada) as same,
        listening(here, elsewhere) as other,
    ):
        # As a third process does it.
        await SignIns(engine, ttl_s=lambda: 0.0).end(ada.tenant_id, ada.token)

        assert await first.next(within_s=2) == Event("gone", {})
        assert await first.next() is None
        assert await same.next(within_s=2) == Event("gone", {})
        assert await other.is_quiet()


async def test_suspending_a_tenant_ends_its_streams(ports, new_person, addresses):
    here, there = ports
    ada, bob = await new_person(), await new_person()
    async with (
        listening(here, ada) as first,
        listening(there, ada) as second,
        listening(here, bob) as other,
    ):
        await registry(addresses, suspend, ada.tenant_id)

        assert await first.next(within_s=2) == Event("gone", {})
        assert await second.next(within_s=2) == Event("gone", {})
        assert await other.is_quiet()
    assert (await ask(here, ada.host, Cookie=ada.cookie)).status == 403
    await registry(addresses, resume, ada.tenant_id)


async def test_a_stream_ends_with_its_sign_in(ports, new_person, engine):
    here, _ = ports
    ada = await new_person()
    async with tenant_connection(engine, TenantContext(ada.tenant_id)) as connection:
        await connection.execute(
            "UPDATE sign_ins SET expires_at = now() + interval '2 s' WHERE user_id = $1", ada.id
        )
    async with listening(here, ada) as stream:
        assert await stream.next() == Event("gone", {})


# -- bounds and mishaps -------------------------------------------------------------------------------


async def test_a_tenant_takes_half_of_the_streams_and_the_rest_is_refused(line, new_person):
    with serving(line, METRICS_STREAMS_MAX="4") as (port, _):
        ada, bob, eve = await new_person(), await new_person(), await new_person()
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(listening(port, ada))
            await stack.enter_async_context(listening(port, ada))
            too_many = await ask(port, ada.host, Cookie=ada.cookie)
            assert (too_many.status, too_many.headers["retry-after"]) == (503, "60")
            await stack.enter_async_context(listening(port, bob))
            await stack.enter_async_context(listening(port, bob))
            assert (await ask(port, eve.host, Cookie=eve.cookie)).status == 503

            # Whoever leaves makes room.
            await first.close()
            await _until_accepted(port, eve)


async def _until_accepted(port: int, person: Person) -> None:
    async with asyncio.timeout(SOON_S):
        while True:
            if (await ask(port, person.host, Cookie=person.cookie)).status == 200:
                return
            await asyncio.sleep(0.1)


async def test_the_server_stops_with_two_hundred_streams_open(line, new_person, new_tenant):
    with serving(line) as (port, process):
        tenant = await new_tenant()
        people = [await new_person(tenant) for _ in range(200 // MAX_OF_A_PERSON)]
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(listening(port, person))
                for person in people
                for _ in range(MAX_OF_A_PERSON)
            ]
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            ends = await asyncio.gather(*(stream.next() for stream in streams))
            code = await asyncio.to_thread(process.wait, 10)

    assert ends == [None] * 200
    assert code == 0
    assert time.monotonic() - began < 5


async def test_a_reader_who_takes_nothing_holds_nobody_up(line, new_person):
    with serving(line) as (port, process):
        ada = await new_person()
        async with listening(port, ada), listening(port, ada) as other:
            # The first one's messages are never read.
            for _ in range(3):
                session_id = await state_session(port, ada)
                event = await other.next()
                assert event is not None and event.is_about(session_id)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 10) == 0


async def test_a_lost_listener_is_told_and_made_up_for(line, new_person, admin_url, addresses):
    with serving(line) as (port, _):
        ada = await new_person()
        async with listening(port, ada) as stream:
            assert await _kill_listeners(admin_url, addresses) >= 1

            assert await stream.next() == Event("deaf", {})
            event = await stream.next()
            assert event is not None and event.data.get("many") is True
            await asyncio.sleep(1)
            session_id = await state_session(port, ada)
            event = await stream.next()
            while event is not None and event.data.get("many"):
                event = await stream.next()
            assert event is not None and event.is_about(session_id)


async def _kill_listeners(admin_url: Any, addresses: Addresses) -> int:
    """Kill what last listened, or proves that it still does; all of the database's."""
    name = addresses.runtime.rpartition("/")[2].partition("?")[0]
    connection = await asyncpg.connect(admin_url(name))
    try:
        return await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE '%pg_backend_pid(), pg_catalog.clock_timestamp()%'"
            " AND pid <> pg_backend_pid()"
            " AND application_name <> 'metrics-service'"
        )
    finally:
        await connection.close()
