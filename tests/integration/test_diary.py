"""The receiver's diary in the database: processes that add together, that lose it, and that end."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import grpc
import httpx
import pytest
from command_line import CommandLine, eventually, free_port, on_database, running
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.pool import breaker_of
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest.diary import Diary
from metrics_service.ingest.diary_page import (
    MAX_LINES,
    MAX_REASONS,
    MAX_STRANGERS_LINES,
    Sender,
    Taken,
)
from metrics_service.otlp.grpc_exports import NOT_WHOLE, SIGNALS
from metrics_service.tenants import lifecycle
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant

LOGS, *_ = SIGNALS
KEY = UUID(int=1)


NO_MESSAGE = "there is no message that can be read"


def senders(count: int) -> list[Sender]:
    return [
        Sender(key_id, signal, "protobuf", f"client{number}", "1.0")
        for number in range(count)
        for key_id in (KEY, None)
        for signal in ("logs", "traces")
    ]


async def lines_of(engine, tenant_id) -> list[asyncpg.Record]:
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        return await connection.fetch("SELECT l.* FROM ingest_log l ORDER BY l.id")


async def refusals_of(engine, tenant_id) -> list[asyncpg.Record]:
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        return await connection.fetch("SELECT f.* FROM ingest_refusals f ORDER BY log_id, reason")


# -- together -----------------------------------------------------------------------------------------


async def test_processes_that_write_the_same_lines_add_exactly(engine, new_tenant):
    tenant = await new_tenant()
    diaries = [Diary(engine) for _ in range(3)]
    chance = random.Random(5)
    accepted, refused = 0, 0

    for _ in range(15):
        for diary in diaries:
            for sender in chance.sample(senders(8), 12):
                if chance.random() < 0.5:
                    diary.accept(tenant.id, sender, Taken(3, {"bad": 1}))
                    accepted += 1
                else:
                    diary.refuse(tenant.id, sender, 400, f"reason {chance.randrange(4)}")
                    refused += 1
        await asyncio.gather(*(diary.flush(tenant.id) for diary in diaries))

    lines = await lines_of(engine, tenant.id)
    refusals = await refusals_of(engine, tenant.id)
    assert {line["id"] for line in lines} <= {sender.id for sender in senders(8)}
    assert sum(line["accepted_requests"] for line in lines) == accepted
    assert sum(line["accepted_items"] for line in lines) == 3 * accepted
    assert sum(line["refused_items"] for line in lines) == accepted
    assert sum(line["refused_requests"] for line in lines) == refused
    assert sum(one["refused"] for one in refusals if one["status"] == 400) == refused
    assert sum(one["refused"] for one in refusals if one["status"] == 200) == accepted
    for line in lines:
        own = [one for one in refusals if one["log_id"] == line["id"]]
        assert line["last_at"] == max(
            at for at in (line["last_accepted_at"], line["last_refused_at"]) if at is not None
        )
        assert line["first_at"] <= min((one["first_at"] for one in own), default=line["last_at"])


async def test_a_version_that_no_text_can_hold_takes_no_other_line_with_it(engine, new_tenant):
    tenant = await new_tenant()
    diary = Diary(engine)
    one, other, *_ = senders(1)
    diary.refuse(tenant.id, one, 401, "this key is not one of this tenant's")
    diary.accept(tenant.id, other, Taken(1, agent="codex", agent_version="1.0\0"))

    await diary.flush(tenant.id)

    lines = {row["id"]: row for row in await lines_of(engine, tenant.id)}
    assert lines[one.id]["refused_requests"] == 1
    assert lines[other.id]["agent_version"] == "1.0 "


async def test_two_processes_together_stay_within_the_bounds(engine, new_tenant):
    tenant = await new_tenant()
    diaries = [Diary(engine), Diary(engine)]

    for place, diary in enumerate(diaries):
        for number in range(MAX_LINES):
            name = f"client{place}-{number}"
            diary.accept(tenant.id, Sender(KEY, "logs", "json", name), Taken(1))
            diary.refuse(tenant.id, Sender(None, "logs", "json", name), 401, "why")
        for number in range(MAX_REASONS):
            diary.refuse(
                tenant.id, Sender(KEY, "traces", "grpc", "one"), 400, f"reason {place} {number}"
            )
        await diary.flush(tenant.id)

    lines = await lines_of(engine, tenant.id)
    named = [line for line in lines if line["client"] != "other"]
    assert sum(line["key_id"] is None for line in named) == MAX_STRANGERS_LINES
    assert sum(line["key_id"] is not None for line in named) <= MAX_LINES
    assert sum(line["accepted_requests"] for line in lines) == 2 * MAX_LINES
    assert sum(line["refused_requests"] for line in lines) == 2 * (MAX_LINES + MAX_REASONS)
    reasons: dict[Any, list[str]] = {}
    for one in await refusals_of(engine, tenant.id):
        reasons.setdefault(one["log_id"], []).append(one["reason"])
    assert all(len(told) <= MAX_REASONS + 1 for told in reasons.values())


async def test_the_reasons_that_were_heard_last_are_kept(engine, new_tenant):
    tenant = await new_tenant()
    diary = Diary(engine)
    sender = Sender(KEY, "logs", "json", "one")
    count = 3 * MAX_REASONS

    for number in range(count):
        diary.refuse(tenant.id, sender, 400, f"reason {number}")
        await diary.flush(tenant.id)

    found = {one["reason"]: one["refused"] for one in await refusals_of(engine, tenant.id)}
    newest = {f"reason {number}" for number in range(count - MAX_REASONS, count)}
    assert found == dict.fromkeys(newest, 1) | {"other": count - MAX_REASONS}


# -- what may happen meanwhile ------------------------------------------------------------------------


async def test_a_tenant_that_was_deleted_is_forgotten_and_the_others_are_not(
    addresses, engine, new_tenant
):
    gone, suspended, stays = await new_tenant(), await new_tenant(), await new_tenant()
    diary = Diary(engine)
    for tenant in (gone, suspended, stays):
        diary.accept(tenant.id, Sender(KEY, "logs", "json", "one"), Taken(1))
    async with owner_connection(addresses.require_owner()) as connection:
        await lifecycle.delete(connection, gone.slug)
        await lifecycle.suspend(connection, suspended.slug)

    async with diary.kept():
        pass

    async with owner_connection(addresses.require_owner()) as connection:
        await lifecycle.resume(connection, suspended.slug)
    async with diary.kept():
        pass
    (line,) = await lines_of(engine, stays.id)
    assert line["accepted_requests"] == 1
    assert await lines_of(engine, suspended.id) == []


async def test_what_was_noted_while_the_database_was_away_is_written_when_it_is_back(
    new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
):
    made = await asyncio.to_thread(new_database)
    name = urlsplit(made.runtime).path.removeprefix("/")
    await initialised(made, admin_url(name))
    new = NewTenant.of("acme", name=None, domain=None, plan="basic", base_domain="localhost")
    async with owner_connection(made.require_owner()) as connection:
        tenant = await create_tenant(connection, new, target_of(made))
    pool = runtime_engine(made.runtime, pool_max=2)
    diary = Diary(pool)
    sender = Sender(KEY, "logs", "json", "one")

    diary.accept(tenant.id, sender, Taken(2))
    await diary.flush(tenant.id)
    async with away(admin_url("postgres"), name):
        for _ in range(3):
            diary.accept(tenant.id, sender, Taken(2))
            diary.refuse(tenant.id, sender, 503, "the database cannot be reached")
            await diary.flush(tenant.id)
    async with asyncio.timeout(20):
        while breaker_of(pool).is_open:
            await asyncio.sleep(0.05)
    await diary.flush(tenant.id)

    (line,) = await lines_of(pool, tenant.id)
    (refusal,) = await refusals_of(pool, tenant.id)
    assert (line["accepted_requests"], line["accepted_items"]) == (4, 8)
    assert line["refused_requests"] == refusal["refused"] == 3
    await pool.dispose()


async def initialised(made: Addresses, admin: str) -> None:
    # It opens loops of its own.
    await asyncio.to_thread(asyncio.run, initialise(made, admin))


@asynccontextmanager
async def away(admin: str, database: str) -> AsyncIterator[None]:
    """Let nobody into a database, and throw out who is in."""
    connection = await asyncpg.connect(admin)
    try:
        await connection.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database
        )
        yield
    finally:
        await connection.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        await connection.close()


# -- the processes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


class Customer:
    """A tenant, as its clients and its own administrator see it."""

    def __init__(self, line: CommandLine, addresses: Addresses) -> None:
        self.slug = f"d{uuid4().hex[:12]}"
        self._line = line
        self._addresses = addresses
        self.id = UUID(line.here("tenant", "create", self.slug, "--json").json()["id"])
        self.key = self.new_key("--scope", "ingest")

    def new_key(self, *options: str) -> str:
        key: str = self._line.here("key", "create", self.slug, *options, "--json").json()["key"]
        return key

    @property
    def host(self) -> str:
        return f"{self.slug}.localhost"

    def lines(self) -> list[asyncpg.Record]:
        return self._read(lines_of)

    def refusals(self) -> dict[str, tuple[int, int]]:
        return {one["reason"]: (one["status"], one["refused"]) for one in self._read(refusals_of)}

    def _read(self, rows_of: Callable[..., Any]) -> Any:
        async def read() -> Any:
            pool = runtime_engine(self._addresses.runtime, pool_max=1)
            try:
                return await rows_of(pool, self.id)
            finally:
                await pool.dispose()

        # Wherever the test is, on a loop or not.
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(asyncio.run, read()).result()


@pytest.fixture
def customer(line: CommandLine, addresses: Addresses) -> Customer:
    return Customer(line, addresses)


def one_record() -> bytes:
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add().body.string_value = "hello"
    return bytes(request.SerializeToString())


def export_over_http(port: int, customer: Customer) -> int:
    return httpx.post(
        f"http://127.0.0.1:{port}/v1/logs",
        content=one_record(),
        headers={
            "Host": customer.host,
            "Authorization": f"Bearer {customer.key}",
            "Content-Type": "application/x-protobuf",
        },
        trust_env=False,
    ).status_code


@contextmanager
def channel_to(port: int, customer: Customer) -> Iterator[Callable[..., bytes]]:
    options = [("grpc.default_authority", customer.host), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield lambda body, key, **more: channel.unary_unary(LOGS)(
            body, metadata=[("x-api-key", key)] if key else [], timeout=20, **more
        )


def test_a_server_that_is_told_to_end_writes_what_it_noted(line, customer):
    port, grpc_port = free_port(), free_port()
    arguments = ("--port", str(port), "--otlp-grpc-port", str(grpc_port))

    with running(line, "serve", *arguments) as (process, output):
        output.wait_for(f"OTLP over gRPC is taken at http://127.0.0.1:{grpc_port}\n")
        with channel_to(grpc_port, customer) as export:
            for _ in range(3):
                assert export_over_http(port, customer) == 200
                export(one_record(), customer.key)
        process.send_signal(signal.SIGTERM)
        assert output.wait_for_end() == 0

    lines = {one["encoding"]: one for one in customer.lines()}
    assert {name: one["accepted_requests"] for name, one in lines.items()} == {
        "protobuf": 3,
        "grpc": 3,
    }
    assert {one["accepted_items"] for one in lines.values()} == {3}
    assert lines["protobuf"]["client"] == "python-httpx"
    assert lines["grpc"]["client"].startswith("grpc-python")
    assert "not written" not in output.text


def test_what_is_refused_over_grpc_shows_at_once(line, customer):
    port = free_port()
    reader = customer.new_key("--scope", "read")
    ended = customer.new_key("--scope", "ingest", "--expires-in", "1s")

    with running(line, "serve", "--port", str(free_port()), "--otlp-grpc-port", str(port)) as (
        _,
        output,
    ):
        output.wait_for(f"OTLP over gRPC is taken at http://127.0.0.1:{port}\n")
        time.sleep(1.1)
        told = {}
        with channel_to(port, customer) as export:
            for name, body, key in (
                ("none", one_record(), None),
                ("unknown", one_record(), "msk_0123456789_x"),
                ("reader", one_record(), reader),
                ("ended", one_record(), ended),
                ("garbage", b"\xff" * 9, customer.key),
                ("large", b"x" * (64 * 2**20 + 1), customer.key),
            ):
                with pytest.raises(grpc.RpcError) as raised:
                    export(body, key)
                told[name] = raised.value.details()
        expected = {
            "there is no credential that can be read": (401, 1),
            "this key is not one of this tenant's": (401, 1),
            "this key lacks the scope ingest": (403, 1),
            told["ended"]: (401, 1),
            "the body is not an OTLP request in protobuf": (400, 1),
            NOT_WHOLE: (503, 1),
        }
        eventually(lambda: len(customer.refusals()) == len(expected), within_s=10)

    assert told["ended"].startswith("this key expired at ")
    assert told["none"] == told["unknown"] == "a valid API key of this tenant is required"
    refusals = customer.refusals()
    # The library tells a message that is too long as one that broke off, or as none at all.
    if NO_MESSAGE in refusals:
        expected[NO_MESSAGE] = (400, expected.pop(NOT_WHOLE)[1])
    assert refusals == expected
    assert all(one["encoding"] == "grpc" for one in customer.lines())
    assert sum(one["key_id"] is None for one in customer.lines()) == 1
