"""A command that was forked is what one is that was started: for the system, and for who started it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import CommandLine, free_port, running, without_ours
from forked import Forked

NOBODY = "postgresql://app_runtime:hunter-two@127.0.0.1:1/metrics"
# A busy machine takes its time to start something.
PATIENCE_S = 150.0


@pytest.fixture
def line() -> CommandLine:
    settings = {
        "METRICS_SECRET_KEY": "a secret key that only tests ever use",
        "DATABASE_URL": NOBODY,
        "DB_RETRY_ATTEMPTS": "9",
        "DB_RETRY_DELAY_MS": "60000",
    }
    return CommandLine(without_ours() | settings)


def seen_by_the_system(pid: int) -> dict[str, Any]:
    status = dict(
        row.split(":\t", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    same = ("SigBlk", "SigIgn", "SigCgt", "Threads", "Umask", "Groups")
    return {name: status[name] for name in same} | {
        "parent": psutil.Process(pid).ppid(),
        "directory": psutil.Process(pid).cwd(),
        "leads a group": os.getpgid(pid) == pid,
        "leads a session": os.getsid(pid) == pid,
        "streams": [Path(f"/proc/{pid}/fd/{n}").readlink().name.split(":")[0] for n in range(3)],
        "children": psutil.Process(pid).children(),
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_runs_and_ends_as_one_that_was_started(line, number):
    found = []
    for each in (line.afresh(), line):
        with running(each, "serve", "--port", str(free_port())) as (process, output):
            output.wait_for("waiting for the database", within_s=PATIENCE_S)
            seen = seen_by_the_system(process.pid)
            os.killpg(process.pid, number)
            code = output.wait_for_end(within_s=PATIENCE_S)
            found.append((seen, code, output.text))
            assert isinstance(process, Forked) == each.is_forked
        assert not psutil.pid_exists(process.pid)

    assert found[0] == found[1]
    assert found[0][0]["parent"] == os.getpid()


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("serve", "--port", "0"), ("nonsense",), ("db", "upgrade", "--jobs", "none")],
)
def test_it_says_what_one_says_that_was_started(line, arguments):
    assert line(*arguments) == line.afresh()(*arguments)


def test_what_python_reads_before_it_starts_is_never_left_to_a_fork(line, monkeypatch, tmp_path):
    for environ in ({"PYTHONUTF8": "0"}, {"NO_COLOR": "1"}, {"HOME": "/"}):
        process = CommandLine(line.environ | environ).start("--version")
        process.communicate()
        assert not isinstance(process, Forked)
    monkeypatch.chdir(tmp_path)
    process = line.start("--version")
    process.communicate()
    assert not isinstance(process, Forked)
