"""The operator's API: tenants, jobs, migrations, processes and what became of them."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from acceptance.operators import API, HOST, Site, opened_site
from acceptance.talk import check_problem
from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import OWNER
from metrics_service.tenants import lifecycle
from metrics_service.tenants.registry import get_tenant
from metrics_service.tenants.revisions import head

LISTS = {
    "tenants": {"data", "meta"},
    "jobs": {"data", "meta"},
    "migrations": {"data", "meta", "heads", "counts"},
    "processes": {"data", "meta"},
    "health-events": {"data", "meta"},
    "slow-queries": {"data", "meta"},
    "audit-log": {"data", "meta"},
}


@pytest.fixture(scope="module")
async def site(open_app, addresses):
    async with opened_site(open_app, addresses) as opened:
        yield opened


@pytest.fixture(scope="module")
def on_registry(as_owner):
    """Run one statement on the registry's tables."""

    async def run(statement, **values):
        await as_owner(f"SET LOCAL ROLE {OWNER}")
        await as_owner(statement, **values)

    return run


async def pieces(piece: bytes, count: int):
    """A body of which nobody knows the length before it has arrived."""
    for _ in range(count):
        yield piece


async def found(site: Site, path: str, **query) -> dict:
    response = await site.get(f"{API}/{path}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def jobs_of(site: Site, **query) -> list[dict]:
    return (await found(site, "jobs", limit=500, **query))["data"]


# -- who ---------------------------------------------------------------------------------------------


async def test_me_says_whose_key_it_is(site):
    me = await found(site, "me")

    assert me == {"id": str(site.key.id), "name": site.key.name, "expires_at": None}


@pytest.mark.parametrize("how", ["bearer", "x-api-key", "basic"])
async def test_a_key_is_taken_in_three_ways(site, how):
    options = {
        "bearer": {"headers": {"Authorization": f"Bearer {site.key.key}"}},
        "x-api-key": {"headers": {"X-API-Key": site.key.key}},
        "basic": {"auth": ("anybody", site.key.key)},
    }[how]
    options["headers"] = {"Host": HOST, **options.get("headers", {})}

    response = await site.client.get(f"{API}/me", **options)

    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer mso_0123456789_x"},
        {"X-API-Key": "x" * 600},
        {"Authorization": "Basic !"},
        {"Cookie": "__Host-metrics-operator=x"},
    ],
)
async def test_strangers_are_told_nothing_but_that_a_key_is_needed(site, headers):
    for path in (f"{API}/me", f"{API}/tenants", f"{API}/nothing", "/metrics", "/health", "/schema"):
        response = await site.client.get(path, headers={"Host": HOST, **headers})
        problem = check_problem(response, 401)
        assert problem["detail"] == "a valid operator key is required"
        assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_revoked_key_stops_within_two_seconds(site):
    issued = await site.new_key()
    headers = {"Host": HOST, "Authorization": f"Bearer {issued.key}"}
    assert (await site.client.get(f"{API}/me", headers=headers)).status_code == 200

    await site.revoke(issued)
    begun = asyncio.get_running_loop().time()
    while (await site.client.get(f"{API}/me", headers=headers)).status_code != 401:
        assert asyncio.get_running_loop().time() - begun < 5
        await asyncio.sleep(0.02)

    assert asyncio.get_running_loop().time() - begun < 2


async def test_a_key_that_the_registry_knows_to_be_dead_is_refused_although_it_is_remembered(
    site, on_registry
):
    issued = await site.new_key()
    headers = {"Host": HOST, "Authorization": f"Bearer {issued.key}"}
    await site.client.get(f"{API}/me", headers=headers)
    # Without a word to the processes.
    await on_registry(
        "UPDATE public.operator_keys SET revoked_at = now() WHERE id = :id", id=issued.id
    )

    check_problem(await site.client.get(f"{API}/tenants", headers=headers), 401)


async def test_failed_attempts_are_counted_and_a_valid_key_is_always_served(open_app, addresses):
    async with opened_site(open_app, addresses, metrics_auth_failures_per_minute=3) as site:
        wrong = {"Host": HOST, "Authorization": "Bearer mso_0123456789_wrong"}
        statuses = [
            (await site.client.get(f"{API}/me", headers=wrong)).status_code for _ in range(5)
        ]
        nothing = (await site.client.get(f"{API}/me", headers={"Host": HOST})).status_code

        assert statuses == [401, 401, 401, 429, 429]
        assert nothing == 401
        assert (await site.get(f"{API}/me")).status_code == 200


