"""The pages of sessions: the list with its filters, and one session with its timeline."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from acceptance.talk import (
    BASE,
    at,
    check_problem,
    rows_of,
    stored_batch,
    stored_session,
    tool_metric,
)
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest.records import ModelCallRecord
from metrics_service.ingest.write import write_facts

API = "/api/v1/sessions"
DAY = {"from": "2026-03-02", "to": "2026-03-02"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "'; DROP TABLE users; --",
    "{{ 7 * 7 }}",
]
NOBODY = "01890000-0000-7000-8000-000000000000"


class Browser:
    """Somebody who has signed in to a tenant."""

    def __init__(self, client, headers):
        self.client, self.headers = client, headers

    async def get(self, path, **params):
        # Not a page of errors: what a script is told of them is checked with every answer.
        return await self.client.get(path, params=params, headers=self.headers)

    async def page(self, path, **params):
        answer = await self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture(scope="module")
def sign_in(client, sign_in):
    async def signed_in(tenant, role="viewer", name="Boss"):
        headers = await sign_in(tenant, role, name)
        return Browser(client, {**headers, "Cookie": f"{headers['Cookie']}; tz=Europe/Berlin"})

    return signed_in


def sessions_in(page):
    return re.findall(r'class="row-link" href="/sessions/([0-9a-f-]{36})"', page)


def rows_in(page):
    """The ids of the rows of a timeline."""
    return re.findall(r'<li class="tl-row[^"]*" id="r\d([0-9a-f]{32})"', page)


def next_in(page):
    """The path and the parameters of the link to what follows."""
    found = re.search(r'<a class="button"[^>]*rel="next"', page)
    if found is None:
        return None
    href = html.unescape(re.search(r'href="([^"]+)"', found[0] + page[found.end() :])[1])
    parts = urlsplit(href)
    return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}


def prompt(text, *, seconds, session_id, sequence):
    attributes = [
        {"key": name, "value": {"stringValue": value}}
        for name, value in {
            "event.name": "user_prompt",
            "session.id": session_id,
            "event.sequence": str(sequence),
            "prompt": text,
            "prompt_length": str(len(text)),
        }.items()
    ]
    moment = BASE + timedelta(seconds=seconds)
    record = {"timeUnixNano": str(int(moment.timestamp() * 1e9)), "attributes": attributes}
    scope = {"name": "com.anthropic.claude_code.events"}
    logs = {"scopeLogs": [{"scope": scope, "logRecords": [record]}]}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "claude-code"}}]}
    return {"resourceLogs": [{"resource": resource, **logs}]}


class Story:
    """A tenant with one session in which something of each kind happened."""

    def __init__(self, tenant, id_):
        self.tenant, self.id, self.path = tenant, id_, f"/sessions/{id_}"


@pytest.fixture(scope="module")
async def story(client, engine, new_together):
    tenant = await new_together()
    view = await stored_session(
        client, tenant, external_id="s", user_email="ada@example.com", repository="acme/shop",
        branch="feat/T-7", team="web", tags=["payments"], ended_at=at(3 * 3600),
    )  # fmt: skip
    said = prompt("Make the tests pass", seconds=0, session_id="s", sequence=1)
    sent = await client.post("/v1/logs", json=said, headers=tenant.headers)
    assert sent.status_code == 200, sent.text
    of = {"agent": "claude-code", "external_session_id": "s"}
    await stored_batch(
        client,
        tenant,
        [
            tool_metric(started_at=at(10), duration_ms=1500, wait_ms=4000, **of),
            tool_metric(
                started_at=at(20), tool_name="Edit", status="error", error_type="not_found", **of
            ),
            # More than a quarter of an hour later: what is between is folded.
            tool_metric(started_at=at(3 * 3600 - 60), tool_name="Read", **of),
        ],
    )
    call = ModelCallRecord(
        started_at=BASE + timedelta(seconds=5), duration_ms=2000, request_model="sonnet-9",
        input_tokens=20_000, cache_read_tokens=15_000, output_tokens=400, cost_usd_micros=30_000,
        cost_source="reported", **of,
    )  # fmt: skip
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await write_facts(connection, tenant.id, [call])
    return Story(tenant, view["id"])


@pytest.fixture(scope="module")
async def ours(story, sign_in):
    return await sign_in(story.tenant)


# -- the list ---------------------------------------------------------------------------------------------


async def test_a_session_is_listed_with_its_figures_and_leads_to_its_page(ours, story):
    page = await ours.page("/sessions", **DAY)

    assert sessions_in(page) == [story.id]
    for told in ("Claude Code", "ada@example.com", "acme/shop", "feat/T-7", "web", "3.00\xa0h",
                 "20.4\xa0k", "$0.03", "02 Mar 2026, 11:00"):  # fmt: skip
        assert told in page, told


@pytest.mark.parametrize(
    ("filters", "is_found"),
    [
        ({"q": "T-7"}, True),
        ({"q": "ACME"}, True),
        ({"q": "ada@"}, True),
        ({"q": "payments"}, True),
        ({"q": "%"}, False),
        ({"q": "ac_e"}, False),
        ({"agent": "claude-code", "team": "web", "status": "closed"}, True),
        ({"status": "open"}, False),
        ({"tag": "payments", "has_errors": "true"}, True),
        ({"has_errors": "false"}, False),
        ({"repository": "acme"}, False),
        ({"q": "", "agent": "", "team": ""}, True),
    ],
)
async def test_filters_are_kept_and_can_be_taken_back(ours, story, filters, is_found):
    page = await ours.page("/sessions", **DAY, **filters)

    assert sessions_in(page) == ([story.id] if is_found else [])
    given = [name for name, value in filters.items() if value]
    assert page.count('class="chip"') == len(given)
    if not is_found:
        assert "Nothing fits these filters" in page
        assert 'href="/sessions?from=2026-03-02&amp;to=2026-03-02"' in page


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"status": "over"}, "status"),
        ({"user_id": "me"}, "user_id"),
        ({"has_errors": "perhaps"}, "has_errors: must be true or false"),
        ({"sort": "tokens"}, "sort"),
        ({"q": "x" * 256}, "q"),
        ({"q": "a\0b"}, "q"),
        ({"last": "2d"}, "last"),
        ({"nonsense": "1"}, "nonsense"),
        ({"cursor": "AAAA"}, "cursor"),
    ],
)
async def test_a_wrong_parameter_of_the_list_is_named(ours, params, named):
    problem = check_problem(await ours.get("/sessions", **params), 400)

    assert named in problem["detail"]


async def test_who_has_no_sessions_is_shown_the_set_up(sign_in, new_tenant):
    nobody = await sign_in(await new_tenant())

    page = await nobody.page("/sessions")

    assert "No sessions yet" in page
    assert 'href="/set-up"' in page


async def test_pages_follow_each_other_without_gap_and_keep_the_filters(
    client, sign_in, new_tenant
):
    tenant = await new_tenant()
    made = [
        {"agent": "codex" if n % 2 else "cursor", "external_id": f"s{n}", "started_at": at(n // 3)}
        for n in range(120)
    ]
    answer = await client.post(f"{API}/batch", json=made, headers=tenant.headers)
    assert answer.status_code == 200, answer.text
    browser = await sign_in(tenant)
    expected = [row["id"] for row in await rows_of(client, API, tenant, agent="codex")]

    found, place = [], ("/sessions", {**DAY, "agent": "codex"})
    while place is not None:
        page = await browser.page(place[0], **place[1])
        assert place[1]["agent"] == "codex"
        found += sessions_in(page)
        place = next_in(page)

    assert len(found) == 60
    assert found == expected
    stranger = await sign_in(await new_tenant())
    first = next_in(await browser.page("/sessions", **DAY, agent="codex"))
    check_problem(await stranger.get(first[0], **first[1]), 400)


# -- one session ----------------------------------------------------------------------------------------


async def test_a_session_is_told_from_the_first_prompt_on(ours, story):
    page = await ours.page(story.path)

    kinds = re.findall(r'<li class="tl-row tl-(\w+)', page)
    assert kinds == ["prompt", "model", "tool", "tool", "tool"]
    for told in ("Claude Code", "acme/shop", "feat/T-7", "payments", "sonnet-9", "not_found",
                 "waited 4.00\xa0s", "+0:20", "11:00:20", "75.0\xa0% of input cached",
                 "20.0\xa0k → 400", "reported by the agent", "1 failed"):  # fmt: skip
        assert told in page, told
    # The hours between are folded, and the failure is marked by its shape.
    assert "without anything" in page
    assert page.count('class="strip-mark" x=') == 1
    # The text of a prompt is not kept unless the tenant wants it; its length is.
    assert "Make the tests pass" not in page


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({"kinds": "prompts"}, 1),
        ({"kinds": "models,tools"}, 4),
        ({"failed": "true"}, 1),
        ({"q": "edi"}, 1),
        ({"q": "NOT_found"}, 1),
        ({"q": "%"}, 0),
        ({"at": at(20)}, 2),
        ({"kinds": "tools", "at": at(20.5)}, 1),
        ({"at": "0002-01-01T00:00:00Z"}, 5),
        ({"at": "9998-12-31T23:59:59.999999Z"}, 0),
    ],
)
async def test_a_part_of_the_timeline_is_shown(ours, story, params, count):
    page = await ours.page(story.path, **params)
    fragment = await ours.page(f"{story.path}/timeline", **params)

    assert len(rows_in(page)) == count
    assert rows_in(fragment) == rows_in(page)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"kinds": "tools,nonsense"}, "kinds"),
        ({"kinds": "tools,tools"}, "kinds"),
        ({"failed": "perhaps"}, "failed"),
        ({"at": "noon"}, "at"),
        ({"at": "9999-12-31T23:59:59.999999Z"}, "at"),
        ({"at": at(0), "after": "AAAA"}, "after"),
        ({"after": "AAAA"}, "cursor"),
        ({"q": "a\0b"}, "q"),
        ({"nonsense": "1"}, "nonsense"),
    ],
)
@pytest.mark.parametrize("part", ["", "/timeline"])
async def test_a_wrong_parameter_of_a_session_is_named(ours, story, part, params, named):
    problem = check_problem(await ours.get(story.path + part, **params), 400)

    assert named in problem["detail"]


async def test_rows_of_one_moment_are_each_shown_once_over_many_pages(client, sign_in, new_tenant):
    tenant = await new_tenant()
    view = await stored_session(client, tenant, external_id="long")
    of = {"agent": "claude-code", "external_session_id": "long"}
    calls = [tool_metric(started_at=at(n // 250), duration_ms=n, **of) for n in range(500)]
    await stored_batch(client, tenant, calls)
    browser = await sign_in(tenant)
    every = await rows_of(client, f"{API}/{view['id']}/tool-metrics", tenant)

    found, place = [], (f"/sessions/{view['id']}", {})
    while place is not None:
        page = await browser.page(place[0], **place[1])
        found += rows_in(page)
        place = next_in(page)

    assert found == [UUID(row["id"]).hex for row in every]
    # A cursor is of its filters, its session and its tenant.
    first = next_in(await browser.page(f"/sessions/{view['id']}"))
    check_problem(await browser.get(first[0], **first[1], failed="true"), 400)
    # A refresh of the open page brings the figures and no rows.
    refreshed = await client.get(
        f"/sessions/{view['id']}", headers={**browser.headers, "X-Refresh": "main"}
    )
    assert "session-figures" in refreshed.text
    assert rows_in(refreshed.text) == []


@pytest.mark.parametrize("part", ["", "/timeline"])
async def test_a_session_that_is_gone_or_another_tenants_does_not_exist(
    client, sign_in, story, new_tenant, part
):
    tenant = await new_tenant()
    view = await stored_session(client, tenant, external_id="s")
    browser = await sign_in(tenant)
    await client.delete(f"{API}/{view['id']}", headers=tenant.headers)

    for id_ in (view["id"], story.id, NOBODY):
        check_problem(await browser.get(f"/sessions/{id_}{part}"), 404)


async def test_parents_and_children_lead_to_each_other(client, engine, sign_in, new_tenant):
    tenant = await new_tenant()
    parent = await stored_session(client, tenant, external_id="parent")
    child = await stored_session(client, tenant, external_id="child")
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.execute(
            "UPDATE metrics_sessions SET parent_session_id = $1 WHERE id = $2",
            parent["id"],
            child["id"],
        )
    browser = await sign_in(tenant)

    assert f'href="/sessions/{child["id"]}"' in await browser.page(f"/sessions/{parent['id']}")
    assert f'href="/sessions/{parent["id"]}"' in await browser.page(f"/sessions/{child['id']}")


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 255])
async def test_names_are_text_whatever_they_are(client, sign_in, new_tenant, name):
    tenant = await new_tenant()
    view = await stored_session(
        client, tenant, external_id=name, agent=name, repository=name, branch=name, team=name,
        session_type=name, tags=[name],
    )  # fmt: skip
    call = tool_metric(session_id=view["id"], tool_name=name, status="error", error_type=name)
    await stored_batch(client, tenant, [call])
    browser = await sign_in(tenant, name="".join(HOSTILE) + "y" * 10_000)

    for path, params in (("/sessions", {**DAY, "q": name}), (f"/sessions/{view['id']}", {})):
        page = await browser.page(path, **params)
        for wrong in ("<script>alert", "<img src=x", "\N{RIGHT-TO-LEFT OVERRIDE}gnp", "y" * 500):
            assert wrong not in re.sub(r'value="[^"]*"', "", page), wrong
        assert len(page) < 200_000


# -- the API ------------------------------------------------------------------------------------------------


async def test_the_api_searches_as_the_page_does(client, story):
    async def found(**params):
        return [row["id"] for row in await rows_of(client, API, story.tenant, **params)]

    assert await found(q="FEAT/t-7") == [story.id]
    assert await found(q="ADA@example") == [story.id]
    assert await found(q="pay", has_errors="true") == [story.id]
    assert await found(q="pay", has_errors="false") == []
    assert await found(q="feat_T") == []
    assert await found(q="\\") == []
    numbered = await client.get(
        API, params={"q": "acme", "page": "1"}, headers=story.tenant.headers
    )
    assert numbered.json()["meta"]["total"] == 1
    for wrong in ("", "x" * 256):
        refused = await client.get(API, params={"q": wrong}, headers=story.tenant.headers)
        assert "q" in check_problem(refused, 400)["detail"]


async def test_who_sees_no_people_does_not_find_them(client, sign_in, new_tenant):
    tenant = await new_tenant()
    await stored_session(client, tenant, external_id="s", user_email="ada@example.com", team="web")
    browser = await sign_in(tenant, role="owner")
    body = {"hide_people": True}
    await client.patch("/api/v1/settings", json=body, headers=tenant.headers)

    page = await browser.page("/sessions", **DAY, q="ada")
    answer = await browser.get(API, q="ada")

    assert sessions_in(page) == []
    assert answer.json()["data"] == []
    assert "ada@example.com" not in await browser.page("/sessions", **DAY, q="web")
