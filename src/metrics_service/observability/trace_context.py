"""W3C Trace Context: the trace that a caller is in, and how we name ours to him.

Read by https://www.w3.org/TR/trace-context/. What is not exactly of that form counts as not sent.
Baggage is never read: anybody may write anything into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from metrics_service.observability.own_exports import is_own
from metrics_service.observability.work import Work

MAX_STATE_LENGTH = 512

_HEX = rb"[0-9a-f]"
# Version ff is forbidden; a later one may have more behind a further dash.
_traceparent = re.compile(
    rb"(?!ff)(%b{2})-(?!0{32})(%b{32})-(?!0{16})(%b{16})-(%b{2})(-.*)?" % ((_HEX,) * 4)
).fullmatch
_MAX_PARENT_LENGTH = 256
_is_state = re.compile(rb"[\x20-\x7e\t]*").fullmatch
_SAMPLED = 1


class TraceContext(msgspec.Struct, frozen=True):
    """What a caller said of the trace he is in."""

    trace_id: bytes | None = None
    parent_id: bytes | None = None
    is_sampled: bool | None = None
    state: str | None = None
    is_own_export: bool = False


NONE = TraceContext()
OURS = TraceContext(is_own_export=True)


def trace_context(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext:
    """Find the caller's trace; nothing of it where it is not well-formed."""
    parents: list[bytes] = []
    states: list[bytes] = []
    for given, value in headers:
        # Most names are told apart by their first letter.
        if given[:1] not in b"tTuU":
            continue
        name = given.lower()
        if name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
        elif name == b"user-agent" and is_own(value):
            return OURS
    if len(parents) != 1 or len(parents[0]) > _MAX_PARENT_LENGTH:
        return NONE
    found = _traceparent(parents[0].strip(b" \t"))
    if found is None or (found[1] == b"00" and found[5] is not None):
        return NONE
    state = b",".join(states)
    is_kept = 0 < len(state) <= MAX_STATE_LENGTH and _is_state(state)
    return TraceContext(
        bytes.fromhex(found[2].decode()),
        bytes.fromhex(found[3].decode()),
        bool(int(found[4], 16) & _SAMPLED),
        state.decode() if is_kept else None,
    )


def trace_response(work: Work) -> bytes:
    """The value of the header `traceresponse`, by which a caller finds our part of the trace.

    As https://w3c.github.io/trace-context/#traceresponse-header drafts it.
    """
    return b"00-%b-%b-%02x" % (
        work.trace_id.hex().encode(),
        work.span_id.hex().encode(),
        _SAMPLED if work.is_sampled else 0,
    )
