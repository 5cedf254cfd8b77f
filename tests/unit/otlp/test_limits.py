"""A small body must not become much work, nor one value the last word for ever."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from vectors import RECEIVED, T0, TENANT, logs, metrics, record, said, sum_metric

from metrics_service.errors import BodyTooLargeError, MalformedRequestError
from metrics_service.ingest.session_state import MAX_RESOURCE, State
from metrics_service.ingest.telemetry import Telemetry
from metrics_service.otlp.decode import read_in_turns, read_request
from metrics_service.otlp.decoded import MAX_ATTRIBUTES, MAX_ENTRIES
from metrics_service.otlp.density import check_density
from metrics_service.otlp.from_json import MAX_OBJECTS

DAY_NS = 86_400 * 10**9


def read(signal, body, *, is_json=True):
    out = Telemetry(TENANT)
    return read_request(signal, body, is_json=is_json, received_ns=RECEIVED, out=out), out


def of_empty_records(count: int) -> bytes:
    """A request in protobuf whose records are two bytes each."""
    scope = b"\x12\x00" * count
    group = b"\x12" + _length(len(scope)) + scope
    return b"\x0a" + _length(len(group)) + group


def _length(size: int) -> bytes:
    encoded = bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*encoded, size])


def test_as_many_items_as_a_request_may_have_are_read():
    reading, _ = read("logs", of_empty_records(MAX_ENTRIES - 2), is_json=False)

    assert reading.accepted == MAX_ENTRIES - 2


@pytest.mark.parametrize("count", [MAX_ENTRIES, 1_000_000])
def test_more_items_are_refused_before_they_take_memory(count):
    body = of_empty_records(count)
    started = time.perf_counter()

    with pytest.raises(BodyTooLargeError):
        read("logs", body, is_json=False)

    # A hundred times longer would be a stall, and this is no benchmark.
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("level", [b"\x0a\x00", b"\x0a\x02\x12\x00"])
def test_empty_groups_and_scopes_count_too(level):
    with pytest.raises(BodyTooLargeError):
        read("logs", level * (MAX_ENTRIES + 1), is_json=False)


def test_what_is_no_protobuf_is_told_so_by_the_count():
    for body in (b"\x0a", b"\x0b", b"\xff" * 20, b"\x0a\x05\x12"):
        try:
            check_density(body)
        except MalformedRequestError:
            continue


def test_the_count_agrees_with_the_parser():
    request = ExportLogsServiceRequest()
    for _ in range(3):
        group = request.resource_logs.add()
        group.resource.attributes.add().key = "a"
        for _ in range(2):
            scope = group.scope_logs.add()
            scope.scope.name = "x" * 300
            for number in range(5):
                record_ = scope.log_records.add(time_unix_nano=T0, severity_number=number)
                record_.body.string_value = "\x12\x00\x0a\x00"

    class Counted:
        entries = 0

        def count(self, parts: int) -> None:
            self.entries += parts

    from metrics_service.otlp import density

    counted = Counted()
    body = request.SerializeToString()
    density._count(body, 0, len(body), 0, counted)

    assert counted.entries == 3 + 6 + 30


def test_too_many_objects_of_json_are_refused_before_they_are_read():
    body = b'{"resourceLogs":[' + b"{}," * MAX_OBJECTS + b"{}]}"

    with pytest.raises(BodyTooLargeError):
        read("logs", body)


def test_attributes_beyond_the_limit_are_left_out_and_it_is_said():
    many = {f"a{number}": "x" for number in range(100_000)}

    reading, _ = read("logs", logs("x", None, record("e", many)))

    assert reading.accepted == 1
    assert str(MAX_ATTRIBUTES) in reading.reasons[0]


def test_a_request_names_only_so_many_sessions():
    many = [record("user_prompt", {"session.id": f"s{number}"}) for number in range(5001)]

    with pytest.raises(BodyTooLargeError):
        read("logs", logs("claude-code", "com.anthropic.claude_code.events", *many))


async def test_others_have_their_turn_while_a_large_request_is_read():
    body = of_empty_records(50_000)
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    await read_in_turns("logs", body, is_json=False, received_ns=RECEIVED, out=Telemetry(TENANT))
    counting.cancel()

    assert turns > 50


def test_a_clock_that_is_ahead_has_not_the_last_word_for_ever():
    late = record("e", {"session.id": "s", "team": "evil"}, time_ns=2**63 - 1)
    body = logs("claude-code", "com.anthropic.claude_code.events", late)

    _, out = read("logs", body)

    (session,) = out.sessions.values()
    assert session.last_ns == session.said["team"][0] == RECEIVED + DAY_NS


def test_a_session_keeps_only_so_many_resource_attributes_and_always_the_same():
    names = [f"#r{number:03}" for number in range(200)]
    one, other = State(), State()

    for name in names:
        one.hear({name: (1, "x")})
    for name in reversed(names):
        other.hear({name: (1, "x")})

    assert sorted(one.said) == sorted(other.said) == names[:MAX_RESOURCE]


def test_another_key_does_not_take_away_what_a_key_has_proved():
    state = State()

    state.hear({"@key": (5, "first")})
    state.hear({"@key": (9, "second")})

    assert state.said["@key"] == (5, "first")


@pytest.mark.parametrize("value", [1e301, -1e301, float("nan"), float("inf")])
def test_a_value_beyond_measure_is_refused(value):
    body = metrics(
        "claude-code",
        "com.anthropic.claude_code",
        sum_metric("claude_code.cost.usage", "USD", [({"session.id": "s"}, 0.0)]),
    )
    message = msgspec.json.decode(body)
    point = message["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["sum"]["dataPoints"][0]
    point["asDouble"] = (
        str(value) if abs(value) <= 1e308 else repr(value).replace("inf", "Infinity")
    )

    reading, out = read("metrics", msgspec.json.encode(message))

    assert (reading.accepted, reading.rejected) == (0, 1)
    assert out.points == []


def test_a_delta_of_a_sum_that_only_grows_is_not_negative():
    body = metrics("x", None, sum_metric("m", "", [({}, -1)]))

    reading, _ = read("metrics", body)

    assert reading.rejected == 1


def test_the_resource_says_nothing_that_people_wrote():
    body = logs(
        "claude-code",
        "com.anthropic.claude_code.events",
        record("e", {"session.id": "s"}),
        resource={
            "gen_ai.prompt": "secret",
            "process.command_line": "claude -p secret",
            "host.name": "box",
        },
    )

    _, out = read("logs", body)

    assert "secret" not in str(said(out, "s"))
    assert said(out, "s")["#host.name"] == "box"


def test_what_is_written_inside_of_other_values_is_left_out_too():
    given = {
        "session.id": "s",
        "x": {"deep": {"prompt": "secret"}},
        "stdout": "secret",
        "n": {"a": 1},
    }

    _, out = read("logs", logs("any", None, record("e", given)))

    (event,) = out.events.values()
    assert "secret" not in str(event.record.attributes)
    assert event.record.attributes["n"] == {"a": 1}
