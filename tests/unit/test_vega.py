"""The charts' library: made once, kept whole, made anew when damaged, and never in the server's way."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from metrics_service.errors import UnavailableError
from metrics_service.web import vega
from metrics_service.web.vega import VegaBundle, is_whole, read_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory in which the library is."""
    directory = tmp_path_factory.mktemp("made")
    asyncio.run(VegaBundle(directory).body())
    return directory


def kept(directory):
    return sorted(path.name for path in directory.iterdir() if path.suffix != ".lock")


def test_it_is_vega_and_small_enough(made):
    (name,) = kept(made)
    body = made.joinpath(name).read_bytes()

    script = gzip.decompress(body).decode()

    assert name == f"vega-{VegaBundle(made).version}.js.gz"
    assert "window.vegaEmbed" in script
    assert len(body) < 340 * 1024


async def test_what_is_kept_is_not_made_again(made, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent")

    body = await VegaBundle(made).body()

    assert is_whole(body)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_as_none(made, tmp_path, damage):
    path = tmp_path / "damaged"
    path.write_bytes(damaged(next(made.glob("*.gz")).read_bytes(), damage))

    assert read_bundle(path) is None


def damaged(whole, damage):
    middle = len(whole) // 2
    return {"cut": whole[:middle], "empty": b"",
            "changed": whole[:middle] + bytes(64) + whole[middle + 64:]}[damage]  # fmt: skip


async def test_a_damaged_file_is_made_anew(made, tmp_path):
    (name,) = kept(made)
    whole = made.joinpath(name).read_bytes()
    tmp_path.joinpath(name).write_bytes(damaged(whole, "changed"))

    body = await VegaBundle(tmp_path).body()

    assert body == whole
    assert tmp_path.joinpath(name).read_bytes() == whole


async def test_several_workers_make_it_once(tmp_path):
    workers = [VegaBundle(tmp_path) for _ in range(3)]
    began = time.monotonic()

    bodies = await asyncio.gather(*(worker.body() for worker in workers))

    assert len(set(bodies)) == 1
    assert is_whole(bodies[0])
    assert len(kept(tmp_path)) == 1
    assert time.monotonic() - began < vega.MAKES_S


async def test_the_loop_goes_on_meanwhile_and_a_client_that_leaves_does_not_end_it_for_others(
    tmp_path,
):
    bundle = VegaBundle(tmp_path)
    bundle.prepare()
    making = bundle._making
    bundle.prepare()
    assert bundle._making is making
    leaving = asyncio.create_task(bundle.body())
    await asyncio.sleep(0.05)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving

    longest = 0.0
    while not making.done():
        began = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - began)

    assert is_whole(await bundle.body())
    # It takes seconds to make.
    assert longest < 0.5


async def test_without_a_directory_it_lives_in_memory(tmp_path):
    file = tmp_path / "file"
    file.touch()

    # Nobody, not even root, can make a directory within a file.
    body = await VegaBundle(file / "data").body()

    assert is_whole(body)


def test_a_kill_in_the_middle_leaves_nothing_that_is_broken(tmp_path):
    bundle = VegaBundle(tmp_path)
    command = [sys.executable, "-m", "metrics_service.web.vega", str(bundle._path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)

    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    assert not bundle._path.exists() or is_whole(bundle._path.read_bytes())
    assert is_whole(asyncio.run(bundle.body()))


async def test_what_failed_is_said_and_tried_again(made, tmp_path, monkeypatch):
    bundle = VegaBundle(tmp_path)
    monkeypatch.setattr(vega, "MAKES_S", 0.001)

    with pytest.raises(UnavailableError, match="library"):
        await bundle.body()

    # By now another has made it.
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    assert is_whole(await bundle.body())


async def test_it_ends_with_the_server(tmp_path):
    bundle = VegaBundle(tmp_path)
    bundle.prepare()
    making = bundle._making
    await asyncio.sleep(0.05)

    await bundle.aclose()

    assert making.cancelled()
    await VegaBundle(tmp_path).aclose()
