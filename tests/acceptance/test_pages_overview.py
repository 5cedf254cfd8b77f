"""`/`, `/tools` and `/models` over HTTP: figures without scripts, filters, and names that mean harm."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import pytest

from acceptance.talk import BASE, at, check_problem, stored_batch, stored_session, tool_metric
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest.records import ModelCallRecord
from metrics_service.ingest.write import write_facts

DAYS = {"from": "2026-03-01", "to": "2026-03-03"}
PAGES = ("/", "/tools", "/models")
OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    f"{OVERRIDE}gnp.exe",
    "n" * 255,
)


async def worked(client, engine, tenant, *, agent="claude-code", **session):
    """A session with ten calls of two tools, of which three failed, and two calls of models."""
    made = await stored_session(
        client, tenant, **{"agent": agent, "team": "web", "repository": "acme/shop", **session}
    )
    of = {"agent": made["agent"], "external_session_id": made["external_id"]}
    failed = {"status": "error", "error_type": "exit_code"}
    calls = [
        *(tool_metric(started_at=at(n), wait_ms=1000, duration_ms=2000) for n in range(5)),
        *(tool_metric(started_at=at(10 + n), duration_ms=2000, **failed) for n in range(2)),
        tool_metric(started_at=at(20), duration_ms=60_000, status="timeout"),
        *(
            tool_metric(tool_name="Read", tool_category="file_read", started_at=at(30 + n))
            for n in range(2)
        ),
    ]
    await stored_batch(client, tenant, [{**call, **of} for call in calls])
    records = [
        ModelCallRecord(
            started_at=BASE + timedelta(seconds=place),
            provider="anthropic",
            request_model=model,
            input_tokens=900,
            cache_read_tokens=450,
            output_tokens=100,
            duration_ms=5000,
            cost_usd_micros=cost,
            cost_source=source,
            **of,
        )
        for place, (model, cost, source) in enumerate(
            (("model-one", 7_500_000, "reported"), ("model-two", 2_500_000, "estimated"))
        )
    ]
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await write_facts(connection, tenant.id, records)
    return made


@pytest.fixture(scope="module")
async def home(client, engine, new_together):
    tenant = await new_together()
    made = await worked(client, engine, tenant, user_email="ada.known@example.com")
    codex = await stored_session(client, tenant, agent="codex", team="ops", repository="acme/infra")
    of = {"agent": "codex", "external_session_id": codex["external_id"]}
    await stored_batch(client, tenant, [tool_metric(tool_name="shell", started_at=at(50), **of)])
    return tenant, made


async def read(client, path, headers, /, **params):
    response = await client.get(path, params={**DAYS, **params}, headers=headers)
    assert response.status_code == 200, response.text
    return response.text


def said(page):
    """What a person reads: no markup, and one space between words."""
    shown = re.sub(r"<script.*?</script>|<title>.*?</title>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", shown)).replace("\xa0", " ").split())


def rows_of(page):
    """Of each line of the tables its cells."""
    rows = [
        [said(cell) for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    ]
    return [row for row in rows if row]


async def test_the_overview_says_what_happened_what_failed_what_it_cost_and_where_time_went(
    client, home, sign_in
):
    tenant, made = home

    page = await read(client, "/", await sign_in(tenant))

    told = said(page)
    assert "Sessions 2" in told
    assert "Tool calls 11" in told
    assert "Model calls 2" in told
    assert "People active 1" in told
    assert "Tool calls that failed 27.3 %" in told
    assert "Cost $10.00" in told
    assert "of which $2.50 estimated" in told
    assert "Models answered 10.0 s" in told
    assert "Tools ran 1.23 min" in told
    assert "Waited for people 5.00 s" in told
    assert ["Bash", "3", "37.5 %", "100 %"] in rows_of(page)
    assert "tool=Bash" in page
    assert "ada.known@example.com" in told
    assert f'href="/sessions/{made["id"]}"' in page


async def test_filters_hold_on_every_page_and_stay_when_the_time_changes(client, home, sign_in):
    tenant, _ = home
    headers = await sign_in(tenant)

    overview = await read(client, "/", headers, team="ops")
    tools = await read(client, "/tools", headers, repository="acme/infra", agent="")
    models = await read(client, "/models", headers, agent="codex")

    assert "Tool calls 1 " in said(overview)
    assert "last=30d&amp;team=ops" in overview
    assert '<option value="ops" selected>' in overview
    assert '<option value="web">' in overview
    assert "1 tool " in said(tools)
    assert "shell" in said(tools)
    assert "Nothing matches these filters" in said(models)


async def test_tools_are_sorted_searched_and_chosen_by_category(client, home, sign_in):
    tenant, _ = home
    headers = await sign_in(tenant)

    usual = rows_of(await read(client, "/tools", headers))
    by_name = rows_of(await read(client, "/tools", headers, sort="-tool_name"))
    found = rows_of(await read(client, "/tools", headers, q="EA"))
    files = rows_of(await read(client, "/tools", headers, category="file_read"))
    missing = await read(client, "/tools", headers, q="no such tool")

    tools = {"Bash", "Read", "shell"}
    assert [row[0] for row in usual if row[0] in tools] == ["Bash", "Read", "shell"]
    assert [row[0] for row in by_name if row[0] in tools] == ["shell", "Read", "Bash"]
    assert [row[0] for row in found if row[0] in tools] == ["Read"]
    assert [row[0] for row in files if row[0] in tools] == ["Read"]
    bash = next(row for row in usual if row[0] == "Bash")
    assert bash[2:5] == ["8", "72.7 %", "37.5 %"]
    assert bash[-1] == "1.00 s"
    assert "0 tools" in said(missing)


async def test_one_tool_has_its_percentiles_its_endings_and_its_failures(client, home, sign_in):
    tenant, made = home
    headers = await sign_in(tenant)

    page = await read(client, "/tools", headers, tool="Bash")
    elsewhere = await read(client, "/tools", headers, tool="Bash", team="ops")
    nowhere = await read(client, "/tools", headers, tool="never called")

    told = said(page)
    assert "Calls 8" in told
    assert "Calls that failed 37.5 %" in told
    assert "succeeded 5 62.5 %" in told
    assert "exit_code 2 66.7 %" in told
    assert "not told 1 33.3 %" in told
    assert page.count(f'href="/sessions/{made["id"]}"') == 3
    assert ["acme/shop", "8", "37.5 %"] in [row[:3] for row in rows_of(page)]
    assert "timed out" in told
    for empty in (elsewhere, nowhere):
        assert "No call of this tool" in said(empty)


async def test_what_models_cost_says_what_of_it_is_estimated(client, home, sign_in):
    tenant, _ = home

    page = await read(client, "/models", await sign_in(tenant))

    told = said(page)
    assert "$10.00, of which $2.50 estimated" in told
    assert "Input from cache 50.0 %" in told
    one, two = (row for row in rows_of(page) if row[0].startswith("model-"))
    assert one[:2] == ["model-one anthropic 75.0 %", "$7.50 reported"]
    assert two[:2] == ["model-two anthropic 25.0 %", "$2.50 estimated"]
    assert one[4:7] == ["900", "50.0 % 450", "100"]
    assert "Claude Code $10.00 100 % $2.50 estimated" in told


@pytest.mark.parametrize("path", PAGES)
async def test_a_tenant_without_data_is_told_what_to_do(client, new_tenant, home, sign_in, path):
    page = await read(client, path, await sign_in(await new_tenant()))

    assert "Point an agent at this address" in page
    assert 'href="/set-up"' in page
    assert "acme/shop" not in page


@pytest.mark.parametrize("path", PAGES)
async def test_where_nothing_happened_another_time_is_offered(client, home, sign_in, path):
    tenant, _ = home
    headers = await sign_in(tenant)

    page = await read(client, path, headers, **{"from": "2026-01-05", "to": "2026-01-05"})

    assert "Nothing happened on 5 Jan 2026" in page
    there = re.search(
        r'class="button button-primary" href="([^"]+)">Show (?:that day|the last)', page
    )
    assert there is not None
    shown = await client.get(html.unescape(there[1]), headers=headers)
    assert shown.status_code == 200
    assert "Nothing happened" not in shown.text


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"last": "8d"}, "last"),
        ({"from": "2026-03-03", "to": "2026-03-01"}, "from"),
        ({"from": "yesterday"}, "from"),
        ({"colour": "red"}, "colour"),
        ({"team": "x" * 256}, "team"),
        ({"agent": "a\0b"}, "U+0000"),
        ({"repository": ["a", "b"]}, "repository"),
    ],
)
async def test_a_wrong_parameter_is_named(client, home, sign_in, path, params, named):
    tenant, _ = home

    response = await client.get(path, params=params, headers=await sign_in(tenant))

    assert named in check_problem(response, 400)["detail"]


@pytest.mark.parametrize("name", ["sort", "tool", "q", "category"])
async def test_a_wrong_parameter_of_tools_is_named(client, home, sign_in, name):
    tenant, _ = home
    headers = await sign_in(tenant)

    long = await client.get("/tools", params={name: "x" * 256}, headers=headers)
    without = await client.get("/models", params={name: "Bash"}, headers=headers)

    assert name in check_problem(long, 400)["detail"]
    assert name in check_problem(without, 400)["detail"]


async def test_names_that_mean_harm_stay_names(client, engine, new_tenant, sign_in):
    tenant = await new_tenant()
    for name in HOSTILE:
        made = await stored_session(client, tenant, agent=name, team=name, repository=name)
        of = {"agent": name, "external_session_id": made["external_id"]}
        call = tool_metric(
            tool_name=name, tool_category=name, status="error", error_type=name, **of
        )
        await stored_batch(client, tenant, [call])
        record = ModelCallRecord(
            started_at=BASE, provider=name, request_model=name, cost_usd_micros=10**6,
            cost_source="reported", **of,
        )  # fmt: skip
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            await write_facts(connection, tenant.id, [record])
    headers = await sign_in(tenant)

    pages = [await read(client, path, headers) for path in PAGES]
    pages += [await read(client, "/tools", headers, tool=name, team=name) for name in HOSTILE]

    for page in pages:
        assert "<script>alert" not in page
        assert "<img" not in page
        told = re.sub(r'="[^"]*"|<script type.*?</script>', "", page, flags=re.DOTALL)
        assert OVERRIDE not in told
        assert "n" * 130 not in told
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages[0]


async def test_another_tenants_data_are_not_there(client, engine, new_tenant, home, sign_in):
    tenant, made = home
    other = await new_tenant()
    theirs = await worked(client, engine, other, repository="theirs/only", team="rivals")
    headers, elsewhere = await sign_in(tenant), await sign_in(other)

    ours = [await read(client, path, headers) for path in (*PAGES, "/tools?tool=Bash")]
    page = await read(client, "/", elsewhere)
    asked = await read(client, "/", headers, repository="theirs/only")

    for one in ours:
        assert "theirs/only" not in one
        assert str(theirs["id"]) not in one
    assert "acme/infra" not in page
    assert str(made["id"]) not in page
    assert "Nothing matches these filters" in asked


async def test_where_people_are_hidden_nobody_is_named(client, new_tenant, engine, sign_in):
    tenant = await new_tenant()
    await worked(client, engine, tenant, user_email="ada.hidden@example.com")
    body = {"hide_people": True}
    changed = await client.patch("/api/v1/settings", json=body, headers=tenant.headers)
    headers = await sign_in(tenant)

    pages = [await read(client, path, headers) for path in (*PAGES, "/tools?tool=Bash")]

    assert changed.status_code == 200
    for page in pages:
        assert "ada.hidden" not in page
    assert "People active 1" in said(pages[0])


async def test_who_has_not_signed_in_is_asked_to(client, home):
    tenant, _ = home

    for path in PAGES:
        response = await client.get(path, headers={"Host": tenant.headers["Host"]})

        assert response.status_code == 303
        assert response.headers["location"].startswith("/sign-in")