# -- tenants -----------------------------------------------------------------------------------------


async def test_a_tenant_is_listed_with_size_rate_and_state(site, new_tenant, on_registry, engine):
    tenant = await new_tenant(plan="pro")
    await on_registry(
        "INSERT INTO public.tenant_sizes (tenant_id, bytes, row_count, sessions, sessions_today)"
        " VALUES (:id, 4096, 7, 3, 2)",
        id=tenant.id,
    )
    await on_registry(
        "INSERT INTO public.tenant_activity"
        " (tenant_id, bucket, requests, failures, refusals, records, duplicates, bytes) VALUES"
        " (:id, now() - interval '10 minutes', 5, 1, 2, 100, 3, 999),"
        " (:id, now() - interval '3 hours', 50, 0, 0, 1000, 0, 9)",
        id=tenant.id,
    )

    page = await found(site, "tenants", q=tenant.slug)

    assert page["meta"] == {"limit": 50, "page": 1, "total": 1, "pages": 1}
    (row,) = page["data"]
    assert (row["slug"], row["plan"], row["status"]) == (tenant.slug, "pro", "active")
    assert (row["schema_revision"], row["schema_status"]) == (head("tenant"), "ready")
    assert (row["bytes"], row["row_count"], row["sessions"], row["sessions_today"]) == (
        4096, 7, 3, 2,
    )  # fmt: skip
    assert (row["requests_hour"], row["failures_hour"], row["refusals_hour"]) == (5, 1, 2)
    assert (row["records_hour"], row["records_day"], row["bytes_day"]) == (100, 1100, 1008)
    assert await found(site, f"tenants/{tenant.id}") == row
    activity = (await found(site, "activity", tenant_id=str(tenant.id)))["data"]
    assert [one["records"] for one in activity] == [1000, 100]
    totals = await found(site, "statistics")
    assert totals["tenants"] >= totals["active"] >= 1
    assert totals["measured"] >= 1
    assert totals["bytes"] >= 4096


async def test_tenants_are_found_by_state_and_name_and_sorted_by_what_they_hold(
    site, new_together, addresses, on_registry
):
    mark = uuid4().hex[:10]
    tenants = [await new_together() for _ in range(3)]
    async with owner_connection(addresses.require_owner()) as connection:
        for number, one in enumerate(tenants):
            await lifecycle.rename(connection, one.slug, new_name=f"{mark} No. {number}", slug=None)
        await lifecycle.suspend(connection, tenants[0].slug)
    for number, one in enumerate(tenants[:2]):
        await on_registry(
            "INSERT INTO public.tenant_sizes (tenant_id, bytes, row_count, sessions,"
            " sessions_today) VALUES (:id, :bytes, 0, 0, 0)",
            id=one.id,
            bytes=1000 * (number + 1),
        )

    async def slugs(**query):
        return [
            row["slug"] for row in (await found(site, "tenants", q=mark.upper(), **query))["data"]
        ]

    expected = [one.slug for one in tenants]
    assert sorted(await slugs()) == sorted(expected)
    assert await slugs(status="suspended") == expected[:1]
    assert await slugs(sort="-bytes") == [expected[1], expected[0], expected[2]]
    assert await slugs(sort="bytes") == [expected[0], expected[1], expected[2]]
    one_by_one = [
        (await found(site, "tenants", q=mark, sort="slug", limit=1, page=page))["data"][0]["slug"]
        for page in (1, 2, 3)
    ]
    assert one_by_one == sorted(expected)
    beyond = await found(site, "tenants", q=mark, limit=1, page=9)
    assert beyond == {"data": [], "meta": {"limit": 1, "page": 9, "total": 3, "pages": 3}}


async def test_a_tenant_that_is_not_there_is_not_found(site):
    check_problem(await site.get(f"{API}/tenants/{uuid4()}"), 404)
    check_problem(await site.get(f"{API}/tenants/me"), 404)
    check_problem(await site.post(f"{API}/tenants/{uuid4()}/suspend"), 404)
    check_problem(await site.post(f"{API}/tenants/{uuid4()}/resume"), 404)


