"""Where a tenant hides people, nobody who has signed in sees one: on no page, by no route, as no role."""

from __future__ import annotations

import asyncio
import re
from uuid import UUID, uuid4

import pytest

from acceptance.talk import (
    BASE,
    at,
    check_problem,
    dashboard,
    stored_batch,
    stored_session,
    tool_metric,
)
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.cookies import NAME as COOKIE
from metrics_service.http.hidden_people import HIDDEN
from metrics_service.ingest.records import ModelCallRecord
from metrics_service.ingest.write import write_facts
from metrics_service.tenants.allowed import TTL_S
from metrics_service.tenants.sign_ins import begin_sign_in
from metrics_service.web.routes import PAGES

EMAIL, NAME = "ada.hidden@example.com", "Ada Hidden"
SESSION = {"agent": "claude-code", "external_session_id": "s"}
TIMES = {"from": at(-3600), "to": at(3600)}
# What every GET of the document is asked with, where it must be asked with anything.
ASKED = {
    "/api/v1/sessions/summary": {**TIMES, "group_by": "team"},
    "/api/v1/tool-metrics/summary": {**TIMES, "group_by": "tool_name"},
    "/api/v1/model-calls/summary": {**TIMES, "group_by": "agent"},
    "/api/v1/dashboards/{dashboard_id}/image": {"format": "svg", **TIMES},
}
REFUSED = {
    "/api/v1/identities",
    "/api/v1/identities/unclaimed",
    "/api/v1/identities/{identity_id}",
    "/api/v1/identity-rules",
}
ABOUT_A_TIME = {"/", "/sessions", "/tools", "/models", "/people"}
QUESTIONS = [
    ("/api/v1/sessions", {"user_id": "{user}"}),
    ("/api/v1/tool-metrics", {"user_id": "{user}"}),
    ("/api/v1/model-calls", {"user_id": "{user}"}),
    ("/api/v1/sessions/{session}/tool-metrics", {"user_id": "{user}"}),
    ("/api/v1/sessions/{session}/model-calls", {"user_id": "{user}"}),
    *(
        (f"/api/v1/{what}/summary", {**TIMES, **asked})
        for what in ("sessions", "tool-metrics", "model-calls")
        for asked in ({"group_by": "user_id"}, {"group_by": "day,user_id"}, {"user_id": "{user}"})
    ),
    ("/sessions", {"user_id": "{user}"}),
    ("/people", {"person": "{user}"}),
    ("/people", {"person": "unknown"}),
]


def board(user_id):
    def widget(id_, kind, **query):
        asked = {"source": "sessions", "measures": ["count"], **query}
        return {"id": id_, "title": id_, "kind": kind, "query": asked}

    widgets = [
        widget("grouped", "table", group_by=["user_id"]),
        widget("filtered", "number", filters={"user_id": user_id}),
        widget("teams", "table", group_by=["team"]),
    ]
    layout = {
        one["id"]: {"x": 0, "y": 4 * place, "w": 6, "h": 4} for place, one in enumerate(widgets)
    }
    return dashboard(widgets=widgets, layout=layout)


def logs():
    """A prompt that claims the person by name and email, in words of the client's own too."""

    def text(name, value):
        return {"key": name, "value": {"stringValue": value}}

    attributes = [
        text("event.name", "user_prompt"),
        text("session.id", "s"),
        text("event.sequence", "1"),
        text("user.email", EMAIL),
        text("user.full_name", NAME),
    ]
    record = {"timeUnixNano": "1772445600000000000", "attributes": attributes}
    scope = {"name": "com.anthropic.claude_code.events"}
    resource = [text("service.name", "claude-code"), text("host.user", NAME)]
    return {
        "resourceLogs": [
            {
                "resource": {"attributes": resource},
                "scopeLogs": [{"scope": scope, "logRecords": [record]}],
            }
        ]
    }


