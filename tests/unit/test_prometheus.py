"""The text that Prometheus reads, held against its grammar; and what the processes of a server tell."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from metrics_service.observability import catalog, resources, siblings
from metrics_service.observability.meters import (
    OVERFLOW,
    Counter,
    Gauge,
    Histogram,
    UpDownCounter,
)
from metrics_service.observability.prometheus import exposition, families, name_of
from metrics_service.observability.siblings import Siblings, meters_directory

# Of "Exposition formats, text format details" in Prometheus' documentation.
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
is_sample = re.compile(rf"{NAME}\{{{LABEL}(?:,{LABEL})*\}} (?:[+-]Inf|-?[0-9.e+-]+)").fullmatch
is_comment = re.compile(rf"# (?:HELP {NAME} .*|TYPE {NAME} (?:counter|gauge|histogram))").fullmatch


def text_of(*instruments, process: str = "worker-1") -> list[str]:
    return exposition([(process, families(instruments))]).splitlines()


def check(text: str) -> None:
    """Every line is one of the format, and each name is described once, before all of its samples."""
    assert text.endswith("\n")
    described: list[str] = []
    for line in text.splitlines():
        assert is_sample(line) or is_comment(line), line
        if line.startswith("# TYPE"):
            described.append(line.split()[2])
        elif not line.startswith("#"):
            name = re.match(NAME, line)[0]
            assert name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") in {
                described[-1],
                described[-1].removesuffix("_count"),
            }, line
    assert len(described) == len(set(described))


@pytest.mark.parametrize(
    ("instrument", "name"),
    [
        (Counter("process.cpu.time", "s", ""), "process_cpu_time_seconds_total"),
        (Counter("ingest.records", "{record}", ""), "ingest_records_total"),
        (Counter("ingest.bytes", "By", ""), "ingest_bytes_total"),
        (Gauge("process.uptime", "s", ""), "process_uptime_seconds"),
        (UpDownCounter("process.memory.usage", "By", ""), "process_memory_usage_bytes"),
        (
            Histogram("http.server.request.duration", "s", "", buckets=(1.0,)),
            "http_server_request_duration_seconds",
        ),
    ],
)
def test_a_name_has_its_unit_and_a_counter_says_that_it_is_one(instrument, name) -> None:
    assert name_of(instrument) == name


def test_a_counter_and_a_gauge_are_a_line_each() -> None:
    things = Counter("things", "{thing}", "Things, all of them.", ("kind.of",))
    things.add(3, "cup")
    level = Gauge("level", "1", "How high.")
    level.read_by(lambda: 0.25)

    assert text_of(things, level) == [
        "# HELP things_total Things, all of them.",
        "# TYPE things_total counter",
        'things_total{process="worker-1",kind_of="cup"} 3',
        "# HELP level How high.",
        "# TYPE level gauge",
        'level{process="worker-1"} 0.25',
    ]


def test_a_histograms_buckets_are_cumulative_and_the_last_is_its_count() -> None:
    seconds = Histogram("lasting", "s", "Lasting.", ("of",), buckets=(0.1, 1.0, 10.0))
    for amount in (0.05, 0.5, 0.5, 99.0):
        seconds.record(amount, "a")

    assert text_of(seconds)[2:] == [
        'lasting_seconds_bucket{process="worker-1",of="a",le="0.1"} 1',
        'lasting_seconds_bucket{process="worker-1",of="a",le="1"} 3',
        'lasting_seconds_bucket{process="worker-1",of="a",le="10"} 3',
        'lasting_seconds_bucket{process="worker-1",of="a",le="+Inf"} 4',
        'lasting_seconds_sum{process="worker-1",of="a"} 100.05',
        'lasting_seconds_count{process="worker-1",of="a"} 4',
    ]


def test_quotes_backslashes_and_newlines_stay_inside_of_a_value() -> None:
    things = Counter("things", "{thing}", 'A "thing"\nis \\ one.', ("kind",))
    things.add(1, 'a"b\\c\nd} 7\nforged{x="')

    text = exposition([("worker-1", families([things]))])

    check(text)
    assert text.splitlines() == [
        '# HELP things_total A "thing"\\nis \\\\ one.',
        "# TYPE things_total counter",
        'things_total{process="worker-1",kind="a\\"b\\\\c\\nd} 7\\nforged{x=\\""} 1',
    ]


def test_what_was_too_much_has_the_one_label_that_says_so() -> None:
    things = Counter("things", "{thing}", "Things.", ("kind",), max_series=1)
    things.add(4, "cup")

    assert [point.values for point in things.points()] == [OVERFLOW]
    assert text_of(things)[-1] == 'things_total{process="worker-1",otel_metric_overflow="true"} 4'


def test_an_instrument_that_was_never_used_is_not_told() -> None:
    assert text_of(Counter("things", "{thing}", "Things.")) == []


def test_two_processes_are_described_once_and_told_apart() -> None:
    things = Counter("things", "{thing}", "Things.")
    things.add(1)
    told = families([things])

    text = exposition([("worker-1", told), ("worker-2", told)])

    check(text)
    assert text.splitlines()[2:] == [
        'things_total{process="worker-1"} 1',
        'things_total{process="worker-2"} 1',
    ]


def test_all_that_this_process_has_to_say_is_of_the_format() -> None:
    resources.read_resources()
    catalog.HTTP_REQUEST_DURATION.record(0.02, "GET", "/api/v1/sessions/{id:uuid}", 200)

    text = exposition([("worker-1", families(catalog.INSTRUMENTS))])

    check(text)
    for name in (
        "process_memory_usage_bytes",
        "metrics_service_process_memory_unique_bytes",
        "process_uptime_seconds",
        "process_unix_file_descriptor_count",
    ):
        [told] = re.findall(rf'^{name}{{process="worker-1"}} (.+)$', text, re.MULTILINE)
        assert float(told) > 0, name
    assert 'process_cpu_time_seconds_total{process="worker-1",cpu_mode="user"} ' in text


# -- the processes of one server ---------------------------------------------------------------------


@pytest.fixture
def directory():
    with meters_directory():
        yield Path(os.environ[siblings.VARIABLE])


def processes_in(text: str) -> set[str]:
    return set(re.findall(r'process="([^"]+)"', text))


async def test_whoever_is_asked_tells_of_all(directory, monkeypatch) -> None:
    # None of them is slow to answer but by chance.
    monkeypatch.setattr(siblings, "PATIENCE_S", 20)
    worker, other, grpc = Siblings("worker"), Siblings("worker"), Siblings("otlp-grpc")
    async with worker.answering(), other.answering(), grpc.answering():
        text = await other.exposition()
        alone = await grpc.exposition()

    check(text)
    assert processes_in(text) == processes_in(alone) == {"worker-1", "worker-2", "otlp-grpc-1"}


async def test_nobody_but_its_user_enters_the_directory_and_nobody_clears_it(directory) -> None:
    assert directory.stat().st_mode & 0o777 == 0o700
    handle = os.open(directory, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


async def test_one_that_came_to_its_end_is_forgotten_and_its_name_is_free(directory) -> None:
    worker = Siblings("worker")
    async with worker.answering():
        async with Siblings("worker").answering():
            pass
        text = await worker.exposition()
        later = Siblings("worker")
        async with later.answering():
            name = later.process

    assert processes_in(text) == {"worker-1"}
    assert name == "worker-2"


HOLDS = """
import asyncio, sys
from metrics_service.observability.resources import read_resources
from metrics_service.observability.siblings import Siblings
read_resources()
async def hold():
    async with Siblings("worker").answering():
        print("there", flush=True)
        await asyncio.sleep(60)
