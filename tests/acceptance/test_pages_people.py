"""`/people` over HTTP: figures without scripts, one's own tenant's, and names that mean harm."""

from __future__ import annotations

import html
import re
from uuid import uuid4

import pytest

from acceptance.talk import BASE, at, check_problem, stored_batch, stored_session, tool_metric
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest.records import ModelCallRecord
from metrics_service.ingest.write import write_facts

DAYS = {"from": "2026-03-01", "to": "2026-03-03"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "n" * 10_000,
)


async def worked(client, engine, tenant, name, **session):
    """A person with a session of two tool calls, of which one failed, and a model call."""
    email = f"{uuid4().hex}@example.com"
    made = await stored_session(
        client, tenant, user_email=email, team="web", repository="acme/shop", **session
    )
    in_session = {"agent": made["agent"], "external_session_id": made["external_id"]}
    calls = [
        tool_metric(started_at=at(place), status=status, user_email=email, **in_session)
        for place, status in enumerate(("success", "error"))
    ]
    await stored_batch(client, tenant, calls)
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.execute("UPDATE users SET name = $1 WHERE email = $2", name, email)
        record = ModelCallRecord(
            started_at=BASE,
            user_email=email,
            input_tokens=900,
            output_tokens=100,
            cost_usd_micros=2_500_000,
            cost_source="reported",
            **in_session,
        )
        await write_facts(connection, tenant.id, [record])
    return made["user_id"]


@pytest.fixture(scope="module")
async def home(client, engine, new_together):
    tenant = await new_together()
    ids = [await worked(client, engine, tenant, name) for name in ("Ada Known", *HOSTILE)]
    await stored_session(client, tenant, agent="codex")
    return tenant, ids


async def read(client, headers, /, **params):
    response = await client.get("/people", params={**DAYS, **params}, headers=headers)
    assert response.status_code == 200, response.text
    return response.text


def row_of(page, name):
    """The cells of the line that begins with the name."""
    for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL):
        cells = [
            " ".join(html.unescape(re.sub(r"<[^>]*>", " ", cell)).split())
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        if cells and cells[0] == name:
            return cells
    return None


async def test_the_figures_are_in_the_page(client, home, sign_in):
    tenant, _ = home
    headers = await sign_in(tenant)

    people = await read(client, headers)
    teams = await read(client, headers, by="team")
    repositories = await read(client, headers, by="repository")

    figures = ["1", "1", "2", "50.0 %", "1", "1,000", "$2.50"]
    assert row_of(people, "Ada Known") == ["Ada Known", *figures, "Claude Code"]
    of_all = ["5", "1", "10", "50.0 %", "5", "5,000", "$12.50", "Claude Code"]
    assert row_of(teams, "web") == ["web", *of_all]
    assert row_of(repositories, "acme/shop") == ["acme/shop", *of_all]
    assert row_of(people, "Not known")[:2] == ["Not known", "1"]
    assert "<details" in people
    # Nobody changed a line or decided anything: these columns would hold nothing.
    assert "Lines" not in people
    assert ">Allowed<" not in people


async def test_filters_and_sorting_hold_without_scripts(client, home, sign_in):
    tenant, _ = home
    headers = await sign_in(tenant)

    codex = await read(client, headers, agent="codex")
    nothing = await read(client, headers, agent="codex", team="web")
    sorted_up = await read(client, headers, sort="cost")
    empty_fields = await read(client, headers, agent="", team="", repository="")

    assert row_of(codex, "Ada Known") is None
    assert row_of(codex, "Not known")[-1] == "Codex"
    assert "Nothing fits these filters" in nothing
    assert 'aria-sort="ascending"' in sorted_up
    assert row_of(empty_fields, "Ada Known")


async def test_names_that_mean_harm_stay_names(client, home, sign_in):
    tenant, ids = home
    headers = await sign_in(tenant)

    pages = [await read(client, headers), *[await read(client, headers, person=i) for i in ids]]

    for page in pages:
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in re.sub(r"<bdi.*?</bdi>", "", page)
        assert "n" * 200 not in re.sub(r'title="[^"]*"|<script type.*?</script>', "", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages[0]


async def test_a_person_has_a_page_of_their_own(client, home, sign_in):
    tenant, (ada, *_) = home

    page = await read(client, await sign_in(tenant, "viewer"), person=ada)

    assert "Ada Known" in page
    assert row_of(page, "Claude Code")[1] == "1"
    assert row_of(page, "acme/shop")[1] == "1"
    assert "Latest sessions" in page


async def test_somebody_elses_people_are_not_there(client, engine, new_tenant, home, sign_in):
    tenant, _ = home
    other = await new_tenant()
    theirs = await worked(client, engine, other, "Eve Other")
    headers, elsewhere = await sign_in(tenant), await sign_in(other)

    ours = await read(client, headers)
    page = await read(client, elsewhere)
    missing = await client.get("/people", params={"person": theirs}, headers=headers)
    nobody = await client.get("/people", params={"person": str(uuid4())}, headers=headers)

    assert "Eve Other" not in ours
    assert "Ada Known" not in page
    assert "acme/shop" in page
    check_problem(missing, 404)
    check_problem(nobody, 404)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"by": "planet"}, "by"),
        ({"person": "ada"}, "person"),
        ({"person": "unknown\n"}, "person"),
        ({"last": "8d"}, "last"),
        ({"from": "2026-03-03", "to": "2026-03-01"}, "from"),
        ({"sort": "name"}, "sort"),
        ({"colour": "red"}, "colour"),
        ({"team": "x" * 256}, "team"),
    ],
)
async def test_a_wrong_parameter_is_named(client, home, sign_in, params, named):
    tenant, _ = home

    response = await client.get("/people", params=params, headers=await sign_in(tenant))

    assert named in check_problem(response, 400)["detail"]


