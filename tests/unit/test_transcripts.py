"""Transcripts of real clients, broken ones and those of other versions: what is read of them, and what not."""

from __future__ import annotations

import io
import json
import os
import random
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from metrics_service.transcripts import claude_code, reading
from metrics_service.transcripts.claude_code import ClaudeReader
from metrics_service.transcripts.codex import CodexReader
from metrics_service.transcripts.events import as_request
from metrics_service.transcripts.files import find_transcripts
from metrics_service.transcripts.importing import Task, look_through, send_all
from metrics_service.transcripts.lines import Line, read_lines
from metrics_service.transcripts.reading import Client, Transcript
from metrics_service.transcripts.records import Record, last_folder, remote
from metrics_service.transcripts.sending import Sender, Taken
from metrics_service.transcripts.state import Progress, Progresses, file_id, folder_of

FOLDER = Path(__file__).parent / "transcripts"
CLAUDE_SESSION = "4eebee25-9871-430e-af6d-8353bff0e0a8"
READERS: dict[str, Any] = {"claude-code": ClaudeReader, "codex": CodexReader}
SECRET = "hunter2-planted"
X = file_id("/x")


def files(client: str) -> list[Path]:
    return [Path(found.path) for found in find_transcripts(FOLDER / client).files]


def read(client: Any, path: Path, kept: Progress | None = None) -> tuple[list[Record], Transcript]:
    (found,) = find_transcripts(path).files
    transcript = Transcript(client, found, kept or Progress(file_id(str(path))), since_ns=0)
    return [record for record in transcript.records() if record is not None], transcript


def written(folder: Path, *lines: Any, name: str = CLAUDE_SESSION) -> Path:
    path = folder / f"{name}.jsonl"
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in data))
    return path


def at(second: float) -> str:
    return f"2026-11-21T10:00:{second:06.3f}Z"


def assistant(request: str, second: float, *blocks: Any, **usage: int) -> dict[str, Any]:
    message = {"id": f"m-{request}", "model": "claude-x", "content": list(blocks), "usage": usage}
    return {
        "type": "assistant", "sessionId": "s", "timestamp": at(second), "requestId": request,
        "message": message,
    }  # fmt: skip


def user(second: float, content: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": content}
    return {
        "type": "user", "sessionId": "s", "timestamp": at(second), "message": message, "uuid": "u",
        **more,
    }  # fmt: skip


CALL = {"type": "tool_use", "id": "t-1", "name": "Bash", "input": {"command": "ls"}}
RESULT = {"type": "tool_result", "tool_use_id": "t-1", "content": "a b", "is_error": False}


# -- lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
def test_lines_are_the_same_whatever_the_size_of_a_block(block):
    data = b"one\n\ntwo two\n" + b"x" * 20 + b"\nlast"

    found = list(read_lines(io.BytesIO(data), 0, block=block, max_line=10))

    assert [(line.data, line.end, line.is_too_long) for line in found] == [
        (b"one", 4, False),
        (b"", 5, False),
        (b"two two", 13, False),
        (b"", 34, True),
        (b"last", 38, False),
    ]
    assert [line.is_ended for line in found] == [True, True, True, True, False]


class Endless(io.RawIOBase):
    """A file that is one line of a billion characters."""

    def __init__(self) -> None:
        self.left = 1_000_000_000

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return b"x" * size


def test_a_line_of_a_billion_characters_costs_no_memory():
    tracemalloc.start()

    (line,) = read_lines(Endless(), 0)  # type: ignore[arg-type]  # it reads like one

    assert (line.data, line.end, line.is_too_long) == (b"", 1_000_000_000, True)
    assert tracemalloc.get_traced_memory()[1] < 70 * 2**20
    tracemalloc.stop()


# -- what real clients wrote ------------------------------------------------------------------------


def names(records: list[Record]) -> dict[str, int]:
    return {
        name: sum(one.name == name for one in records) for name in sorted({r.name for r in records})
    }


def test_what_claude_code_wrote():
    (path,) = [path for path in files("claude-code") if path.stem == CLAUDE_SESSION]

    records, transcript = read("claude-code", path)

    # One message is written as several lines, and counts once.
    assert names(records) == {
        "api_error": 1, "api_request": 4, "compaction": 1, "tool_result": 4, "user_prompt": 3,
    }  # fmt: skip
    assert {record.session_id for record in records} == {CLAUDE_SESSION}
    assert transcript.troubles.unreadable_lines == 0
    shell = next(one for one in records if one.attributes.get("success") == "false")
    assert shell.attributes["tool_name"] == "Bash"
    assert shell.attributes["decision_type"] == "accept"
    assert "duration_ms" not in shell.attributes
    assert shell.attributes["total_ms"] == 82
    (command,) = [one for one in records if "command_name" in one.attributes]
    assert command.attributes["command_name"] == "compact"


def test_subagents_belong_to_the_session_that_started_them():
    inner = [path for path in files("claude-code") if path.stem.startswith("agent-")]

    records = [record for path in inner for record in read("claude-code", path)[0]]

    assert len(inner) == 3
    assert {record.session_id for record in records} == {CLAUDE_SESSION}
    assert "user_prompt" not in names(records)
    assert {one.attributes["agent.name"] for one in records if one.name == "api_request"} == {
        "general-purpose"
    }


def test_what_codex_wrote():
    first, second = files("codex")

    records, _ = read("codex", first)

    assert names(records) == {
        "sse_event": 5, "task_complete": 2, "tool_result": 3, "user_prompt": 2,
    }  # fmt: skip
    assert sum(one.attributes.get("input_token_count", 0) for one in records) == 700
    calls = [one.attributes for one in records if one.name == "tool_result"]
    assert [(one["tool_name"], one.get("success")) for one in calls] == [
        ("exec_command", "false"), ("no_such_tool", "false"), ("exec_command", "true"),
    ]  # fmt: skip
    assert names(read("codex", second)[0])["sse_event"] == 1


# -- secrets ----------------------------------------------------------------------------------------

# What may leave, by the name of its field.
LEAVING = {
    "claude-code": {
        "sessionId", "uuid", "promptId", "requestId", "agentId", "attributionAgent", "version",
        "gitBranch", "entrypoint", "timestamp", "model", "id", "name", "tool_use_id", "decision",
        "source", "trigger",
    },
    "codex": {
        "id", "session_id", "timestamp", "originator", "cli_version", "model_provider", "turn_id",
        "model", "effort", "name", "call_id", "branch", "commit_hash",
    },
}  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, (*path, place))


