"""`metrics-service serve` and `demo`: how they begin, what they say, how they end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest
from command_line import (
    CommandLine,
    eventually,
    is_alive,
    new_data_dir,
    on_database,
    on_directory,
    running,
    without_ours,
)

from metrics_service.db.addresses import Addresses
from metrics_service.tenants.initialise import initialise

READY = "Metrics Service serves"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with new_data_dir() as made:
        yield made


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def health(port: int, kind: str = "live") -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/{kind}", trust_env=False).status_code
    except httpx.HTTPError:
        return 0


class Stuck:
    """Requests that the server works on, because the tenant's table is locked under them."""

    def __init__(self, line: CommandLine, addresses: Addresses, port: int) -> None:
        slug = f"s{uuid4().hex[:12]}"
        self._schema = line.here("tenant", "create", slug, "--json").json()["schema_name"]
        key = line.here("key", "create", slug, "--scope", "read", "--json").json()["key"]
        self._headers = {"Host": f"{slug}.localhost", "Authorization": f"Bearer {key}"}
        self._url = f"http://127.0.0.1:{port}/api/v1/sessions"
        self._dsn = addresses.require_owner()
        self._pool = ThreadPoolExecutor(2)
        self._release = threading.Event()

    @contextmanager
    def locked(self) -> Iterator[None]:
        is_held = threading.Event()
        holder = self._pool.submit(asyncio.run, self._hold(is_held))
        is_held.wait(10)
        try:
            yield
        finally:
            self._release.set()
            holder.result(10)

    def ask(self) -> Future[httpx.Response]:
        return self._pool.submit(
            httpx.get, self._url, headers=self._headers, timeout=30, trust_env=False
        )

    def release(self) -> None:
        self._release.set()

    def is_waiting(self) -> bool:
        async def count() -> int:
            connection = await asyncpg.connect(self._dsn)
            try:
                return await connection.fetchval(
                    "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
                    " WHERE NOT granted AND c.relname = 'metrics_sessions'"
                    " AND c.relnamespace = $1::text::regnamespace",
                    self._schema,
                )
            finally:
                await connection.close()

        return asyncio.run(count()) > 0

    async def _hold(self, is_held: threading.Event) -> None:
        connection = await asyncpg.connect(self._dsn)
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {self._schema}.metrics_sessions")
            is_held.set()
            await asyncio.get_running_loop().run_in_executor(None, self._release.wait, 20)
        await connection.close()


# -- the beginning ------------------------------------------------------------------------------------


def test_the_embedded_database_is_made_and_stopped_with_the_server(data_dir, port):
    line = on_directory(data_dir).afresh()

    with running(line, "serve", "--port", str(port)) as (process, output):
        output.wait_for(f"{READY} http://127.0.0.1:{port}\n")
        assert (health(port), health(port, "ready")) == (200, 200)
        postgres = postmaster_of(data_dir)
        assert is_alive(postgres)
        # The line of commands shares the server's database.
        line.here("tenant", "create", "acme", "--json").json()
        assert health(port, "ready") == 200
        process.send_signal(signal.SIGTERM)
        assert output.wait_for_end() == 0

    assert not is_alive(postgres)
    assert not is_listening(port)


