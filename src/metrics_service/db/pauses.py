"""What is let alone for a while after it failed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

MAX_PAUSES = 10_000


class Pauses:
    """What is let alone for a while, after the second time for twice as long each time until it goes well."""

    def __init__(
        self,
        first_s: float,
        second_s: float,
        longest_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_s = first_s
        self._second_s = second_s
        self._longest_s = longest_s
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def holds(self, key: Hashable) -> bool:
        return key in self._kept and self._clock() < self._kept[key][0]

    def begin(self, key: Hashable) -> None:
        now, length_s = self._clock(), self._first_s
        if key in self._kept:
            until, before_s = self._kept[key]
            if now < until:
                # Of many that fail together it is the first that counts.
                return
            length_s = min(self._longest_s, max(self._second_s, before_s * 2))
        self._kept[key] = (now + length_s, length_s)
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_PAUSES:
            self._kept.popitem(last=False)

    def end(self, key: Hashable) -> None:
        self._kept.pop(key, None)
