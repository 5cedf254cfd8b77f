"""At the start the database is waited for, where waiting helps; and what that looks like."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import httpx
import psutil
import pytest
from command_line import CommandLine, eventually, free_port, on_database, running
from own_servers import OwnServer

from metrics_service.cli import serve
from metrics_service.db.waiting import is_passing, servers_of, wait_for_database
from metrics_service.errors import DatabaseUnreachableError, MigrationError
from metrics_service.maintenance.leader import candidate

READY = "Metrics Service serves"
PASSWORD = "hunter-two"
NOBODY = f"postgresql://app_runtime:{PASSWORD}@127.0.0.1:1/metrics"
# For what has to be started, which a busy machine takes its time for.
PATIENCE_S = 150.0


@pytest.fixture(scope="module")
def line(own: OwnServer) -> CommandLine:
    return on_database(own.addresses)


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Takes connections, and never says a word."""
    is_over = asyncio.Event()

    async def be_silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await is_over.wait()
        writer.close()

    server = await asyncio.start_server(be_silent, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        is_over.set()
        server.close()


# -- what is said --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p@db.example.com/metrics", "db.example.com:5432"),
        ("postgresql://u:p%40x@db.example.com:6432/metrics", "db.example.com:6432"),
        ("postgresql://u@[::1]:5433/m", "[::1]:5433"),
        ("postgresql://u@[::1]/m", "[::1]:5432"),
        ("postgresql://u:p@one:5433,two:5434/m", "one:5433, two:5434"),
        ("postgresql://u:p@one,two/m", "one:5432, two:5432"),
        ("postgresql://u:p@/m?host=one,two&port=1,2", "one:1, two:2"),
        ("postgresql://u@/m?host=%2Frun%2Fpostgresql&port=5433", "/run/postgresql:5433"),
        ("postgresql://u:p@/m", "localhost:5432"),
    ],
)
def test_where_a_dsn_leads_to(dsn, expected, monkeypatch):
    monkeypatch.delenv("PGHOST", raising=False)
    monkeypatch.delenv("PGPORT", raising=False)

    assert servers_of(dsn) == expected


async def test_each_attempt_is_said_and_later_ones_come_later():
    lines: list[str] = []
    begun = time.monotonic()

    with pytest.raises(DatabaseUnreachableError) as raised:
        await wait_for_database(NOBODY, attempts=4, delay_ms=50, say=lines.append)

    assert 0.05 + 0.1 + 0.2 <= time.monotonic() - begun < 5
    assert [re.sub(r"[\d.]+ s$", "N s", said) for said in lines] == [
        "waiting for the database at 127.0.0.1:1: connection refused;"
        f" attempt {number} of 4 in about N s"
        for number in (2, 3, 4)
    ]
    assert str(raised.value) == "the database at 127.0.0.1:1 cannot be reached: connection refused"


async def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr("metrics_service.db.waiting.CONNECT_TIMEOUT_S", 0.3)
    lines: list[str] = []
    async with silent_server() as port:
        dsn = f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/m"

        with pytest.raises(DatabaseUnreachableError, match=r"no answer within 0.3 s"):
            await wait_for_database(dsn, attempts=2, delay_ms=10, say=lines.append)

    assert len(lines) == 1
    assert f"127.0.0.1:{port}" in lines[0]
    assert PASSWORD not in lines[0]


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (FileNotFoundError(2, "No such file or directory"), True),
        (asyncpg.CannotConnectNowError("the database system is starting up"), True),
        (asyncpg.TooManyConnectionsError("sorry, too many clients already"), True),
        (asyncpg.InvalidPasswordError("wrong"), False),
        (asyncpg.InvalidCatalogNameError("no such database"), False),
        (asyncpg.InsufficientPrivilegeError("may not connect"), False),
    ],
)
def test_what_waiting_may_help_with(error, passes):
    assert is_passing(error) is passes


async def test_an_answer_that_waiting_does_not_change_is_left_to_who_asks_next(own):
    lines: list[str] = []
    unknown = own.addresses.runtime.replace("/metrics?", "/nowhere?")
    assert unknown != own.addresses.runtime

    await wait_for_database(unknown, attempts=5, delay_ms=5000, say=lines.append)

    assert lines == []


