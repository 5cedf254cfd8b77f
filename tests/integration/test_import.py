"""`metrics-service import` as on a laptop: against the real server, stopped, repeated and refused."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self
from uuid import uuid4

import httpx
import msgspec
import pytest
from broken_servers import (
    Answer,
    accepting,
    answering,
    flood,
    never_answer,
    never_end,
    never_end_chunk,
    never_end_head,
)
from command_line import (
    CommandLine,
    Ended,
    eventually,
    free_port,
    on_database,
    running,
    without_ours,
)
from laptop import FOLDER, live_items
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from stories import Item, groups_of, request_of

from metrics_service.db.addresses import Addresses
from metrics_service.send_test.endpoint import parse_endpoint, parse_told
from metrics_service.transcripts.sending import ATTEMPTS, NotTakenError, Sender

KEY = "msk_only_for_tests_0123456789"
PROTOBUF = "application/x-protobuf"
CLIENTS = ("claude-code", "codex")


class Customer(msgspec.Struct, frozen=True):
    """A tenant of the test's own, at a running server."""

    host: str
    key: str
    reading_key: str
    endpoint: str

    def sessions(self) -> list[dict[str, Any]]:
        answer = httpx.get(
            f"{self.endpoint}/api/v1/sessions?limit=500",
            headers={"host": self.host, "x-api-key": self.reading_key},
            trust_env=False,
        )
        return list(answer.json()["data"])

    def take(self, items: list[Item]) -> None:
        """Send what a client sends live."""
        for group in groups_of(items):
            signal, body, _ = request_of(group, is_json=True)
            answer = httpx.post(
                f"{self.endpoint}/v1/{signal}",
                headers={
                    "host": self.host,
                    "x-api-key": self.key,
                    "content-type": "application/json",
                },
                content=body,
                trust_env=False,
            )
            assert answer.status_code == 200

    def figures(self) -> dict[str, int]:
        names = ("prompt_count", "tool_call_count", "model_call_count", "input_tokens")
        stored = self.sessions()
        return {"sessions": len(stored)} | {n: sum(one[n] for one in stored) for n in names}


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


@pytest.fixture(scope="module")
def endpoint(line: CommandLine) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running(line, "serve", "--port", str(port)) as (_, output):
        output.wait_for("Metrics Service serves")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def new_customer(line: CommandLine, endpoint: str) -> Callable[[], Customer]:
    def make() -> Customer:
        slug = f"i{uuid4().hex[:12]}"
        line.here("tenant", "create", slug, "--json").json()
        ingest, read = (
            line.here("key", "create", slug, "--scope", scope, "--json").json()["key"]
            for scope in ("ingest", "read")
        )
        return Customer(f"{slug}.localhost", ingest, read, endpoint)

    return make


class Laptop(msgspec.Struct, frozen=True):
    """A machine that knows nothing of the server: no database, no settings, no proxy."""

    home: Path
    line: CommandLine

    def run(self, customer: Customer, client: str, *more: str, key: str | None = None) -> Ended:
        return self.line.here(
            *self.arguments(customer, client, *more), **self._environ(customer, key)
        )

    def arguments(self, customer: Customer, client: str, *more: str) -> list[str]:
        return ["import", client, "--endpoint", customer.endpoint, "--host", customer.host, *more]

    def start(self, customer: Customer, client: str, *more: str) -> Any:
        started = CommandLine(self.line.environ | self._environ(customer, None), self.line.command)
        return started.start(*self.arguments(customer, client, *more))

    def _environ(self, customer: Customer, key: str | None) -> dict[str, str]:
        return {"METRICS_INGEST_KEY": key or customer.key}

    @property
    def kept(self) -> list[Path]:
        return sorted((self.home / "state").rglob("*.json"))


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    environ = {name: value for name, value in without_ours().items() if "proxy" not in name.lower()}
    environ |= {
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "CODEX_HOME": str(tmp_path / ".codex"),
        "CLAUDE_CONFIG_DIR": "",
    }
    shutil.copytree(FOLDER / "claude-code", tmp_path / ".claude" / "projects")
    shutil.copytree(FOLDER / "codex", tmp_path / ".codex" / "sessions")
    return Laptop(tmp_path, CommandLine(environ))