async def test_provisioning_is_queued_as_it_will_be_done(site):
    slug = f"n{uuid4().hex[:12]}"
    body = {"slug": slug, "name": " Acme ", "domain": f"M.{slug}.Example.", "plan": "pro"}

    response = await site.post(f"{API}/tenants", json=body)

    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"{API}/jobs/{job['id']}"
    assert (job["kind"], job["status"], job["queued_by"]) == ("provision", "queued", site.key.name)
    assert job["arguments"] == {
        "slug": slug, "name": "Acme", "domain": f"m.{slug}.example", "plan": "pro",
    }  # fmt: skip
    assert await found(site, f"jobs/{job['id']}") == job
    assert job in await jobs_of(site, kind="provision", status="queued")
    assert job not in await jobs_of(site, kind="upgrade")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("slug", {"slug": ""}),
        ("slug", {"slug": "Acme Inc"}),
        ("slug", {"slug": "admin"}),
        ("slug", {"slug": "x" * 64}),
        ("slug", {"slug": 7}),
        ("slug", {"slug": "a\0"}),
        ("name", {"name": ""}),
        ("name", {"name": "a\nb"}),
        ("domain", {"domain": "127.0.0.1"}),
        ("domain", {"domain": "not a host"}),
        ("domain", {"domain": HOST}),
        ("plan", {"plan": "free"}),
        ("schema_name", {"schema_name": "public"}),
    ],
)
async def test_a_bad_field_of_a_tenant_is_named_and_nothing_is_queued(site, field, change):
    before = await jobs_of(site)
    body = {"slug": f"n{uuid4().hex[:12]}", **change}

    response = await site.post(f"{API}/tenants", json=body)

    (error,) = check_problem(response, 422)["errors"]
    assert error["field"] == field
    assert await jobs_of(site) == before


async def test_a_body_that_cannot_be_parsed_is_refused_for_what_is_wrong_with_it(site):
    path = f"{API}/tenants"
    as_json = {"Content-Type": "application/json"}

    for body in (b"", b"{", b"[]x", b"\xff", b"[" * 100_000):
        check_problem(await site.post(path, content=body, headers=as_json), 400)
    check_problem(await site.post(path, content=b"slug=a", headers={"Content-Type": "text/x"}), 415)
    check_problem(await site.post(path, content=b'{"slug": "a"}'), 415)
    check_problem(await site.post(path, content=pieces(b" " * 2**20, 2), headers=as_json), 413)
    check_problem(await site.client.delete(path, headers=site.headers), 405)


async def test_a_slug_or_a_domain_that_is_taken_is_a_conflict(site, new_tenant):
    tenant = await new_tenant()
    slug = f"n{uuid4().hex[:12]}"

    by_slug = await site.post(f"{API}/tenants", json={"slug": tenant.slug, "domain": slug})
    by_domain = await site.post(
        f"{API}/tenants", json={"slug": slug, "domain": tenant.tenant.domain}
    )

    assert check_problem(by_slug, 409)["detail"] == f"slug {tenant.slug} is taken"
    assert check_problem(by_domain, 409)["detail"] == f"domain {tenant.tenant.domain} is taken"


async def test_suspending_and_resuming_are_queued_for_a_tenant_that_is_there(site, new_tenant):
    tenant = await new_tenant()

    for verb in ("suspend", "resume"):
        response = await site.post(f"{API}/tenants/{tenant.id}/{verb}")
        assert response.status_code == 202, response.text
        job = response.json()
        assert (job["kind"], job["arguments"]) == (verb, {"tenant_id": str(tenant.id)})

    audit = (await found(site, "audit-log", tenant_id=str(tenant.id)))["data"]
    assert [(row["actor"], row["action"]) for row in audit[:2]] == [
        (site.key.name, "queue resume"),
        (site.key.name, "queue suspend"),
    ]


async def test_a_tenant_that_is_being_deleted_is_neither_suspended_nor_resumed(
    site, new_tenant, on_registry
):
    tenant = await new_tenant()
    await on_registry("UPDATE public.tenants SET status = 'deleting' WHERE id = :id", id=tenant.id)

    for verb in ("suspend", "resume"):
        response = await site.post(f"{API}/tenants/{tenant.id}/{verb}")
        assert check_problem(response, 409)["detail"] == f"tenant {tenant.slug} is deleting"


