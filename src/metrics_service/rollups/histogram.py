"""Durations as one number: a log-linear histogram that adds up by `+`.

A duration falls into a bucket by the exponent and the first five bits of the mantissa of its binary
form (IEEE 754): 32 buckets an octave, so that the middle of a bucket is at most 1/64, or 1.6 %, away
from any duration in it. Each bucket has twelve decimal digits of one `numeric`, the bucket of 1 ms the
lowest twelve before the point. So PostgreSQL's own addition merges histograms exactly, `sum()` does it
for any number of hours, and what was added can be taken away; a bucket holds up to 10^12 durations.
"""

from __future__ import annotations

from math import ldexp

BUCKETS_AN_OCTAVE = 32
DIGITS = 12

# Of 2^-20 ms, which is a nanosecond, and of 2^44 ms, which is 500 years.
LOWEST, HIGHEST = -20 * BUCKETS_AN_OCTAVE, 44 * BUCKETS_AN_OCTAVE
ZERO = LOWEST - 1
"""The bucket of durations below a nanosecond."""

_BITS = "float8send(least({0}, 2::float8 ^ 44))"
# Of 1.0: the biased exponent 1023, and no mantissa.
_OF_ONE = 1023 * BUCKETS_AN_OCTAVE


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
