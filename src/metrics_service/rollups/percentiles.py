"""Percentiles of a histogram as PostgreSQL sends it, in time for a thousand of them in an answer."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import ceil

from metrics_service.rollups.histogram import DIGITS, milliseconds

_WORDS_A_BUCKET = DIGITS // 4
_HEADER = 4
_SIGN_BIT = 1 << 15


def nearest_ranks(sent: bytes, shares: Sequence[float]) -> list[float | None]:
    """Of each share the middle of the bucket in which that rank lies; None of no durations.

    `sent` is `numeric_send` of a histogram: base 10,000, most significant first, after four int16:
    how many digits, the weight of the first, sign, scale (source: PostgreSQL's numeric_send).
    """
    words = array("H", sent)
    if sys.byteorder == "little":
        words.byteswap()
    number, weight = words[0], words[1]
    if not number:
        return [None] * len(shares)
    if weight >= _SIGN_BIT:
        weight -= 2 * _SIGN_BIT
    # All of it by slices: a loop over the two thousand words of a histogram takes ten times longer.
    digits = words[_HEADER:]
    digits.reverse()
    lowest, place = divmod(weight - number + 1, _WORDS_A_BUCKET)
    digits = array("H", [0] * place) + digits
    digits.extend([0] * (-len(digits) % _WORDS_A_BUCKET))
    low, middle, high = (digits[word::_WORDS_A_BUCKET] for word in range(_WORDS_A_BUCKET))
    counts: Sequence[int] = low
    if (middle.tobytes() + high.tobytes()).strip(b"\0"):
        counts = [
            one + 10_000 * (two + 10_000 * three)
            for one, two, three in zip(low, middle, high, strict=True)
        ]
    seen = list(accumulate(counts))
    ranks = (max(1, ceil(share * seen[-1])) for share in shares)
    return [milliseconds(lowest + bisect_left(seen, rank)) for rank in ranks]