async def test_a_repeated_request_finds_its_job_and_queues_no_second(site):
    body = {"slug": f"n{uuid4().hex[:12]}"}
    named = {"Idempotency-Key": uuid4().hex}

    first = await site.post(f"{API}/tenants", json=body, headers=named)
    at_once = await asyncio.gather(
        *(site.post(f"{API}/tenants", json=body, headers=named) for _ in range(4))
    )
    other = await site.post(f"{API}/tenants", json={"slug": "another"}, headers=named)

    assert first.status_code == 202, first.text
    assert "idempotency-replayed" not in first.headers
    assert {one.text for one in at_once} == {first.text}
    assert {one.headers["idempotency-replayed"] for one in at_once} == {"true"}
    check_problem(other, 422)
    jobs = [job for job in await jobs_of(site) if job["arguments"].get("slug") == body["slug"]]
    assert len(jobs) == 1


async def test_the_same_key_of_two_operators_names_two_jobs(site):
    other = await site.new_key()
    named = {"Idempotency-Key": uuid4().hex}

    ours = await site.post(f"{API}/migrations", headers=named)
    theirs = await site.post(
        f"{API}/migrations", headers={**named, "Authorization": f"Bearer {other.key}"}
    )

    assert ours.json()["id"] != theirs.json()["id"]
    assert theirs.json()["queued_by"] == other.name


async def test_jobs_beyond_a_thousand_are_refused_for_a_while(site, on_registry):
    await on_registry(
        "INSERT INTO public.fleet_jobs (id, kind, arguments, queued_by)"
        " SELECT gen_random_uuid(), 'upgrade', '{}', 'crowd' FROM generate_series(1, 1000)"
    )
    try:
        response = await site.post(f"{API}/migrations")
    finally:
        await on_registry("DELETE FROM public.fleet_jobs WHERE queued_by = 'crowd'")

    check_problem(response, 429)
    assert int(response.headers["retry-after"]) >= 1


# -- migrations --------------------------------------------------------------------------------------


async def test_the_ledger_shows_what_is_behind_and_what_failed_first(
    site, new_tenant, addresses, on_registry
):
    behind, failed = await new_tenant(), await new_tenant()
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        names = [(await get_tenant(connection, one.slug)).schema_name for one in (behind, failed)]
    before = (await found(site, "migrations"))["counts"]
    await on_registry(
        "UPDATE public.tenant_schemas SET revision = NULL WHERE schema_name = :name", name=names[0]
    )
    await on_registry(
        "UPDATE public.tenant_schemas SET status = 'failed', last_error = 'it broke'"
        " WHERE schema_name = :name",
        name=names[1],
    )
    try:
        page = await found(site, "migrations", limit=500)
        of_state = {
            state: [
                row["schema_name"]
                for row in (await found(site, "migrations", state=state, limit=500))["data"]
            ]
            for state in ("behind", "failed", "current")
        }
    finally:
        await on_registry(
            "UPDATE public.tenant_schemas SET status = 'ready', last_error = NULL,"
            " revision = :head WHERE schema_name IN (:one, :other)",
            head=head("tenant"),
            one=names[0],
            other=names[1],
        )

    assert page["heads"] == {"registry": head("registry"), "tenant": head("tenant")}
    assert page["counts"]["schemas"] == before["schemas"]
    assert page["counts"]["behind"] == before["behind"] + 1
    assert page["counts"]["failed"] == before["failed"] + 1
    rows = {row["schema_name"]: row for row in page["data"]}
    assert rows[names[1]]["last_error"] == "it broke"
    assert (rows[names[0]]["state"], rows[names[0]]["slug"]) == ("behind", behind.slug)
    assert rows["public"]["tenant_id"] is None
    states = [row["state"] for row in page["data"]]
    assert states == sorted(states, key=["failed", "behind", "current"].index)
    assert names[0] in of_state["behind"]
    assert names[1] in of_state["failed"]
    assert not {*names} & {*of_state["current"]}


async def test_an_upgrade_is_queued_for_all_schemas_or_for_one_that_is_there(site):
    everything = await site.post(f"{API}/migrations")
    one = await site.post(f"{API}/migrations", json={"schema": "public"})
    none = await site.post(f"{API}/migrations", json={"schema": "t_nobody"})
    wrong = await site.post(f"{API}/migrations", json={"schema": "pg_catalog"})

    assert everything.status_code == one.status_code == 202
    assert everything.json()["arguments"] == {"schema": None}
    assert one.json()["arguments"] == {"schema": "public"}
    check_problem(none, 404)
    (error,) = check_problem(wrong, 422)["errors"]
    assert error["field"] == "schema"