class Hiding:
    """A tenant with one person's work, its key, and people who sign in."""

    def __init__(self, client, engine, tenant):
        self.client, self.engine, self.tenant = client, engine, tenant
        self.ids = {}

    async def furnish(self):
        client, tenant = self.client, self.tenant
        made = await stored_session(
            client, tenant, external_id="s", user_email=EMAIL, team="web", repository="acme/shop"
        )
        self.ids = {"session": made["id"], "user": made["user_id"]}
        await stored_batch(client, tenant, [tool_metric(user_email=EMAIL, **SESSION)])
        async with tenant_connection(self.engine, TenantContext(tenant.id)) as connection:
            await connection.execute("UPDATE users SET name = $1 WHERE email = $2", NAME, EMAIL)
            call = ModelCallRecord(started_at=BASE, user_email=EMAIL, **SESSION)
            await write_facts(connection, tenant.id, [call])
        sent = await client.post("/v1/logs", json=logs(), headers=tenant.headers)
        assert sent.status_code == 200, sent.text
        self.ids["dashboard"] = (await self.post("dashboards", board(self.ids["user"])))["id"]
        rule = {"kind": "account_id", "value": "a", "user_email": EMAIL}
        self.ids["rule"] = (await self.post("identity-rules", rule))["rule"]["id"]
        key = {"name": "laptop", "scopes": ["ingest"], "user_id": self.ids["user"]}
        self.ids["key"] = (await self.post("keys", key))["id"]
        identities = await client.get("/api/v1/identities", headers=tenant.headers)
        self.ids["identity"] = identities.json()["data"][0]["id"]
        return self

    async def post(self, what, body):
        path = f"/api/v1/{what}"
        answer = await self.client.post(path, json=body, headers=self.tenant.headers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def hide(self, *, hides=True):
        body = {"hide_people": hides}
        answer = await self.client.patch("/api/v1/settings", json=body, headers=self.tenant.headers)
        assert answer.json()["hide_people"] is hides

    async def sign_in(self, role="owner"):
        """The headers of somebody's browser."""
        async with tenant_connection(self.engine, TenantContext(self.tenant.id)) as connection:
            user_id = await connection.fetchval(
                "INSERT INTO users (email, name, role) VALUES ($1, 'Boss', $2) RETURNING id",
                f"{uuid4().hex}@example.com",
                role,
            )
            made = await begin_sign_in(connection, UUID(str(user_id)), user_agent="a test")
        return {
            "Host": self.tenant.headers["Host"],
            "Cookie": f"{COOKIE}={made.token}",
            "Sec-Fetch-Site": "same-origin",
        }

    def path(self, template):
        one = {
            **{f"{name}_id": value for name, value in self.ids.items()},
            **self.ids,
            "version": "1",
            "name": "people",
            "agent": "codex",
        }
        return re.sub(r"{([a-z_]+)(:[a-z]+)?}", lambda found: one[found[1]], template)

    def tells(self, text):
        """What of the person stands in it."""
        return [one for one in (EMAIL, NAME, self.ids["user"]) if one.lower() in text.lower()]


@pytest.fixture(scope="module")
async def hiding(client, new_together, engine):
    made = await Hiding(client, engine, await new_together()).furnish()
    await made.hide()
    # Since telemetry arrived, it is remembered what the tenant allowed.
    await asyncio.sleep(TTL_S + 0.05)
    return made


@pytest.fixture(scope="module")
async def owner(hiding):
    return await hiding.sign_in()


async def documented(client, tenant):
    """Every path of the document that can be read."""
    document = (await client.get("/schema/openapi.json", headers=tenant.headers)).json()
    return sorted(
        path
        for path, operations in document["paths"].items()
        if "get" in operations and path.startswith("/api/") and "{token}" not in path
    )


async def test_no_route_tells_who_it_was_and_keys_are_told_as_before(client, hiding, owner):
    told, statuses, by_key = {}, {}, set()
    for template in await documented(client, hiding.tenant):
        path, asked = hiding.path(template), ASKED.get(template)
        answer = await client.get(path, params=asked, headers=owner)
        statuses[template] = answer.status_code
        if found := hiding.tells(answer.text):
            told[template] = found
        if not template.startswith("/api/v1/me"):
            shown = await client.get(path, params=asked, headers=hiding.tenant.headers)
            assert shown.status_code == 200, (template, shown.text)
            by_key |= {template} if hiding.tells(shown.text) else set()

    # The dashboard itself says whom its widget is about: somebody wrote that, and edits it so.
    written = {path for path in told if re.match(r"/api/v1/dashboards(/{dashboard_id}|$)", path)}
    assert {path: found for path, found in told.items() if path not in written} == {}
    assert all(told[path] == [hiding.ids["user"]] for path in written)
    assert {path for path, status in statuses.items() if status != 200} == REFUSED
    assert {
        "/api/v1/sessions",
        "/api/v1/sessions/{session_id}",
        "/api/v1/sessions/{session_id}/events",
        "/api/v1/tool-metrics",
        "/api/v1/model-calls",
        "/api/v1/keys",
        *REFUSED,
    } - {"/api/v1/identities/unclaimed"} <= by_key


@pytest.mark.parametrize(("path", "asked"), QUESTIONS)
async def test_a_question_about_people_is_refused(client, hiding, owner, path, asked):
    params = {name: value.replace("{user}", hiding.ids["user"]) for name, value in asked.items()}

    refused = await client.get(hiding.path(path), params=params, headers=owner)

    assert check_problem(refused, 403)["detail"] == HIDDEN
    if path.startswith("/api/"):
        answered = await client.get(hiding.path(path), params=params, headers=hiding.tenant.headers)
        assert answered.status_code == 200


async def test_a_search_finds_nobody_by_name(client, hiding, owner):
    async def search(words):
        params = {"from": "2026-03-01", "to": "2026-03-03", "q": words}
        return await client.get("/sessions", params=params, headers=owner)

    found = [await search(words) for words in (EMAIL, NAME, hiding.ids["user"])]
    there = await search("acme/shop")

    link = f'href="/sessions/{hiding.ids["session"]}'
    assert [link in answer.text for answer in found] == [False] * 3
    assert link in there.text


async def test_widgets_about_people_say_why_they_are_empty(client, hiding, owner):
    path = f"/api/v1/dashboards/{hiding.ids['dashboard']}/data"

    answer = await client.post(path, json=TIMES, headers=owner)
    body = {**TIMES, "filters": {"user_id": hiding.ids["user"]}}
    filtered = await client.post(path, json=body, headers=owner)
    by_key = await client.post(path, json=TIMES, headers=hiding.tenant.headers)

    grouped, one, teams = answer.json()["data"]
    assert (grouped["error"], one["error"], grouped["rows"], one["totals"]) == (
        HIDDEN,
        HIDDEN,
        [],
        None,
    )
    assert teams["rows"] == [{"team": "web", "count": 1}]
    assert answer.json()["names"] == {}
    assert [widget["error"] for widget in filtered.json()["data"]] == [HIDDEN] * 3
    assert not hiding.tells(answer.text + filtered.text)
    assert by_key.json()["names"][hiding.ids["user"]] == {"email": EMAIL, "name": NAME}


async def test_what_is_behind_a_figure_is_nobodys(client, hiding, owner):
    path = f"/api/v1/dashboards/{hiding.ids['dashboard']}/origin"
    figure = {**TIMES, "widget": "teams", "measure": "count", "row": {"team": "web"}}

    answer = await client.post(path, json=figure, headers=owner)
    refused = [
        await client.post(path, json={**figure, "widget": widget, "row": {}}, headers=owner)
        for widget in ("grouped", "filtered")
    ]
    by_key = await client.post(path, json=figure, headers=hiding.tenant.headers)

    assert answer.status_code == 200, answer.text
    assert answer.json()["sessions"]["count"] == 1
    assert not hiding.tells(answer.text)
    assert [check_problem(one, 403)["detail"] for one in refused] == [HIDDEN] * 2
    assert hiding.tells(by_key.text) == [EMAIL, NAME, hiding.ids["user"]]


async def test_what_is_changed_is_answered_without_who_it_was(client, hiding, owner):
    path = f"/api/v1/sessions/{hiding.ids['session']}"

    patched = await client.patch(path, json={"branch": "main"}, headers=owner)
    body = {"agent": "claude-code", "external_id": "s", "started_at": at()}
    posted = await client.post("/api/v1/sessions", json=body, headers=owner)
    rule = {"kind": "account_id", "value": "b", "user_email": EMAIL}
    ruled = await client.post("/api/v1/identity-rules", json=rule, headers=owner)

    assert (patched.status_code, posted.status_code) == (200, 200), patched.text + posted.text
    assert not hiding.tells(patched.text + posted.text)
    assert patched.json()["user"] is patched.json()["user_id"] is None
    assert check_problem(ruled, 403)["detail"] == HIDDEN


@pytest.mark.parametrize("role", ["owner", "viewer"])
async def test_no_page_tells_who_it_was(client, hiding, role):
    headers = await hiding.sign_in(role)
    days = {"from": "2026-03-01", "to": "2026-03-03"}
    told, seen = {}, set()
    for route in PAGES.routes:
        if "GET" not in route.methods:
            continue
        path = hiding.path(route.path)
        params = days if route.path in ABOUT_A_TIME else None
        answer = await client.get(path, params=params, headers=headers)
        if answer.status_code == 403 and role == "viewer":
            continue
        assert answer.status_code == 200, (route.path, answer.text)
        seen.add(route.path)
        # What somebody wrote into a dashboard is there to be edited, an id included.
        found = hiding.tells(answer.text)
        if "edit" in route.path or "version" in route.path:
            found = [one for one in found if one != hiding.ids["user"]]
        if found:
            told[route.path] = found

    assert told == {}
    assert {"/", "/people", "/set-up", "/settings"} <= seen


async def test_every_role_is_told_the_same_and_the_other_tenant_nothing_else(
    client, new_tenant, engine
):
    one = await Hiding(client, engine, await new_tenant()).furnish()
    other = await Hiding(client, engine, await new_tenant()).furnish()
    browsers = {role: await one.sign_in(role) for role in ("owner", "admin", "editor", "viewer")}
    elsewhere = await other.sign_in("viewer")
    path = "/api/v1/sessions"

    before = [one.tells((await client.get(path, headers=who)).text) for who in browsers.values()]
    await one.hide()
    await asyncio.sleep(TTL_S + 0.05)
    hidden = [one.tells((await client.get(path, headers=who)).text) for who in browsers.values()]
    theirs = other.tells((await client.get(path, headers=elsewhere)).text)
    await one.hide(hides=False)
    await asyncio.sleep(TTL_S + 0.05)
    after = [one.tells((await client.get(path, headers=who)).text) for who in browsers.values()]

    everything = [EMAIL, NAME, one.ids["user"]]
    assert before == after == [everything] * len(browsers)
    assert hidden == [[]] * len(browsers)
    assert theirs == [EMAIL, NAME, other.ids["user"]]


async def test_a_shared_link_shows_labels_as_before(client, hiding):
    body = {"kind": "link"}
    path = f"/api/v1/dashboards/{hiding.ids['dashboard']}/shares"
    shared = (await client.post(path, json=body, headers=hiding.tenant.headers)).json()
    link = f"/api/v1/shared/{shared['url'].rsplit('/', 1)[1]}"

    answer = await client.post(
        f"{link}/data", json=TIMES, headers={"Host": hiding.tenant.headers["Host"]}
    )

    grouped = answer.json()["data"][0]
    assert "error" not in grouped
    assert grouped["rows"][0]["user_id"].startswith("user ")
    assert not hiding.tells(answer.text)