asyncio.run(hold())
"""


async def test_one_that_was_killed_is_left_out_and_another_takes_its_name(directory) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE)
    assert await asyncio.to_thread(process.stdout.readline) == b"there\n"
    worker = Siblings("worker")
    async with worker.answering():
        before = await worker.exposition()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        after = await worker.exposition()
        another = Siblings("worker")
        async with another.answering():
            again = await worker.exposition()

    assert worker.process == "worker-2"
    assert processes_in(before) == {"worker-1", "worker-2"}
    assert processes_in(after) == {"worker-2"}
    assert another.process == "worker-1"
    assert processes_in(again) == {"worker-1", "worker-2"}


async def test_those_that_do_not_answer_cost_half_a_second_together(directory) -> None:
    async def silent(reader, writer) -> None:
        # Until who asked has given up.
        await reader.read()
        writer.close()

    async def babbling(_, writer) -> None:
        writer.write(b"\xff" * 1000)
        writer.close()

    async def endless(_, writer) -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b"\xff" * 100_000)
                await writer.drain()
        writer.close()

    worker = Siblings("worker")
    servers = [
        await asyncio.start_unix_server(behave, directory / f"{behave.__name__}.sock")
        for behave in (silent, silent, babbling, endless)
    ]
    async with worker.answering():
        begun = time.monotonic()
        text = await worker.exposition()
        took_s = time.monotonic() - begun
    for server in servers:
        server.close()
        await server.wait_closed()

    assert processes_in(text) == {"worker-1"}
    assert took_s < 1.0


async def test_a_process_without_a_parent_tells_of_itself(monkeypatch) -> None:
    monkeypatch.delenv(siblings.VARIABLE, raising=False)
    worker = Siblings("worker")

    async with worker.answering():
        text = await worker.exposition()

    assert processes_in(text) == {"worker-1"}


@pytest.mark.parametrize("name", ["gone", "a" * 120])
async def test_a_directory_that_cannot_be_used_stops_nobody(monkeypatch, tmp_path, name) -> None:
    if name != "gone":
        (tmp_path / name).mkdir()
    monkeypatch.setenv(siblings.VARIABLE, str(tmp_path / name))
    worker = Siblings("worker")

    async with worker.answering():
        text = await worker.exposition()

    # Not by the name that another, which cannot be seen either, would have.
    assert processes_in(text) == {f"worker-{os.getpid()}"}


def test_where_nothing_can_be_written_there_is_no_directory(monkeypatch) -> None:
    monkeypatch.delenv(siblings.VARIABLE, raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")

    with meters_directory():
        assert siblings.VARIABLE not in os.environ
