"""A hostile tenant with every route, method, id, key, cursor and host that it can get hold of."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from uuid import uuid4

import pytest

from acceptance.talk import (
    BASE,
    at,
    check_problem,
    check_refusal,
    dashboard,
    post_batch,
    rows_of,
    same_but_for_ids,
    session,
    stored_batch,
    stored_dashboard,
    stored_session,
    tool_metric,
)
from metrics_service.dashboards.file_controller import FILE
from metrics_service.db.engine import owner_connection
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest.records import ModelCallRecord
from metrics_service.ingest.write import write_facts
from metrics_service.otlp.openapi import LOGS, METRICS, TRACES
from metrics_service.tenants import lifecycle

HOLDS_EVERYWHERE_AFTER_S = 2.0
ME = "/api/v1/me"

# Which scope each route asks for; a route that is not here fails the tests, so that a new one is
# thought about. None: any credential of the tenant.
SCOPES = {
    ("GET", "/api/v1/me"): None,
    ("GET", "/api/v1/settings"): "admin",
    ("PATCH", "/api/v1/settings"): "admin",
    ("GET", "/api/v1/sessions"): "read",
    ("POST", "/api/v1/sessions"): "ingest",
    ("POST", "/api/v1/sessions/batch"): "ingest",
    ("GET", "/api/v1/sessions/summary"): "read",
    ("GET", "/api/v1/sessions/{id}"): "read",
    ("PATCH", "/api/v1/sessions/{id}"): "write",
    ("DELETE", "/api/v1/sessions/{id}"): "write",
    ("GET", "/api/v1/sessions/{id}/tool-metrics"): "read",
    ("GET", "/api/v1/sessions/{id}/model-calls"): "read",
    ("GET", "/api/v1/sessions/{id}/events"): "read",
    ("POST", "/api/v1/tool-metrics/batch"): "ingest",
    ("GET", "/api/v1/tool-metrics"): "read",
    ("GET", "/api/v1/tool-metrics/summary"): "read",
    ("GET", "/api/v1/model-calls"): "read",
    ("GET", "/api/v1/model-calls/summary"): "read",
    ("GET", "/api/v1/dashboards"): "read",
    ("POST", "/api/v1/dashboards"): "write",
    ("GET", "/api/v1/dashboards/{id}"): "read",
    ("PUT", "/api/v1/dashboards/{id}"): "write",
    ("DELETE", "/api/v1/dashboards/{id}"): "write",
    ("GET", "/api/v1/dashboards/{id}/versions"): "read",
    ("GET", "/api/v1/dashboards/{id}/versions/{version}"): "read",
    ("GET", "/api/v1/dashboards/{id}/versions/{version}/diff"): "read",
    ("POST", "/api/v1/dashboards/{id}/versions/{version}/restore"): "write",
    ("POST", "/api/v1/dashboards/{id}/copy"): "write",
    ("GET", "/api/v1/dashboards/{id}/export"): "read",
    ("POST", "/api/v1/dashboards/import"): "write",
    ("GET", "/api/v1/dashboards/{id}/shares"): "read",
    ("POST", "/api/v1/dashboards/{id}/shares"): "write",
    ("DELETE", "/api/v1/dashboards/{id}/shares/{share}"): "write",
    ("POST", "/api/v1/dashboards/{id}/data"): "read",
    ("POST", "/api/v1/dashboards/{id}/origin"): "read",
    ("GET", "/api/v1/dashboards/{id}/image"): "read",
    ("GET", "/api/v1/dashboard-templates"): "read",
    ("GET", "/api/v1/dashboard-templates/{name}"): "read",
    ("POST", "/api/v1/dashboard-templates/{name}/copy"): "write",
    ("GET", "/api/v1/ingest-log"): "admin",
    ("GET", "/api/v1/slow-queries"): "admin",
    ("GET", "/api/v1/slow-queries/summary"): "admin",
    ("GET", "/api/v1/keys"): "admin",
    ("POST", "/api/v1/keys"): "admin",
    ("DELETE", "/api/v1/keys/{id}"): "admin",
    ("GET", "/api/v1/setup"): "read",
    ("GET", "/api/v1/setup/{agent}"): "read",
    ("POST", "/api/v1/setup/{agent}"): "admin",
    ("GET", "/api/v1/identities"): "admin",
    ("GET", "/api/v1/identities/unclaimed"): "admin",
    ("GET", "/api/v1/identities/{id}"): "admin",
    ("PATCH", "/api/v1/identities/{id}"): "admin",
    ("GET", "/api/v1/identity-rules"): "admin",
    ("POST", "/api/v1/identity-rules"): "admin",
    ("DELETE", "/api/v1/identity-rules/{id}"): "admin",
    ("POST", "/v1/logs"): "ingest",
    ("POST", "/v1/metrics"): "ingest",
    ("POST", "/v1/traces"): "ingest",
}
HEALTH = {("GET", "/health"), ("GET", "/health/live"), ("GET", "/health/ready")}
# Without a key: the token in the path is the credential. Tested in test_dashboard_shares.py.
LINKED = {
    ("GET", "/api/v1/shared/{token}"),
    ("POST", "/api/v1/shared/{token}/data"),
    ("GET", "/api/v1/shared/{token}/image"),
}
# Of people who signed in; keys are refused. Tested in test_sign_in.py.
OF_PEOPLE = {
    ("POST", "/api/v1/me/password"),
    ("GET", "/api/v1/me/sign-ins"),
    ("DELETE", "/api/v1/me/sign-ins/{id}"),
}
# Of what nobody owns, admins alone say who else sees it.
OF_OWNERS = {route for route in SCOPES if "/shares" in route[1]}

BODIES = {
    ("PATCH", "/api/v1/settings"): lambda: {"keep_content": True},
    ("POST", "/api/v1/sessions"): lambda: session(),
    ("POST", "/api/v1/sessions/batch"): lambda: [session()],
    ("PATCH", "/api/v1/sessions/{id}"): lambda: {"branch": "stolen", "tags": ["stolen"]},
    ("POST", "/api/v1/tool-metrics/batch"): lambda: [tool_metric()],
    ("POST", "/api/v1/dashboards"): lambda: dashboard(),
    ("PUT", "/api/v1/dashboards/{id}"): lambda: dashboard(version=1, name="stolen"),
    ("POST", "/api/v1/dashboards/import"): lambda: FILE,
    ("POST", "/api/v1/dashboards/{id}/shares"): lambda: {"kind": "link"},
    ("POST", "/api/v1/dashboards/{id}/data"): dict,
    ("POST", "/api/v1/dashboards/{id}/origin"): lambda: {"widget": "a", "measure": "count"},
    ("POST", "/api/v1/keys"): lambda: {"name": "x", "scopes": ["admin"]},
    ("POST", "/api/v1/setup/{agent}"): lambda: {"key": {"name": "x"}},
    ("PATCH", "/api/v1/identities/{id}"): lambda: {"user_email": "thief@example.com"},
    ("POST", "/api/v1/identity-rules"): lambda: {
        "kind": "account_id",
        "value": "a-1",
        "user_email": "thief@example.com",
    },
    ("POST", "/v1/logs"): lambda: LOGS,
    ("POST", "/v1/metrics"): lambda: METRICS,
    ("POST", "/v1/traces"): lambda: TRACES,
}
SUMMARIES = {
    "/api/v1/tool-metrics/summary",
    "/api/v1/model-calls/summary",
    "/api/v1/sessions/summary",
}
WITH_ID = sorted(route for route in SCOPES if "{id}" in route[1])
# Settings are no list, and templates are everybody's; slow statements come by themselves, and have
# their own tests in test_slow_queries.py.
NO_ROWS = {"/api/v1/settings", "/api/v1/dashboard-templates", "/api/v1/slow-queries"}
LISTS = sorted(
    path
    for method, path in SCOPES
    if method == "GET" and path.endswith("s") and "{id}" not in path and path not in NO_ROWS
)


class Belongings:
    """One of everything that a tenant can have, with its ids."""

    def __init__(
        self,
        tenant,
        session_id,
        dashboard_id,
        key_id,
        user_id,
        share_id=None,
        *,
        identity_id=None,
        rule_id=None,
    ):
        self.tenant = tenant
        self.share_id = share_id
        self.session_id = session_id
        self.dashboard_id = dashboard_id
        self.key_id = key_id
        self.user_id = user_id
        self.identity_id = identity_id
        self.rule_id = rule_id

    def path(self, template, other_id=None):
        own = {
            "sessions": self.session_id,
            "dashboards": self.dashboard_id,
            "keys": self.key_id,
            "identities": self.identity_id,
            "identity-rules": self.rule_id,
        }
        one = other_id or next((own[kind] for kind in own if f"/{kind}/" in template), None)
        path = (
            template.replace("{id}", str(one)).replace("{version}", "1").replace("{name}", "cost")
        )
        return path.replace("{share}", str(self.share_id)).replace("{agent}", "codex")


@pytest.fixture(scope="module")
def furnished(client, new_together, engine):
    """Make a tenant that has one of everything."""

    async def make():
        tenant = await new_together()
        made = await stored_session(
            client, tenant, external_id="s", tags=["t"], user_email="ada@example.com"
        )
        more = [session(external_id=f"s{number}", tags=["t"]) for number in range(3)]
        await post_batch(client, tenant, more, path="/api/v1/sessions/batch")
        in_session = {"agent": "claude-code", "external_session_id": "s"}
        await stored_batch(
            client,
            tenant,
            [tool_metric(started_at=at(number), **in_session) for number in range(4)],
        )
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            calls = [
                ModelCallRecord(started_at=BASE, input_tokens=number, **in_session)
                for number in range(4)
            ]
            await write_facts(connection, tenant.id, calls)
        boards = [await stored_dashboard(client, tenant, name=f"d{number}") for number in range(3)]
        for name in ("k1", "k2", "k3"):
            body = {"name": name, "scopes": ["admin"]}
            issued = await client.post("/api/v1/keys", json=body, headers=tenant.headers)
        share = await client.post(
            f"/api/v1/dashboards/{boards[0]['id']}/shares",
            json={"kind": "link"},
            headers=tenant.headers,
        )
        await client.post("/v1/logs", json=claimed(tenant), headers=tenant.headers)
        for number in range(3):
            rule = {"kind": "account_id", "value": f"a{number}", "user_email": "ada@example.com"}
            ruled = await client.post("/api/v1/identity-rules", json=rule, headers=tenant.headers)
        identities = await client.get("/api/v1/identities", headers=tenant.headers)
        return Belongings(
            tenant,
            made["id"],
            boards[0]["id"],
            issued.json()["id"],
            made["user_id"],
            share.json()["id"],
            identity_id=identities.json()["data"][0]["id"],
            rule_id=ruled.json()["rule"]["id"],
        )

    return make


def claimed(tenant):
    """Logs that claim three people, in a session that is there already."""

    def attribute(name, value):
        return {"key": name, "value": {"stringValue": value}}

    records = [
        {
            "timeUnixNano": str(int(BASE.timestamp()) * 10**9),
            "attributes": [
                attribute("event.name", "user_prompt"),
                attribute("session.id", f"s{number}"),
                attribute("event.sequence", str(number)),
                attribute("installation.id", f"{tenant.slug}-{number}"),
            ],
        }
        for number in range(3)
    ]
    scope = {"name": "com.anthropic.claude_code.events"}
    resource = {"attributes": [attribute("service.name", "claude-code")]}
    return {
        "resourceLogs": [
            {"resource": resource, "scopeLogs": [{"scope": scope, "logRecords": records}]}
        ]
    }


@pytest.fixture(scope="module")
async def pair(client, furnished):
    """Two tenants, and what each sees of itself: attacks that fail change nothing of it."""
    one, other = await furnished(), await furnished()
    return one, other, await snapshot(client, one), await snapshot(client, other)


async def snapshot(client, who):
    """All that a tenant can see of itself."""
    seen = {path: await rows_of(client, path, who.tenant) for path in LISTS}
    for what in ("versions", "shares"):
        seen[what] = await rows_of(
            client, f"/api/v1/dashboards/{who.dashboard_id}/{what}", who.tenant
        )
    return seen


def query_of(path):
    return {"from": at(-60), "to": at(60)} if path in SUMMARIES else {}


async def call(client, route, path, headers):
    body = BODIES.get(route)
    return await client.request(
        route[0],
        path,
        params=query_of(route[1]),
        json=body() if body else None,
        headers=headers,
    )


def headers(host_of, key_of):
    return {"Host": host_of.headers["Host"], "Authorization": f"Bearer {key_of.key}"}


# -- the sweep --------------------------------------------------------------------------------------


async def test_every_route_of_the_document_is_in_the_sweep(client, tenant_once):
    response = await client.get("/schema/openapi.json", headers=tenant_once.headers)

    document = response.json()
    found = {
        (method.upper(), re.sub(r"{[a-z_]*_id}", "{id}", path.replace("{share_id}", "{share}")))
        for path, operations in document["paths"].items()
        for method in operations
        if method in {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
    }
    assert found == SCOPES.keys() | HEALTH | LINKED | OF_PEOPLE


@pytest.mark.parametrize("route", WITH_ID, ids=" ".join)
async def test_what_is_another_tenants_is_as_if_it_were_not(client, pair, route):
    one, other, _, before = pair
    theirs, nothing = other.path(route[1]), one.path(route[1], uuid4())

    with_theirs = await call(client, route, theirs, one.tenant.headers)
    with_nothing = await call(client, route, nothing, one.tenant.headers)

    check_problem(with_theirs, 404)
    their_id, no_id = theirs.split("/")[4], nothing.split("/")[4]
    assert same_but_for_ids(with_theirs, their_id, other.share_id) == same_but_for_ids(
        with_nothing, no_id, one.share_id
    )
    assert await snapshot(client, other) == before


@pytest.mark.parametrize("route", sorted(SCOPES), ids=" ".join)
async def test_a_key_is_worth_nothing_on_another_tenants_host(client, pair, route):
    one, other, *before = pair

    answers = [
        await call(client, route, whose.path(route[1]), headers(host, key))
        for whose in (one, other)
        for host, key in ((one.tenant, other.tenant), (other.tenant, one.tenant))
    ]
    unknown = headers(one.tenant, one.tenant) | {
        "Authorization": "Bearer msk_0123456789_" + "A" * 43
    }
    baseline = await call(client, route, one.path(route[1]), unknown)

    ids = [
        str(value)
        for whose in (one, other)
        for value in (
            whose.session_id,
            whose.dashboard_id,
            whose.key_id,
            whose.share_id,
            whose.identity_id,
            whose.rule_id,
        )
    ]
    expected = same_but_for_ids(baseline, *ids)
    for answer in answers:
        check_refusal(answer, 401)
        assert same_but_for_ids(answer, *ids) == expected
    assert [await snapshot(client, one), await snapshot(client, other)] == before


@pytest.mark.parametrize("path", LISTS)
async def test_a_cursor_of_another_tenant_is_no_cursor(client, pair, path):
    one, other, *_ = pair
    page = await client.get(path, params={"limit": 1}, headers=other.tenant.headers)
    cursor = page.json()["meta"]["next_cursor"]

    stolen = await client.get(path, params={"cursor": cursor}, headers=one.tenant.headers)
    invented = await client.get(path, params={"cursor": "x" * 60}, headers=one.tenant.headers)

    check_problem(stolen, 400)
    assert same_but_for_ids(stolen) == same_but_for_ids(invented)


@pytest.mark.parametrize("path", LISTS)
async def test_a_list_shows_what_is_the_tenants_and_counts_nothing_else(client, pair, path):
    one, other, *_ = pair

    ours, theirs = (
        await rows_of(client, path, one.tenant),
        await rows_of(client, path, other.tenant),
    )
    page = await client.get(path, params={"page": 1}, headers=one.tenant.headers)

    assert not {row["id"] for row in ours} & {row["id"] for row in theirs}
    assert page.json()["meta"]["total"] == len(ours) == len(theirs) > 0


@pytest.mark.parametrize(
    "path", ["/api/v1/sessions", "/api/v1/tool-metrics", "/api/v1/model-calls"]
)
async def test_a_user_of_another_tenant_filters_like_nobody(client, pair, path):
    one, other, *_ = pair

    theirs = await client.get(
        path, params={"user_id": other.user_id, "page": 1}, headers=one.tenant.headers
    )
    nobody = await client.get(
        path, params={"user_id": str(uuid4()), "page": 1}, headers=one.tenant.headers
    )

    assert theirs.json() == nobody.json()
    assert theirs.json()["meta"]["total"] == 0


@pytest.mark.parametrize("path", sorted(SUMMARIES))
async def test_a_summary_counts_the_tenants_own_alone(client, pair, path):
    one, *_ = pair

    response = await client.get(path, params=query_of(path), headers=one.tenant.headers)

    assert [row["count"] for row in response.json()["data"]] == [4]


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("/api/v1/tool-metrics/batch", lambda other: tool_metric(session_id=other.session_id)),
        ("/api/v1/sessions/batch", lambda other: session(user_id=other.user_id)),
    ],
)
async def test_a_batch_that_names_what_is_another_tenants_learns_nothing(
    client, pair, count_rows, path, item
):
    one, other, _, theirs = pair
    nobody = Belongings(None, uuid4(), uuid4(), uuid4(), uuid4())
    before = await count_rows(one.tenant), theirs

    named = await post_batch(client, one.tenant, [item(other)], path=path)
    invented = await post_batch(client, one.tenant, [item(nobody)], path=path)

    check_problem(named, 422)
    assert same_but_for_ids(named) == same_but_for_ids(invented)
    assert (await count_rows(one.tenant), await snapshot(client, other)) == before


async def test_the_same_words_are_different_things_in_different_tenants(client, furnished):
    one, other = await furnished(), await furnished()
    item_id = str(uuid4())

    receipts = [
        await stored_batch(client, who.tenant, [tool_metric(id=item_id)]) for who in (one, other)
    ]
    await client.delete(f"/api/v1/sessions/{one.session_id}", headers=one.tenant.headers)

    assert [receipt["inserted"] for receipt in receipts] == [1, 1]
    assert one.session_id != other.session_id
    their = await client.get(f"/api/v1/sessions/{other.session_id}", headers=other.tenant.headers)
    assert their.json()["tool_call_count"] == 4


async def test_tenants_that_work_at_the_same_time_never_see_each_other(client, furnished):
    tenants = [await furnished() for _ in range(4)]

    async def work(who):
        for number in range(10):
            await stored_session(
                client, who.tenant, external_id=f"x{number}", branch=who.session_id
            )
            rows = await rows_of(client, "/api/v1/sessions", who.tenant)
            assert {row["branch"] for row in rows} == {None, who.session_id}
            me = await client.get(ME, headers=who.tenant.headers)
            assert me.json()["tenant"]["id"] == str(who.tenant.id)
            stranger = tenants[(tenants.index(who) + 1) % 4]
            path = f"/api/v1/sessions/{stranger.session_id}"
            assert (await client.get(path, headers=who.tenant.headers)).status_code == 404

    await asyncio.gather(*(work(who) for who in tenants for _ in range(2)))


# -- scopes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["ingest", "read", "write", "admin"])
async def test_a_key_may_do_what_its_scope_says_and_no_more(client, furnished, new_key, scope):
    one = await furnished()
    issued = await new_key(one.tenant, scopes=(scope,))
    limited = {"Host": one.tenant.headers["Host"], "Authorization": f"Bearer {issued.key}"}

    # What replaces comes first, while it is the first version; what deletes comes last, parts before
    # their whole.
    order = {"PUT": 0, "DELETE": 2}
    for route in sorted(SCOPES, key=lambda one: (order.get(one[0], 1), -len(one[1]), one)):
        response = await call(client, route, one.path(route[1]), limited)
        is_enough = SCOPES[route] in (None, scope) and route not in OF_OWNERS
        if is_enough or scope == "admin":
            assert response.status_code in (200, 201, 204), (route, response.text)
        else:
            check_refusal(response, 403)


@pytest.mark.parametrize("route", WITH_ID, ids=" ".join)
async def test_a_key_without_the_scope_learns_nothing_about_what_exists(
    client, pair, new_key, route
):
    one, *_ = pair
    other_scope = "ingest" if SCOPES[route] != "ingest" else "read"
    issued = await new_key(one.tenant, scopes=(other_scope,))
    limited = {"Host": one.tenant.headers["Host"], "Authorization": f"Bearer {issued.key}"}
    nowhere = uuid4()

    exists = await call(client, route, one.path(route[1]), limited)
    not_there = await call(client, route, one.path(route[1], nowhere), limited)

    check_problem(exists, 403)
    own = one.path(route[1]).split("/")[4]
    assert same_but_for_ids(exists, own) == same_but_for_ids(not_there, nowhere)


# -- credentials ------------------------------------------------------------------------------------


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_a_key_is_taken_as_bearer_as_api_key_and_as_password(client, tenant_once):
    host, key = tenant_once.headers["Host"], tenant_once.key
    ways = [
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer   {key}"},
        {"X-API-Key": key},
        {"Authorization": basic("anything", key)},
        {"Authorization": basic("", key)},
        {"X-API-Key": key, "Authorization": f"Bearer {key}"},
    ]

    answers = [await client.get(ME, headers={"Host": host, **way}) for way in ways]

    assert [answer.status_code for answer in answers] == [200] * len(ways)


async def test_what_is_no_credential_is_refused_alike(client, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    host, key = tenant.headers["Host"], tenant.key
    ways = [
        [],
        [("Authorization", "")],
        [("Authorization", key)],
        [("Authorization", f"Token {key}")],
        [("Authorization", "Bearer")],
        [("Authorization", "Basic !!!")],
        [("Authorization", basic(key, ""))],
        [("Authorization", "Basic " + base64.b64encode(key.encode()).decode())],
        [("Authorization", f"Bearer {other.key}")],
        [("X-API-Key", other.key)],
        [("Authorization", basic("x", other.key))],
        [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")],
        [("X-API-Key", key), ("X-API-Key", other.key)],
        [("X-API-Key", other.key), ("Authorization", f"Bearer {key}")],
        [("Cookie", f"key={key}")],
        [("Authorization", b"Bearer \xff\xfe")],
        [("Authorization", f"Bearer {key},{key}")],
        [("Authorization", "Bearer msk_" + "' OR 1=1 --")],
    ]

    answers = [await client.get(ME, headers=[("Host", host), *way]) for way in ways]

    for way, answer in zip(ways, answers, strict=True):
        assert answer.status_code == 401, way
    assert len({str(same_but_for_ids(answer)) for answer in answers}) == 1


async def test_a_key_in_the_query_is_no_credential(client, tenant_once):
    response = await client.get(
        f"{ME}?key={tenant_once.key}&x-api-key={tenant_once.key}",
        headers={"Host": tenant_once.headers["Host"]},
    )

    check_problem(response, 401)


async def test_a_wrong_key_takes_as_long_as_an_unknown_one(client, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    kinds = {
        "other": other.key,
        "same prefix": tenant.key[:-4] + "AAAA",
        "unknown": "msk_0123456789_" + "A" * 43,
        "shapeless": "x",
    }
    taken = {name: [] for name in kinds}

    for _ in range(25):
        for name, key in kinds.items():
            begun = time.perf_counter()
            response = await client.get(
                ME, headers={"Host": tenant.headers["Host"], "Authorization": f"Bearer {key}"}
            )
            taken[name].append(time.perf_counter() - begun)
            assert response.status_code == 401

    best = {name: sorted(times)[5] for name, times in taken.items()}
    assert max(best.values()) < 3 * min(best.values()), best


# -- hosts ------------------------------------------------------------------------------------------


async def test_all_forms_of_the_tenants_host_are_the_tenant(client, tenant_once):
    domain = tenant_once.tenant.domain
    for host in (
        f"{domain}.localhost",
        domain,
        f"{domain}.LOCALHOST:8000",
        f"{domain.upper()}.localhost.",
        f"{domain}:1",
        f"{domain}.:65535",
    ):
        response = await client.get(ME, headers={**tenant_once.headers, "Host": host})
        assert response.json()["tenant"]["id"] == str(tenant_once.id), host


async def test_a_host_of_nobody_gets_the_same_answer_whatever_is_asked(client, tenant_once):
    domain = tenant_once.tenant.domain
    hosts = [
        "nobody.localhost",
        "nobody",
        "localhost",
        "127.0.0.1",
        "[::1]:8000",
        f"x.{domain}.localhost",
        f"{domain}.localhost.localhost",
        f"{domain}.example.com",
        f"{domain}x.localhost",
        "xn--nxasmq6b.localhost",
        str(tenant_once.id),
    ]

    answers = [
        await client.get(path, headers={**tenant_once.headers, "Host": host})
        for host in hosts
        for path in (ME, "/api/v1/sessions", "/schema/openapi.json", "/")
    ]

    for answer in answers:
        check_problem(answer, 404)
    bodies = {
        (answer.json()["title"], answer.json()["detail"], answer.json()["type"])
        for answer in answers
    }
    assert len(bodies) == 1


async def test_headers_that_speak_of_another_host_are_ignored(client, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    theirs = other.headers["Host"]

    response = await client.get(
        ME,
        headers={
            **tenant.headers,
            "X-Forwarded-Host": theirs,
            "Forwarded": f"host={theirs}",
            "X-Host": theirs,
            "X-Original-Host": theirs,
            "X-Tenant": other.slug,
            "X-Tenant-Id": str(other.id),
        },
    )

    assert response.json()["tenant"]["id"] == str(tenant.id)


async def test_the_target_of_a_request_does_not_override_its_host(wire, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    heard = await wire.say(
        f"GET http://{other.headers['Host']}{ME} HTTP/1.1\r\n"
        f"Host: {tenant.headers['Host']}\r\nAuthorization: Bearer {other.key}\r\n"
        "Connection: close\r\n\r\n".encode()
    )

    assert heard.split(b" ")[1] in (b"400", b"401", b"404"), heard
    assert str(other.id).encode() not in heard


@pytest.mark.parametrize("route", sorted(SCOPES), ids=" ".join)
async def test_a_suspended_tenant_gets_the_same_answer_on_every_route(client, suspended, route):
    path = Belongings(None, uuid4(), uuid4(), uuid4(), uuid4(), uuid4()).path(route[1])

    with_key = await call(client, route, path, suspended.headers)
    without = await call(client, route, path, {"Host": suspended.headers["Host"]})

    for answer in (with_key, without):
        assert check_refusal(answer, 403) == "this tenant is suspended"


@pytest.fixture(scope="module")
async def suspended(addresses, new_together):
    tenant = await new_together()
    async with owner_connection(addresses.require_owner()) as connection:
        await lifecycle.suspend(connection, tenant.slug)
    return tenant


async def until(status, clients, request):
    """How long it takes until all of these processes answer with this status."""
    begun = time.monotonic()
    for client in clients:
        while (await request(client)).status_code != status:
            assert time.monotonic() - begun < 5
            await asyncio.sleep(0.02)
    return time.monotonic() - begun


async def test_suspending_and_resuming_hold_in_every_process_within_two_seconds(
    client, open_app, wire, new_tenant, addresses
):
    tenant = await new_tenant()

    async def me(one):
        return await one.get(ME, headers=tenant.headers)

    async with open_app() as second, wire.client() as far:
        everywhere = (client, second, far)
        for one in everywhere:
            assert (await me(one)).status_code == 200
        async with owner_connection(addresses.require_owner()) as connection:
            await lifecycle.suspend(connection, tenant.slug)
            suspended_after = await until(403, everywhere, me)
            await lifecycle.resume(connection, tenant.slug)
            resumed_after = await until(200, everywhere, me)

    assert suspended_after < HOLDS_EVERYWHERE_AFTER_S
    assert resumed_after < HOLDS_EVERYWHERE_AFTER_S


async def test_a_deleted_tenant_is_a_host_of_nobody_and_its_keys_never_live_again(
    client, open_app, wire, new_tenant, addresses
):
    tenant = await new_tenant()

    async def me(one):
        return await one.get(ME, headers=tenant.headers)

    async with open_app() as second, wire.client() as far:
        everywhere = (client, second, far)
        for one in everywhere:
            await me(one)
        async with owner_connection(addresses.require_owner()) as connection:
            await lifecycle.delete(connection, tenant.slug)
        gone_after = await until(404, everywhere, me)

    assert gone_after < HOLDS_EVERYWHERE_AFTER_S
    problem = check_problem(await me(client), 404)
    assert (
        problem["detail"] == "nothing is served at this address; its host must be a tenant's domain"
    )


async def test_a_domain_serves_within_two_seconds_of_being_added_and_no_longer_when_removed(
    client, open_app, wire, new_tenant, addresses
):
    tenant = await new_tenant()
    domain = f"metrics.{tenant.slug}.example.com"

    async def me(one):
        return await one.get(ME, headers={**tenant.headers, "Host": f"{domain}:443"})

    async with open_app() as second, wire.client() as far:
        everywhere = (client, second, far)
        for one in everywhere:
            assert (await me(one)).status_code == 404
        async with owner_connection(addresses.require_owner()) as connection:
            await lifecycle.add_domain(connection, tenant.id, domain)
            added_after = await until(200, everywhere, me)
            await lifecycle.remove_domain(connection, tenant.tenant, domain)
            removed_after = await until(404, everywhere, me)

    assert added_after < HOLDS_EVERYWHERE_AFTER_S
    assert removed_after < HOLDS_EVERYWHERE_AFTER_S


async def test_a_domain_that_moves_takes_no_key_with_it(client, new_tenant, addresses):
    one, other = await new_tenant(), await new_tenant()
    domain = f"{one.slug}.example.org"
    async with owner_connection(addresses.require_owner()) as connection:
        await lifecycle.add_domain(connection, one.id, domain)
        before = await until(
            200, [client], lambda c: c.get(ME, headers={**one.headers, "Host": domain})
        )
        await lifecycle.remove_domain(connection, one.tenant, domain)
        await lifecycle.add_domain(connection, other.id, domain)

    await until(401, [client], lambda c: c.get(ME, headers={**one.headers, "Host": domain}))
    theirs = await client.get(ME, headers={**other.headers, "Host": domain})

    assert before < HOLDS_EVERYWHERE_AFTER_S
    assert theirs.json()["tenant"]["id"] == str(other.id)
