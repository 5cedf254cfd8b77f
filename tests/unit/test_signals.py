"""SIGTERM while asynchronous work runs: it is cancelled, cleans up, and the process says why it ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from metrics_service.cli import signals


@pytest.fixture(autouse=True)
def _as_before():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    signals._is_told.clear()


def test_work_ends_where_it_waits_and_cleans_up():
    signals.end_on_sigterm()
    seen = []

    async def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append("goes on to where it waits")
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0)
            seen.append("cleans up")

    with pytest.raises(SystemExit) as ended:
        signals.run_async(work())

    assert ended.value.code == signals.TERMINATED == 143
    assert seen == ["goes on to where it waits", "cleans up"]


@pytest.mark.parametrize("moment", ["create_task", "shutdown_asyncgens", "close"])
def test_while_the_loop_is_made_or_taken_down_nothing_is_torn_up(moment, monkeypatch):
    signals.end_on_sigterm()
    seen = []
    as_it_is = getattr(asyncio.BaseEventLoop, moment)

    def interrupted(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return as_it_is(*arguments, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, moment, interrupted)

    async def work():
        seen.append("done")

    with pytest.raises(SystemExit):
        signals.run_async(work())

    assert seen == ([] if moment == "create_task" else ["done"])


def test_work_that_is_done_all_the_same_is_the_last():
    signals.end_on_sigterm()

    async def work():
        os.kill(os.getpid(), signal.SIGTERM)
        return "done"

    with pytest.raises(SystemExit):
        signals.run_async(work())


def test_without_a_signal_it_is_as_if_nothing_had_been():
    signals.end_on_sigterm()
    before = signal.getsignal(signal.SIGTERM)

    async def work():
        await asyncio.sleep(0)
        return "done"

    async def fail():
        raise ConnectionError

    assert signals.run_async(work()) == "done"
    with pytest.raises(ConnectionError):
        signals.run_async(fail())
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_of_asynchronous_work_the_signal_ends_the_process_at_once():
    signals.end_on_sigterm()

    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), signal.SIGTERM)

    assert ended.value.code == 143


def test_a_signal_that_somebody_swallowed_still_ends_it():
    signals.end_on_sigterm()
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        signals.end_if_told()


STORM = """
import signal, sys, time
from {module} import {name}

told, counts = {name}(), [0, 0]

def hear(*_):
    counts[0] += 1
    told.set()

signal.signal(signal.SIGALRM, hear)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
end_at = time.monotonic() + 1
while time.monotonic() < end_at:
    told.wait()
    told.clear()
    counts[1] += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(*counts)
"""


@pytest.mark.parametrize(
    ("module", "name", "lives"),
    [("metrics_service.cli.signals", "Told", True), ("threading", "Event", False)],
)
def test_whoever_waits_may_be_interrupted_anywhere_by_who_tells_it(module, name, lives):
    storm = STORM.format(module=module, name=name)
    process = subprocess.Popen(
        [sys.executable, "-c", storm],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        output = ""
    finally:
        process.kill()
        process.wait()

    counts = [int(number) for number in output.split()]
    assert (len(counts) == 2 and min(counts) > 100) is lives


def test_who_waits_for_a_while_is_told_whether_it_was_in_vain():
    told = signals.Told()

    assert not told.wait(0.01)
    told.set()
    assert told.wait(0.01)
    told.clear()
    assert not told.wait(0.01)
