"""The JSON of OTLP: that of protobuf, but ids are hex and enumerations are numbers.

Source: OTLP specification, section "JSON Protobuf Encoding".
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict

_IDS = frozenset({"traceId", "spanId", "parentSpanId"})


def as_json(request: Any) -> bytes:
    """Encode an export request."""
    return msgspec.json.encode(_with_hex(MessageToDict(request, use_integers_for_enums=True)))


def _with_hex(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_hex(one) for one in value]
    if isinstance(value, dict):
        return {
            name: base64.b64decode(one).hex() if name in _IDS else _with_hex(one)
            for name, one in value.items()
        }
    return value