def planted(value: Any, path: tuple[Any, ...], secret: Any) -> Any:
    if not path:
        return secret
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = planted(copy[path[0]], path[1:], secret)
    return copy


@pytest.mark.parametrize("client", READERS)
def test_what_was_written_by_anybody_never_leaves(client):
    leaked = set()
    for path in files(client):
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        encoded = [json.dumps(line).encode() for line in lines]
        for number, line in enumerate(lines):
            for place, value in leaves(line):
                # As part of a path too: only the name of the last folder may be told.
                for secret in (SECRET, f"/home/{SECRET}/project", f"{value} {SECRET}"):
                    one = json.dumps(planted(line, place, secret)).encode()
                    # A call is asked for, and answered, within a few lines.
                    given = [*encoded[max(0, number - 8) : number], one]
                    given += encoded[number + 1 : number + 9]
                    if SECRET.encode() in sent(client, path, given):
                        leaked.add((place[-1], secret == SECRET))

    of_names = {name for name, _ in leaked}
    assert of_names - LEAVING[client] == {"cwd"}
    # Of a path with a secret folder in the middle nothing is left.
    assert ("cwd", True) in leaked


def sent(client: Client, path: Path, lines: list[bytes]) -> bytes:
    reader = READERS[client](path.stem)
    records: list[Record] = []
    for end, line in enumerate(lines):
        try:
            records.extend(reader.feed(line, end))
        except Exception as error:  # noqa: BLE001  # whichever: it is asserted on
            assert type(error).__name__ == "UnreadableLineError"
    records.extend(reader.finish())
    return as_request(client, None, records)


ODD: tuple[Any, ...] = (
    None, True, -1, 1.5, 10**30, 1e308, "", "\0", "x" * 100_000, [], {}, [[]], [None], {"x": 1},
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-21T10:00:00",
)  # fmt: skip


