"""SIGHUP replaces the workers under load: no write fails, nothing is lost and nothing is doubled."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import psutil
import pytest
from command_line import CommandLine, Output, eventually, free_port, is_alive, on_database, running

from metrics_service.cli.spawn import DRAIN_S
from metrics_service.db.addresses import Addresses
from metrics_service.ingest.prices import BUILT_IN

READY = "Metrics Service serves"
DELAY_S = 0.5
WRITERS = 4
GIVE_UP_AFTER_S = 30.0
# For what has to be started, which a busy machine takes its time for.
PATIENCE_S = 150.0
BOUND_S = DRAIN_S + DELAY_S + 5


# As a shell's foreground job: opened by the leader of a session, a terminal becomes that session's.
IN_TERMINAL = """
import os, signal, sys
# Whoever runs the tests may have begun with `nohup`.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.close(os.open(os.ttyname(0), os.O_RDWR))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    made = on_database(addresses)
    delay = {"METRICS_DRAIN_DELAY_MS": str(int(DELAY_S * 1000))}
    return msgspec.structs.replace(made, environ=made.environ | delay)


class Served(msgspec.Struct, frozen=True):
    process: subprocess.Popen[str]
    output: Output
    port: int

    def workers(self) -> set[int]:
        """Those that run; one that ended was perhaps not reaped yet."""
        found = set()
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(child.cmdline()):
                    found.add(child.pid)
        return found


@contextmanager
def served(line: CommandLine, *options: str) -> Iterator[Served]:
    port = free_port()
    with running(line, "serve", "--port", str(port), *options) as (process, output):
        output.wait_for(READY, within_s=PATIENCE_S)
        yield Served(process, output, port)


class Writer:
    """A client that sends batches one after the other, each until it is acknowledged."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._url, self._headers = url, headers
        self.sent: list[str] = []
        self.refused: list[int] = []
        self.attempts = 0

    async def write(self, is_over: asyncio.Event) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            while not is_over.is_set():
                await self._deliver(client, uuid4().hex)

    async def _deliver(self, client: httpx.AsyncClient, name: str) -> None:
        started_at = datetime.now(UTC) - timedelta(minutes=5)
        items = [
            {"tool_name": name, "started_at": started_at + timedelta(milliseconds=number)}
            for number in range(20)
        ]
        body = msgspec.json.encode(items)
        give_up_at = time.monotonic() + GIVE_UP_AFTER_S
        while time.monotonic() < give_up_at:
            self.attempts += 1
            try:
                response = await client.post(self._url, content=body, headers=self._headers)
            except httpx.TransportError:
                await asyncio.sleep(0.02)
                continue
            if response.status_code == 200:
                self.sent.append(name)
                return
            self.refused.append(response.status_code)
            await asyncio.sleep(0.1)
        raise AssertionError("a batch was not taken in")


async def load_while(served: Served, headers: dict[str, str], replaced: Any) -> list[Writer]:
    url = f"http://127.0.0.1:{served.port}/api/v1/tool-metrics/batch"
    writers = [Writer(url, headers) for _ in range(WRITERS)]
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            group.create_task(writer.write(is_over))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(replaced)
        await asyncio.sleep(0.5)
        is_over.set()
    return writers


def new_tenant(line: CommandLine) -> tuple[str, str, dict[str, str]]:
    slug = f"s{uuid4().hex[:12]}"
    made = line.here("tenant", "create", slug, "--json").json()
    key = line.here("key", "create", slug, "--scope", "ingest", "--json").json()["key"]
    headers = {
        "Host": f"{slug}.localhost",
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
    }
    return made["id"], made["schema_name"], headers


async def stored(addresses: Addresses, tenant_id: str, schema: str) -> dict[str, int]:
    connection = await asyncpg.connect(addresses.require_owner())
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL ROLE app_owner")
            await connection.execute(f"SET LOCAL app.tenant_id = '{tenant_id}'")
            rows = await connection.fetch(
                f"SELECT tool_name, count(*) FROM {schema}.tool_metrics GROUP BY 1"
            )
        return dict(rows)
    finally:
        await connection.close()


def test_a_rolling_restart_under_load_fails_no_write(line, addresses):
    tenant_id, schema, headers = new_tenant(line)
    with served(line, "--workers", "2") as server:
        before = server.workers()
        assert len(before) == 2

        def replaced() -> None:
            server.process.send_signal(signal.SIGHUP)
            eventually(
                lambda: len(server.workers()) == 2 and not server.workers() & before,
                within_s=2 * PATIENCE_S,
            )

        writers = asyncio.run(load_while(server, headers, replaced))

        told_at = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.output.wait_for_end() == 0
        assert time.monotonic() - told_at < BOUND_S
        assert "Traceback" not in server.output.text
        assert "force" not in server.output.text

    sent = [name for writer in writers for name in writer.sent]
    assert len(sent) > WRITERS
    assert all(not writer.refused for writer in writers)
    counts = asyncio.run(stored(addresses, tenant_id, schema))
    assert counts == dict.fromkeys(sent, 20)


def test_the_old_worker_serves_until_the_new_one_does(line):
    with served(line) as server:
        (old,) = server.workers()
        server.process.send_signal(signal.SIGHUP)
        refused = 0
        while is_alive(old) and old in server.workers():
            try:
                httpx.get(f"http://127.0.0.1:{server.port}/health/live", trust_env=False)
            except httpx.ConnectError:
                refused += 1
            except httpx.TransportError:
                # It was the old one's, which had just told that it takes no more.
                pass
            time.sleep(0.01)

        assert refused == 0
        (new,) = server.workers()
        assert new != old


def test_where_a_new_worker_does_not_come_up_the_old_one_stays(line, tmp_path):
    # What workers read when they start is broken only after the first one has.
    prices = tmp_path / "prices.toml"
    shutil.copy(BUILT_IN, prices)
    broken = msgspec.structs.replace(
        line, environ=line.environ | {"METRICS_PRICES_FILE": str(prices)}
    )
    with served(broken) as server:
        before = server.workers()
        prices.write_text("no table")

        server.process.send_signal(signal.SIGHUP)

        server.output.wait_for("worker not replaced", within_s=PATIENCE_S)
        time.sleep(1)
        assert server.workers() == before
        assert server.process.poll() is None
        url = f"http://127.0.0.1:{server.port}/health/live"
        assert httpx.get(url, trust_env=False).status_code == 200


@pytest.mark.parametrize("after_s", [0.0, 0.3, 2.0])
def test_sigterm_during_a_rolling_restart_ends_all_of_it(line, after_s):
    with served(line, "--workers", "2") as server:
        server.process.send_signal(signal.SIGHUP)
        time.sleep(after_s)
        workers = server.workers()
        told_at = time.monotonic()
        server.process.send_signal(signal.SIGTERM)

        assert server.output.wait_for_end() == 0
        assert time.monotonic() - told_at < BOUND_S
        eventually(lambda: not any(is_alive(pid) for pid in workers))


def test_closing_its_terminal_ends_it(line):
    own, its = pty.openpty()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *line.command, "serve", "--port", str(port)],
        env=line.environ,
        stdin=its,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        os.close(its)
        assert process.stdout is not None
        assert READY in process.stdout.readline()

        os.close(own)

        assert process.wait(BOUND_S) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
