"""What is written by hand is what the library reads: spans, lines of the log, points, values."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from metrics_service.logs import exception_summary
from metrics_service.observability import work
from metrics_service.observability.export.batches import MAX_REQUEST_BYTES, requests_of
from metrics_service.observability.export.lines import MAX_LENGTH, LineEncoder, line_of
from metrics_service.observability.export.points import encode_points
from metrics_service.observability.export.requests import Envelope, Items, one_item
from metrics_service.observability.export.resource import resource_of
from metrics_service.observability.export.spans import SpanEncoder
from metrics_service.observability.export.wire import Attributes, any_value, key_value, nested
from metrics_service.observability.meters import (
    STARTED_NS,
    Counter,
    Gauge,
    Histogram,
    Instrument,
    UpDownCounter,
)
from metrics_service.observability.statements import describe

sys.path.append(str(Path(__file__).parents[1]))

from otlp_collector import attributes_of

SECRET = "secret-4711"
values = st.one_of(st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats())


@given(st.text(), values)
def test_an_attribute_is_read_as_it_was(key: str, value: Any) -> None:
    read = ScopeSpans.FromString(nested(2, key_value(9, key, value))).spans[0].attributes[0]

    found = getattr(read.value, str(read.value.WhichOneof("value")))
    assert read.key == key
    assert type(found) is type(value)
    assert found == value or math.isnan(value)


def test_what_no_attribute_can_hold_is_written_as_near_as_it_can_be() -> None:
    assert AnyValue.FromString(any_value(2**63)).string_value == str(2**63)
    assert AnyValue.FromString(any_value("a\ud800b")).string_value == "a?b"


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), values, max_size=4), max_size=30))
def test_remembered_attributes_are_never_mistaken_for_others(given_: list[dict[str, Any]]) -> None:
    attributes = Attributes(9)
    attributes.MAX_REMEMBERED = 8

    for one in given_:
        span = ScopeSpans.FromString(nested(2, attributes.encode(one))).spans[0]
        assert span.SerializeToString() == (
            Span(
                attributes=[
                    KeyValue(key=key, value=AnyValue.FromString(any_value(value)))
                    for key, value in one.items()
                ]
            ).SerializeToString()
        )
        assert attributes._count <= 8


def test_true_and_one_are_two_values() -> None:
    attributes = Attributes(9)

    encoded = attributes.encode({"a": True}) + attributes.encode({"a": 1})

    found = Span.FromString(encoded).attributes
    assert [item.value.WhichOneof("value") for item in found] == ["bool_value", "int_value"]


def a_work(**options: Any) -> work.Work:
    stop = work.keep_spans(lambda _trace, _caller: True, lambda _: None)
    try:
        return work.begin("GET /api/v1/sessions", kind="server", **options)
    finally:
        stop()


def encoded(ended: work.Work, encoder: SpanEncoder | None = None) -> list[Any]:
    return list(ScopeSpans.FromString(joined((encoder or SpanEncoder()).encode(ended))).spans)


def joined(encoded_: Iterable[Items]) -> bytes:
    some = list(encoded_)
    whole = b"".join(piece for items in some for piece in items.pieces)
    assert len(whole) == sum(items.size for items in some)
    return whole


def test_a_request_and_its_statements_are_spans_of_one_trace() -> None:
    ended = a_work(
        trace_id=b"t" * 16, parent_id=b"p" * 8, trace_state="a=1", is_sampled_by_caller=True
    )
    statement = describe("SELECT id FROM metrics_sessions WHERE name = 'x' AND id = $1")
    with work.inside(ended), work.span("ingest.decode", records=3):
        work.keep_statement(
            ended,
            statement,
            started=ended.started + 0.5,
            ended=ended.started + 1.5,
            row_count=1000,
            error="57014",
            is_slow=True,
            attributes={"wait": 0.25},
        )
    ended.attributes = {"http.response.status_code": 200}
    work.end(ended)

    query, stage, request = encoded(ended)

    assert {span.trace_id for span in (query, stage, request)} == {b"t" * 16}
    assert query.parent_span_id == stage.span_id
    assert stage.parent_span_id == request.span_id == ended.span_id
    assert request.parent_span_id == b"p" * 8
    assert request.trace_state == "a=1"
    # Sampled, and known to have its parent here or elsewhere.
    assert [span.flags for span in (query, stage, request)] == [0x101, 0x101, 0x301]
    assert [span.kind for span in (query, stage, request)] == [
        Span.SPAN_KIND_CLIENT,
        Span.SPAN_KIND_INTERNAL,
        Span.SPAN_KIND_SERVER,
    ]
    assert [span.name for span in (query, stage, request)] == [
        "SELECT metrics_sessions",
        "ingest.decode",
        "GET /api/v1/sessions",
    ]
    assert attributes_of(query) == {
        "db.system.name": "postgresql",
        "db.operation.name": "SELECT",
        "db.collection.name": "metrics_sessions",
        "db.query.summary": "SELECT metrics_sessions",
        "db.query.text": "SELECT id FROM metrics_sessions WHERE name = ? AND id = $1",
        "db.response.returned_rows": 1000,
        "db.response.status_code": "57014",
        "error.type": "57014",
        "wait": 0.25,
    }
    assert attributes_of(stage) == {"records": 3}
    assert attributes_of(request) == {"http.response.status_code": 200}
    assert query.status.code == Status.STATUS_CODE_ERROR
    assert request.status.code == Status.STATUS_CODE_UNSET
    assert [event.name for event in query.events] == [work.SLOW_EVENT]
    assert query.events[0].time_unix_nano == query.end_time_unix_nano
    assert query.start_time_unix_nano == ended.started_ns + 500_000_000
    assert query.end_time_unix_nano == ended.started_ns + 1_500_000_000
    assert request.start_time_unix_nano == ended.started_ns <= request.end_time_unix_nano


def test_a_trace_that_begins_here_has_no_parent_and_says_what_was_left_out() -> None:
    ended = a_work()
    ended.dropped_spans, ended.error = 7, "ValueError"
    work.end(ended)

    (span,) = encoded(ended)

    assert span.parent_span_id == b""
    assert span.flags == 0x101
    assert attributes_of(span) == {"metrics_service.dropped_spans": 7, "error.type": "ValueError"}
    assert span.status.code == Status.STATUS_CODE_ERROR


def test_an_encoder_remembers_so_many_statements_and_names_and_no_more() -> None:
    encoder = SpanEncoder()

    for number in range(2_000):
        ended = a_work()
        ended.name = f"job {number}"
        statement = describe(f"SELECT {'x' * (number % 700)} FROM table_{number}")
        work.keep_statement(
            ended, statement, started=0, ended=1, row_count=None, error=None, is_slow=False
        )
        work.end(ended)
        query, request = encoded(ended, encoder)
        assert (query.name, request.name) == (f"SELECT table_{number}", f"job {number}")

    assert len(encoder._statements) <= 500
    assert len(encoder._names) <= 500


def test_a_request_of_many_spans_is_split_before_a_collector_refuses_its_size() -> None:
    envelope = Envelope(resource_of({"service.name": "some"}, process="test"))
    item = one_item(b"\x0a\x10" + b"t" * 16 + nested(5, b"n" * 20_000))

    requests = list(requests_of(envelope, [item] * 512))

    assert sum(count for _, count in requests) == 512
    assert len(requests) > 1
    assert max(len(request) for request, _ in requests) < MAX_REQUEST_BYTES + 1000


def record_of(**event: Any) -> Any:
    (record,) = ScopeLogs.FromString(joined(LineEncoder().encode(line_of(event)))).log_records
    return record


def test_a_line_is_a_record_with_its_place_in_the_trace() -> None:
    record = record_of(
        event="request", level="warning", timestamp="now", trace_id="0a" * 16, span_id="0b" * 8,
        status=500, duration_ms=1.5, is_slow=True, tenant=None, names=["a", 1], odd=object(),
    )  # fmt: skip

    assert record.body.string_value == "request"
    assert (record.severity_number, record.severity_text) == (13, "WARNING")
    assert (record.trace_id, record.span_id, record.flags) == (b"\x0a" * 16, b"\x0b" * 8, 1)
    assert record.time_unix_nano == record.observed_time_unix_nano > STARTED_NS
    assert attributes_of(record) == {
        "status": 500, "duration_ms": 1.5, "is_slow": True, "names": '["a",1]', "odd": '"<object>"',
    }  # fmt: skip


def test_an_exception_is_told_without_its_text() -> None:
    try:
        int(SECRET)
    except ValueError as error:
        record = record_of(event="failed", level="error", exception=exception_summary(error))

    attributes = attributes_of(record)
    assert attributes["exception.type"] == "ValueError"
    assert "unit/test_export_encoding.py:" in attributes["exception.stacktrace"]
    assert SECRET not in str(record)


@given(
    st.dictionaries(
        st.text(max_size=10) | st.sampled_from(["event", "level", "trace_id", "exception"]),
        st.recursive(st.none() | values | st.text(max_size=40), st.lists, max_leaves=4),
    )
)
def test_whatever_a_line_holds_it_becomes_a_record(event: dict[str, Any]) -> None:
    record_of(**event)


def test_a_long_line_is_cut() -> None:
    record = record_of(event="e" * 100_000, text="t" * 100_000, things=["x" * 100_000])

    assert record.ByteSize() < 4 * MAX_LENGTH


def metric_of(instrument: Instrument) -> tuple[Any, int]:
    items = encode_points(instrument)
    request = ExportMetricsServiceRequest.FromString(
        Envelope(resource_of({}, process="test")).around([items])
    )
    (metric,) = request.resource_metrics[0].scope_metrics[0].metrics
    return metric, items.count


@pytest.mark.parametrize(("made", "is_monotonic"), [(Counter, True), (UpDownCounter, False)])
def test_counters_are_sums_since_the_process_began(made: Any, is_monotonic: bool) -> None:
    counter = made("some.count", "{thing}", "Things.", ("kind", "code"))
    counter.add(3, "a", 200)

    metric, points = metric_of(counter)

    (point,) = metric.sum.data_points
    assert points == 1
    assert (metric.name, metric.unit, metric.description) == ("some.count", "{thing}", "Things.")
    assert (metric.sum.is_monotonic, metric.sum.aggregation_temporality) == (is_monotonic, 2)
    assert (point.as_int, attributes_of(point)) == (3, {"kind": "a", "code": 200})
    assert point.start_time_unix_nano == STARTED_NS < point.time_unix_nano


def test_a_clock_that_is_set_back_ends_nothing_before_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = Counter("some.count", "{thing}", "Things.")
    counter.add(1)
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: 1)
        metric, _ = metric_of(counter)

    (point,) = metric.sum.data_points
    assert point.time_unix_nano > point.start_time_unix_nano == STARTED_NS


def test_a_gauge_and_a_histogram() -> None:
    gauge = Gauge("some.gauge", "1", "How it stands.")
    gauge.read_by(lambda: 0.5)
    histogram = Histogram("some.duration", "s", "How long.", ("op",), buckets=(0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7):
        histogram.record(seconds, "x")

    level, _ = metric_of(gauge)
    spread, _ = metric_of(histogram)

    assert [point.as_double for point in level.gauge.data_points] == [0.5]
    (point,) = spread.histogram.data_points
    assert list(point.bucket_counts) == [2, 1, 1]
    assert list(point.explicit_bounds) == [0.1, 1.0]
    assert (point.count, point.sum) == (4, 7.65)
    assert attributes_of(point) == {"op": "x"}


def test_what_was_too_much_for_an_instrument_is_one_point() -> None:
    counter = Counter("some.count", "1", "Things.", ("kind",), max_series=3)
    for number in range(100_000):
        counter.add(1, f"kind {number}")

    metric, points = metric_of(counter)

    assert points == 3
    overflow = [p for p in metric.sum.data_points if attributes_of(p).keys() != {"kind"}]
    assert [attributes_of(point) for point in overflow] == [{"otel.metric.overflow": True}]
    assert sum(point.as_int for point in metric.sum.data_points) == 100_000


def test_what_the_environment_says_about_the_resource_comes_first() -> None:
    said = {"service.name": "mine", "service.instance.id": "one"}

    known = resource_of(said, process="http")

    assert known.items() >= said.items()
    assert known["metrics_service.process"] == "http"
    other = resource_of({}, process="http")
    assert other["service.instance.id"] != resource_of({}, process="http")["service.instance.id"]