def branches(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else ()
    for place, one in enumerate(value) if isinstance(value, list) else inner:
        yield from branches(one, (*path, place))


@pytest.mark.parametrize("client", READERS)
def test_no_value_anywhere_ends_the_reading(client):
    rng = random.Random(1)
    for path in files(client):
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        encoded = [json.dumps(line).encode() for line in lines]
        for number, line in enumerate(lines):
            before, after = encoded[max(0, number - 2) : number], encoded[number + 1 : number + 3]
            for place in branches(line):
                for odd in rng.sample(ODD, 3):
                    one = json.dumps(planted(line, place, odd)).encode()
                    sent(client, path, [*before, one, *after])


@pytest.mark.parametrize("path", [f"/home/{SECRET}/project", f"C:\\{SECRET}\\project\\"])
def test_of_a_folder_only_its_own_name_is_told(path):
    assert last_folder(path) == "project"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://ada:hunter2@example.com/acme/shop.git", "https://example.com/acme/shop.git"),
        ("git@example.com:acme/shop.git", "git@example.com:acme/shop.git"),
        ("ssh://git@example.com/acme/shop", "ssh://example.com/acme/shop"),
        ("/home/ada/shop", None),
        ("file:///home/ada/shop", None),
        ("../shop", None),
        ("", None),
    ],
)
def test_of_a_repository_neither_a_login_nor_a_path_is_told(url, told):
    assert remote(url) == told


# -- broken, growing, of other versions --------------------------------------------------------------


def test_lines_that_are_none_are_left_out_and_counted(tmp_path):
    path = written(
        tmp_path,
        b"not json",
        b"[1, 2]",
        b'"text"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        {"type": "something-new", "sessionId": 5},
        {"type": "user"},
        {"type": "assistant", "timestamp": "yesterday", "sessionId": "s", "message": {}},
        {"type": "assistant", "timestamp": at(1), "sessionId": "s", "message": None},
        assistant("r-1", 2, input_tokens=3, output_tokens=4),
    )

    records, transcript = read("claude-code", path)

    assert [(one.name, one.attributes["request_id"]) for one in records] == [("api_request", "r-1")]
    assert transcript.troubles.unreadable_lines == 6


def test_text_that_is_no_utf_8_does_not_hide_what_is(tmp_path):
    line = json.dumps(user(1, "XX", gitBranch="main")).encode().replace(b"XX", b"\xff\xfe\\ud800")

    records, _ = read("claude-code", written(tmp_path, line))

    assert [one.name for one in records] == ["user_prompt"]


def test_a_message_of_several_lines_counts_once_with_what_the_last_says(tmp_path):
    path = written(
        tmp_path,
        assistant("r-1", 1, {"type": "text", "text": "x"}, input_tokens=10, output_tokens=1),
        assistant("r-1", 2, CALL, input_tokens=10, output_tokens=7),
        user(5, [RESULT], toolUseResult={"durationMs": 1500}),
        assistant("r-1", 6, {"type": "text", "text": "y"}, input_tokens=10, output_tokens=9),
    )

    records, _ = read("claude-code", path)

    assert [one.name for one in records] == ["tool_result", "api_request"]
    assert records[0].attributes["total_ms"] == 3000
    assert records[0].attributes["duration_ms"] == 1500
    assert records[1].attributes["output_tokens"] == 9


def test_a_call_that_a_person_refused_was_rejected(tmp_path):
    path = written(
        tmp_path,
        assistant("r-1", 1, CALL, input_tokens=1),
        user(2, [{**RESULT, "is_error": True}], toolUseResult="User rejected tool use"),
    )

    (result, _) = read("claude-code", path)[0]

    assert (result.attributes["decision_type"], result.attributes["success"]) == ("reject", "false")


@pytest.mark.parametrize(
    "more",
    [
        {"isMeta": True},
        {"isCompactSummary": True},
        {"isSidechain": True},
        {"origin": {"kind": "task-notification"}},
        {"forkedFrom": {"sessionId": "other", "messageUuid": "m"}},
    ],
)
def test_what_no_person_typed_here_is_no_prompt(tmp_path, more):
    assert read("claude-code", written(tmp_path, user(1, "Do it", **more)))[0] == []


@pytest.mark.parametrize(
    "text", ["<local-command-stdout>x</local-command-stdout>", "[Request interrupted by user]"]
)
def test_what_the_client_wrote_in_a_persons_place_is_no_prompt(tmp_path, text):
    assert read("claude-code", written(tmp_path, user(1, text)))[0] == []


def test_the_name_of_somebodys_own_command_is_not_told(tmp_path):
    path = written(tmp_path, user(1, "<command-name>/fire-bob</command-name>", promptId="p"))

    (record,) = read("claude-code", path)[0]

    assert record.attributes["command_name"] == "custom"


