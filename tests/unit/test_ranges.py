"""Times in the viewer's zone, and the pieces that a time is read in."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.errors import InvalidQueryError
from metrics_service.rollups.ranges import (
    DAY,
    EARLIEST,
    HOUR,
    LATEST,
    LONGEST,
    are_whole_days,
    are_whole_hours,
    check_range,
    floor,
    local,
    pieces,
    pieces_between,
    starts,
    zone_of,
)

BASE = datetime(2026, 3, 2, tzinfo=UTC)
moments = st.timedeltas(timedelta(), timedelta(days=700)).map(lambda since: BASE - since)
zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Africa/Cairo"]
).map(ZoneInfo)


# -- pieces -----------------------------------------------------------------------------------------


@given(moments, st.timedeltas(timedelta(microseconds=1), timedelta(days=70)))
@pytest.mark.parametrize("grains", [[], ["hourly"], ["daily"], ["hourly", "daily"]])
def test_the_pieces_of_a_time_are_all_of_it_and_each_is_whole(grains, start, length):
    end = start + length

    found = pieces(start, end, grains)

    assert found[0].start == start
    assert found[-1].end == end
    assert all(one.end == other.start for one, other in pairwise(found))
    assert all(one.start < one.end for one in found)
    for one in found:
        if one.grain != "raw":
            assert one.grain in grains
            assert {one.start, one.end} == {floor(one.start, one.grain), floor(one.end, one.grain)}
    assert len(found) <= 1 + 2 * len(grains)
    if "hourly" in grains:
        assert all(one.end - one.start < 2 * HOUR for one in found if one.grain == "raw")
    if len(grains) == 2 and length >= 3 * DAY:
        hours = [one.end - one.start for one in found if one.grain == "hourly"]
        assert sum(hours, timedelta()) < 2 * DAY


@pytest.mark.parametrize(
    ("start", "end", "grains"),
    [
        (0, 48, ["daily"]),
        (1, 48, ["hourly", "daily"]),
        (0.5, 48, ["raw", "hourly", "daily"]),
        (0.5, 71.5, ["raw", "hourly", "daily", "hourly", "raw"]),
        (0.25, 0.75, ["raw"]),
        (0.5, 1.5, ["raw"]),
        (3, 5, ["hourly"]),
    ],
)
def test_what_is_begun_is_read_finer(start, end, grains):
    found = pieces(BASE + start * HOUR, BASE + end * HOUR, ["hourly", "daily"])

    assert [one.grain for one in found] == grains


def test_a_week_of_another_zone_is_days_of_utc_but_where_it_begins():
    berlin = ZoneInfo("Europe/Berlin")
    edges = starts("week", BASE, BASE + 20 * DAY, berlin)[1:]

    found = pieces_between([BASE, *edges, BASE + 20 * DAY], ["hourly", "daily"])

    assert [one.grain for one in found] == ["daily", *["hourly", "daily"] * len(edges)]
    assert [one.end - one.start for one in found if one.grain == "hourly"] == [DAY] * len(edges)
    assert all(one.end == other.start for one, other in pairwise(found))


def test_an_edge_within_the_last_hour_ends_nothing_later_than_the_time_itself():
    end = BASE + 2 * DAY + HOUR / 2

    found = pieces_between([BASE, BASE + 2 * DAY + HOUR, end], ["hourly", "daily"])

    assert (found[0].start, found[-1].end) == (BASE, end)
    assert [one.grain for one in found] == ["daily", "raw"]


# -- days, weeks, months ----------------------------------------------------------------------------


@given(
    st.sampled_from(["day", "week", "month"]),
    moments,
    st.timedeltas(timedelta(microseconds=1), timedelta(days=100)),
    zones,
)
def test_every_moment_is_in_the_day_that_the_zones_clocks_say(unit, start, length, zone):
    end = start + length
    found = starts(unit, start, end, zone)

    assert found[0] <= start
    assert found[-1] < end
    assert sorted(set(found)) == found
    for step in range(8):
        moment = start + length * step / 8
        begun = max(one for one in found if one <= moment)
        day, first = local(moment, zone).date(), local(begun, zone).date()
        if unit == "week":
            day -= timedelta(days=day.weekday())
        if unit == "month":
            day = day.replace(day=1)
        assert first == day


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/New_York", date(2026, 11, 1), 25),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        # Midnight itself is left out there.
        ("Africa/Cairo", date(2026, 4, 24), 23),
        ("Asia/Kolkata", date(2026, 3, 29), 24),
    ],
)
def test_days_on_which_clocks_change_have_other_lengths(zone, day, hours):
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone)).astimezone(UTC)

    first, second = starts("day", noon, noon + DAY, ZoneInfo(zone))

    assert (second - first) / HOUR == hours


def test_a_day_that_a_zone_has_left_out_is_none():
    """Samoa went from the 29th to the 31st of December 2011."""
    apia = ZoneInfo("Pacific/Apia")
    noon = datetime(2011, 12, 29, 12, tzinfo=apia).astimezone(UTC)

    found = starts("day", noon, noon + 2 * DAY, apia)

    assert [local(one, apia).day for one in found] == [29, 31, 1]


def test_the_two_hours_of_which_one_is_repeated_are_not_equal():
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 0, tzinfo=UTC)

    shown = {local(first, berlin), local(first + HOUR, berlin)}

    assert sorted(one.isoformat() for one in shown) == [
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:00:00+02:00",
    ]


def test_whether_days_are_those_of_utc():
    london = ZoneInfo("Europe/London")

    winter = starts("day", BASE, BASE + 3 * DAY, london)
    spring = starts("day", BASE + 25 * DAY, BASE + 30 * DAY, london)

    assert (are_whole_days(winter), are_whole_days(spring)) == (True, False)
    assert are_whole_hours(spring)
    assert not are_whole_hours(starts("day", BASE, BASE + DAY, ZoneInfo("Asia/Kolkata")))


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "", "utc2", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "/etc/localtime", "Europe",
        "Europe/Berlin\0", "europe/berlin/", "x" * 5000, "é", "posixrules", "tzdata.zi", ".", "..",
    ],
)  # fmt: skip
def test_a_zone_that_there_is_not_is_refused_without_a_look_at_files(name, monkeypatch):
    zone_of("UTC")
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("a file was opened"))

    with pytest.raises(InvalidQueryError, match="tz"):
        zone_of(name)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (BASE, BASE, "from"),
        (BASE + DAY, BASE, "from"),
        (EARLIEST - HOUR, BASE, "from"),
        (BASE, LATEST + HOUR, "to"),
        (BASE - LONGEST - HOUR, BASE, "ten years"),
        (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), "from"),
    ],
)
def test_a_time_that_nobody_can_mean_is_refused_by_name(start, end, said):
    with pytest.raises(InvalidQueryError, match=said):
        check_range(start, end)


def test_ten_years_can_be_meant():
    check_range(LATEST - LONGEST, LATEST)
    check_range(EARLIEST, EARLIEST + HOUR)