WHOLE = {
    "claude-code": {
        "sessions": 1, "prompt_count": 3, "tool_call_count": 14, "model_call_count": 15,
        "input_tokens": 1498,
    },
    "codex": {
        "sessions": 2, "prompt_count": 3, "tool_call_count": 3, "model_call_count": 6,
        "input_tokens": 900,
    },
}  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
def test_a_laptops_history_is_brought_in_once(laptop, new_customer, client):
    customer, other = new_customer(), new_customer()

    # In a process of its own, as on a laptop, from where the client keeps it.
    process = laptop.start(customer, client, "--json")
    out, err = process.communicate(timeout=60)
    again = laptop.run(customer, client, "--json")

    assert process.returncode == 0, err
    first, second = json.loads(out), again.json()
    assert (first["refused_records"], second["sent_records"]) == (0, 0)
    assert second["files_done_before"] == second["files"] == first["files"]
    assert customer.figures() == WHOLE[client]
    assert other.sessions() == []
    assert "the key's owner" in err


def test_all_is_sent_anew_when_that_is_asked_for_and_counts_once(laptop, new_customer):
    customer = new_customer()
    first = laptop.run(customer, "codex", "--json").json()

    again = laptop.run(customer, "codex", "--again", "--json").json()

    assert again["sent_records"] == first["sent_records"] > 0
    assert customer.figures() == WHOLE["codex"]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("is_live_first", [True, False])
def test_a_second_laptop_and_what_was_sent_live_change_no_figure(
    laptop, new_customer, client, is_live_first
):
    customer = new_customer()
    folder = {"claude-code": ".claude/projects", "codex": ".codex/sessions"}[client]
    moved = laptop.home / "elsewhere"
    shutil.copytree(laptop.home / folder, moved)

    if is_live_first:
        customer.take(live_items(client))
    laptop.run(customer, client)
    other = laptop.run(customer, client, str(moved), "--json").json()
    customer.take(live_items(client))

    figures = customer.figures()
    assert other["sent_records"] > 0
    # What it took to compact is in no transcript.
    more = {"model_call_count": 2, "input_tokens": 214} if client == "claude-code" else {}
    assert figures == {name: number + more.get(name, 0) for name, number in WHOLE[client].items()}


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(laptop, new_customer):
    customer = new_customer()

    ended = laptop.run(customer, "claude-code", "--dry-run", "--user", "ada@example.com")

    assert ended.code == 0
    assert "Nothing is sent" in ended.err
    assert "as the work of ada@example.com" in ended.err
    assert [line.split(None, 1)[0] for line in ended.out.splitlines()] == [
        "transcripts", "from", "sessions", "prompts", "model", "tool", "tokens",
    ]  # fmt: skip
    assert "1498 in, 280 out" in ended.out
    assert customer.sessions() == []
    assert laptop.kept == []


def test_whose_it_is_said_to_be(laptop, new_customer):
    customer = new_customer()

    laptop.run(customer, "codex")
    # Forgotten the first time: that it was acknowledged does not keep it from being said now.
    laptop.run(customer, "codex", "--user", "ada@example.com")

    assert customer.figures() == WHOLE["codex"]
    assert {one["user"]["email"] for one in customer.sessions()} == {"ada@example.com"}


def test_what_happened_before_a_date_is_left_out_until_it_is_wanted(laptop, new_customer):
    customer = new_customer()

    none = laptop.run(customer, "claude-code", "--since", "2026-11-21T22:43:31", "--json").json()
    few = customer.figures()
    laptop.run(customer, "claude-code")

    assert 0 < none["sent_records"] < 10
    assert few["prompt_count"] == 1
    assert customer.figures() == WHOLE["claude-code"]


