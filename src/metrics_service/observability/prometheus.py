"""Instruments as Prometheus reads them: the text format 0.0.4, of one process or of several.

Names and units go over as OpenTelemetry's "Prometheus and OpenMetrics Compatibility" has it: dots become
underscores, the unit a suffix, counters end in `_total`, a histogram's buckets are cumulative.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from metrics_service.observability.meters import (
    OVERFLOW,
    Distribution,
    Histogram,
    Instrument,
    Kind,
    Number,
    Values,
)

MEDIA_TYPE: Final = "text/plain; version=0.0.4"
"""Of text in UTF-8."""
PROCESS: Final = "process"
"""The label that tells the processes of one server apart."""

_UNITS: Final[Mapping[str, str]] = {"s": "seconds", "By": "bytes"}
_TYPES: Final[Mapping[Kind, str]] = {
    "counter": "counter",
    "up-down counter": "gauge",
    "gauge": "gauge",
    "histogram": "histogram",
}
_not_in_names = re.compile(r"[^a-zA-Z0-9_]+")
_in_values = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_in_help = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Family(msgspec.Struct, frozen=True):
    """All that one process says of one instrument, in lines that lack only the process."""

    name: str
    type: str
    help: str
    samples: list[tuple[str, str, str]]
    """What follows the name, the labels between braces, and the number."""


def families(instruments: Iterable[Instrument]) -> list[Family]:
    """What this process has to tell; an instrument that was never used says nothing."""
    found = []
    for instrument in instruments:
        samples = list(_samples(instrument))
        if samples:
            type_ = _TYPES[instrument.kind]
            found.append(Family(name_of(instrument), type_, instrument.description, samples))
    return found


def exposition(processes: Sequence[tuple[str, Sequence[Family]]]) -> str:
    """The text for what several processes told, each by its name; one instrument stands together."""
    together: dict[str, tuple[Family, list[str]]] = {}
    for process, told in processes:
        label = f'{PROCESS}="{escaped(process)}"'
        for family in told:
            _, lines = together.setdefault(family.name, (family, []))
            lines.extend(
                f"{family.name}{suffix}{{{label}{labels}}} {number}\n"
                for suffix, labels, number in family.samples
            )
    return "".join(
        f"# HELP {name} {family.help.translate(_in_help)}\n# TYPE {name} {family.type}\n"
        + "".join(lines)
        for name, (family, lines) in together.items()
    )


def name_of(instrument: Instrument) -> str:
    """The instrument's name in Prometheus."""
    name = _not_in_names.sub("_", instrument.name)
    # What is in braces is no unit but a remark.
    unit = _UNITS.get(instrument.unit)
    if unit is not None and not name.endswith(f"_{unit}"):
        name = f"{name}_{unit}"
    return f"{name}_total" if instrument.kind == "counter" else name


def escaped(value: str) -> str:
    """A label's value between its quotes."""
    return value.translate(_in_values)


def _samples(instrument: Instrument) -> Iterator[tuple[str, str, str]]:
    for point in instrument.points():
        labels = _labels(instrument, point.values)
        if isinstance(point, Number):
            yield "", labels, _number(point.value)
        elif isinstance(instrument, Histogram):
            yield from _buckets(instrument, point, labels)


def _buckets(
    instrument: Histogram, seen: Distribution, labels: str
) -> Iterator[tuple[str, str, str]]:
    count = 0
    for bound, within in zip((*instrument.buckets, float("inf")), seen.counts, strict=True):
        count += within
        yield "_bucket", f'{labels},le="{_number(bound)}"', str(count)
    yield "_sum", labels, _number(seen.total)
    yield "_count", labels, str(count)


def _labels(instrument: Instrument, values: Values) -> str:
    """Each with a comma before it: the process comes first."""
    if values == OVERFLOW:
        return ',otel_metric_overflow="true"'
    return "".join(
        f',{_not_in_names.sub("_", name)}="{escaped(str(value))}"'
        for name, value in zip(instrument.attributes, values, strict=True)
    )


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
