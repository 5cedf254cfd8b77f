"""What was acknowledged is there exactly once, whoever is killed while a client sends batches.

The server and PostgreSQL are this test's own: it kills no process but those that it started, by pid.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import places
import psutil
import pytest
from hypothesis import settings

from metrics_service.db.addresses import MIGRATOR_LOGIN, RUNTIME_LOGIN, SUPERUSER, Addresses
from metrics_service.db.embedded import EmbeddedServer, embedded_server
from metrics_service.db.engine import owner_connection
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.keys import create_key
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant

ROUNDS_OF_THE_SERVER = settings().max_examples // 25
ROUNDS_OF_POSTGRES = settings().max_examples // 25
WRITERS = 4
# An embedded server that does not come up is given two minutes before it is started anew.
PATIENCE_S = 150
# What a client may be told while something is down: each says that it should try again.
TRY_AGAIN = {429, 502, 503, 504}


class Sent(msgspec.Struct):
    """One batch: what a client remembers of it."""

    id: str
    body: bytes
    size: int
    is_acknowledged: bool = False
    attempts: int = 0


class Log(msgspec.Struct):
    """What all clients sent, and what they were told."""

    batches: list[Sent] = msgspec.field(default_factory=list)
    statuses: dict[int, int] = msgspec.field(default_factory=dict)
    broken: int = 0
    acknowledged: int = 0
    strange: list[str] = msgspec.field(default_factory=list)
    last_refusal: str = ""


def new_batch(chance: random.Random) -> Sent:
    batch_id = uuid4().hex
    size = chance.randint(2, 60)
    start = datetime.now(UTC) - timedelta(hours=1)
    items = [
        {
            "tool_name": f"tool-{chance.randrange(5)}",
            # Which batch it came with: the content of its items differs by it too.
            "tool_category": batch_id,
            "started_at": start + timedelta(milliseconds=place),
            "agent": "claude-code",
            "external_session_id": f"session-{chance.randrange(6)}",
            "user_email": f"user-{chance.randrange(3)}@example.com",
            "duration_ms": chance.randrange(1000),
            **({"id": uuid4()} if place % 2 else {}),
        }
        for place in range(size)
    ]
    return Sent(batch_id, msgspec.json.encode(items), size)


class Service:
    """Granian in a process of its own, started again whenever it was killed."""

    def __init__(self, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--no-log",
                "--host", "127.0.0.1", "--port", str(self.port), "metrics_service.app:serve_app",
            ],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def keep_up(self) -> None:
        """Start it again if it ended by itself: it does when it finds no database."""
        if self._process is not None and self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """The parent and its worker, which are a session of their own."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None


def kill_postgres(server: EmbeddedServer, chance: random.Random) -> None:
    """The postmaster itself, or one of its children, which makes it start all over."""
    # Backends whose postmaster was killed may have answered last: then there is nothing to kill yet.
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        postmaster = psutil.Process(
            int((server.data_dir / "postmaster.pid").read_text().splitlines()[0])
        )
        victims = [postmaster, *postmaster.children()]
        (postmaster if chance.random() < 0.5 else chance.choice(victims)).kill()


async def send(client: httpx.AsyncClient, batch: Sent, log: Log) -> dict | None:
    """One attempt; the receipt, or None when nobody can say what became of it."""
    batch.attempts += 1
    try:
        answer = await client.post("/api/v1/tool-metrics/batch", content=batch.body)
    except httpx.HTTPError:
        log.broken += 1
        return None
    log.statuses[answer.status_code] = log.statuses.get(answer.status_code, 0) + 1
    if answer.is_success:
        receipt = answer.json()
        if receipt["inserted"] + receipt["duplicates"] != batch.size:
            log.strange.append(f"{receipt} for {batch.size} items")
        batch.is_acknowledged = True
        log.acknowledged += 1
        return receipt
    log.last_refusal = answer.text
    if answer.status_code not in TRY_AGAIN:
        log.strange.append(f"{answer.status_code}: {answer.text[:200]}")
    return None


async def send_until_told(client: httpx.AsyncClient, batch: Sent, log: Log) -> dict:
    """As `send`, again for as long as the answer is to try again."""
    give_up_at = time.monotonic() + PATIENCE_S
    while (receipt := await send(client, batch, log)) is None:
        assert time.monotonic() < give_up_at, log.statuses
        await asyncio.sleep(0.1)
    return receipt


async def keep_sending(client: httpx.AsyncClient, log: Log, seed: int) -> None:
    """As an agent does: one batch after the other, each until it is acknowledged, or given up."""
    chance = random.Random(seed)
    while True:
        batch = new_batch(chance)
        log.batches.append(batch)
        while await send(client, batch, log) is None and chance.random() > 0.15:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.02 + chance.random() * 0.08)


async def state_of(server: EmbeddedServer) -> str:
    """What PostgreSQL itself says, for whoever reads why a test failed."""
    try:
        connection = await asyncpg.connect(server.dsn(SUPERUSER), timeout=5)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        return repr(error)
    try:
        rows = await connection.fetch(
            "SELECT usename, state, wait_event, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3"
        )
    finally:
        await connection.close()
    return str([tuple(row) for row in rows])


