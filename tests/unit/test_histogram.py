"""Percentiles from histograms: within 2 % of the nearest rank, however durations are spread."""

from __future__ import annotations

import math
import random
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.rollups.histogram import (
    BUCKETS_AN_OCTAVE,
    DIGITS,
    HIGHEST,
    LOWEST,
    ZERO,
    milliseconds,
)
from metrics_service.rollups.percentiles import nearest_ranks

SHARES = (0.01, 0.5, 0.9, 0.95, 0.99, 1.0)
NUMBER = 20_000


def bucket_of(duration):
    """As the SQL has it: the exponent and five bits of the mantissa."""
    if duration < 2.0**LOWEST_OCTAVE:
        return ZERO
    mantissa, exponent = math.frexp(min(duration, 2.0**44))
    return (exponent - 1) * BUCKETS_AN_OCTAVE + int((mantissa * 2 - 1) * BUCKETS_AN_OCTAVE)


LOWEST_OCTAVE = LOWEST // BUCKETS_AN_OCTAVE


def sent(buckets):
    """`numeric_send` of the number in which each bucket has twelve decimal digits."""
    lowest = min(buckets, default=0)
    number = sum(count * 10 ** (DIGITS * (bucket - lowest)) for bucket, count in buckets.items())
    words = []
    while number:
        number, word = divmod(number, 10_000)
        words.append(word)
    weight = lowest * (DIGITS // 4) + len(words) - 1
    words.reverse()
    while words and not words[-1]:
        words.pop()
    return struct.pack(f">HhHH{len(words)}H", len(words), weight if words else 0, 0, 0, *words)


def nearest_rank(durations, share):
    return sorted(durations)[max(math.ceil(share * len(durations)), 1) - 1]


def spread(name):
    rng = random.Random(name)
    draw = {
        "constant": lambda: 412.5,
        "uniform": lambda: rng.uniform(0, 1000),
        "lognormal": lambda: rng.lognormvariate(5, 2),
        "bimodal": lambda: rng.gauss(20, 2) if rng.random() < 0.6 else rng.gauss(30_000, 500),
        "heavy tail": lambda: rng.paretovariate(0.5),
        "zeros": lambda: 0.0 if rng.random() < 0.7 else rng.expovariate(0.01),
        "microseconds": lambda: rng.uniform(1e-5, 1e-3),
        "edges of buckets": lambda: 2.0 ** rng.randrange(-10, 30),
    }[name]
    return [abs(draw()) for _ in range(NUMBER)]


@pytest.mark.parametrize(
    "name",
    [
        "constant", "uniform", "lognormal", "bimodal", "heavy tail", "zeros", "microseconds",
        "edges of buckets",
    ],
)  # fmt: skip
def test_a_percentile_is_within_two_percent_of_the_nearest_rank(name):
    durations = spread(name)

    found = nearest_ranks(sent(Counter(map(bucket_of, durations))), SHARES)

    for share, value in zip(SHARES, found, strict=True):
        assert value == pytest.approx(nearest_rank(durations, share), rel=0.02), share


@given(st.floats(2.0**-20, 2.0**44, exclude_max=True))
def test_the_middle_of_a_bucket_is_near_all_that_is_in_it(duration):
    assert abs(milliseconds(bucket_of(duration)) - duration) <= duration / 64


@given(
    st.dictionaries(
        st.integers(ZERO, HIGHEST), st.integers(1, 10**DIGITS - 1), min_size=1, max_size=60
    ),
    st.lists(st.floats(0.001, 1), min_size=1, max_size=4),
)
def test_what_was_sent_is_read_as_it_was_counted(buckets, shares):
    """Numbers that need one, two and three words a bucket, and zeros that are not sent."""
    total = sum(buckets.values())

    found = nearest_ranks(sent(buckets), shares)

    for share, value in zip(shares, found, strict=True):
        rank, seen = max(1, math.ceil(share * total)), 0
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            if seen >= rank:
                assert value == milliseconds(bucket)
                break


def test_of_no_durations_there_is_no_percentile():
    assert nearest_ranks(sent({}), SHARES) == [None] * len(SHARES)


def test_what_is_longer_than_can_be_is_as_long_as_can_be():
    (longest,) = nearest_ranks(sent({bucket_of(1e300): 1}), [0.5])

    assert longest == pytest.approx(2.0**44, rel=0.02)