def postmaster_of(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def test_a_taken_port_is_said_in_one_line(line, port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()

        ended = line("serve", "--port", str(port))

    assert (ended.code, ended.out) == (1, "")
    assert f"http://127.0.0.1:{port} is in use" in ended.err
    assert ended.err.count("\n") == 1


def test_a_second_server_finds_the_port_taken(line, port):
    with running(line, "serve", "--port", str(port), "--workers", "2") as (_, output):
        output.wait_for(READY)

        assert line("serve", "--port", str(port)).code == 1
        assert health(port) == 200


def test_a_database_that_is_away_exits_with_5(line, port):
    away = "postgresql://app_runtime:hunter-two@127.0.0.1:1/metrics"

    ended = line("serve", "--port", str(port), DATABASE_URL=away, DB_RETRY_ATTEMPTS="1")

    assert ended.code == 5
    assert ended.err.count("\n") == 1
    assert "hunter" not in ended.err


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_given_database_is_neither_initialised_nor_upgraded(
    line, port, command, new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
):
    made = new_database()
    admin = admin_url(urlsplit(made.runtime).path.removeprefix("/"))
    on_it = {"DATABASE_URL": made.runtime, "DATABASE_OWNER_URL": made.require_owner()}

    empty = line(command, "--port", str(port), **on_it)
    asyncio.run(initialise(made, admin))
    asyncio.run(forget_revision(admin))
    behind = line(command, "--port", str(port), **on_it)

    assert (empty.code, behind.code) == (1, 1)
    assert "not initialised" in empty.err
    assert "run 'metrics-service db upgrade'" in behind.err


async def forget_revision(admin: str) -> None:
    connection = await asyncpg.connect(admin)
    await connection.execute(
        "UPDATE public.tenant_schemas SET revision = NULL WHERE schema_name = 'public'"
    )
    await connection.close()


def test_wrong_settings_exit_with_2(line):
    assert line("serve", METRICS_SECRET_KEY="").code == 2
    assert line("serve", "--port", "0").code == 2
    assert line("serve", "--host", "no such host").code == 2
    assert line("serve", METRICS_WORKERS="none").code == 2


def test_a_worker_does_not_read_what_makes_schemas():
    """That alone would take it a twelfth longer to start."""
    look = (
        "import sys, metrics_service.app; print(sorted(sys.modules.keys() & {'alembic', 'mako'}))"
    )
    command = [sys.executable, "-W", "ignore", "-c", look]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_worker_has_no_owner(line, port):
    with running(line, "serve", "--port", str(port)) as (process, output):
        output.wait_for(READY)

        environs = [child.environ() for child in workers_of(process)]

    assert environs
    assert all("DATABASE_OWNER_URL" not in environ for environ in environs)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


# -- the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered_before_the_end(line, addresses, port, kind):
    stuck = Stuck(line, addresses, port)
    with running(line, "serve", "--port", str(port)) as (process, output):
        output.wait_for(READY)
        with stuck.locked():
            answer = stuck.ask()
            eventually(stuck.is_waiting)
            # To the whole group, as a terminal does with Ctrl-C.
            os.killpg(process.pid, kind) if kind == signal.SIGINT else process.send_signal(kind)
            eventually(lambda: not is_listening(port))
            time.sleep(0.5)
            assert process.poll() is None
            stuck.release()

        response = answer.result(10)

        assert response.status_code == 200
        assert response.json()["data"] == []
        assert output.wait_for_end() == 0
        assert "Traceback" not in output.text


def test_a_second_signal_does_not_wait(line, addresses, port):
    stuck = Stuck(line, addresses, port)
    with running(line, "serve", "--port", str(port)) as (process, output):
        output.wait_for(READY)
        with stuck.locked():
            answer = stuck.ask()
            eventually(stuck.is_waiting)
            process.send_signal(signal.SIGINT)
            eventually(lambda: not is_listening(port))
            process.send_signal(signal.SIGINT)

            code = output.wait_for_end(within_s=3)

        assert code == 0
        with pytest.raises(httpx.HTTPError):
            answer.result(10)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_it_serves_ends_it_cleanly(data_dir, port, kind):
    line = on_directory(data_dir)
    with running(line, "serve", "--port", str(port)) as (process, output):
        eventually(lambda: (data_dir / "postgres" / "postmaster.pid").exists())
        postgres = postmaster_of(data_dir)
        os.killpg(process.pid, kind)

        code = output.wait_for_end()

        assert code in {0, 130, 143}
        assert "Traceback" not in output.text
        eventually(lambda: not is_alive(postgres))


# -- what dies -----------------------------------------------------------------------------------------


def test_workers_do_not_outlive_their_parent(line, port):
    with running(line, "serve", "--port", str(port), "--workers", "2") as (process, output):
        output.wait_for(READY)
        workers = workers_of(process)
        assert len(workers) == 2

        os.kill(process.pid, signal.SIGKILL)

        eventually(lambda: not any(is_alive(worker.pid) for worker in workers), within_s=10)
        eventually(lambda: not is_listening(port), within_s=5)


def test_a_worker_that_was_killed_is_replaced(line, port):
    with running(line, "serve", "--port", str(port)) as (process, output):
        output.wait_for(READY)
        (worker,) = workers_of(process)

        worker.kill()

        eventually(lambda: health(port) == 200 and workers_of(process) != [worker])
        process.send_signal(signal.SIGTERM)
        assert output.wait_for_end() == 0


def test_an_embedded_postgresql_that_was_killed_comes_back(data_dir, port):
    with running(on_directory(data_dir), "serve", "--port", str(port)) as (process, output):
        output.wait_for(READY)
        killed = postmaster_of(data_dir)

        os.kill(killed, signal.SIGKILL)
        time.sleep(0.1)
        eventually(lambda: health(port, "ready") == 200 and postmaster_of(data_dir) != killed)

        process.send_signal(signal.SIGTERM)
        assert output.wait_for_end() == 0


# -- demo ---------------------------------------------------------------------------------------------


def test_the_demo_prints_commands_that_work_and_starts_again_quickly(data_dir, port, tmp_path):
    line = on_directory(data_dir).afresh()
    printed = []
    for _ in range(2):
        with running(line, "demo", "--port", str(port)) as (process, output):
            text = output.wait_for("cindermoor-demo.localhost", within_s=60)
            eventually(lambda: output.text.count("curl") == 10)  # asked at once
            printed.append(output.text)
            if shutil.which("curl") is not None:
                assert_works(re.findall(r"curl .*", output.text), tmp_path)
            os.killpg(process.pid, signal.SIGINT)
            assert output.wait_for_end() == 0

    assert READY in text
    assert "open it in a browser, and sign in with its login" in text
    assert len(re.findall(r"login \S+@\S+  \S+", text)) == 3
    keys = [re.findall(r"key +(msk_\S+)", text) for text in printed]
    assert len(set(keys[0] + keys[1])) == 6
    slug = re.search(r"http://(\S+?)\.localhost", printed[0])[1]
    # Agents have the first one in their settings.
    assert len(line.here("key", "list", slug, "--json").json()) == 2


def assert_works(commands: list[str], directory: Path) -> None:
    picture = directory / "overview.png"
    for command in commands:
        done = subprocess.run(
            [*shlex.split(command), "--fail-with-body"],
            env=without_ours() | {"no_proxy": "*"},
            cwd=directory,
            capture_output=True,
            timeout=30,
            check=False,
        )
        if command.endswith(picture.name):
            assert done.returncode == 0, done
            assert picture.read_bytes().startswith(b"\x89PNG")
            picture.unlink()
            continue
        answer = json.loads(done.stdout)
        assert done.returncode == 0, answer
        assert len(answer.get("data", [])) == 3 or answer.get("inserted") == 1
