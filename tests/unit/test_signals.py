"""SIGTERM while asynchronous work runs: it is cancelled, cleans up, and the process says why it ended."""

from __future__ import annotations

import asyncio
import os
import signal

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
