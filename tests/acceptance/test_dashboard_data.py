"""What dashboards show, and why: `/data` and `/origin` over what was really sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from acceptance.talk import BASE, at, check_problem, stored_batch, tool_metric
from metrics_service.dashboards.data import Budget, answer, known_widgets
from metrics_service.dashboards.data_request import Asked, DataRequest
from metrics_service.dashboards.periods import Period, latest, previous
from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import OWNER
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.errors import StatementTimeoutError
from metrics_service.rollups.ranges import find_zone

PATH = "/api/v1/dashboards"
DAY = {"from": "2026-03-02T00:00:00Z", "to": "2026-03-03T00:00:00Z"}


def widget(name="w", kind="table", **query):
    return {
        "id": name,
        "kind": kind,
        "query": {"source": "tool_metrics", "measures": ["count"], **query},
    }


async def created(client, tenant, *widgets):
    response = await client.post(
        PATH,
        json={"name": "D", "layout": {}, "widgets": list(widgets), "visibility": "tenant"},
        headers=tenant.headers,
    )
    assert response.status_code == 201, response.text
    return response.json()["id"]


async def asked(client, tenant, dashboard, path="data", **body):
    response = await client.post(f"{PATH}/{dashboard}/{path}", json=body, headers=tenant.headers)
    assert response.status_code == 200, response.text
    return response.json()


async def shown(client, tenant, *widgets, **body):
    dashboard = await created(client, tenant, *widgets)
    return await asked(client, tenant, dashboard, **{**DAY, **body})


@pytest.fixture
async def tenant(client, new_tenant):
    """One with forty calls in an hour, half of them of each of two people."""
    made = await new_tenant()
    await stored_batch(
        client,
        made,
        [
            tool_metric(
                tool_name=("Bash", "Read")[number % 2],
                started_at=at(number * 60),
                duration_ms=float(number),
                status="error" if number % 10 == 0 else "success",
                agent="codex",
                external_session_id=f"s{number % 4}",
                user_email=f"u{number % 2}@example.com",
            )
            for number in range(40)
        ],
    )
    return made


# -- data -------------------------------------------------------------------------------------------


async def test_all_widgets_are_answered_in_their_order(client, tenant):
    answered = await shown(
        client, tenant,
        widget("table", measures=["count", "error_rate"], group_by=["tool_name"]),
        widget("day", "chart", group_by=["day"]),
        widget("sum", "number", measures=["count", "p95_ms"]),
        widget("models", "number", source="model_calls"),
        widget("sessions", "number", source="sessions", measures=["tool_call_count"]),
    )  # fmt: skip

    table, day, number, models, sessions = answered["data"]
    assert table["columns"] == [
        {"name": "tool_name", "type": "text", "unit": None},
        {"name": "count", "type": "number", "unit": "calls"},
        {"name": "error_rate", "type": "number", "unit": "share"},
    ]
    assert table["rows"] == [
        {"tool_name": "Bash", "count": 20, "error_rate": 0.2},
        {"tool_name": "Read", "count": 20, "error_rate": 0.0},
    ]
    assert day["columns"][0] == {"name": "day", "type": "time", "unit": None}
    assert day["rows"] == [{"day": DAY["from"], "count": 40}]
    assert day["totals"] is None
    assert number["rows"] == [number["totals"]]
    assert number["totals"] == {"count": 40, "p95_ms": pytest.approx(37, rel=0.02)}
    assert models["totals"] == {"count": 0}
    assert sessions["totals"] == {"tool_call_count": 40}
    assert {(one["from"], one["to"]) for one in answered["data"]} == {(DAY["from"], DAY["to"])}
    assert all("error" not in one for one in answered["data"])
    meta = answered["meta"]
    assert (meta["from"], meta["to"], meta["tz"]) == (DAY["from"], DAY["to"], "UTC")
    assert datetime.fromisoformat(meta["updated_at"]) <= datetime.fromisoformat(meta["answered_at"])


async def test_a_number_over_time_has_a_total_that_is_not_the_sum_of_its_parts(client, tenant):
    answered = await shown(
        client, tenant, widget("n", "number", measures=["p50_ms", "count"], group_by=["hour"])
    )

    (one,) = answered["data"]
    assert [row["count"] for row in one["rows"]] == [40]
    assert one["totals"] == {"p50_ms": pytest.approx(19, rel=0.02), "count": 40}


async def test_the_period_before_is_as_long_and_ends_where_this_one_begins(client, tenant):
    answered = await shown(
        client, tenant,
        widget("n", "number", compare="previous_period"),
        widget("t", group_by=["tool_name"], compare="previous_period"),
        **{"from": "2026-03-03T00:00:00Z", "to": "2026-03-04T00:00:00Z"},
    )  # fmt: skip

    number, table = answered["data"]
    assert number["totals"] == {"count": 0}
    assert number["previous"] == {**DAY, "rows": [{"count": 40}], "totals": {"count": 40}}
    assert table["rows"] == []
    assert [row["count"] for row in table["previous"]["rows"]] == [20, 20]


async def test_the_period_before_is_about_the_groups_that_are_shown(client, new_tenant, new_person):
    tenant, other = await new_tenant(), await new_tenant()
    ada = await new_person(tenant, "ada@example.com")
    # Per day: what is called most on the second is what is called least on the first.
    calls = [
        {"Bash": 1, "Read": 2, "Edit": 3, "Grep": 4},
        {"Bash": 4, "Read": 3, "Edit": 2, "Web": 1},
    ]
    batch = [
        tool_metric(
            tool_name=name,
            started_at=at(day * 86_400 + number),
            agent="codex",
            external_session_id="s",
            **({"user_email": "ada@example.com"} if name == "Bash" else {}),
        )
        for day, counts in enumerate(calls)
        for name, count in counts.items()
        for number in range(count)
    ]
    for one in (tenant, other):
        await stored_batch(client, one, batch)
    two = {"limit": 2, "compare": "previous_period", "order_by": "-count"}

    answered = await shown(
        client, tenant,
        widget("tools", group_by=["tool_name"], **two),
        widget("hours", group_by=["hour", "tool_name"], **two),
        widget("people", group_by=["user_id", "tool_name"], **two),
        widget("unlimited", group_by=["tool_name"], compare="previous_period"),
        widget("hour", "number", group_by=["hour"], limit=1, compare="previous_period"),
        **{"from": "2026-03-03T00:00:00Z", "to": "2026-03-04T00:00:00Z"},
    )  # fmt: skip

    tools, hours, people, unlimited, hour = answered["data"]
    assert tools["rows"] == [{"tool_name": "Bash", "count": 4}, {"tool_name": "Read", "count": 3}]
    assert tools["truncated"] is True
    assert tools["previous"]["rows"] == [
        {"tool_name": "Read", "count": 2},
        {"tool_name": "Bash", "count": 1},
    ]
    assert [(row["tool_name"], row["count"]) for row in hours["previous"]["rows"]] == [
        ("Read", 2),
        ("Bash", 1),
    ]
    assert [tuple(row.values()) for row in people["rows"]] == [
        (str(ada.id), "Bash", 4),
        (None, "Read", 3),
    ]
    assert [tuple(row.values()) for row in people["previous"]["rows"]] == [
        (None, "Read", 2),
        (str(ada.id), "Bash", 1),
    ]
    assert len(unlimited["previous"]["rows"]) == 4
    assert (hour["totals"], hour["previous"]["totals"]) == ({"count": 10}, {"count": 10})


async def test_filters_of_the_dashboard_narrow_those_of_a_widget(client, tenant):
    answered = await shown(
        client, tenant,
        widget("all"),
        widget("both", filters={"tool_name": ["Bash", "Edit"]}),
        widget("none", filters={"tool_name": "Read"}),
        widget("sessions", source="sessions"),
        filters={"tool_name": "Bash", "agent": ["codex", None]},
    )  # fmt: skip

    assert [one["rows"][0]["count"] for one in answered["data"]] == [20, 20, 0, 4]
    assert [len(one["notes"]) for one in answered["data"]] == [0, 0, 0, 1]
    assert "tool_name" in answered["data"][3]["notes"][0]


async def test_people_in_rows_are_named(client, tenant):
    answered = await shown(client, tenant, widget(group_by=["user_id"]))

    (one,) = answered["data"]
    emails = {answered["names"][row["user_id"]]["email"]: row["count"] for row in one["rows"]}
    assert emails == {"u0@example.com": 20, "u1@example.com": 20}


async def test_a_widgets_own_time_stands_against_the_dashboards(client, tenant):
    answered = await shown(
        client, tenant,
        widget("own", range={"from": at(0), "to": at(600)}),
        widget("theirs"),
        **{"from": at(0), "to": at(60)},
    )  # fmt: skip

    assert [one["rows"][0]["count"] for one in answered["data"]] == [10, 1]
    assert answered["data"][0]["to"] == at(600)


async def test_without_a_time_it_is_the_latest_thirty_days_of_the_viewer(client, new_tenant):
    tenant = await new_tenant()
    moment = datetime.now(UTC)
    await stored_batch(client, tenant, [tool_metric(started_at=moment.isoformat())])
    dashboard = await created(client, tenant, widget(), widget("day", range={"last": "1d"}))

    answered = await asked(client, tenant, dashboard, tz="Pacific/Kiritimati")
    bare = await client.post(f"{PATH}/{dashboard}/data", headers=tenant.headers)

    assert [one["rows"][0]["count"] for one in answered["data"]] == [1, 1]
    assert bare.json()["meta"]["tz"] == "UTC"
    first, last = (datetime.fromisoformat(answered["meta"][name]) for name in ("from", "to"))
    zone = find_zone("Pacific/Kiritimati")
    assert last - first == timedelta(days=30)
    assert last.astimezone(zone).time().isoformat() == "00:00:00"
    assert first < moment < last


async def test_what_one_widget_cannot_be_answered_is_said_there(client, tenant, monkeypatch):
    monkeypatch.setattr("metrics_service.rollups.plan.MAX_ROWS", 1)

    answered = await shown(client, tenant, widget("many", group_by=["tool_name"]), widget("one"))

    many, one = answered["data"]
    assert "groups" in many["error"]
    assert many["rows"] == []
    assert one["rows"] == [{"count": 40}]


async def test_all_widgets_together_are_no_more_rows_than_can_be_held(client, tenant, monkeypatch):
    monkeypatch.setattr("metrics_service.dashboards.data.MAX_ROWS", 3)

    answered = await shown(
        client, tenant, *(widget(name, group_by=["tool_name"]) for name in ("a", "b")), widget("c")
    )

    assert ["error" in one for one in answered["data"]] == [False, True, False]
    assert "rows" in answered["data"][1]["error"]


async def test_a_million_points_are_refused_before_any_is_read(client, tenant):
    answered = await shown(
        client, tenant, widget(group_by=["hour"]),
        **{"from": "2016-03-02T00:00:00Z", "to": "2026-03-01T00:00:00Z"},
    )  # fmt: skip

    assert "hours" in answered["data"][0]["error"]


async def test_widgets_that_take_too_long_together_are_not_waited_for(engine, new_tenant, as_owner):
    tenant = await new_tenant()
    await as_owner(
        "UPDATE public.tenants SET metadata = '{\"statement_timeout_ms\": 150}' WHERE id = :id",
        id=tenant.id,
    )

    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        budget = await Budget.of(connection)
        await connection.fetchval("SELECT pg_sleep(0.1)")
        budget.check()
        await connection.fetchval("SELECT pg_sleep(0.1)")
        with pytest.raises(StatementTimeoutError):
            budget.check()


async def test_a_widget_that_is_broken_off_does_not_take_the_others_with_it(
    engine, client, tenant, addresses
):
    widgets = known_widgets(
        [widget("one", group_by=["user_id"]), widget("two", source="model_calls"), widget("three")]
    )
    context = TenantContext(tenant.id, timeout_ms=300)
    day = DataRequest(from_=datetime(2026, 3, 2, tzinfo=UTC), to=datetime(2026, 3, 3, tzinfo=UTC))
    async with owner_connection(addresses.require_owner()) as owner, owner.begin():
        await owner.execute(text(f"SET LOCAL ROLE {OWNER}"))
        where = f"{tenant.tenant.schema_name}.model_calls_daily"
        await owner.execute(text(f"LOCK TABLE {where} IN ACCESS EXCLUSIVE MODE"))

        async with tenant_connection(engine, context) as connection:
            answered = await answer(connection, widgets, Asked.of(day))

    one, two, three = answered.data
    assert [row["count"] for row in one.rows] == [20, 20]
    assert "too long" in two.error
    assert "too long" in three.error
    assert sorted(person.email for person in answered.names.values()) == [
        "u0@example.com",
        "u1@example.com",
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tz": "Mars/Olympus"}, "tz"),
        ({"tz": "../../etc/passwd"}, "tz"),
        ({"tz": "/etc/localtime"}, "tz"),
        ({"tz": ""}, "tz"),
        ({"to": at(0)}, "from"),
        ({"from": at(1), "to": at(0)}, "from"),
        ({"from": "1926-01-01T00:00:00Z", "to": at(0)}, "from"),
        ({"from": "2001-01-01T00:00:00Z", "to": at(0)}, "from"),
        ({"from": at(0), "to": "9999-12-31T23:59:59-14:00"}, "to"),
        ({"from": "2026-03-02"}, "from"),
        ({"filters": {"tenant_id": "x"}}, "filters.tenant_id"),
        ({"filters": {"agent": []}}, "filters.agent"),
        ({"filters": {"agent": ["x"] * 101}}, "filters.agent"),
        ({"filters": {"user_id": "ada"}}, "filters.user_id"),
        ({"filters": {"agent": ""}}, None),
        ({"filters": {"agent": 1}}, None),
        ({"widgets": []}, "widgets"),
    ],
)
async def test_data_that_cannot_be_asked_for_is_refused_by_name(client, tenant_once, body, field):
    dashboard = await created(client, tenant_once, widget())

    response = await client.post(f"{PATH}/{dashboard}/data", json=body, headers=tenant_once.headers)

    problem = check_problem(response, 422)
    if field is not None:
        assert [error["field"] for error in problem["errors"]] == [field]


async def test_another_tenants_dashboard_and_rows_are_not_there(client, tenant, new_tenant):
    stranger = await new_tenant()
    dashboard = await created(client, tenant, widget())
    own = await created(client, stranger, widget(), widget("all", group_by=["agent", "user_id"]))

    for path, body in (("data", {}), ("origin", {"widget": "w", "measure": "count"})):
        refused = await client.post(
            f"{PATH}/{dashboard}/{path}", json=body, headers=stranger.headers
        )
        check_problem(refused, 404)
    answered = await asked(client, stranger, own, **DAY)
    assert [one["rows"] for one in answered["data"]] == [[{"count": 0}], []]
    behind = await asked(client, stranger, own, "origin", widget="w", measure="count", **DAY)
    assert (behind["rollups"]["count"], behind["rows"]["count"], behind["names"]) == (0, 0, {})


async def test_all_widgets_see_one_moment(client, tenant, engine, monkeypatch):
    """A batch that is stored while a dashboard is answered is in all of its widgets or in none."""
    from metrics_service.dashboards import data as module

    reading = module.read_series

    async def read_then_store(connection, query):
        found = await reading(connection, query)
        await stored_batch(client, tenant, [tool_metric(id=str(uuid4()))])
        return found

    dashboard = await created(client, tenant, widget("a"), widget("b"), widget("c"))
    monkeypatch.setattr(module, "read_series", read_then_store)

    first = await asked(client, tenant, dashboard, **DAY)
    second = await asked(client, tenant, dashboard, **DAY)

    assert [one["rows"][0]["count"] for one in first["data"]] == [40] * 3
    assert [one["rows"][0]["count"] for one in second["data"]] == [43] * 3


# -- origin -----------------------------------------------------------------------------------------


async def test_a_figure_is_traced_to_what_it_is_made_of(client, tenant):
    dashboard = await created(
        client, tenant,
        widget(measures=["error_count", "count", "p95_ms"], group_by=["day", "tool_name"]),
    )  # fmt: skip
    row = {"day": DAY["from"], "tool_name": "Bash"}

    behind = await asked(
        client, tenant, dashboard, "origin", widget="w", measure="error_count", row=row, **DAY
    )

    assert (behind["value"], behind["from"], behind["to"]) == (4, DAY["from"], DAY["to"])
    assert behind["rollups"]["count"] == 1
    (rollup,) = behind["rollups"]["rows"]
    assert (rollup["grain"], rollup["bucket"]) == ("daily", DAY["from"])
    assert rollup["dimensions"] == {"agent": "codex", "tool_name": "Bash", "tool_category": None}
    assert rollup["sums"] == {"count": 20, "status_error": 4, "status_timeout": 0}
    assert behind["rows"]["count"] == 4
    assert not behind["rows"]["is_at_least"]
    assert [one["started_at"] for one in behind["rows"]["rows"]] == [
        at(60 * number) for number in (30, 20, 10, 0)
    ]
    assert {one["status"] for one in behind["rows"]["rows"]} == {"error"}
    assert behind["signals"] == {"api": 4}
    assert behind["sessions"]["count"] == 2
    assert sorted(one["external_id"] for one in behind["sessions"]["rows"]) == ["s0", "s2"]
    assert [one["count"] for one in behind["sessions"]["rows"]] == [2, 2]
    assert [one["email"] for one in behind["names"].values()] == ["u0@example.com"]


@pytest.mark.parametrize(
    ("measure", "row", "count"),
    [
        ("count", {}, 40),
        ("error_rate", {}, 40),
        ("p95_ms", {"tool_name": "Read"}, 20),
        ("total_ms", {}, 39),
        ("count", {"tool_name": "nothing"}, 0),
        ("count", {"hour": at(0), "tool_name": "Bash"}, 20),
        ("count", {"tool_name": None}, 0),
    ],
)
async def test_what_adds_nothing_to_a_figure_is_not_behind_it(client, tenant, measure, row, count):
    dashboard = await created(
        client, tenant, widget(measures=[measure], group_by=["hour", "tool_name"])
    )

    behind = await asked(
        client, tenant, dashboard, "origin", widget="w", measure=measure, row=row, **DAY
    )

    assert behind["rows"]["count"] == count
    assert sum(behind["signals"].values()) == count
    if measure == "count":
        assert behind["value"] == count


async def test_what_is_too_much_to_count_is_at_least_so_much(client, tenant, monkeypatch):
    dashboard = await created(client, tenant, widget(measures=["count", "error_count"]))

    async def behind(measure):
        return await asked(client, tenant, dashboard, "origin", widget="w", measure=measure, **DAY)

    monkeypatch.setattr("metrics_service.rollups.behind.MAX_FOUND", 7)
    many, few = await behind("count"), await behind("error_count")
    monkeypatch.setattr("metrics_service.rollups.behind.MAX_SCANNED", 39)
    unseen = await behind("error_count")

    assert (many["rows"]["count"], many["rows"]["is_at_least"]) == (7, True)
    assert many["sessions"]["is_at_least"]
    assert (few["rows"]["count"], few["rows"]["is_at_least"]) == (4, False)
    assert (unseen["rows"]["count"], unseen["rows"]["is_at_least"]) == (3, True)


async def test_behind_a_figure_of_sessions_are_sessions(client, tenant):
    dashboard = await created(
        client, tenant, widget(source="sessions", measures=["tool_error_count"], group_by=["team"])
    )

    behind = await asked(
        client, tenant, dashboard, "origin",
        widget="w", measure="tool_error_count", row={"team": None}, **DAY,
    )  # fmt: skip

    assert behind["value"] == 4
    assert behind["rows"] is None
    assert sorted(one["external_id"] for one in behind["sessions"]["rows"]) == ["s0", "s2"]


async def test_what_is_behind_an_hour_that_no_rollup_row_lies_within_is_found(client, tenant):
    dashboard = await created(client, tenant, widget())

    behind = await asked(
        client, tenant, dashboard, "origin",
        widget="w", measure="count", **{"from": at(60), "to": at(1200)},
    )  # fmt: skip

    assert behind["value"] == behind["rows"]["count"] == 19
    assert behind["rollups"] == {"count": 0, "rows": []}


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Europe/Berlin", "UTC"])
async def test_behind_each_day_is_what_was_counted_to_it(client, tenant, zone):
    await stored_batch(
        client, tenant, [tool_metric(started_at=at(n * 1800), id=str(uuid4())) for n in range(200)]
    )
    dashboard = await created(client, tenant, widget(group_by=["day"]))
    time = {"from": at(-900), "to": at(90 * 3600), "tz": zone}
    rows = (await asked(client, tenant, dashboard, **time))["data"][0]["rows"]

    behind = [
        await asked(
            client, tenant, dashboard, "origin",
            widget="w", measure="count", row={"day": row["day"]}, **time,
        )
        for row in rows
    ]  # fmt: skip

    assert len(rows) > 3
    assert [one["value"] for one in behind] == [row["count"] for row in rows]
    assert [one["rows"]["count"] for one in behind] == [row["count"] for row in rows]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"widget": "x"}, "widget"),
        ({"measure": "p95_ms"}, "measure"),
        ({"row": {"agent": "x"}}, "row.agent"),
        ({"row": {"day": at(0)}}, "row.day"),
        ({"row": {"day": "2026-03-09T00:00:00Z"}}, "row.day"),
        ({"row": {"day": "monday"}}, "row.day"),
        ({"row": {"day": None}}, "row.day"),
        ({"row": {"day": "2026-03-02T00:00:00"}}, "row.day"),
        ({"row": {"hour": "2026-03-02T00:30:00Z"}}, "row.hour"),
        ({"row": {"hour": "0001-01-01T00:00:00+14:00"}}, "row.hour"),
        ({"row": {"hour": "9999-12-31T23:00:00Z"}}, "row.hour"),
        ({"row": {"user_id": "ada"}}, "row.user_id"),
        ({"tz": "Nowhere"}, "tz"),
        ({"tz": "Europe/Berlin", "row": {"day": "2026-03-02T00:00:00Z"}}, "row.day"),
    ],
)
async def test_a_figure_that_no_widget_shows_has_no_origin(client, tenant_once, body, field):
    time = "hour" if "hour" in body.get("row", {}) else "day"
    dashboard = await created(client, tenant_once, widget(group_by=[time, "user_id"]))

    response = await client.post(
        f"{PATH}/{dashboard}/origin",
        json={"widget": "w", "measure": "count", **DAY, **body},
        headers=tenant_once.headers,
    )

    problem = check_problem(response, 422)
    ((named, reason),) = [(error["field"], error["reason"]) for error in problem["errors"]]
    assert named == field
    wrong_time = field == f"row.{time}" and body["row"][time] != "2026-03-02T00:00:00"
    assert reason.endswith("that /data was asked with") is wrong_time


# -- periods ----------------------------------------------------------------------------------------


def test_whole_days_before_whole_days_though_the_clocks_change():
    berlin = find_zone("Europe/Berlin")
    moment = datetime(2026, 3, 30, 12, tzinfo=UTC)

    two = latest("2d", berlin, moment)

    assert two == Period(
        datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 30, 22, tzinfo=UTC)
    )
    assert previous(two, berlin) == Period(datetime(2026, 3, 26, 23, tzinfo=UTC), two.start)
    assert latest("2h", berlin, moment + timedelta(minutes=5)) == Period(
        moment - timedelta(hours=1), moment + timedelta(hours=1)
    )
    assert previous(Period(BASE, BASE + timedelta(minutes=5)), berlin) == Period(
        BASE - timedelta(minutes=5), BASE
    )


def test_a_dashboard_is_asked_about_thirty_days_by_default():
    asked = Asked.of(DataRequest(tz="America/New_York"))

    assert asked.period == latest("30d", asked.zone, asked.moment)