async def test_only_administrators_are_asked_who_is_who(client, home, sign_in):
    tenant, _ = home
    await client.post("/v1/logs", json=claimed(), headers=tenant.headers)

    # Otherwise than it was read before: for two seconds the same is remembered.
    owner = await read(client, await sign_in(tenant), sort="lines")
    viewer = await read(client, await sign_in(tenant, "viewer"), sort="lines")

    assert "Who is who" in owner
    assert 'data-identity="' in owner
    assert "Who is who" not in viewer
    assert "data-identity" not in viewer


async def test_days_on_which_nothing_happened_lead_to_more_of_them(client, home, sign_in):
    tenant, ids = home
    headers = await sign_in(tenant)

    for person in ({}, {"person": ids[0]}):
        page = await client.get(
            "/people", params={"from": "2025-01-05", "to": "2025-01-07", **person}, headers=headers
        )
        longer = re.search(r'href="([^"]*)">Show the last 90 days', page.text)[1]
        found = await client.get(html.unescape(longer), headers=headers)

        assert "5 to 7 Jan 2025" in page.text
        assert found.status_code == 200


async def test_an_empty_tenant_is_told_what_to_do(client, new_tenant, sign_in):
    headers = await sign_in(await new_tenant())

    page = await read(client, headers)

    assert "Nothing happened in this time" in page
    assert 'href="/set-up"' in page


def claimed():
    """A prompt of an installation that nobody knows."""

    def text(name, value):
        return {"key": name, "value": {"stringValue": value}}

    attributes = [
        text("event.name", "user_prompt"),
        text("session.id", "claimed"),
        text("event.sequence", "1"),
        text("installation.id", "<b>who</b>"),
    ]
    record = {"timeUnixNano": str(int(BASE.timestamp()) * 10**9), "attributes": attributes}
    scope = {"name": "com.anthropic.claude_code.events"}
    resource = {"attributes": [text("service.name", "claude-code")]}
    logs = {"scope": scope, "logRecords": [record]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [logs]}]}