# -- processes and their health ----------------------------------------------------------------------


async def test_processes_are_listed_with_what_they_reported_and_silent_ones_are_marked(
    site, on_registry
):
    ids = {"silent": uuid4(), "ill": uuid4()}
    for name, process_id in ids.items():
        await on_registry(
            "INSERT INTO public.service_processes"
            " (id, kind, host, pid, version, started_at, seen_at, status, report) VALUES"
            " (:id, 'http', :host, 7, '1', now(), now() - CAST(:ago AS interval), :status,"
            "  CAST(:report AS jsonb))",
            id=process_id,
            host=name,
            ago=timedelta(minutes=5 if name == "silent" else 0),
            status="healthy" if name == "silent" else "unhealthy",
            report='{"pool": {"size": 4}, "checks": []}',
        )

    page = await found(site, "processes", limit=500)

    rows = {row["id"]: row for row in page["data"]}
    assert rows[str(ids["silent"])]["is_silent"] is True
    assert rows[str(ids["ill"])]["is_silent"] is False
    assert rows[str(ids["ill"])]["report"] == {"pool": {"size": 4}, "checks": []}
    assert page["data"][0]["status"] == "unhealthy"
    assert page["meta"]["total"] == len(page["data"])


async def test_health_events_are_listed_newest_first_and_found_by_time_and_kind(site, on_registry):
    process_id = uuid4()
    for minutes, kind, check in (
        (3, "connection-error", "database"),
        (2, "connection-recovery", "database"),
        (1, "health-change", "disk"),
    ):
        await on_registry(
            "INSERT INTO public.health_events (at, process_id, kind, check_name, status_before,"
            " status, detail) VALUES (now() - CAST(:ago AS interval), :id, :kind, :check,"
            " 'healthy', 'degraded', 'why')",
            ago=timedelta(minutes=minutes),
            id=process_id,
            kind=kind,
            check=check,
        )
    since = (datetime.now(UTC) - timedelta(seconds=150)).isoformat()

    async def kinds(**query):
        page = await found(site, "health-events", process_id=str(process_id), **query)
        assert page["meta"]["total"] == len(page["data"])
        return [row["kind"] for row in page["data"]]

    newest_first = ["health-change", "connection-recovery", "connection-error"]
    assert await kinds() == newest_first
    assert await kinds(**{"from": since}) == newest_first[:2]
    assert await kinds(to=since) == newest_first[2:]
    assert await kinds(kind="connection-error") == newest_first[2:]
    assert await kinds(check_name="disk") == newest_first[:1]


# -- slow queries ------------------------------------------------------------------------------------


async def test_slow_queries_of_all_tenants_are_listed_and_added_up(site, new_together, on_registry):
    tenants = [await new_together(), await new_together()]
    fingerprint = uuid4().hex[:16]
    for number, tenant_id in enumerate((tenants[0].id, tenants[1].id, None)):
        await on_registry(
            "INSERT INTO public.slow_queries (id, at, tenant_id, fingerprint, statement,"
            " operation, table_name, route, duration_ms, wait_ms, row_count, plan) VALUES"
            " (gen_random_uuid(), now() - CAST(:ago AS interval), :tenant_id, :fingerprint,"
            "  'SELECT ?', 'SELECT', 'x', '/api/v1/sessions', :ms, 1, 5, :plan)",
            ago=timedelta(minutes=number + 1),
            tenant_id=tenant_id,
            fingerprint=fingerprint,
            ms=100.0 * (number + 1),
            plan='[{"Plan": {}}]' if number == 1 else None,
        )

    every = await found(site, "slow-queries", fingerprint=fingerprint, sort="-duration_ms")
    one = await found(site, "slow-queries", fingerprint=fingerprint, tenant_id=str(tenants[0].id))
    slowest = await found(site, "slow-queries", fingerprint=fingerprint, min_duration_ms="250")
    (summary,) = (await found(site, "slow-queries/summary", fingerprint=fingerprint))["data"]

    assert [row["duration_ms"] for row in every["data"]] == [300, 200, 100]
    assert [row["tenant_id"] for row in every["data"]] == [
        None, str(tenants[1].id), str(tenants[0].id),
    ]  # fmt: skip
    assert every["meta"] == {"limit": 50, "page": 1, "total": 3, "pages": 1}
    assert [row["tenant_id"] for row in one["data"]] == [str(tenants[0].id)]
    assert [row["duration_ms"] for row in slowest["data"]] == [300]
    assert (summary["calls"], summary["total_ms"], summary["worst_ms"]) == (3, 600, 300)
    assert summary["tenant_count"] == 2
    assert summary["plan"] == [{"Plan": {}}]


