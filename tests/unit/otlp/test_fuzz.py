"""Whatever arrives, reading it raises nothing but that it cannot be read."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from vectors import (
    RECEIVED,
    T0,
    TENANT,
    histogram_metric,
    logs,
    metrics,
    record,
    span,
    span_event,
    spans,
    sum_metric,
)

from metrics_service.errors import MalformedRequestError
from metrics_service.ingest.parts import resolve
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.telemetry import Telemetry
from metrics_service.otlp.agents import AGENTS
from metrics_service.otlp.decode import read_request

MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
SIGNALS = ("logs", "traces", "metrics")
BUILDERS = {"logs": logs, "traces": spans, "metrics": metrics}

ATTRIBUTE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["true", "12", "1e999", "[1,", "{}", '{"a":', "\0", "NaN", "<REDACTED>"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)

AGENT_LIST = [*{id(agent): agent for agent in AGENTS.by_scope.values()}.values(), AGENTS.fallback]


def names_of(agent: Any, kind: str) -> list[str]:
    prefix = agent.prefixes[0] if agent.prefixes else ""
    return [f"{prefix}{name}" for name in getattr(agent, kind)] or ["some.thing"]


def known_attributes() -> list[str]:
    """Every word of the mappers that looks like an attribute's name."""
    import ast
    from pathlib import Path

    import metrics_service.otlp as package

    words: set[str] = set()
    for file in Path(package.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                word = node.value
                if 2 < len(word) < 60 and word.isascii() and " " not in word:
                    words.add(word)
    return sorted(words)


WORDS = known_attributes()


def read(signal: Any, body: bytes, *, is_json: bool) -> None:
    """Read and encode as the write path does."""
    for keeps_content in (False, True):
        out = Telemetry(TENANT, keeps_content=keeps_content)
        try:
            read_request(signal, body, is_json=is_json, received_ns=RECEIVED, out=out)
        except MalformedRequestError:
            continue
        for call in (*out.tools.values(), *out.models.values()):
            as_json(resolve(call.parts))
        as_json([event.record for event in out.events.values()])
        as_json([session.said for session in out.sessions.values()])


@MANY
@given(body=st.binary(max_size=400), signal=st.sampled_from(SIGNALS), is_json=st.booleans())
def test_any_bytes(body, signal, is_json):
    read(signal, body, is_json=is_json)


@MANY
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["resourceLogs", "resourceSpans", "resourceMetrics", "resource", "scope",
                 "scopeLogs", "scopeSpans", "scopeMetrics", "logRecords", "spans", "metrics",
                 "attributes", "key", "value", "stringValue", "intValue", "arrayValue", "values",
                 "kvlistValue", "sum", "dataPoints", "asInt", "asDouble", "body", "traceId"]
            ),
            inner,
            max_size=4,
        ),
        max_leaves=20,
    ),
    signal=st.sampled_from(SIGNALS),
)  # fmt: skip
def test_any_json(body, signal):
    read(signal, msgspec.json.encode(body), is_json=True)


@MANY
@given(data=st.data(), agent=st.sampled_from(AGENT_LIST), signal=st.sampled_from(SIGNALS))
def test_any_value_of_any_attribute_of_any_client(data, agent, signal):
    attributes = data.draw(st.dictionaries(st.sampled_from(WORDS), ATTRIBUTE, max_size=25))
    service = next(iter(agent.services), "any")
    scope = next(iter(agent.scopes), None)
    time_ns = data.draw(st.sampled_from([0, 1, T0, 2**63, 2**64 - 1]))
    kinds = {"logs": "logs", "traces": "spans", "metrics": "metrics"}
    name = data.draw(st.sampled_from([*names_of(agent, kinds[signal]), "x"]))
    item = {
        "logs": lambda: record(name, attributes, time_ns=time_ns, body=name),
        "traces": lambda: span(
            name,
            attributes,
            start_ns=time_ns,
            end_ns=T0,
            events=[span_event(name, attributes, time_ns=time_ns)],
        ),
        "metrics": lambda: data.draw(
            st.sampled_from(
                [
                    sum_metric(name, "s", [(attributes, 1.5)], start_ns=time_ns),
                    histogram_metric(name, "", [(attributes, 2.5, 2)], time_ns=time_ns),
                ]
            )
        ),
    }[signal]()

    read(signal, BUILDERS[signal](service, scope, item, resource=attributes), is_json=True)


MESSAGES = {
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
}


@pytest.mark.parametrize("signal", SIGNALS)
def test_broken_protobuf(signal):
    rng = random.Random(7)
    message = MESSAGES[signal]()
    group = {
        "logs": lambda: message.resource_logs.add().scope_logs.add().log_records,
        "traces": lambda: message.resource_spans.add().scope_spans.add().spans,
        "metrics": lambda: message.resource_metrics.add().scope_metrics.add().metrics,
    }[signal]()
    for number in range(5):
        item = group.add()
        if signal == "metrics":
            item.name = "claude_code.token.usage"
            point = item.sum.data_points.add()
            point.as_double = number
            pairs = point.attributes
        else:
            pairs = item.attributes
            item.trace_id = b"1" * 16
            item.span_id = b"2" * 8
        pair = pairs.add()
        pair.key = "session.id"
        pair.value.string_value = "s"
    whole = message.SerializeToString()

    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        read(signal, bytes(broken[: rng.randrange(len(broken) + 1)]), is_json=False)
