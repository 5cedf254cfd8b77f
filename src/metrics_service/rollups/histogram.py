"""Durations as one number: a log-linear histogram that adds up by `+`.

A duration falls into a bucket by the exponent and the first five bits of the mantissa of its binary
form (IEEE 754): 32 buckets an octave, so that the middle of a bucket is at most 1/64, or 1.6 %, away
from any duration in it. Each bucket has twelve decimal digits of one `numeric`, the bucket of 1 ms the
lowest twelve before the point. So PostgreSQL's own addition merges histograms exactly, `sum()` does it
for any number of hours, and what was added can be taken away; a bucket holds up to 10^12 durations.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, ldexp

BUCKETS_AN_OCTAVE = 32
DIGITS = 12

# Of 2^-20 ms, which is a nanosecond, and of 2^44 ms, which is 500 years.
LOWEST, HIGHEST = -20 * BUCKETS_AN_OCTAVE, 44 * BUCKETS_AN_OCTAVE
ZERO = LOWEST - 1
"""The bucket of durations below a nanosecond."""

_BITS = "float8send(least({0}, 2::float8 ^ 44))"
# Of 1.0: the biased exponent 1023, and no mantissa.
_OF_ONE = 1023 * BUCKETS_AN_OCTAVE

_WORDS_A_BUCKET = DIGITS // 4


def bucket_of(column: str) -> str:
    """The SQL of the bucket that a duration in milliseconds falls into; null for null."""
    bits = _BITS.format(column)
    return (
        f"CASE WHEN {column} < 2::float8 ^ -20 THEN {ZERO} WHEN {column} >= 0 THEN"
        f" get_byte({bits}, 0) * 512 + get_byte({bits}, 1) * 2 + get_byte({bits}, 2) / 128"
        f" - {_OF_ONE} END"
    )


def one_of(bucket: str) -> str:
    """The SQL of a histogram with one duration in that bucket."""
    return f"('1e' || {DIGITS} * ({bucket}))::numeric"


def milliseconds(bucket: int) -> float:
    """The middle of a bucket."""
    if bucket <= ZERO:
        return 0.0
    octave, place = divmod(bucket, BUCKETS_AN_OCTAVE)
    return ldexp(1 + (place + 0.5) / BUCKETS_AN_OCTAVE, octave)


def counts(sent: bytes) -> dict[int, int]:
    """How many durations each bucket has, from `numeric_send` of a histogram; buckets ascend.

    The binary form is base 10,000, most significant first, after four int16: how many digits, the
    weight of the first, sign, scale (source: PostgreSQL's numeric_send).
    """
    words = array("H", sent)
    words.byteswap()
    number, weight = words[0], words[1]
    if weight >= 1 << 15:
        weight -= 1 << 16
    found: dict[int, int] = {}
    for place in range(number - 1, -1, -1):
        digit = words[4 + place]
        if digit:
            bucket, within = divmod(weight - place, _WORDS_A_BUCKET)
            found[bucket] = found.get(bucket, 0) + digit * 10_000**within
    return found


def percentiles(found: Mapping[int, int], shares: Sequence[float]) -> list[float | None]:
    """The nearest-rank percentiles, each the middle of the bucket in which that rank lies.

    `found` has its buckets in ascending order; `shares` are of (0, 1], and ascend too.
    """
    total = sum(found.values())
    if not total:
        return [None] * len(shares)
    ranks = [max(1, ceil(share * total)) for share in shares]
    values: list[float | None] = []
    for bucket, seen in _cumulated(found.items()):
        while len(values) < len(ranks) and ranks[len(values)] <= seen:
            values.append(milliseconds(bucket))
        if len(values) == len(ranks):
            break
    return values


def _cumulated(found: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    seen = 0
    for bucket, count in found:
        seen += count
        yield bucket, seen
