"""Instruments: what they count, how many series they make at most, and what their names mean."""

from __future__ import annotations

import ast
import gc
import importlib
import pkgutil
from functools import cache
from pathlib import Path

import opentelemetry.semconv._incubating.attributes as incubating_attributes
import opentelemetry.semconv._incubating.metrics as incubating_metrics
import opentelemetry.semconv.attributes as semconv_attributes
import opentelemetry.semconv.metrics as semconv_metrics
import pytest
from asgi import make_scope

import metrics_service
from metrics_service.http.served import note_served
from metrics_service.observability import catalog
from metrics_service.observability.meters import (
    MAX_SERIES,
    OVERFLOW,
    Counter,
    Gauge,
    Histogram,
    Instrument,
    UpDownCounter,
)

SOURCE = Path(metrics_service.__file__).parent


def counter(attributes: tuple[str, ...] = ("kind",), **options) -> Counter:
    return Counter("things", "{thing}", "Things.", attributes, **options)


def stands(instrument) -> dict:
    return {point.values: point.value for point in instrument.points()}


def test_what_is_added_is_counted_by_the_values_of_its_attributes() -> None:
    things = counter(("kind", "colour"))

    things.add(2, "cup", "red")
    things.add(1, "cup", "blue")
    things.add(3, "cup", "red")

    assert stands(things) == {("cup", "red"): 5, ("cup", "blue"): 1}


def test_more_series_than_an_instrument_may_have_are_counted_as_one() -> None:
    things = counter()

    for number in range(100_000):
        things.add(1, f"kind {number}")

    counted = stands(things)
    assert len(counted) == MAX_SERIES
    assert counted[OVERFLOW] == 100_000 - (MAX_SERIES - 1)
    assert sum(counted.values()) == 100_000


def test_a_series_that_is_known_is_counted_by_itself_after_others_were_too_many() -> None:
    things = counter(max_series=3)
    for kind in ("cup", "plate", "fork", "knife"):
        things.add(1, kind)

    things.add(5, "cup")

    assert stands(things) == {("cup",): 6, ("plate",): 1, OVERFLOW: 2}


@pytest.mark.parametrize("values", [(), ("cup", "red")])
def test_a_record_with_too_few_or_too_many_values_is_an_error(values) -> None:
    seconds = Histogram("lasting", "s", "Lasting.", ("kind",), buckets=(1.0,))

    with pytest.raises(ValueError, match="things"):
        counter().add(1, *values)
    with pytest.raises(ValueError, match="lasting"):
        seconds.record(1, *values)
    with pytest.raises(ValueError, match="things"):
        counter().read_by(lambda: 1, *values)


def test_a_histogram_counts_what_is_at_a_bound_below_it() -> None:
    seconds = Histogram("lasting", "s", "Lasting.", ("kind",), buckets=(0.1, 1.0))

    for amount in (0.05, 0.1, 0.100001, 1.0, 1.5, 99.0):
        seconds.record(amount, "a")

    [seen] = seconds.points()
    assert seen.counts == [2, 2, 2]
    assert seen.count == 6
    assert seen.total == pytest.approx(101.750001)


def test_a_histogram_has_no_more_series_than_it_may_either() -> None:
    seconds = Histogram("lasting", "s", "Lasting.", ("kind",), buckets=(1.0,), max_series=5)

    for number in range(1000):
        seconds.record(0.5, f"kind {number}")

    seen = {point.values: point.count for point in seconds.points()}
    assert len(seen) == 5
    assert seen[OVERFLOW] == 996


def test_a_reader_is_asked_each_time_until_it_is_ended() -> None:
    level = Gauge("level", "1", "How high.")
    heights = iter((1.5, 2.5))
    stop = level.read_by(lambda: next(heights))

    before = [stands(level), stands(level)]
    stop()
    stop()

    assert before == [{(): 1.5}, {(): 2.5}]
    assert stands(level) == {}


def test_several_readers_of_the_same_values_are_added_up() -> None:
    level = UpDownCounter("open", "{page}", "Pages.", ("state",))
    level.read_by(lambda: 3, "idle")
    level.read_by(lambda: 4, "idle")
    level.read_by(lambda: 5, "used")

    assert stands(level) == {("idle",): 7, ("used",): 5}


