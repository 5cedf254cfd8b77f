"""Reading rollups: whatever is asked, the answer is what the rows themselves say."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest

from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.errors import InvalidQueryError
from metrics_service.rollups import series as reading
from metrics_service.rollups.queries import SeriesQuery
from metrics_service.rollups.series import read_series
from metrics_service.rollups.sources import SOURCES
from metrics_service.rollups.statements import STATEMENTS

# The clocks go back in Europe on 26 October, and in America on 2 November.
START = datetime(2025, 10, 22, tzinfo=UTC)
DAYS = 14
UTC_ZONE = ZoneInfo("UTC")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Africa/Abidjan")

AGENTS = ("claude-code", "codex", "cursor")
USERS = [UUID(int=number) for number in range(1, 6)]
TOOLS = (("Bash", "builtin"), ("Read", "builtin"), ("search", "mcp"), ("strange", None))
MODELS = (("anthropic", "opus"), ("openai", "gpt"), (None, "local"))


def some_rows(rng: random.Random, number: int) -> dict[str, list[dict[str, Any]]]:
    """Sessions, and what happened in them and outside of any."""
    sessions = [
        {
            "id": uuid4(),
            "agent": rng.choice(AGENTS),
            "external_id": uuid4().hex,
            "session_type": rng.choice(["review", "feature", None]),
            "started_at": some_time(rng),
            "user_id": rng.choice([*USERS, None]),
            "team": rng.choice(["web", "data", None]),
            "repository": rng.choice(["acme/shop", "acme/site", None]),
            "productivity_score": rng.choice([None, 10.0, 75.5]),
            "input_tokens": rng.randrange(10**6),
            "lines_added": rng.randrange(500),
            "active_seconds_user": rng.choice([0.0, 12.25]),
        }
        for _ in range(60)
    ]
    for one in sessions:
        one["last_event_at"] = one["started_at"]
    tools, calls = [], []
    for _ in range(number):
        of = rng.choice([*sessions, None])
        common = {
            "session_id": of and of["id"],
            "agent": of["agent"] if of else rng.choice([*AGENTS, None]),
            "user_id": of and of["user_id"],
            "started_at": some_time(rng),
            "duration_ms": rng.choice([None, 0.0, rng.lognormvariate(5, 2)]),
            "is_counted": rng.random() < 0.95,
        }
        name, category = rng.choice(TOOLS)
        tools.append(
            {
                **common,
                "id": uuid4(),
                "tool_name": name,
                "tool_category": category,
                "status": rng.choice(
                    ["success", "error", "rejected", "cancelled", "timeout", "unknown"]
                ),
                "decision": rng.choice([None, "accept", "reject"]),
                "wait_ms": rng.choice([None, 5.5]),
                "cpu_ms": rng.choice([None, 2.0]),
            }
        )
        provider, model = rng.choice(MODELS)
        calls.append(
            {
                **common,
                "id": uuid4(),
                "provider": provider,
                "request_model": model,
                "status": rng.choice(["success", "error", "cancelled"]),
                "input_tokens": rng.choice([None, rng.randrange(10**5)]),
                "cache_read_tokens": rng.choice([None, rng.randrange(10**4)]),
                "cost_usd_micros": rng.choice([None, rng.randrange(10**6)]),
                "cost_source": rng.choice(["reported", "estimated"]),
                "ttft_ms": rng.choice([None, 300.0]),
            }
        )
    return {"sessions": sessions, "tool_metrics": tools, "model_calls": calls}


def some_time(rng: random.Random) -> datetime:
    if rng.random() < 0.1:
        # On the hour, where a piece ends and the next begins.
        return START + timedelta(hours=rng.randrange(24 * DAYS))
    return START + timedelta(microseconds=rng.randrange(DAYS * 24 * 3600 * 10**6))


async def store(engine, tenant, rows):
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        for name, items in rows.items():
            columns = list(items[0])
            places = ", ".join(f"${place}" for place in range(1, len(columns) + 1))
            await connection.executemany(
                f"INSERT INTO {SOURCES[name].table} ({', '.join(columns)}) VALUES ({places})",
                [tuple(item.values()) for item in items],
            )
        for statements in STATEMENTS.values():
            for rebuild in statements.rebuild_astray:
                await connection.execute(
                    rebuild, datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
                )


class Stored(msgspec.Struct):
    tenant: Any
    rows: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
async def stored(new_tenant, engine) -> Stored:
    """A tenant with a fortnight of work, beside another one with the like."""
    rng = random.Random(4)
    other = (await new_tenant()).tenant
    await store(engine, other, some_rows(rng, 500))
    tenant, rows = (await new_tenant()).tenant, some_rows(rng, 1500)
    await store(engine, tenant, rows)
    return Stored(tenant, rows)


@pytest.fixture
def read(engine, stored):
    async def ask(query, tenant=None):
        context = TenantContext((tenant or stored.tenant).id, read_only=True)
        async with tenant_connection(engine, context) as connection:
            return await read_series(connection, query)

    return ask


# -- the same, computed from the rows ---------------------------------------------------------------


def total(rows, name):
    return sum(row[name] or 0 for row in rows)


def mean(rows, name):
    values = [row[name] for row in rows if row[name] is not None]
    return math.fsum(values) / len(values) if values else None


def share(part, whole):
    return part / whole if whole else None


def nearest_rank(rows, at):
    values = sorted(row["duration_ms"] for row in rows if row["duration_ms"] is not None)
    return values[max(math.ceil(at * len(values)), 1) - 1] if values else None


def with_status(rows, *statuses):
    return sum(row["status"] in statuses for row in rows)


DURATIONS = {
    "avg_ms": lambda rows: mean(rows, "duration_ms"),
    "p50_ms": lambda rows: nearest_rank(rows, 0.5),
    "p95_ms": lambda rows: nearest_rank(rows, 0.95),
    "p99_ms": lambda rows: nearest_rank(rows, 0.99),
    "total_ms": lambda rows: total(rows, "duration_ms"),
}
COMPUTED = {
    "tool_metrics": {
        "count": len,
        "error_count": lambda rows: with_status(rows, "error", "timeout"),
        "error_rate": lambda rows: share(with_status(rows, "error", "timeout"), len(rows)),
        "timeout_count": lambda rows: with_status(rows, "timeout"),
        "accept_count": lambda rows: sum(row["decision"] == "accept" for row in rows),
        "avg_wait_ms": lambda rows: mean(rows, "wait_ms"),
        "cpu_ms": lambda rows: total(rows, "cpu_ms"),
        **DURATIONS,
    },
    "model_calls": {
        "count": len,
        "error_count": lambda rows: with_status(rows, "error"),
        "input_tokens": lambda rows: total(rows, "input_tokens"),
        "cache_hit_rate": lambda rows: share(
            total(rows, "cache_read_tokens"), total(rows, "input_tokens")
        ),
        "cost_usd_micros": lambda rows: total(rows, "cost_usd_micros"),
        "estimated_cost_usd_micros": lambda rows: total(
            [row for row in rows if row["cost_source"] == "estimated"], "cost_usd_micros"
        ),
        "avg_ttft_ms": lambda rows: mean(rows, "ttft_ms"),
        **DURATIONS,
    },
    "sessions": {
        "count": len,
        "input_tokens": lambda rows: total(rows, "input_tokens"),
        "lines_added": lambda rows: total(rows, "lines_added"),
        "active_seconds_user": lambda rows: total(rows, "active_seconds_user"),
        "avg_score": lambda rows: mean(rows, "productivity_score"),
    },
}


def hour_of(moment):
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def place_of(query, moment):
    """The moment by which a row is put into a day: the rule for zones that are half an hour off."""
    hour = hour_of(moment)
    is_rolled_up = query.from_ <= hour and hour + timedelta(hours=1) <= query.to
    dimensions = {*query.group_by, *query.filters} - {"hour", "day", "week", "month"}
    own = set(SOURCES[query.source].own)
    is_kept_by_the_hour = not (dimensions & own and dimensions - own - {"agent"})
    return hour if is_rolled_up and is_kept_by_the_hour else moment


def beginning(unit, moment, zone):
    local = moment.astimezone(zone)
    if unit == "hour":
        return hour_of(moment)
    day = local.date()
    if unit == "week":
        day -= timedelta(days=day.weekday())
    if unit == "month":
        day = day.replace(day=1)
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def computed(query, rows):
    sessions = {one["id"]: one for one in rows["sessions"]}
    groups = defaultdict(list)
    if not query.group_by:
        groups[()] = []
    for row in rows[query.source]:
        if not query.from_ <= row["started_at"] < query.to or not row.get("is_counted", True):
            continue
        of = row if query.source == "sessions" else sessions.get(row["session_id"], {})
        known = {**row, "team": of.get("team"), "repository": of.get("repository")}
        if any(
            (known[name] if name != "user_id" else known[name] and str(known[name])) not in values
            for name, values in query.filters.items()
        ):
            continue
        groups[
            tuple(
                beginning(name, place_of(query, row["started_at"]), query.zone)
                if name in ("hour", "day", "week", "month")
                else known[name]
                for name in query.group_by
            )
        ].append(row)
    return groups


def check(query, answer, rows):
    expected = computed(query, rows)
    found = {tuple(row[name] for name in query.group_by): row for row in answer.rows}
    assert len(found) == len(answer.rows)
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert list(row) == [*query.group_by, *query.measures]
        for name in query.measures:
            exact = COMPUTED[query.source][name](expected[key])
            if exact is None:
                assert row[name] is None, (name, key)
            elif name in ("p50_ms", "p95_ms", "p99_ms"):
                assert row[name] == pytest.approx(exact, rel=0.02), (name, key)
            elif isinstance(exact, int) and not isinstance(row[name], float):
                assert row[name] == exact, (name, key)
            else:
                # Each duration is kept in whole microseconds.
                rounded = 0.0005 * (len(expected[key]) + 1)
                assert row[name] == pytest.approx(exact, rel=1e-9, abs=rounded), (name, key)


def some_query(rng, zone):
    source = rng.choice(list(SOURCES))
    dimensions = list(SOURCES[source].dimensions)
    start = START + timedelta(seconds=rng.randrange(-86400, DAYS * 86400))
    length = rng.choice([600, 3600, 5 * 3600, 86400, 5 * 86400, 20 * 86400])
    end = start + timedelta(seconds=rng.randrange(1, length))
    if rng.random() < 0.5:
        start, end = beginning("day", start, zone), beginning("day", end, zone) + timedelta(days=1)
    groups = rng.sample(dimensions, rng.choice([0, 0, 1, 2, 3]))
    if rng.random() < 0.7:
        groups.insert(rng.randrange(len(groups) + 1), rng.choice(["hour", "day", "week", "month"]))
    values = {
        "agent": [*AGENTS, "nobody"],
        "tool_name": ["Bash", "search", "it's"],
        "tool_category": ["builtin", None],
        "provider": ["anthropic", None],
        "request_model": ["opus", "gpt"],
        "session_type": ["review", None],
        "user_id": [*map(str, USERS), None],
        "team": ["web", None],
        "repository": ["acme/shop", "acme/site"],
    }
    return SeriesQuery(
        source=source,
        measures=tuple(rng.sample(list(COMPUTED[source]), 4)),
        group_by=tuple(groups),
        filters={
            name: tuple(rng.sample(values[name], rng.choice([1, 2])))
            for name in rng.sample(dimensions, rng.choice([0, 0, 1, 2]))
        },
        from_=start,
        to=end,
        zone=zone,
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("zone", ZONES)
async def test_a_series_is_what_the_rows_say(read, stored, zone, seed):
    rng = random.Random(f"{zone} {seed}")

    for _ in range(15):
        query = some_query(rng, ZoneInfo(zone))
        answer = await read(query)

        check(query, answer, stored.rows)


def query_of(**changes):
    return SeriesQuery(
        **{
            "source": "tool_metrics",
            "measures": ("count",),
            "from_": START,
            "to": START + timedelta(days=DAYS),
            **changes,
        }
    )


async def test_a_day_on_which_the_clocks_change_has_25_hours(read):
    berlin = ZoneInfo("Europe/Berlin")
    night = {
        "from_": datetime(2025, 10, 26, tzinfo=berlin),
        "to": datetime(2025, 10, 27, tzinfo=berlin),
    }

    hours = (await read(query_of(group_by=("hour",), zone=berlin, **night))).rows
    days = (await read(query_of(group_by=("day",), zone=berlin, **night))).rows

    assert night["to"].astimezone(UTC) - night["from_"].astimezone(UTC) == timedelta(hours=25)
    assert len(hours) == 25
    assert [row["day"].isoformat() for row in days] == ["2025-10-26T00:00:00+02:00"]
    assert sum(row["count"] for row in hours) == days[0]["count"]
    assert [row["hour"].isoformat() for row in hours[2:4]] == [
        "2025-10-26T02:00:00+02:00",
        "2025-10-26T02:00:00+01:00",
    ]


@pytest.mark.parametrize(
    ("zone", "group_by", "is_noted"),
    [
        ("Asia/Kolkata", ("day",), True),
        ("Asia/Kathmandu", ("week",), True),
        ("Asia/Kolkata", ("hour",), True),
        ("Asia/Kolkata", ("agent",), False),
        # All dimensions are read from the rows themselves, which are exact.
        ("Asia/Kolkata", ("day", "tool_name", "team"), False),
        ("Europe/Berlin", ("day",), False),
        ("UTC", ("hour",), False),
    ],
)
async def test_hours_that_are_no_hours_there_are_spoken_of(read, zone, group_by, is_noted):
    answer = await read(query_of(zone=ZoneInfo(zone), group_by=group_by))

    assert [zone in note for note in answer.notes] == [True] * is_noted


async def test_the_greatest_come_first_and_what_is_cut_off_is_said(read):
    query = query_of(measures=("p95_ms", "count"), group_by=("tool_name", "agent"))

    for order, limit in [
        (None, None), ("-p95_ms", 3), ("p95_ms", 3), ("-count", 3), ("tool_name", 3), ("agent", 50)
    ]:  # fmt: skip
        answer = await read(msgspec.structs.replace(query, order_by=order, limit=limit))
        every = (await read(query)).rows
        name = (order or "-p95_ms").removeprefix("-")
        values = [row[name] for row in every if row[name] is not None]
        values.sort(reverse=(order or "-").startswith("-"))
        values += [None] * (len(every) - len(values))

        assert len(every) > 10
        assert [row[name] for row in answer.rows] == values[:limit]
        assert answer.is_truncated == (limit is not None and limit < len(every))


async def test_nothing_is_one_row_without_groups_and_none_with(read):
    nothing = {"filters": {"agent": ("nobody",)}, "measures": ("count", "avg_ms", "p95_ms")}

    whole = await read(query_of(**nothing))
    grouped = await read(query_of(**nothing, group_by=("tool_name",)))

    assert whole.rows == [{"count": 0, "avg_ms": None, "p95_ms": None}]
    assert whole.updated_at is None
    assert grouped.rows == []


async def test_an_answer_says_when_its_rollups_changed_last(read, stored, engine):
    context = TenantContext(stored.tenant.id)
    async with tenant_connection(engine, context) as connection:
        newest = await connection.fetchval("SELECT max(updated_at) FROM tool_metrics_daily")

    assert (await read(query_of())).updated_at == newest


async def test_another_tenants_rows_are_never_counted(read, stored, new_tenant):
    stranger = (await new_tenant()).tenant

    for source in SOURCES:
        for dimensions in ((), ("day",), SOURCES[source].dimensions):
            query = query_of(source=source, group_by=dimensions, from_=START + timedelta(minutes=7))
            theirs = await read(query, stranger)
            ours = await read(query)

            assert sum(row["count"] for row in theirs.rows) == 0
            assert sum(row["count"] for row in ours.rows) > 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "users"}, "source"),
        ({"measures": ()}, "measures"),
        ({"measures": ("count", "tokens")}, "measures"),
        ({"measures": ("count", "count")}, "measures"),
        ({"group_by": ("tenant_id",)}, "group_by"),
        ({"group_by": ("day", "day")}, "group_by"),
        ({"group_by": ("request_model",)}, "group_by"),
        ({"filters": {"status": ("error",)}}, "filters"),
        ({"filters": {"user_id": ("ada",)}}, "user_id"),
        ({"filters": {"agent": ("a\0b",)}}, "agent"),
        ({"order_by": "p95_ms"}, "order_by"),
        ({"order_by": "count; DROP TABLE users"}, "order_by"),
        ({"to": START}, "from"),
        ({"from_": datetime(1999, 12, 31, tzinfo=UTC)}, "from"),
        ({"to": datetime(2100, 1, 2, tzinfo=UTC)}, "to"),
        ({"from_": datetime(2001, 1, 1, tzinfo=UTC)}, "ten years"),
        ({"from_": datetime(2016, 1, 1, tzinfo=UTC), "group_by": ("hour",)}, "hours"),
    ],
)
async def test_what_is_on_no_list_is_refused_by_name(read, changes, said):
    with pytest.raises(InvalidQueryError, match=said):
        await read(query_of(**changes))


async def test_more_single_rows_than_can_be_read_are_refused(read, monkeypatch):
    query = query_of(group_by=("hour", "tool_name", "team"))
    facts = sum(row["count"] for row in (await read(query)).rows)

    monkeypatch.setattr(reading, "MAX_FACTS", facts)
    assert (await read(query)).rows
    monkeypatch.setattr(reading, "MAX_FACTS", facts - 1)
    with pytest.raises(InvalidQueryError, match="group by day in UTC"):
        await read(query)
    assert (await read(query_of(group_by=("day", "tool_name", "team")))).rows


async def test_too_many_groups_are_refused(read, monkeypatch):
    query = query_of(group_by=("hour", "tool_name"))
    monkeypatch.setattr("metrics_service.rollups.plan.MAX_ROWS", 50)

    with pytest.raises(InvalidQueryError, match="groups"):
        await read(query)
    assert len((await read(msgspec.structs.replace(query, limit=50))).rows) == 50


async def test_the_greatest_are_not_looked_for_among_some(read, monkeypatch):
    query = query_of(
        measures=("p95_ms",), group_by=("day", "tool_name"), order_by="-p95_ms", limit=2
    )
    monkeypatch.setattr("metrics_service.rollups.plan.MAX_HISTOGRAMS", 20)

    with pytest.raises(InvalidQueryError, match="groups"):
        await read(query)


async def test_a_fact_whose_clock_was_wrong_stands_where_the_rollups_have_it(
    read, new_tenant, engine
):
    tenant = (await new_tenant()).tenant
    fact = {
        "id": uuid4(), "tool_name": "Bash", "status": "success",
        "received_at": START, "started_at": START + timedelta(days=300, minutes=30),
    }  # fmt: skip
    await store(engine, tenant, {"tool_metrics": [fact]})

    there = await read(query_of(to=START + timedelta(days=2)), tenant)
    said = await read(
        query_of(from_=fact["started_at"] - timedelta(minutes=1), to=START + timedelta(days=301)),
        tenant,
    )
    both = await read(query_of(to=fact["started_at"] + timedelta(seconds=1)), tenant)

    assert [one.rows[0]["count"] for one in (there, said, both)] == [1, 0, 1]
