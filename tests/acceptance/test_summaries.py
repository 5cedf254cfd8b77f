"""What all three summaries have in common: zones, filters, weeks and months, and what is refused."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

import pytest

from acceptance.talk import at, check_problem, session, stored_batch, stored_session, tool_metric

TOOLS = "/api/v1/tool-metrics/summary"
MODELS = "/api/v1/model-calls/summary"
SESSIONS = "/api/v1/sessions/summary"
MARCH = {"from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}


async def summary(client, tenant, path, **query):
    response = await client.get(path, params={**MARCH, **query}, headers=tenant.headers)
    assert response.status_code == 200, response.text
    return response.json()


async def counted(client, tenant, path, **query):
    """The counts of a summary by what it is grouped by."""
    names = query["group_by"].split(",")
    rows = (await summary(client, tenant, path, **query))["data"]
    return {tuple(row[name] for name in names): row["count"] for row in rows}


@pytest.fixture
async def tenant(client, new_tenant):
    return await with_six_calls(client, await new_tenant())


@pytest.fixture(scope="module")
async def tenant_read(client, new_together):
    """One for all tests that only read."""
    return await with_six_calls(client, await new_together())


async def with_six_calls(client, made):
    """Three calls on each side of midnight of the tenth of March in Berlin, in two teams."""
    await stored_session(
        client, made, agent="codex", external_id="web", team="web", repository="acme/shop",
        started_at="2026-03-09T22:00:00Z", user_email="ada@example.com",
    )  # fmt: skip
    await stored_batch(
        client,
        made,
        [
            tool_metric(
                id=str(uuid4()),
                started_at=f"2026-03-09T2{2 + number // 3}:30:00Z",
                tool_name=("Bash", "Read", "Edit")[number % 3],
                **({"agent": "codex", "external_session_id": "web"} if number % 3 else {}),
            )
            for number in range(6)
        ],
    )
    return made


async def test_days_weeks_and_months_are_the_viewers(client, tenant_read):
    midnight = {"from": "2026-03-09T22:00:00Z", "to": "2026-03-10T00:00:00Z"}

    async def days(zone, unit="day"):
        return await counted(client, tenant_read, TOOLS, group_by=unit, tz=zone, **midnight)

    assert await days("UTC") == {("2026-03-09T00:00:00Z",): 6}
    assert await days("Europe/Berlin") == {
        ("2026-03-09T00:00:00+01:00",): 3,
        ("2026-03-10T00:00:00+01:00",): 3,
    }
    assert await days("Asia/Kolkata") == {("2026-03-10T00:00:00+05:30",): 6}
    # The ninth is a Monday.
    assert await days("America/New_York", "week") == {("2026-03-09T00:00:00-04:00",): 6}
    assert await days("UTC", "month") == {("2026-03-01T00:00:00Z",): 6}
    assert await days("Europe/Berlin", "hour") == {
        ("2026-03-09T23:00:00+01:00",): 3,
        ("2026-03-10T00:00:00+01:00",): 3,
    }


async def test_what_was_asked_and_how_fresh_the_answer_is_stands_beside_it(client, tenant_read):
    meta = (await summary(client, tenant_read, TOOLS, group_by="day", tz="Asia/Kolkata"))["meta"]

    assert datetime.fromisoformat(meta.pop("updated_at")).tzinfo is not None
    (note,) = meta.pop("notes")
    assert "Asia/Kolkata" in note
    assert meta == {**MARCH, "group_by": ["day"], "tz": "Asia/Kolkata"}


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 6),
        ({"tool_name": "Bash"}, 2),
        ({"agent": "codex"}, 4),
        ({"team": "web"}, 4),
        ({"team": "web", "tool_name": "Read"}, 2),
        ({"team": "web", "tool_name": "Bash"}, 0),
        ({"repository": "acme/shop", "agent": "codex"}, 4),
        ({"user_id": str(uuid4())}, 0),
        ({"tool_name": "it's"}, 0),
        ({"tool_category": "mcp"}, 0),
        # Together they are kept by the day, so this is read from the calls.
        ({"team": "web", "tool_name": "Read", "from": "2026-03-09T23:00:00Z"}, 1),
    ],
)
async def test_filters_choose_what_is_counted(client, tenant_read, query, count):
    (row,) = (await summary(client, tenant_read, TOOLS, **query))["data"]

    assert row["count"] == count


async def test_teams_and_repositories_are_those_of_the_session(client, tenant):
    by = {"group_by": "team,repository,tool_name"}

    assert await counted(client, tenant, TOOLS, **by) == {
        ("web", "acme/shop", "Read"): 2,
        ("web", "acme/shop", "Edit"): 2,
        (None, None, "Bash"): 2,
    }
    moved = session(
        agent="codex", external_id="web", started_at="2026-03-09T22:00:00Z",
        team="data", repository="acme/shop",
    )  # fmt: skip
    await client.post("/api/v1/sessions", json=moved, headers=tenant.headers)
    assert await counted(client, tenant, TOOLS, group_by="team") == {("data",): 4, (None,): 2}


async def test_sessions_are_summed_up_where_they_began(client, tenant):
    await stored_session(client, tenant, started_at=at(), productivity_score=80)

    rows = (await summary(client, tenant, SESSIONS, group_by="agent"))["data"]
    days = await counted(client, tenant, SESSIONS, group_by="day", tz="Europe/Berlin")

    by_agent = {row["agent"]: row for row in rows}
    assert by_agent["codex"]["tool_call_count"] == 4
    assert by_agent["claude-code"]["avg_score"] == 80
    assert by_agent["codex"]["avg_score"] is None
    assert days == {("2026-03-02T00:00:00+01:00",): 1, ("2026-03-09T00:00:00+01:00",): 1}


@pytest.mark.parametrize("path", [TOOLS, MODELS, SESSIONS])
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"tz": "Mars/Olympus"}, "tz"),
        ({"tz": "../../etc/passwd"}, "tz"),
        ({"tz": "/etc/localtime"}, "tz"),
        ({"tz": "Europe"}, "tz"),
        ({"tz": ""}, "tz"),
        ({"from": "1999-12-31T00:00:00Z"}, "from"),
        ({"to": "2100-01-02T00:00:00Z"}, "to"),
        ({"from": "2001-01-01T00:00:00Z"}, "from"),
        ({"from": MARCH["to"], "to": MARCH["from"]}, "from"),
        ({"from": "2017-01-01T00:00:00Z", "group_by": "hour"}, "from and to"),
        ({"group_by": "tenant_id"}, "group_by"),
        ({"group_by": "day,day"}, "group_by"),
        ({"group_by": "year"}, "group_by"),
        ({"user_id": "ada"}, "user_id"),
        ({"team": ""}, "team"),
        ({"metric": "count"}, "metric"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(client, tenant_once, path, query, said):
    response = await client.get(path, params={**MARCH, **query}, headers=tenant_once.headers)

    assert said in check_problem(response, 400)["detail"]


@pytest.mark.parametrize("path", [TOOLS, MODELS, SESSIONS])
async def test_a_plus_that_became_a_space_is_told_of(client, tenant_once, path):
    query = f"from=2026-03-01T00:00:00+01:00&to={MARCH['to']}"
    written = query.replace("+", "%2B")

    refused = await client.get(f"{path}?{query}", headers=tenant_once.headers)
    answered = await client.get(f"{path}?{written}", headers=tenant_once.headers)
    other = await client.get(f"{path}?{query.replace('+01:00', 'x')}", headers=tenant_once.headers)

    assert answered.status_code == 200
    assert check_problem(refused, 400)["detail"].endswith("; write + as %2B")
    assert "%2B" not in check_problem(other, 400)["detail"]


async def test_a_row_says_what_it_is_about_before_its_figures(client, tenant_read):
    for path, by in ((TOOLS, "tool_name,day"), (SESSIONS, "session_type,agent")):
        (row, *_) = (await summary(client, tenant_read, path, group_by=by))["data"]
        assert set(list(row)[:2]) == set(by.split(","))


@pytest.mark.parametrize("path", [TOOLS, SESSIONS])
async def test_another_tenants_work_is_not_counted(client, tenant_read, shared_tenant, path):
    for by in ("", "day", "team,user_id,repository,agent,day"):
        rows = (await summary(client, shared_tenant, path, group_by=by, tz="Europe/Berlin"))["data"]
        assert sum(row["count"] for row in rows) == 0
    (own,) = (await summary(client, tenant_read, path))["data"]
    assert own["count"] > 0


async def test_a_deleted_session_is_counted_no_more(client, tenant):
    (own,) = (await client.get("/api/v1/sessions", headers=tenant.headers)).json()["data"]

    await client.delete(f"/api/v1/sessions/{own['id']}", headers=tenant.headers)

    assert await counted(client, tenant, TOOLS, group_by="team,tool_name") == {(None, "Bash"): 2}
    assert await counted(client, tenant, SESSIONS, group_by="agent") == {}