def test_a_reader_that_fails_or_knows_nothing_hides_nobody_else() -> None:
    level = Gauge("level", "1", "How high.", ("of",))
    level.read_by(lambda: 1 / 0, "broken")
    level.read_by(lambda: None, "unknown")
    level.read_by(lambda: float("nan"), "none")
    level.read_by(lambda: 2, "good")

    assert stands(level) == {("good",): 2}


def test_what_is_read_is_not_kept_alive_and_no_longer_told_once_it_is_gone() -> None:
    class Shelf:
        books = 7

    level = UpDownCounter("books", "{book}", "Books.")
    shelf = Shelf()
    level.read_of(shelf, lambda it: it.books)
    before = stands(level)

    del shelf
    gc.collect()

    assert before == {(): 7}
    assert stands(level) == {}
    assert not level._readers


# -- the catalogue -----------------------------------------------------------------------------------


def test_each_instrument_has_a_name_of_its_own_that_says_whose_it_is() -> None:
    names = [instrument.name for instrument in catalog.INSTRUMENTS]

    assert len(names) == len(set(names))
    of_the_conventions = ("http.server.", "rpc.server.", "db.client.", "process.")
    assert all(name.startswith(("metrics_service.", *of_the_conventions)) for name in names)
    assert all(instrument.description.endswith(".") for instrument in catalog.INSTRUMENTS)


def words_of_conventions(package) -> set[str]:
    """All names that OpenTelemetry's own package knows."""
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for found in pkgutil.iter_modules(package.__path__)
    ]
    return {
        word
        for module in modules
        for name, word in vars(module).items()
        if name.isupper() and isinstance(word, str)
    }


def test_names_that_look_like_the_conventions_are_theirs() -> None:
    names = words_of_conventions(semconv_metrics) | words_of_conventions(incubating_metrics)
    attributes = words_of_conventions(semconv_attributes)
    attributes |= words_of_conventions(incubating_attributes)

    for instrument in catalog.INSTRUMENTS:
        if not instrument.name.startswith("metrics_service."):
            assert instrument.name in names
            assert set(instrument.attributes) <= attributes, instrument.name


@cache
def calls_of_instruments() -> list[tuple[str, Instrument, ast.Call]]:
    by_name = {
        name: thing for name, thing in vars(catalog).items() if isinstance(thing, Instrument)
    }
    found = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            on = node.func.value
            name = on.attr if isinstance(on, ast.Attribute) else getattr(on, "id", None)
            if name in by_name and node.func.attr in {"add", "record", "read_by", "read_of"}:
                found.append((f"{file.name}:{node.lineno}", by_name[name], node))
    return found


def test_whoever_records_something_gives_as_many_values_as_there_are_attributes() -> None:
    calls = calls_of_instruments()

    assert len(calls) > 20
    for place, instrument, call in calls:
        if any(isinstance(argument, ast.Starred) for argument in call.args):
            continue
        before = 2 if call.func.attr == "read_of" else 1
        assert len(call.args) - before == len(instrument.attributes), place


def test_no_value_is_put_together_where_it_is_recorded() -> None:
    for place, _, call in calls_of_instruments():
        values = call.args[1:]
        assert not any(isinstance(value, (ast.JoinedStr, ast.BinOp)) for value in values), place


# -- what clients say --------------------------------------------------------------------------------


def series() -> int:
    return sum(len(instrument.points()) for instrument in catalog.INSTRUMENTS)


class Nobody:
    """Takes what a tenant did, and forgets it."""

    def note(self, tenant_id: str, **_) -> None:
        assert tenant_id


def test_a_hundred_thousand_hosts_tenants_paths_and_methods_make_no_series_of_their_own() -> None:
    def serve(number: int) -> None:
        scope = make_scope(
            path=f"/{number}/wp-login.php",
            query=b"tool=%d" % number,
            headers=[(b"host", b"host%d" % number), (b"user-agent", b"agent%d" % number)],
        )
        scope["state"] = {"tenant_id": f"tenant {number}", "host": f"host{number}"}
        scope["method"] = f"METHOD{number}" if number % 2 else "GET"
        note_served(scope, Nobody(), method=scope["method"], status=404, duration_s=0.001)

    serve(0)
    serve(1)
    before = series()

    for number in range(100_000):
        serve(number)

    assert series() == before