async def until_acknowledged(log: Log, service: Service, server: EmbeddedServer) -> None:
    """Wait for the next answer that says it is stored, and look after the server meanwhile."""
    before, give_up_at = log.acknowledged, time.monotonic() + PATIENCE_S
    while log.acknowledged == before:
        if time.monotonic() > give_up_at:
            pytest.fail(f"{log.statuses} {log.last_refusal} {await state_of(server)}")
        service.keep_up()
        await asyncio.sleep(0.01)


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedServer]:
    """An embedded server that nobody else uses, looked after as `serve` does."""
    with tempfile.TemporaryDirectory(
        prefix="kills-", dir=places.for_data(), ignore_cleanup_errors=True
    ) as directory:
        Path(directory).chmod(0o755)
        with embedded_server(Path(directory) / "data") as server, server.watched():
            yield server


@asynccontextmanager
async def service_of(
    server: EmbeddedServer,
) -> AsyncIterator[tuple[Service, httpx.AsyncClient, str]]:
    addresses = Addresses(
        runtime=server.dsn(RUNTIME_LOGIN),
        direct=server.dsn(RUNTIME_LOGIN),
        owner=server.dsn(MIGRATOR_LOGIN),
    )
    await initialise(addresses, server.dsn(SUPERUSER))
    new = NewTenant.of("killed", name=None, domain=None, plan="basic", base_domain="localhost")
    async with owner_connection(addresses.require_owner()) as connection:
        tenant = await create_tenant(connection, new, target_of(addresses))
        async with connection.begin():
            key = (await create_key(connection, tenant.id, scopes=["ingest"], name="test")).key
    service = Service(
        {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DATABASE_URL": addresses.runtime,
            "METRICS_SECRET_KEY": "a secret key that only tests ever use",
            "METRICS_LOG_LEVEL": "error",
        }
    )
    client = httpx.AsyncClient(
        base_url=service.url,
        headers={
            "Host": f"{tenant.domain}.localhost",
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
        },
        timeout=15,
        trust_env=False,
    )
    service.start()
    try:
        async with client:
            yield service, client, tenant.schema_name
    finally:
        service.kill()


STORED = "SELECT tool_category AS batch, count(*) AS items FROM {schema}.tool_metrics GROUP BY 1"

MISCOUNTED = """
SELECT s.external_id FROM {schema}.metrics_sessions s
LEFT JOIN (SELECT session_id, count(*) AS calls, min(started_at) AS first
           FROM {schema}.tool_metrics GROUP BY session_id) f ON f.session_id = s.id
WHERE (s.tool_call_count, s.started_at) IS DISTINCT FROM (f.calls, f.first)
"""


async def stored(server: EmbeddedServer, schema: str) -> tuple[dict[str, int], list[str]]:
    """How many items of each batch are there, and which sessions have wrong totals."""
    connection = await asyncpg.connect(server.dsn(SUPERUSER))
    items = {
        row["batch"]: row["items"] for row in await connection.fetch(STORED.format(schema=schema))
    }
    wrong = [row[0] for row in await connection.fetch(MISCOUNTED.format(schema=schema))]
    await connection.close()
    return items, wrong


async def test_what_was_acknowledged_is_there_exactly_once_whoever_was_killed(own_postgres):
    chance, log = random.Random(20261121), Log()
    victims = ["server"] * ROUNDS_OF_THE_SERVER + ["postgres"] * ROUNDS_OF_POSTGRES
    chance.shuffle(victims)
    async with service_of(own_postgres) as (service, client, schema):
        writers = [asyncio.create_task(keep_sending(client, log, seed)) for seed in range(WRITERS)]
        for victim in victims:
            await until_acknowledged(log, service, own_postgres)
            await asyncio.sleep(chance.random() * 0.4)
            if victim == "postgres":
                await asyncio.to_thread(kill_postgres, own_postgres, chance)
            else:
                await asyncio.to_thread(service.kill)
                service.start()
        await until_acknowledged(log, service, own_postgres)
        for writer in writers:
            writer.cancel()
        ended = await asyncio.gather(*writers, return_exceptions=True)
        # Requests that were cut off here may still be at work.
        await asyncio.sleep(1)
        there, wrong = await stored(own_postgres, schema)

        given_up = [batch for batch in log.batches if not batch.is_acknowledged]
        missing = sum(batch.size for batch in log.batches if batch.id not in there)
        receipts = []
        for start in range(0, len(log.batches), 20):
            some = log.batches[start : start + 20]
            receipts += await asyncio.gather(
                *(send_until_told(client, batch, log) for batch in some)
            )
        there_again, wrong_again = await stored(own_postgres, schema)

    assert {type(end) for end in ended} == {asyncio.CancelledError}
    assert log.strange == []
    size = {batch.id: batch.size for batch in log.batches}
    lost = [one for one in log.batches if one not in given_up and there.get(one.id) != one.size]
    assert lost == []
    # Those that nobody acknowledged may be there or not, but never half.
    assert [batch for batch, items in there.items() if items != size[batch]] == []
    assert wrong == []
    # Every round had something to lose.
    assert log.broken + sum(log.statuses.get(status, 0) for status in TRY_AGAIN) >= len(victims)
    assert there_again == size
    assert wrong_again == []
    assert sum(receipt["inserted"] for receipt in receipts) == missing
