"""A server that is told to end says first that it is not ready, and serves on for a while."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import httpx
import msgspec
import psutil
import pytest
from command_line import CommandLine, eventually, free_port, on_database, running

from metrics_service.db.addresses import Addresses

READY = "Metrics Service serves"
DELAY_S = 2.0
SOON_S = 8.0


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    made = on_database(addresses)
    delay = {"METRICS_DRAIN_DELAY_MS": str(int(DELAY_S * 1000))}
    return msgspec.structs.replace(made, environ=made.environ | delay)


@contextmanager
def served(line: CommandLine, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    with running(line, "serve", "--port", str(port), *options) as (process, output):
        output.wait_for(READY)
        yield process, port


def status(port: int, kind: str) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/{kind}", trust_env=False).status_code
    except httpx.HTTPError:
        return 0


def reported(addresses: Addresses, pids: set[int]) -> list[str]:
    """The kinds of the processes that are known to the registry."""

    async def ask() -> list[str]:
        connection = await asyncpg.connect(addresses.require_owner())
        try:
            await connection.execute("SET ROLE app_owner")
            rows = await connection.fetch(
                "SELECT kind FROM public.service_processes WHERE pid = ANY ($1) ORDER BY 1", pids
            )
        finally:
            await connection.close()
        return [row[0] for row in rows]

    return asyncio.run(ask())


def check_that_it_drains(process: subprocess.Popen[str], port: int, told_at: float) -> None:
    eventually(lambda: status(port, "ready") == 503)
    assert time.monotonic() - told_at < DELAY_S / 2
    while time.monotonic() - told_at < DELAY_S - 0.5:
        assert (status(port, "ready"), status(port, "live")) == (503, 200)
    assert process.wait(SOON_S) == 0
    assert time.monotonic() - told_at >= DELAY_S


def test_on_sigterm_it_is_not_ready_and_serves_on_until_the_delay_is_over(line, addresses):
    with served(line, "--workers", "2", "--otlp-grpc-port", str(free_port())) as (process, port):
        pids = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
        eventually(lambda: reported(addresses, pids) == ["http", "http", "otlp-grpc"])
        assert status(port, "ready") == 200
        told_at = time.monotonic()
        process.send_signal(signal.SIGTERM)

        check_that_it_drains(process, port, told_at)

    assert reported(addresses, pids) == []


def test_it_does_so_where_all_processes_of_the_service_are_told(line):
    # As systemd does, unless it is told otherwise.
    with served(line) as (process, port):
        told_at = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)

        check_that_it_drains(process, port, told_at)


def test_a_second_signal_ends_it_at_once(line):
    with served(line) as (process, port):
        told_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        eventually(lambda: status(port, "ready") == 503)
        process.send_signal(signal.SIGTERM)
        process.wait(SOON_S)

        assert time.monotonic() - told_at < DELAY_S


def test_a_worker_whose_parent_was_killed_does_not_keep_the_port_for_the_delay(line):
    slow = msgspec.structs.replace(line, environ=line.environ | {"METRICS_DRAIN_DELAY_MS": "60000"})
    with served(slow) as (process, port):
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()

        eventually(lambda: not any(worker.is_running() for worker in workers))
        assert status(port, "live") == 0