# -- commands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [("serve",), ("maintain",), ("tenant", "list"), ("db", "status")]
)
def test_a_command_waits_says_so_and_ends_with_5(line, command):
    away = {
        "DATABASE_URL": NOBODY,
        # The same server: it is waited for once.
        "DATABASE_OWNER_URL": NOBODY.replace("app_runtime", "app_migrator"),
        "DB_RETRY_ATTEMPTS": "3",
        "DB_RETRY_DELAY_MS": "50",
    }

    ended = line(*command, **away)

    assert (ended.code, ended.out) == (5, "")
    said = ended.err.splitlines()
    assert len(said) == 3
    assert all("127.0.0.1:1" in words for words in said)
    assert PASSWORD not in ended.err


def test_one_attempt_says_one_line(line):
    ended = line("tenant", "list", DATABASE_URL=NOBODY, DB_RETRY_ATTEMPTS="1")

    assert ended.code == 5
    assert ended.err.count("\n") == 1


def test_a_command_goes_on_when_the_database_comes(line, own):
    waits = {"DB_RETRY_ATTEMPTS": "20", "DB_RETRY_DELAY_MS": "200"}
    ended = []
    with own.stopped():
        command = threading.Thread(
            target=lambda: ended.append(line("tenant", "list", "--json", **waits))
        )
        command.start()
        time.sleep(4)
    command.join(PATIENCE_S)

    (done,) = ended
    assert (done.code, done.json()) == (0, [])
    assert "waiting for the database" in done.err


@pytest.mark.parametrize("change", [("/metrics?", "/nowhere?"), ("app_runtime@", "nobody@")])
def test_what_is_wrong_for_good_is_said_at_once(line, own, change):
    wrong = own.addresses.runtime.replace(*change)
    assert wrong != own.addresses.runtime

    ended = line("serve", "--port", str(free_port()), DATABASE_URL=wrong, DB_RETRY_DELAY_MS="60000")

    assert ended.code == 5
    assert "waiting" not in ended.err
    assert ended.err.count("\n") == 1


async def test_a_server_that_is_too_old_is_not_served_from(own, monkeypatch):
    monkeypatch.setattr(serve, "OLDEST_MAJOR", 99)

    with pytest.raises(MigrationError, match="needs 99 or later"):
        await serve.require_head(own.addresses.runtime)


@pytest.mark.parametrize("command", ["serve", "maintain"])
def test_sigterm_ends_the_waiting_and_is_no_failure(line, command):
    away = CommandLine(
        line.environ
        | {"DATABASE_URL": NOBODY, "DB_RETRY_ATTEMPTS": "9", "DB_RETRY_DELAY_MS": "60000"}
    )
    with running(away, command) as (process, output):
        output.wait_for("waiting for the database", within_s=PATIENCE_S)
        process.send_signal(signal.SIGTERM)

        assert output.wait_for_end(within_s=20) == 0
        assert "Traceback" not in output.text


# -- workers -------------------------------------------------------------------------------------------


def status(port: int, kind: str) -> int:
    try:
        url = f"http://127.0.0.1:{port}/health/{kind}"
        return httpx.get(url, trust_env=False, timeout=5).status_code
    except httpx.HTTPError:
        return 0


def test_a_worker_that_starts_while_the_database_is_away_comes_up_and_mends_itself(line, own):
    port = free_port()
    with running(line, "serve", "--port", str(port)) as (process, output):
        output.wait_for(READY, within_s=PATIENCE_S)
        assert status(port, "ready") == 200
        (worker,) = (
            child
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        )
        with own.stopped():
            worker.kill()
            eventually(lambda: status(port, "live") == 200, within_s=PATIENCE_S)
            assert status(port, "ready") == 503
            assert process.poll() is None

        eventually(lambda: status(port, "ready") == 200, within_s=20)
        process.send_signal(signal.SIGTERM)
        assert output.wait_for_end(within_s=40) == 0


async def test_nobody_leads_maintenance_on_a_standby(own):
    with own.standby() as standby:
        dsn = standby.dsn(urlsplit(own.addresses.direct).username)
        async with candidate(dsn) as there, candidate(own.addresses.direct) as here:
            assert await there.try_once() is False
            assert await here.try_once() is True

            standby.promote()

            assert await there.try_once() is True
