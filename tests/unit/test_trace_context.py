"""The trace that a caller is in: taken only when it is exactly what the standard says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.observability.own_exports import know_own_exports, own_user_agent
from metrics_service.observability.trace_context import (
    MAX_STATE_LENGTH,
    NONE,
    trace_context,
    trace_response,
)
from metrics_service.observability.work import begin, keep_spans

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


def headers(*values: str, **others: str) -> list[tuple[bytes, bytes]]:
    parents = [(b"traceparent", value.encode()) for value in values]
    return [*parents, *((name.encode(), value.encode()) for name, value in others.items())]


@pytest.mark.parametrize(
    ("value", "is_sampled"),
    [
        (GOOD, True),
        (GOOD[:-2] + "00", False),
        (GOOD[:-2] + "03", True),
        (f"cc-{TRACE}-{PARENT}-01", True),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", True),
    ],
)
def test_a_well_formed_parent_is_ours(value: str, is_sampled: bool) -> None:
    found = trace_context(headers(value))

    assert found.trace_id == bytes.fromhex(TRACE)
    assert found.parent_id == bytes.fromhex(PARENT)
    assert found.is_sampled is is_sampled


@pytest.mark.parametrize(
    "value",
    [
        "",
        GOOD.upper(),
        GOOD[:-1],
        GOOD + "0",
        GOOD + "-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-0g",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"00-{TRACE}-{PARENT}-01\n",
        GOOD.replace("4bf", "äöü"),
        GOOD + "," + GOOD,
        "cc-" + GOOD[3:] + "-" + "x" * 8192,
        "x" * 8192,
    ],
)
def test_anything_else_counts_as_not_sent(value: str) -> None:
    assert trace_context([(b"traceparent", value.encode())]) == NONE


def test_two_parents_are_none() -> None:
    assert trace_context(headers(GOOD, GOOD)) == NONE


def test_a_state_is_kept_with_its_parent_while_it_is_short() -> None:
    assert trace_context(headers(GOOD, tracestate="a=1,b=2")).state == "a=1,b=2"
    assert trace_context([*headers(GOOD, tracestate="a=1"), (b"tracestate", b"b=2")]).state == (
        "a=1,b=2"
    )
    assert trace_context(headers(GOOD, tracestate="a" * MAX_STATE_LENGTH)).state is not None
    assert trace_context(headers(GOOD, tracestate="a" * (MAX_STATE_LENGTH + 1))).state is None
    assert trace_context(headers(GOOD, tracestate="a=\x00")).state is None
    assert trace_context(headers(GOOD, tracestate="ä=1")).state is None
    assert trace_context(headers(tracestate="a=1")) == NONE


def test_baggage_is_never_read() -> None:
    assert trace_context(headers(GOOD, baggage="tenant.id=another")) == trace_context(headers(GOOD))
    assert "another" not in repr(trace_context(headers(GOOD, baggage="tenant.id=another")))


@given(st.binary(max_size=80), st.binary(max_size=20))
def test_any_header_can_be_read(value: bytes, state: bytes) -> None:
    found = trace_context([(b"traceparent", value), (b"tracestate", state)])

    assert (found.trace_id is None) == (found.parent_id is None)


def test_the_services_own_exports_are_known_by_their_name() -> None:
    own = [(b"user-agent", own_user_agent().encode()), *headers(GOOD)]

    assert trace_context(own).is_own_export
    assert trace_context(own).trace_id is None
    assert not trace_context([(b"user-agent", b"curl/8"), *headers(GOOD)]).is_own_export


def test_nobody_else_is_taken_for_the_service_by_what_he_calls_himself() -> None:
    own = own_user_agent().encode()
    name, _, proof = own.rpartition(b" ")
    for said in (
        name,
        name + b" ",
        name + b" (" + b"0" * 32 + b")",
        own[:-1],
        proof,
        b"",
        b" " + own,
    ):
        assert not trace_context([(b"user-agent", said), *headers(GOOD)]).is_own_export, said

    know_own_exports(b"another service's secret")
    assert not trace_context([(b"user-agent", own), *headers(GOOD)]).is_own_export
    theirs = own_user_agent()
    know_own_exports(b"another service's secret")
    assert own_user_agent() == theirs


def test_a_caller_is_told_our_part_of_the_trace() -> None:
    stop = keep_spans(lambda _trace, _caller: False, lambda _work: None)
    work = begin("request", trace_id=bytes.fromhex(TRACE))
    stop()

    assert trace_response(work).decode() == f"00-{TRACE}-{work.span_id.hex()}-00"