def test_a_transcript_that_grows_is_sent_on_from_where_it_was(laptop, new_customer):
    customer = new_customer()
    (path,) = (laptop.home / ".claude" / "projects").glob("*/*.jsonl")
    data = path.read_bytes()
    sent = 0
    # Also in the middle of a line, and of a call.
    for cut in (3000, len(data) // 3, len(data) // 2, len(data) - 40, len(data)):
        path.write_bytes(data[:cut])
        sent += laptop.run(customer, "claude-code", "--json").json()["sent_records"]

    assert customer.figures() == WHOLE["claude-code"]
    assert sent < 40


def large_history(folder: Path, files: int = 40, calls: int = 100) -> None:
    folder.mkdir(parents=True)
    for number in range(files):
        session = f"{number:08d}-0000-4000-8000-000000000000"
        with (folder / f"{session}.jsonl").open("w") as file:
            for call in range(calls):
                at = f"2026-11-20T{call // 60 % 24:02d}:{call % 60:02d}:00.000Z"
                common = {"sessionId": session, "timestamp": at, "version": "2.1.330"}
                name = f"{number}-{call}"
                block = {"type": "tool_use", "id": f"toolu_{name}", "name": "Bash", "input": {}}
                message = {
                    "id": f"msg_{name}", "model": "claude-sonnet-4-5", "content": [block],
                    "usage": {"input_tokens": 10, "output_tokens": 5},
                }  # fmt: skip
                asked = {"type": "assistant", "requestId": f"req_{name}", "message": message}
                result = {
                    "type": "tool_result",
                    "tool_use_id": f"toolu_{name}",
                    "content": "x" * 100,
                }
                told = {"type": "user", "message": {"content": [result]}}
                file.write(f"{json.dumps(common | asked)}\n{json.dumps(common | told)}\n")


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_lost_or_doubled_when_it_is_ended_in_the_middle(laptop, new_customer, kind):
    customer = new_customer()
    history = laptop.home / "history"
    large_history(history)
    process = laptop.start(customer, "claude-code", str(history), "--json")
    eventually(lambda: len(laptop.kept) > 3)

    process.send_signal(kind)
    process.communicate(timeout=30)
    kept = len(laptop.kept)
    rest = laptop.run(customer, "claude-code", str(history), "--json").json()

    assert process.returncode != 0
    assert kept < 40
    assert 0 < rest["sent_records"] < 8000
    assert customer.figures() == {
        "sessions": 40, "prompt_count": 0, "tool_call_count": 4000, "model_call_count": 4000,
        "input_tokens": 40_000,
    }  # fmt: skip


# -- refused, broken ---------------------------------------------------------------------------------


def test_a_key_that_is_refused_ends_it_with_what_to_change(laptop, new_customer):
    customer = new_customer()

    unknown = laptop.run(customer, "codex", key=KEY)
    read_only = laptop.run(customer, "codex", key=customer.reading_key)

    for ended in (unknown, read_only):
        assert ended.code == 1
        assert len(ended.err.splitlines()) == 2, ended.err
        assert KEY not in ended.err
    assert "ingest" in read_only.err
    assert customer.sessions() == []
    assert laptop.kept == []


def test_an_unknown_host_and_a_server_that_is_away_are_told_apart(laptop, new_customer):
    customer = new_customer()
    nowhere = msgspec.structs.replace(customer, host="nobody.localhost")
    away = msgspec.structs.replace(customer, endpoint="http://127.0.0.1:9")

    assert "no tenant lives at" in laptop.run(nowhere, "codex").err
    ended = laptop.run(away, "codex")
    assert (ended.code, "nothing listens" in ended.err) == (5, True)


def test_a_place_without_transcripts_is_said_to_be_one(laptop, new_customer, tmp_path):
    (tmp_path / "empty").mkdir()

    ended = laptop.run(new_customer(), "codex", str(tmp_path / "empty"))

    assert ended.code == 1
    assert "there are no transcripts at" in ended.err


def test_a_folder_of_something_else_is_said_to_be_one(laptop, new_customer, tmp_path):
    place = tmp_path / "notes"
    place.mkdir()
    (place / "notes.jsonl").write_text('{"a": 1}\n')

    ended = laptop.run(new_customer(), "codex", str(place))

    assert ended.code == 0
    assert "no session of codex in what was read" in ended.err


def test_what_was_read_as_another_clients_is_still_to_be_read(laptop, new_customer):
    customer = new_customer()

    mistaken = laptop.run(customer, "claude-code", str(laptop.home / ".codex" / "sessions"))
    laptop.run(customer, "codex")

    assert "no session of claude-code in what was read" in mistaken.err
    assert customer.figures() == WHOLE["codex"]


@pytest.mark.parametrize(
    "more",
    [
        ["--user", "ada"],
        ["--since", "yesterday"],
        ["--timeout", "0"],
        ["nowhere.jsonl"],
        ["--user", "ada@\x1b[31m"],
        ["--user", "ada@\udcff"],
        ["--endpoint", "http://a..b"],
    ],
)
def test_wrong_usage_is_said_before_anything_is_read(laptop, new_customer, more):
    assert laptop.run(new_customer(), "codex", *more).code == 2


def at_port(port: int) -> Customer:
    """Whoever it is that answers there."""
    return Customer("acme.localhost", KEY, KEY, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("talk", "code", "words"),
    [
        (never_answer, 5, "says nothing in time"),
        (never_end_head, 5, "says nothing in time"),
        (never_end, 1, "without an end"),
        (never_end_chunk, 1, "without an end"),
        (flood, 1, "without an end"),
    ],
)
def test_an_answer_without_end_is_left_and_acknowledges_nothing(laptop, talk, code, words):
    tracemalloc.start()
    with accepting(talk) as port:
        started = time.monotonic()
        ended = laptop.run(at_port(port), "codex", "--timeout", "1")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (ended.code, len(ended.err.splitlines())) == (code, 2)
    assert words in ended.err
    assert time.monotonic() - started < 8
    assert peak < 32 * 1024 * 1024
    assert laptop.kept == []


def test_an_answer_that_is_packed_is_not_unpacked(laptop):
    headers = {"content-type": PROTOBUF, "content-encoding": "gzip"}
    packed = gzip.compress(b"\x12\0" * 64 * 1024 * 1024)
    tracemalloc.start()
    with answering(Answer(200, packed, headers)) as port:
        ended = laptop.run(at_port(port), "codex")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (ended.code, "not OTLP's" in ended.err) == (1, True)
    assert peak < 32 * 1024 * 1024


def test_what_a_server_says_moves_no_cursor_and_repeats_no_key(laptop):
    said = f"\x1b]0;x\x07\x9b31m\u202e{KEY}\nplanted"
    partial = ExportLogsServiceResponse()
    partial.partial_success.rejected_log_records = 10**9
    partial.partial_success.error_message = said
    refused = json.dumps({"detail": said}).encode()

    for answer in (
        Answer(200, partial.SerializeToString(), {"content-type": PROTOBUF}),
        Answer(418, refused, {"content-type": "application/problem+json", "server": "\x9b31m"}),
        Answer(418, b"", {"content-type": "text/\x9b31m", "server": "\x9b31m"}),
    ):
        with answering(answer) as port:
            ended = laptop.run(at_port(port), "codex", "--json")
        lines = [*ended.out.splitlines(), *ended.err.splitlines()]
        assert ended.code == 1
        assert all(line.isprintable() for line in lines), lines
        assert ("planted" in "".join(lines)) == bool(answer.body)
        assert KEY not in "".join(lines)
        if answer.status == 200:
            assert json.loads(ended.out)["sent_records"] == 0


def test_a_transcript_may_have_any_name(laptop):
    (path,) = (laptop.home / ".claude" / "projects").glob("*/*.jsonl")
    place = laptop.home / os.fsdecode(b"a\xff\x1b[31m")
    place.mkdir()
    path.rename(place / os.fsdecode(b"\xfe\n.jsonl"))
    (place / os.fsdecode(b"gone\xfe\x1b.jsonl")).symlink_to("nowhere")

    with answering(Answer(200, b"", {"content-type": PROTOBUF})) as port:
        first, again = (
            laptop.run(at_port(port), "claude-code", str(place), "--json") for _ in range(2)
        )
        shown = laptop.run(at_port(port), "claude-code", str(place), "--again")

    assert first.json()["sent_records"] > 0
    assert again.json()["files_done_before"] == again.json()["files"] == 1
    assert first.json()["unreadable_files"] == [
        rf"{laptop.home}/a\xff [31m/gone\xfe .jsonl: No such file or directory"
    ]
    assert r"a\xff [31m" in shown.err
    assert all(line.isprintable() for line in shown.err.splitlines())


@pytest.mark.parametrize(
    "environ", [{"http_proxy": "socks5://127.0.0.1:1"}, {"SSL_CERT_FILE": "/nowhere/ca.pem"}]
)
def test_an_environment_that_cannot_be_used_is_wrong_usage(laptop, environ):
    arguments = laptop.arguments(at_port(free_port()), "codex")

    ended = laptop.line.here(*arguments, **environ)

    assert (ended.code, next(iter(environ)) in ended.err) == (2, True)


class Moody:
    """A server that answers with one status after the other."""

    def __init__(self, *statuses: int, retry_after: str = "") -> None:
        self.left = list(statuses)
        self.taken = 0
        mood = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                status = mood.left.pop(0) if mood.left else 200
                mood.taken += status == 200
                if status == 0:
                    # Breaks off, and may have stored it.
                    self.connection.close()
                    return
                self.send_response(status)
                self.send_header("content-type", PROTOBUF)
                self.send_header("content-length", "0")
                if retry_after:
                    self.send_header("retry-after", retry_after)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def sender(self, waits: list[float]) -> Sender:
        endpoint = parse_endpoint(f"http://127.0.0.1:{self.server.server_address[1]}", host=None)
        told, _ = parse_told(KEY, (), 5)
        return Sender(endpoint, told, sleep=waits.append)


def test_what_may_pass_is_tried_again_ever_later():
    waits: list[float] = []
    with Moody(503, 429, 502, 500) as server, server.sender(waits) as sender:
        sender.send(b"")

    assert server.taken == 1
    assert len(waits) == 4
    assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(waits))