# -- what is asked wrongly ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_has_its_form_and_refuses_what_it_does_not_know(site, name):
    page = await found(site, name)
    assert page.keys() == LISTS[name]
    assert page["meta"].keys() == {"limit", "page", "total", "pages"}

    for query in (
        {"limit": 0}, {"limit": 501}, {"limit": "x"}, {"page": 0}, {"page": 10**6},
        {"cursor": "x"}, {"nothing": 1}, [("limit", 1), ("limit", 2)],
    ):  # fmt: skip
        check_problem(await site.get(f"{API}/{name}", params=query), 400)


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("tenants", {"sort": "name"}, "sort"),
        ("tenants", {"status": "deleted"}, "status"),
        ("tenants", {"q": "x" * 256}, "q"),
        ("jobs", {"kind": "delete"}, "kind"),
        ("jobs", {"status": "lost"}, "status"),
        ("migrations", {"state": "ready"}, "state"),
        ("health-events", {"from": "yesterday"}, "from"),
        ("health-events", {"to": "2026-01-01T00:00:00"}, "to"),
        ("health-events", {"process_id": "x"}, "process_id"),
        ("health-events", {"kind": "x"}, "kind"),
        ("slow-queries", {"fingerprint": "x"}, "fingerprint"),
        ("slow-queries", {"min_duration_ms": "nan"}, "min_duration_ms"),
        ("slow-queries", {"min_duration_ms": "-1"}, "min_duration_ms"),
        ("slow-queries/summary", {"sort": "at"}, "sort"),
        ("slow-queries/summary", {"page": "2"}, "page"),
        ("audit-log", {"from": "0001-01-01T00:00:00+14:00"}, "from"),
        ("me", {"x": "1"}, "parameters"),
        ("statistics", {"x": "1"}, "parameters"),
    ],
)
async def test_a_wrong_parameter_is_named(site, path, query, named):
    problem = check_problem(await site.get(f"{API}/{path}", params=query), 400)

    assert re.search(rf"\b{named}\b", problem["detail"]), problem["detail"]


@pytest.mark.parametrize("q", ["%", "_", "\\", "'", "\N{SNOWMAN}", "a" * 255])
async def test_what_is_looked_for_is_text_and_no_pattern(site, q):
    page = await found(site, "tenants", q=q, limit=500)

    assert all(q in row["slug"] or q in row["name"] or q in row["domain"] for row in page["data"])


# -- what else is there ------------------------------------------------------------------------------


async def test_the_description_names_every_operation_and_none_of_the_tenants(site):
    document = (await site.get("/schema/openapi.json")).json()
    page = await site.get("/schema")

    assert {path for path in document["paths"] if not path.startswith("/health")} == {
        f"{API}/{name}"
        for name in (
            "me", "statistics", "activity", "processes", "health-events", "jobs", "jobs/{job_id}",
            "audit-log", "tenants", "tenants/{tenant_id}", "tenants/{tenant_id}/suspend",
            "tenants/{tenant_id}/resume", "migrations", "slow-queries", "slow-queries/summary",
        )
    }  # fmt: skip
    posts = document["paths"][f"{API}/tenants"]["post"]
    assert {"202", "401", "415", "422", "429"} <= posts["responses"].keys()
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "operator" in page.text


async def test_health_tells_an_operator_all_and_anybody_else_whether_it_lives(site):
    report = await site.get("/health")
    live = await site.client.get("/health/live", headers={"Host": HOST})
    ready = await site.client.get("/health/ready", headers={"Host": HOST})

    assert report.status_code in (200, 503)
    assert {"status", "version", "uptime_s", "memory", "pool", "checks"} <= report.json().keys()
    assert live.status_code == ready.status_code == 200
    assert live.json().keys() == ready.json().keys() == {"status"}


async def test_metrics_are_for_prometheus(site):
    response = await site.get("/metrics")

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE" in response.text


async def test_an_id_of_a_job_that_is_none_is_not_found(site):
    check_problem(await site.get(f"{API}/jobs/{uuid4()}"), 404)
    check_problem(await site.get(f"{API}/jobs/{UUID(int=0)}"), 404)
