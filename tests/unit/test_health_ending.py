"""A process knows early that it is to end, and serves on for as long as it was asked to."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
import uvloop

from metrics_service.http.ending import Ending

SOON_S = 0.05
DELAY_S = 0.4

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Served:
    """What a server does that is told to end, as Granian's workers have it."""

    def __init__(self, ending: Ending) -> None:
        self.told: list[str] = []
        self._ending = ending
        ending.tell(lambda: self.told.append("streams"))

    async def serve(self, during: Callable[[], None] = lambda: None) -> None:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def end() -> None:
            self.told.append("server")
            over.set()

        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(kind, end)
        # As in workers: Ctrl-C is for the parent alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with self._ending.foreseen():
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(SOON_S)
            during()
            async with asyncio.timeout(5):
                await over.wait()
            await asyncio.sleep(SOON_S)
        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(kind)


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], work) -> None:
    loop = new_loop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


@LOOPS
def test_the_end_is_known_when_the_server_is_told(new_loop):
    ending = Ending(0)
    served = Served(ending)

    run(new_loop, served.serve())

    assert sorted(served.told) == ["server", "streams"]
    assert ending.is_near


@LOOPS
def test_with_a_delay_the_process_serves_on_and_then_ends(new_loop):
    ending = Ending(DELAY_S)
    served = Served(ending)
    begun = time.monotonic()

    def still_serves() -> None:
        assert ending.is_near
        assert served.told == []
        # As a service manager tells all processes, and the parent its workers.
        os.kill(os.getpid(), signal.SIGTERM)

    run(new_loop, served.serve(still_serves))

    assert served.told == ["streams", "server"]
    assert time.monotonic() - begun >= DELAY_S


@LOOPS
@pytest.mark.parametrize("delay_s", [0, DELAY_S])
@pytest.mark.parametrize("when", ["last in a run", "between runs"])
def test_it_is_told_while_its_loop_is_between_two_runs(new_loop, delay_s, when):
    # As Granian has it: its lifespan begins in one run, then it begins to listen, and serves in another.
    ending = Ending(delay_s)
    loop = new_loop()
    heard = asyncio.Event()

    async def starts(foreseen: ExitStack) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(kind, heard.set)
        foreseen.enter_context(ending.foreseen())
        if when == "last in a run":
            os.kill(os.getpid(), signal.SIGTERM)

    async def serves() -> None:
        async with asyncio.timeout(5):
            await heard.wait()

    with closing(loop), ExitStack() as foreseen:
        loop.run_until_complete(starts(foreseen))
        if when == "between runs":
            os.kill(os.getpid(), signal.SIGTERM)
        loop.run_until_complete(serves())

    assert ending.is_near


@pytest.mark.parametrize("delay_s", [0, DELAY_S])
async def test_where_nobody_handles_the_signal_it_keeps_its_meaning(delay_s):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    with Ending(delay_s).foreseen():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
