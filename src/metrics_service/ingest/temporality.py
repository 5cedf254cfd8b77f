"""From data points to deltas: cumulative streams give what they grew by, each growth once.

Sources: OpenTelemetry metrics data model, sections on temporality, resets and overlap; the rules of
the collector's cumulativetodelta processor, except that a first point with a true start counts in
full: command-line programs often live no longer than one point.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.telemetry import Point, row_id_of

DAY_NS = 86_400 * 10**9
RETENTION_NS = 30 * DAY_NS
"""How long a stream is remembered: who began before that may have been counted already."""

LOCK = """
WITH given AS MATERIALIZED (SELECT value::uuid AS id FROM json_array_elements_text($1::json))
INSERT INTO metric_streams AS m (id) SELECT id FROM given ORDER BY id
ON CONFLICT (tenant_id, id) DO UPDATE SET seen_at = now()
RETURNING id, start_ns, time_ns, value, count, bounds, buckets
"""

KEEP = """
UPDATE metric_streams m
SET start_ns = r.start_ns, time_ns = r.time_ns, value = r.value, count = r.count,
    bounds = r.bounds, buckets = r.buckets
FROM json_to_recordset($1::json) AS r(
    id uuid, start_ns bigint, time_ns bigint, value double precision, count bigint,
    bounds double precision[], buckets bigint[])
WHERE m.id = r.id
"""


class Stream(msgspec.Struct, kw_only=True):
    """The last point of a cumulative stream."""

    id: UUID
    start_ns: int | None = None
    time_ns: int | None = None
    value: float | None = None
    count: int | None = None
    bounds: list[float] | None = None
    buckets: list[int] | None = None


class Delta(msgspec.Struct):
    """What a point adds, over (start, end]; `id` follows from the stream and the point's times."""

    id: int
    point: Point
    start_ns: int
    value: float | None
    count: int | None
    buckets: list[int] | None
    is_delta: bool = True
    """False for what is no growth: gauges, sums that may shrink, and what is kept cumulative."""


async def take_deltas(connection: ContextConnection, points: Iterable[Point]) -> list[Delta]:
    """The deltas of these points; streams are locked, in order, until the transaction ends."""
    deltas: list[Delta] = []
    cumulative: dict[UUID, list[Point]] = {}
    for point in points:
        if not point.is_cumulative or not point.is_monotonic or not _can_subtract(point):
            # A gauge's last word, or a delta already.
            deltas.append(_plain(point))
        else:
            cumulative.setdefault(UUID(bytes=point.stream), []).append(point)
    if cumulative:
        rows = await connection.fetch(LOCK, as_json([str(key) for key in sorted(cumulative)]))
        streams = [Stream(**row) for row in rows]
        for stream in streams:
            in_order = sorted(
                cumulative[stream.id], key=lambda point: (point.time_ns, point.start_ns)
            )
            deltas += [delta for point in in_order if (delta := advance(stream, point))]
        await connection.execute(KEEP, as_json(streams))
    return deltas


def _can_subtract(point: Point) -> bool:
    return point.instrument in ("sum", "histogram")


def _plain(point: Point) -> Delta:
    is_delta = (
        point.instrument in ("sum", "histogram", "exponential_histogram")
        and not point.is_cumulative
        and point.is_monotonic
    )
    return Delta(
        _id(point),
        point,
        point.start_ns,
        point.value,
        point.count,
        point.buckets,
        is_delta=is_delta,
    )


def _id(point: Point) -> int:
    return row_id_of(point.stream, "point", f"{point.start_ns}:{point.time_ns}")


def advance(stream: Stream, point: Point) -> Delta | None:
    """Move the stream to the point; return what it grew by, None where that is nothing or unknown."""
    if stream.time_ns is None:
        has_begun = (
            0 < point.start_ns < point.time_ns and point.time_ns - point.start_ns <= RETENTION_NS
        )
        # Without a true start nobody knows what of it was counted before: it is where we begin.
        return _keep(stream, point, _full(point) if has_begun else None)
    if point.time_ns <= stream.time_ns or point.start_ns < (stream.start_ns or 0):
        # A repetition, or out of order; or a writer whose life overlaps with that of another.
        return None
    is_reset = point.start_ns > (stream.start_ns or 0) or _has_shrunk(stream, point)
    return _keep(stream, point, _full(point) if is_reset else _growth(stream, point))


def _has_shrunk(stream: Stream, point: Point) -> bool:
    if point.instrument == "histogram":
        old, new = stream.buckets or [], point.buckets or []
        return (
            (point.count or 0) < (stream.count or 0)
            or point.bounds != stream.bounds
            or len(old) != len(new)
            or any(after < before for before, after in zip(old, new, strict=True))
        )
    return (point.value or 0.0) < (stream.value or 0.0)


def _full(point: Point) -> Delta:
    return Delta(_id(point), point, point.start_ns, point.value, point.count, point.buckets)


def _growth(stream: Stream, point: Point) -> Delta:
    return Delta(
        _id(point),
        point,
        stream.time_ns or 0,
        None if point.value is None else point.value - (stream.value or 0.0),
        None if point.count is None else point.count - (stream.count or 0),
        None
        if point.buckets is None
        else [
            after - before
            for before, after in zip(stream.buckets or [], point.buckets, strict=True)
        ],
    )


def _keep(stream: Stream, point: Point, delta: Delta | None) -> Delta | None:
    stream.start_ns, stream.time_ns = point.start_ns, point.time_ns
    stream.value, stream.count = point.value, point.count
    stream.bounds, stream.buckets = point.bounds, point.buckets
    is_nothing = delta is not None and not delta.value and not delta.count
    return None if is_nothing else delta
