"""The identity of a metric stream (OpenTelemetry metrics data model, section on single writers)."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from metrics_service.otlp.items import PointItem

_canonical = msgspec.json.Encoder(order="deterministic").encode


def stream_of(item: PointItem) -> bytes:
    """16 bytes: of resource, scope, name, unit, kind, monotonicity, temporality and attributes."""
    named = (
        item.metric,
        item.unit,
        item.instrument,
        item.is_monotonic,
        item.temporality,
        item.attributes,
    )
    return sha256(item.source.digest + _canonical(named)).digest()[:16]
