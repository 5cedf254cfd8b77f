"""SIGTERM ends the server well and in time, whoever holds a connection and whatever is away."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import httpx
import psutil
import pytest
from command_line import CommandLine, eventually, free_port, on_database, running
from own_servers import OwnServer

from metrics_service.cli.signals import TERMINATED
from metrics_service.cli.spawn import DRAIN_S
from metrics_service.http.lingering import TRAVELS_S, cut_off

READY = "Metrics Service serves"
# For what has to be started, which a busy machine takes its time for.
PATIENCE_S = 150.0
SMALL_S = 6.0
SLUG = "acme"


@pytest.fixture(scope="module")
def line(own: OwnServer) -> CommandLine:
    made = on_database(own.addresses)
    made("tenant", "create", SLUG, "--json").json()
    return made


@contextmanager
def connected(port: int, sends: bytes) -> Iterator[socket.socket]:
    with socket.socket() as client:
        # So that the answers do not all fit into what the system keeps for it.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", port))
        client.sendall(sends)
        yield client


def asked(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {SLUG}.localhost\r\n\r\n".encode()


def ended_in(
    line: CommandLine,
    during: Callable[[int], AbstractContextManager[object]],
    *,
    to_group: bool = False,
) -> tuple[float, str]:
    """How long the end took, and all that was printed; it must be a good one."""
    port = free_port()
    with running(line, "serve", "--port", str(port)) as (process, output):
        output.wait_for(READY, within_s=PATIENCE_S)
        with during(port):
            told_at = time.monotonic()
            (os.killpg if to_group else os.kill)(process.pid, signal.SIGTERM)
            code = output.wait_for_end(within_s=DRAIN_S + 30)
            took_s = time.monotonic() - told_at
    assert code == 0, output.text
    assert "Traceback" not in output.text
    assert "by force" not in output.text
    return took_s, output.text


# What a client sends and then does nothing more; and whether it has to be cut off.
IDLE = {
    "says nothing": (b"", False),
    "half a head": (b"GET /health/live HTT", True),
    "keeps it alive": (asked("/health/live"), False),
    "reads nothing": (200 * asked("/schema/openapi.json"), True),
}


def test_clients_that_do_nothing_do_not_hold_it_up(line):
    @contextmanager
    def held(port: int) -> Iterator[None]:
        with ExitStack() as open_:
            for sends, _ in IDLE.values():
                open_.enter_context(connected(port, sends))
            time.sleep(1)
            yield

    took_s, text = ended_in(line, held)

    assert took_s < TRAVELS_S + SMALL_S
    (said,) = (words for words in text.splitlines() if "clients cut off" in words)
    cut = sum(is_cut_off for _, is_cut_off in IDLE.values())
    assert re.search(rf"connections.{{1,12}}\b{cut}\b", said), said


@pytest.mark.parametrize(
    ("trouble", "to_group"),
    [("none", False), ("none", True), ("stopped", True), ("frozen", False)],
)
def test_it_ends_well_whatever_the_database_does(line, own, trouble, to_group):
    @contextmanager
    def troubled(port: int) -> Iterator[None]:
        asking = threading.Thread(target=ask, args=(port,))
        state = {"none": nullcontext, "stopped": own.stopped, "frozen": own.frozen}[trouble]
        with state():
            asking.start()
            time.sleep(0.3)
            yield
        asking.join(30)

    took_s, _ = ended_in(line, troubled, to_group=to_group)

    assert took_s < DRAIN_S + SMALL_S


def ask(port: int) -> None:
    """A request that needs the database, and has to be waited for."""
    try:
        url = f"http://127.0.0.1:{port}/api/v1/me"
        key = {"Host": f"{SLUG}.localhost", "Authorization": "Bearer msk_unknown"}
        httpx.get(url, headers=key, timeout=30, trust_env=False)
    except httpx.TransportError:
        pass


def test_it_ends_well_while_its_collector_never_answers(line):
    with socket.socket() as collector:
        collector.bind(("127.0.0.1", 0))
        collector.listen()
        endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}"
        told = CommandLine(line.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})

        took_s, _ = ended_in(told, lambda _: nullcontext())

    assert took_s < DRAIN_S + SMALL_S


def test_it_ends_well_while_redis_is_away(line):
    told = CommandLine(line.environ | {"REDIS_URL": "redis://127.0.0.1:1/0"})

    took_s, _ = ended_in(told, lambda _: nullcontext())

    assert took_s < SMALL_S


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.5])
def test_it_ends_well_while_its_worker_starts(line, after_s):
    with running(line, "serve", "--port", str(free_port())) as (process, output):
        eventually(lambda: bool(psutil.Process(process.pid).children()), within_s=PATIENCE_S)
        time.sleep(after_s)
        process.send_signal(signal.SIGTERM)

        assert output.wait_for_end(within_s=DRAIN_S + SMALL_S) == 0
        assert "Traceback" not in output.text


def test_it_ends_while_it_is_imported(line):
    with running(line.afresh(), "serve", "--port", str(free_port())) as (process, output):
        time.sleep(0.7)
        process.send_signal(signal.SIGTERM)

        # Before Python has come as far as to the command, the signal has its usual meaning.
        code = output.wait_for_end(within_s=DRAIN_S + SMALL_S)
        assert code in {0, -signal.SIGTERM, TERMINATED}
        assert "Traceback" not in output.text


def test_only_clients_of_that_port_are_cut_off():
    with ExitStack() as open_:
        pairs = []
        for _ in range(2):
            listening = open_.enter_context(socket.create_server(("127.0.0.1", 0)))
            client = open_.enter_context(socket.create_connection(listening.getsockname()))
            served, _ = listening.accept()
            open_.enter_context(served)
            pairs.append((listening, client, served))
        (listening, client, _), (_, other, _) = pairs

        assert cut_off(listening.getsockname()[1]) == 1

        client.settimeout(5)
        assert client.recv(1) == b""
        other.settimeout(0.2)
        with pytest.raises(TimeoutError):
            other.recv(1)
        # It listens on: who comes then is not refused by this.
        open_.enter_context(socket.create_connection(listening.getsockname()))
