"""Instruments that count and time what one process does; read by whoever tells it to the world.

They are cheap enough for every request (a few hundred nanoseconds a record), and bounded: an
instrument has at most so many series, whatever it is fed. The attributes' values are fixed words and
route templates, never what a client sent.

One loop records, other threads read: a series that another thread records too may lose a count.
"""

from __future__ import annotations

import math
import time
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypeVar

import msgspec

Value: TypeAlias = str | int
Values: TypeAlias = tuple[Value, ...]
Kind: TypeAlias = Literal["counter", "up-down counter", "gauge", "histogram"]
Read: TypeAlias = Callable[[], float | None]
OwnerT = TypeVar("OwnerT", bound=object)

MAX_SERIES = 200

OVERFLOW: Values = ("otel.metric.overflow",)
"""Stands where the values would be in the series that takes what came after too many others.

As OpenTelemetry's "Metrics SDK, cardinality limits" has it: the series has the one attribute
`otel.metric.overflow`, which is true.
"""

STARTED_NS = time.time_ns()
"""Since when all of this process is counted."""


class Number(msgspec.Struct, frozen=True):
    """What one series of a counter or gauge stands at."""

    values: Values
    value: float


class Distribution(msgspec.Struct, frozen=True):
    """What one series of a histogram has seen."""

    values: Values
    counts: list[int]
    """How many were in each bucket, the one above all bounds last; not cumulative."""
    total: float
    """The sum of what was recorded."""

    @property
    def count(self) -> int:
        return sum(self.counts)


class Instrument(ABC):
    """A name, a unit as UCUM spells it, and what is said about it."""

    kind: Kind

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        attributes: tuple[str, ...] = (),
        *,
        max_series: int = MAX_SERIES,
    ) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.attributes = attributes
        self._max_series = max_series

    @abstractmethod
    def points(self) -> Sequence[Number | Distribution]:
        """What each of its series stands at now."""

    def _admitted(self, values: Values, taken: int) -> Values:
        """These values where there is still room for their series; raises `ValueError` for too few."""
        if len(values) != len(self.attributes):
            raise ValueError(f"{self.name} has the attributes {self.attributes}, not {values}")
        # The last place is the overflow's.
        return values if taken < self._max_series - 1 else OVERFLOW


class Numbers(Instrument):
    """An instrument whose series are one number each."""

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        attributes: tuple[str, ...] = (),
        *,
        max_series: int = MAX_SERIES,
    ) -> None:
        super().__init__(name, unit, description, attributes, max_series=max_series)
        self._series: dict[Values, float] = {}
        self._readers: dict[object, tuple[Values, Read]] = {}

    def add(self, amount: float, *values: Value) -> None:
        """Add it to the series of these values, which stand in the order of the attributes."""
        try:
            self._series[values] += amount
        except KeyError:
            admitted = self._admitted(values, len(self._series))
            self._series[admitted] = self._series.get(admitted, 0) + amount

    def read_by(self, read: Read, *values: Value) -> Callable[[], None]:
        """Ask this when it is read; several of the same values are added up. Call what it gives to end it.

        A reader gives None where there is nothing to tell.
        """
        known = {other for other, _ in self._readers.values()}
        reader = object()
        self._readers[reader] = (
            values if values in known else self._admitted(values, len(known)),
            read,
        )

        def stop() -> None:
            self._readers.pop(reader, None)

        return stop

    def read_of(
        self, owner: OwnerT, read: Callable[[OwnerT], float | None], *values: Value
    ) -> None:
        """As `read_by`, of something that is read for as long as it lives, and not kept alive by it."""
        alive = weakref.ref(owner)

        def ask() -> float | None:
            living = alive()
            return None if living is None else read(living)

        weakref.finalize(owner, self.read_by(ask, *values)).atexit = False

    def points(self) -> list[Number]:
        series = dict(self._series)
        for values, read in list(self._readers.values()):
            number = _asked(read)
            if number is not None:
                series[values] = series.get(values, 0) + number
        return [Number(values, value) for values, value in series.items()]


class Counter(Numbers):
    """Only ever grows."""

    kind = "counter"


class UpDownCounter(Numbers):
    """How many there are now; over several processes, their sum."""

    kind = "up-down counter"


class Gauge(Numbers):
    """How something stands now; over several processes, nothing that a sum says anything about."""

    kind = "gauge"


class Histogram(Instrument):
    """How what was recorded is spread; a bucket holds what is not above its bound."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        attributes: tuple[str, ...] = (),
        *,
        buckets: tuple[float, ...],
        max_series: int = MAX_SERIES,
    ) -> None:
        super().__init__(name, unit, description, attributes, max_series=max_series)
        self.buckets = buckets
        self._series: dict[Values, _Seen] = {}

    def record(self, amount: float, *values: Value) -> None:
        """Note one; the values stand in the order of the attributes."""
        try:
            seen = self._series[values]
        except KeyError:
            seen = self._begun(values)
        seen.counts[bisect_left(self.buckets, amount)] += 1
        seen.total += amount

    def points(self) -> list[Distribution]:
        return [
            Distribution(values, seen.counts.copy(), seen.total)
            for values, seen in list(self._series.items())
        ]

    def _begun(self, values: Values) -> _Seen:
        admitted = self._admitted(values, len(self._series))
        seen = self._series.get(admitted)
        if seen is None:
            seen = self._series[admitted] = _Seen([0] * (len(self.buckets) + 1))
        return seen


class _Seen:
    """A series of a histogram."""

    __slots__ = ("counts", "total")

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts
        self.total = 0.0


def _asked(read: Read) -> float | None:
    try:
        number = read()
    except Exception:  # noqa: BLE001 - what cannot be read is left out; all else is told
        return None
    return None if number is None or not math.isfinite(number) else number
