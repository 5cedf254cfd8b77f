"""One request to one worker tells of all processes of a server, also while one of them is dead or stuck."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import grpc
import httpx
import psutil
import pytest
from acceptance.export import good
from command_line import CommandLine, eventually, free_port, on_database, running
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

from metrics_service.db.addresses import Addresses
from metrics_service.observability.siblings import VARIABLE

ALL = {"worker-1", "worker-2", "otlp-grpc-1"}

_process = re.compile(r'process="([^"]+)"').findall


class Server:
    """A server of three processes on loopback, and an operator's key for it."""

    def __init__(self, line: CommandLine, port: int, grpc_port: int, process) -> None:
        key = line.here("key", "create", "--operator", "--json").json()["key"]
        self.line = line
        self.process = process
        self.grpc_address = f"127.0.0.1:{grpc_port}"
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._headers = {"Host": "ops.localhost", "Authorization": f"Bearer {key}"}

    def read(self) -> str:
        answer = httpx.get(self._url, headers=self._headers, trust_env=False, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.text

    def processes(self) -> set[str]:
        return set(_process(self.read()))

    def processes_if_any(self) -> set[str]:
        """None where the worker that was to answer died over it."""
        try:
            return self.processes()
        except httpx.TransportError:
            return set()

    def child_of(self, name: str) -> psutil.Process:
        """The process of this name: it holds the lock of the name."""
        held = directory_of(self.process) / f"{name}.lock"
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if any(Path(file.path) == held for file in child.open_files()):
                return child
        raise AssertionError(f"nobody is {name}")


def directory_of(process: subprocess.Popen[str]) -> Path:
    """Where the children of a server meet."""
    children = psutil.Process(process.pid).children(recursive=True)
    return next(
        Path(told[VARIABLE]) for told in (child.environ() for child in children) if VARIABLE in told
    )


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(addresses: Addresses) -> Iterator[Server]:
    line = on_database(addresses)
    line.environ["METRICS_OPERATOR_DOMAIN"] = "ops"
    port, grpc_port = free_port(), free_port()
    options = ("--port", str(port), "--otlp-grpc-port", str(grpc_port), "--workers", "2")
    with running(line, "serve", *options) as (process, output):
        output.wait_for("Metrics Service serves")
        made = Server(line, port, grpc_port, process)
        # It serves when the first of its processes does.
        eventually(lambda: made.processes_if_any() == ALL)
        yield made
        end(process)


def test_all_processes_are_told_of_by_whichever_is_asked(server: Server) -> None:
    # Connections go to whichever worker has time.
    assert all(server.processes() == ALL for _ in range(10))


def test_counts_do_not_jump_between_the_workers(server: Server) -> None:
    name = r'process_cpu_time_seconds_total\{process="worker-1",cpu_mode="user"\} (\S+)'

    told = [float(re.search(name, server.read())[1]) for _ in range(20)]

    assert told == sorted(told)


def test_calls_over_grpc_are_counted_there_and_so_is_what_they_bring(server: Server) -> None:
    slug = f"m{uuid4().hex[:12]}"
    assert server.line.here("tenant", "create", slug).code == 0
    key = server.line.here("key", "create", slug, "--scope", "ingest", "--json").json()["key"]
    request = ParseDict(good("logs"), ExportLogsServiceRequest())
    options = [("grpc.default_authority", f"{slug}.localhost")]

    with grpc.insecure_channel(server.grpc_address, options) as channel:
        export = LogsServiceStub(channel).Export
        sender = [("authorization", f"Bearer {key}")]
        export(request, timeout=10, metadata=sender, wait_for_ready=True)
        for _ in range(3):
            with pytest.raises(grpc.RpcError):
                export(request, timeout=10)

    of_grpc = '{process="otlp-grpc-1",'
    calls = (
        f"rpc_server_call_duration_seconds_count{of_grpc}"
        'rpc_method="opentelemetry.proto.collector.logs.v1.LogsService/Export",'
        "rpc_response_status_code="
    )
    taken = f'metrics_service_ingest_requests_total{of_grpc}source="logs",outcome='
    size = f'metrics_service_ingest_bytes_total{of_grpc}source="logs"}}'
    eventually(lambda: total(server.read(), calls) == 4)
    text = server.read()
    assert total(text, f'{calls}"OK"') == 1
    assert total(text, f'{calls}"UNAUTHENTICATED"') == 3
    assert total(text, f'{taken}"accepted"') == 1
    assert total(text, f'{taken}"refused"') == 3
    assert total(text, size) == request.ByteSize()


def total(text: str, start: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(start))


def test_a_process_that_is_stuck_is_left_out_and_costs_half_a_second(server: Server) -> None:
    stuck = server.child_of("otlp-grpc-1")
    stuck.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        found = server.processes()
        took_s = time.monotonic() - begun
    finally:
        stuck.send_signal(signal.SIGCONT)

    assert found == ALL - {"otlp-grpc-1"}
    assert took_s < 2
    eventually(lambda: server.processes() == ALL)


def test_a_worker_that_was_killed_is_told_of_again_by_its_name(server: Server) -> None:
    killed = server.child_of("worker-2")
    killed.kill()

    eventually(lambda: server.processes_if_any() == ALL)

    assert server.child_of("worker-2").pid != killed.pid


def test_nobody_else_enters_the_directory_and_it_goes_with_the_server(server: Server) -> None:
    """The last: nobody answers any more afterwards."""
    directory = directory_of(server.process)
    mode = directory.stat().st_mode & 0o777

    end(server.process)

    assert mode == 0o700
    assert not directory.exists()