def rest_after(
    client: Any, whole: Path, cut: int, folder: Path
) -> tuple[list[Record], list[Record]]:
    """What is told of a transcript's beginning, and then of the rest once it has grown."""
    data = whole.read_bytes()
    path = folder / whole.name
    path.write_bytes(data[:cut])
    before, transcript = read(client, path)
    kept = transcript.progress()
    path.write_bytes(data)
    os.utime(path, ns=(kept.mtime_ns + 10**9, kept.mtime_ns + 10**9))
    return before, read(client, path, kept)[0]


@pytest.mark.parametrize("client", READERS)
@pytest.mark.parametrize("share", range(1, 20))
def test_a_transcript_that_is_read_while_it_is_written_tells_the_same(tmp_path, client, share):
    path = max(files(client), key=lambda one: one.stat().st_size)
    whole, _ = read(client, path)

    before, after = rest_after(client, path, path.stat().st_size * share // 20, tmp_path)

    together = {identity(record): record.attributes for record in [*before, *after]}
    assert together == {identity(record): record.attributes for record in whole}
    # Only an answer that was cut in two is told again.
    assert len(before) + len(after) <= len(whole) + 1


def identity(record: Record) -> tuple[Any, ...]:
    a = record.attributes
    named = a.get("request_id") if record.name != "tool_result" else None
    call = a.get("tool_use_id") or a.get("call_id")
    return record.name, named or call or record.time_ns


def test_a_transcript_that_was_written_anew_is_read_from_its_beginning(tmp_path):
    path = written(
        tmp_path, assistant("r-1", 1, input_tokens=1), assistant("r-2", 2, input_tokens=1)
    )
    kept = read("claude-code", path)[1].progress()
    written(tmp_path, *(assistant(f"r-{n}", n, input_tokens=1) for n in range(5, 9)))

    records, _ = read("claude-code", path, kept)

    assert [one.attributes["request_id"] for one in records] == ["r-5", "r-6", "r-7", "r-8"]


# -- earlier versions of Codex -----------------------------------------------------------------------


def rollout(folder: Path, *lines: tuple[float, str, Any]) -> Path:
    return written(
        folder,
        *({"timestamp": at(second), "type": kind, "payload": load} for second, kind, load in lines),
        name="rollout-2026-11-21T10-00-00-01a1fee1-a97b-7e90-a810-c0baacf5da40",
    )


META = {
    "id": "01a1fee1-a97b-7e90-a810-c0baacf5da40",
    "cwd": "/home/ada/shop",
    "originator": "codex_cli_rs",
}


def tokens(total: int) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": total}
    return {"type": "token_count", "info": {"last_token_usage": usage, "total_token_usage": usage}}


def test_what_earlier_versions_of_codex_wrote(tmp_path):
    path = rollout(
        tmp_path,
        (0, "session_meta", META),
        (1, "event_msg", {"type": "user_message", "message": "Do it"}),
        (2, "response_item", {"type": "function_call", "name": "shell", "call_id": "c-1", "arguments": "{}"}),
        (3, "event_msg", {"type": "exec_command_end", "call_id": "c-1", "exit_code": 1, "duration": {"secs": 1, "nanos": 500_000_000}}),
        (5, "response_item", {"type": "function_call_output", "call_id": "c-1", "output": "Exit code: 0"}),
        (6, "response_item", {"type": "function_call", "name": "shell", "call_id": "c-2", "arguments": "{}"}),
        (7, "response_item", {"type": "function_call_output", "call_id": "c-2", "output": '{"output":"x","metadata":{"exit_code":0,"duration_seconds":0.2}}'}),
        (8, "event_msg", tokens(12)),
        # The same again: limits changed, and nothing else did.
        (9, "event_msg", tokens(12)),
        (9.5, "event_msg", {"type": "token_count", "info": None}),
        (10, "compacted", {"message": "x"}),
    )  # fmt: skip

    records, transcript = read("codex", path)

    assert transcript.troubles.unreadable_lines == 0
    assert names(records) == {
        "context_compacted": 1, "sse_event": 1, "tool_result": 2, "user_prompt": 1,
    }  # fmt: skip
    calls = [one.attributes for one in records if one.name == "tool_result"]
    assert [(one["success"], one["duration_ms"], one["total_ms"]) for one in calls] == [
        ("false", 1500, 3000),
        ("true", 200, 1000),
    ]
    assert calls[0]["service.namespace"] == "shop"


def test_the_history_that_a_fork_repeats_is_not_told_again(tmp_path):
    path = rollout(
        tmp_path,
        (0, "session_meta", META),
        (0.1, "session_meta", {**META, "id": "another"}),
        (0.2, "event_msg", tokens(12)),
        (30, "event_msg", tokens(24)),
    )

    (record,) = read("codex", path)[0]

    assert (record.session_id, record.attributes["tool_token_count"]) == (META["id"], 24)


# -- finding, keeping --------------------------------------------------------------------------------


def test_each_transcript_is_found_once_and_no_link_leads_in_a_circle(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    path = written(folder, user(1, "x"))
    (folder / "again").symlink_to(tmp_path)
    (folder / "same.jsonl").symlink_to(path)
    (folder / "nowhere.jsonl").symlink_to(tmp_path / "gone")
    (folder / "notes.txt").write_text("x")
    os.mkfifo(folder / "pipe.jsonl")

    search = find_transcripts(tmp_path)

    assert [Path(found.path) for found in search.files] == [path]
    assert len(search.unreadable) == 1


def test_a_transcript_that_cannot_be_read_does_not_keep_others_from_being_read(tmp_path):
    written(tmp_path, assistant("r-1", 1, input_tokens=1), name="a")
    gone = written(tmp_path, assistant("r-2", 2, input_tokens=1), name="b")
    written(tmp_path, assistant("r-3", 3, input_tokens=1), name="c")
    search = find_transcripts(tmp_path)
    gone.unlink()

    summary = look_through(
        Task(client="claude-code", search=search), Progresses(tmp_path / "state"), lambda _: None
    )

    assert (summary.files, summary.model_calls) == (3, 2)
    assert summary.unreadable_files == [f"{gone}: No such file or directory"]


class Heard(Sender):
    """Sends nothing, and keeps what it was to send."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def send(self, body: bytes) -> Taken:
        self.requests.append(ExportLogsServiceRequest.FromString(body))
        return Taken(0, "")

    def stop(self) -> None:
        pass


def test_what_was_read_before_a_file_broke_is_sent_as_its_clients_own(tmp_path, monkeypatch):
    def breaks(*given: Any) -> Iterator[Line]:
        yield from islice(read_lines(*given), 2)
        raise OSError(5, "Input/output error", str(path))

    path = written(tmp_path, *(assistant(f"r-{n}", n, input_tokens=1) for n in range(1, 5)))
    monkeypatch.setattr(reading, "read_lines", breaks)
    monkeypatch.setattr(claude_code, "MAX_PENDING", 1)
    sender = Heard()

    task = Task(client="claude-code", search=find_transcripts(path))
    summary = send_all(task, Progresses(tmp_path / "state"), sender, lambda _: None)

    (request,) = sender.requests
    (resource,) = request.resource_logs
    (sent_one,) = resource.scope_logs[0].log_records
    assert resource.resource.attributes[0].value.string_value == "claude-code"
    assert sent_one.attributes[0].value.string_value == "claude_code.api_request"
    assert len(summary.unreadable_files) == 1


def test_a_session_that_only_its_file_names_is_sent_whatever_the_name(tmp_path):
    line = assistant("r-1", 1, input_tokens=1)
    del line["sessionId"]
    written(tmp_path, line, name=os.fsdecode(b"s\xff\x1b"))
    sender, kept = Heard(), Progresses(tmp_path / "state")
    task = Task(client="claude-code", search=find_transcripts(tmp_path))

    first, second = (send_all(task, kept, sender, lambda _: None) for _ in range(2))

    (request,) = sender.requests
    (record,) = request.resource_logs[0].scope_logs[0].log_records
    assert record.attributes[1].value.string_value == r"s\xff "
    assert (first.sent_records, second.files_done_before) == (1, 1)


def test_progress_is_kept_apart_from_transcripts_and_by_where_it_goes(tmp_path):
    here = {"XDG_STATE_HOME": str(tmp_path)}
    one, other = (
        Progresses(folder_of(here, place)) for place in ("http://a acme", "http://a shop")
    )

    one.keep(Progress(X, offset=5))

    assert one.of(X).offset == 5
    assert other.of(X).offset == 0
    assert folder_of({"XDG_STATE_HOME": "not/absolute"}, "x").is_relative_to(Path.home())


@pytest.mark.parametrize("found", [b"", b"{", b"[]", b'{"file":"other"}', b"\xff"])
def test_progress_that_cannot_be_read_is_a_beginning(tmp_path, found):
    progresses = Progresses(tmp_path)
    progresses.keep(Progress(X, offset=5))
    (place,) = tmp_path.iterdir()
    place.write_bytes(found)

    assert progresses.of(X) == Progress(X)