@pytest.mark.parametrize("form", ["7", "%a, %d %b %Y %H:%M:%S GMT"])
def test_a_server_that_says_when_is_left_alone_until_then(form):
    asked = time.strftime(form, time.gmtime(time.time() + 7))
    waits: list[float] = []
    with Moody(429, retry_after=asked) as server, server.sender(waits) as sender:
        sender.send(b"")

    assert len(waits) == 1
    assert 0 < waits[0] <= 7


@pytest.mark.parametrize("asked", ["soon", "1 jan 99999999999999999999 10:00:00 GMT"])
def test_a_server_that_says_when_in_no_way_is_tried_again_as_ever(asked):
    waits: list[float] = []
    with Moody(429, retry_after=asked) as server, server.sender(waits) as sender:
        sender.send(b"")

    assert len(waits) == 1
    assert waits[0] <= 1


def test_a_connection_that_breaks_is_tried_again_once_there_was_one():
    waits: list[float] = []
    with Moody(200, 0) as server, server.sender(waits) as sender:
        sender.send(b"")
        sender.send(b"")

    assert (server.taken, len(waits)) == (2, 1)


def test_a_proxy_that_is_away_is_named(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://someone:hunter2@127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    told, _ = parse_told(KEY, (), 5)
    endpoint = parse_endpoint("http://acme.example.com", host=None)

    with Sender(endpoint, told) as sender, pytest.raises(NotTakenError) as failed:
        sender.send(b"")

    assert "NO_PROXY" in str(failed.value)
    assert "hunter2" not in str(failed.value)


def test_nobody_waits_for_a_server_when_it_is_stopped():
    waits: list[float] = []
    with Moody(*[503] * 20) as server, server.sender(waits) as sender:
        sender.stop()
        with pytest.raises(NotTakenError):
            sender.send(b"")

    assert len(waits) == 1


def test_a_server_that_stays_broken_is_given_up_on():
    waits: list[float] = []
    with (
        Moody(*[503] * 20) as server,
        server.sender(waits) as sender,
        pytest.raises(NotTakenError) as failed,
    ):
        sender.send(b"")

    assert len(waits) == ATTEMPTS - 1
    assert not failed.value.is_unreached
