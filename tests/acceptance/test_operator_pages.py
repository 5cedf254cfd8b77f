"""The operators' pages: what is wrong first, figures, and forms that need no script."""

from __future__ import annotations

import asyncio
import html
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from acceptance.operators import API, HOST, Site, opened_site
from metrics_service.db.tenancy import registry_writing
from metrics_service.fleet.health_events import HealthDiary, HealthEvent
from metrics_service.fleet.processes import ThisProcess, leave_process, report_process

# What stops servers there stops them here.
sys.path.append(str(Path(__file__).resolve().parents[1] / "integration"))

from own_servers import own_server  # it is found only now

PAGES = ("/", "/tenants", "/slow-queries", "/health-history", "/migrations", "/jobs")
MARKUP = "<b>bold</b>"
PLAN = msgspec.json.encode(
    [
        {
            "Plan": {
                "Node Type": "Sort",
                "Sort Key": ["duration_ms"],
                "Plan Rows": 10,
                "Total Cost": 200.0,
                "Plans": [
                    {
                        "Node Type": "Seq Scan",
                        "Relation Name": "tool_metrics",
                        "Filter": "(status = $1)",
                        "Plan Rows": 10,
                        "Total Cost": 190.0,
                    },
                    {"Node Type": "Result", "Plan Rows": 1, "Total Cost": 1.0},
                ],
            }
        }
    ]
).decode()


@pytest.fixture(scope="module")
async def site(open_app, addresses):
    async with opened_site(open_app, addresses) as opened:
        yield opened


@pytest.fixture
async def troubled(engine):
    """A process that has no connection left, on a host that is called by somebody who is not nice."""
    process = msgspec.structs.replace(ThisProcess.of("http"), host=f"web-{MARKUP}")
    since = datetime.now(UTC) - timedelta(hours=3, minutes=12)
    check = {
        "name": "pool",
        "status": "unhealthy",
        "detail": "10 of 10 connections in use, 14 wait",
        "since": since,
    }
    pool = {"size": 10, "in_use": 10, "waiting": 14, "timeouts": 3, "acquire_p95_ms": 4210.0}
    async with registry_writing(engine) as connection:
        await report_process(connection, process, "unhealthy", {"checks": [check], "pool": pool})
    yield process
    async with registry_writing(engine) as connection:
        await leave_process(connection, process)


async def shown(site: Site, path: str, **query: Any) -> str:
    response = await site.get(path, params=query)
    assert response.status_code == 200, (path, response.status_code, response.text)
    return response.text


def words_of(page: str) -> str:
    """What a page says, without how."""
    main = re.search("<main.*</main>", page, re.DOTALL)
    assert main is not None
    text = re.sub("<[^>]+>", " ", main[0])
    return re.sub(r" (?=[.,])", "", re.sub(r"\s+", " ", html.unescape(text)))


async def jobs_of(site: Site, kind: str) -> list[dict[str, Any]]:
    response = await site.get(f"{API}/jobs", params={"kind": kind, "limit": 500})
    return response.json()["data"]


async def note_slow(engine, **changes: Any) -> dict[str, Any]:
    row = {
        "id": uuid4(),
        "at": datetime.now(UTC),
        "tenant_id": None,
        "fingerprint": uuid4().hex[:16],
        "statement": f"SELECT '{MARKUP}' FROM tool_metrics WHERE status = $1",
        "operation": "SELECT",
        "table_name": "tool_metrics",
        "route": "GET /tools",
        "duration_ms": 5200.0,
        "wait_ms": 38.0,
        "row_count": 51,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "request_id": "of-a-test",
        "error": None,
        **changes,
    }
    async with registry_writing(engine) as connection:
        rows = msgspec.json.encode([row]).decode()
        await connection.execute("SELECT public.note_slow_queries($1::json)", rows)
    return row


# -- who -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_is_for_operators_alone(site, path):
    page = await shown(site, path)
    stranger = await site.client.get(path, headers={"Host": HOST, "Accept": "text/html"})
    refresh = await site.client.get(path, headers={"Host": HOST, "X-Refresh": "main"})

    assert f">{html.escape(site.key.name)}</bdi>" in page
    assert stranger.status_code == 303
    assert stranger.headers["location"].startswith("/sign-in")
    assert refresh.status_code == 401


async def test_strangers_have_nothing_done(site, new_tenant):
    tenant = await new_tenant()
    before = [await jobs_of(site, kind) for kind in ("provision", "suspend", "upgrade")]

    answers = [
        await site.client.post(path, data=form, headers={"Host": HOST})
        for path, form in (
            ("/tenants", {"slug": "of-a-stranger", "plan": "basic"}),
            (f"/tenants/{tenant.id}/suspend", {}),
            (f"/tenants/{tenant.id}/resume", {}),
            ("/migrations", {}),
        )
    ]

    assert [answer.status_code for answer in answers] == [401] * 4
    assert [await jobs_of(site, kind) for kind in ("provision", "suspend", "upgrade")] == before


async def test_another_sites_form_does_nothing_with_an_operators_cookie(site, new_tenant):
    tenant = await new_tenant()
    signed = await site.client.post("/sign-in", data={"key": site.key.key}, headers={"Host": HOST})
    cookie = signed.headers["set-cookie"].partition(";")[0]
    headers = {"Host": HOST, "Cookie": cookie, "Sec-Fetch-Site": "cross-site"}

    foreign = await site.client.post(f"/tenants/{tenant.id}/suspend", headers=headers)
    own = await site.client.post(
        f"/tenants/{tenant.id}/suspend", headers={**headers, "Sec-Fetch-Site": "same-origin"}
    )

    assert (foreign.status_code, own.status_code) == (403, 303)
    asked = [job["arguments"] for job in await jobs_of(site, "suspend")]
    assert asked.count({"tenant_id": str(tenant.id)}) == 1


async def test_no_page_is_on_a_tenants_domain(site, tenant_once, sign_in):
    headers = await sign_in(tenant_once)
    for path in (*PAGES[1:], f"/tenants/{tenant_once.id}"):
        answer = await site.client.get(path, headers=headers)
        assert answer.status_code == 404, path


# -- what is wrong -------------------------------------------------------------------------------------


async def test_the_first_page_says_what_is_wrong_where_since_when_and_what_to_do(site, troubled):
    page = await shown(site, "/")

    said = words_of(page)
    assert re.search(r"^ .{0,400}(is|are) wrong", said)
    trouble = said.partition("All connections are in use, and requests wait")[2][:600]
    assert "for 3 h 12 min, since" in trouble
    assert f"web-{MARKUP} (HTTP, {troubled.pid})" in trouble
    assert "10 of 10 connections in use, 14 wait" in trouble
    assert "DATABASE_POOL_MAX" in trouble
    assert '<a class="button" href="/slow-queries">' in page
    assert MARKUP not in page


async def test_processes_are_shown_with_their_pools(site, troubled):
    said = words_of(await shown(site, "/"))

    row = said.partition("Processes and their connections")[2]
    assert (
        f"web-{MARKUP} HTTP, {troubled.pid} unhealthy Connection pool 10 of 10 14 4.21 s 3" in row
    )


async def test_a_report_of_another_version_hides_nothing_else(site, engine):
    process = msgspec.structs.replace(ThisProcess.of("http"), host="older", version="0.0.9")
    async with registry_writing(engine) as connection:
        await report_process(connection, process, "healthy", {"checks": "all well", "pool": 3})

    said = words_of(await shown(site, "/"))

    async with registry_writing(engine) as connection:
        await leave_process(connection, process)
    assert f"older HTTP, {process.pid} healthy" in said


async def test_commands_look_like_commands_and_only_who_reports_is_counted(site, engine, as_owner):
    gone = msgspec.structs.replace(ThisProcess.of("otlp-grpc"), host="gone")
    async with registry_writing(engine) as connection:
        await report_process(connection, gone, "healthy", {})
    # What maintenance of other tests has left would be its doing.
    await as_owner("DELETE FROM public.tenant_sizes")
    await as_owner("DELETE FROM public.service_processes WHERE kind = 'maintenance'")
    before = await shown(site, "/")
    await as_owner(
        "UPDATE public.service_processes SET seen_at = now() - interval '9 min' WHERE id = :id",
        id=gone.id,
    )

    after = await shown(site, "/")

    async with registry_writing(engine) as connection:
        await leave_process(connection, gone)
    assert "<code>metrics-service maintain</code>" in after
    assert "`" not in words_of(after)
    counts = [
        int(re.search(r"(\d+) process(?:es)? reports?,", words_of(page))[1])
        for page in (before, after)
    ]
    assert counts[0] - counts[1] == 1


@pytest.fixture(scope="module")
def own():
    with own_server() as server:
        yield server


async def test_while_the_database_is_away_the_first_page_says_so(open_app, own):
    async with opened_site(
        lambda **changes: open_app(own.addresses.runtime, **changes),
        own.addresses,
        metrics_health_interval_ms=100,
    ) as site:
        await shown(site, "/")
        with own.stopped():
            said = ""
            for _ in range(100):
                said = words_of(await shown(site, "/"))
                if "The database does not answer" in said:
                    break
                await asyncio.sleep(0.1)
            stranger = await site.client.get("/", headers={"Host": HOST, "Accept": "text/html"})

    assert "The database does not answer" in said
    assert "The registry cannot be read" in said
    assert "Nothing is read or stored until it does" in said
    assert stranger.status_code == 303


# -- tenants -------------------------------------------------------------------------------------------


async def test_a_tenant_is_found_with_its_size_and_led_to(site, new_tenant, engine, on_sizes):
    tenant, other = await new_tenant(), await new_tenant()
    await on_sizes(tenant.id, size=5 * 1024**3)

    page = await shown(site, "/tenants", q=tenant.slug)
    own = await shown(site, f"/tenants/{tenant.id}")

    assert f'href="/tenants/{tenant.id}"' in page
    assert "5.0 GiB" in words_of(page)
    assert str(other.id) not in page
    assert "5.0 GiB" in words_of(own)
    assert f"/tenants/{tenant.id}/suspend" in own


@pytest.fixture
def on_sizes(as_owner):
    """Write what the maintenance process measures."""

    async def run(tenant_id: UUID, *, size: int) -> None:
        await as_owner(
            """
            INSERT INTO public.tenant_sizes (tenant_id, bytes, row_count, sessions, sessions_today)
            VALUES (:id, :size, 10, 4, 2)
            """,
            id=tenant_id,
            size=size,
        )

    return run


async def test_a_tenant_is_asked_for_by_a_form(site):
    slug = f"t{uuid4().hex[:12]}"

    asked = await site.post("/tenants", data={"slug": slug, "name": "", "plan": "pro"})
    page = await shown(site, "/jobs")

    (job,) = [one for one in await jobs_of(site, "provision") if one["arguments"]["slug"] == slug]
    assert (asked.status_code, asked.headers["location"]) == (303, f"/jobs#job-{job['id']}")
    assert job["arguments"] == {"slug": slug, "name": slug, "domain": slug, "plan": "pro"}
    assert f'id="job-{job["id"]}"' in page
    assert f"Make a tenant {slug} (pro) waiting" in words_of(page)


async def test_a_form_comes_back_with_what_was_wrong_and_what_was_filled_in(site, new_tenant):
    tenant = await new_tenant()
    for form, status, said in (
        ({"slug": "Not A Slug", "name": MARKUP, "plan": "pro"}, 422, "Slug:"),
        ({"slug": "fine", "plan": "golden"}, 422, "Plan:"),
        ({"slug": "", "plan": "basic"}, 422, "Slug:"),
        ({"slug": tenant.slug, "plan": "basic"}, 409, "is taken"),
        ({"slug": "fine", "domain": "operator", "plan": "basic"}, 422, "Domain:"),
    ):
        answer = await site.post("/tenants", data=form)

        assert answer.status_code == status, (form, answer.text)
        wrong = answer.text.partition('role="alert"')[2][:600]
        assert said in words_of(f"<main>{wrong}</main>"), (form, wrong)
        assert f'value="{html.escape(form["slug"])}"' in answer.text
        assert MARKUP not in answer.text


async def test_what_is_no_form_is_refused(site):
    answers = [
        await site.post("/tenants", json={"slug": "fine"}),
        await site.post("/tenants", content=b"slug=a&slug=b", headers={"Content-Type": FORM}),
        await site.post("/migrations", content=b"schema=%ff", headers={"Content-Type": FORM}),
        await site.post("/migrations", data={"schema": "t_ofnobody"}),
        await site.post("/migrations", data={"schema": "a\0b"}),
        await site.post(f"/tenants/{uuid4()}/suspend"),
        await site.post("/tenants/1/suspend"),
    ]

    assert [answer.status_code for answer in answers] == [415, 400, 400, 404, 422, 404, 404]


FORM = "application/x-www-form-urlencoded"


async def test_suspending_is_confirmed_and_queued_and_then_resuming_is_offered(
    site, new_tenant, as_owner
):
    tenant = await new_tenant()
    before = await shown(site, f"/tenants/{tenant.id}")

    asked = await site.post(f"/tenants/{tenant.id}/suspend")
    await as_owner("UPDATE public.tenants SET status = 'suspended' WHERE id = :id", id=tenant.id)
    after = await shown(site, f"/tenants/{tenant.id}")

    assert "Its agents and people are refused" in words_of(before)
    assert asked.status_code == 303
    assert {"tenant_id": str(tenant.id)} in [
        job["arguments"] for job in await jobs_of(site, "suspend")
    ]
    assert f"/tenants/{tenant.id}/resume" in after
    assert f"/tenants/{tenant.id}/suspend" not in after


# -- slow queries --------------------------------------------------------------------------------------


async def test_a_slow_statement_is_shown_with_its_plan_and_its_calls(site, engine, new_tenant):
    tenant = await new_tenant()
    row = await note_slow(engine, tenant_id=tenant.id)
    async with registry_writing(engine) as connection:
        await connection.execute("SELECT public.note_plan($1, $2)", row["id"], PLAN)

    listed = await shown(site, "/slow-queries", tenant_id=tenant.id)
    page = await shown(site, f"/slow-queries/{row['fingerprint']}")

    assert f'href="/slow-queries/{row["fingerprint"]}?tenant_id={tenant.id}"' in listed
    said = words_of(page)
    assert row["statement"] in said
    assert "Sort Sort Key: duration_ms 4.5 % of the cost" in said
    assert "Seq Scan on tool_metrics reads the whole table Filter: (status = $1) 95.0 %" in said
    assert f"{tenant.slug} GET /tools 5.20 s 38.0 ms 51 of-a-test {row['trace_id']}" in said
    assert len(re.findall(r"<ul\b", page)) == page.count("</ul>")
    assert len(re.findall(r"<li\b", page)) == page.count("</li>")
    assert MARKUP not in page + listed


async def test_a_plan_of_any_depth_is_shown(site, engine):
    plan: dict[str, Any] = {"Node Type": "Result", "Total Cost": 1.0}
    for _ in range(90):
        plan = {"Node Type": "Limit", "Total Cost": 1.0, "Plans": [plan]}
    row = await note_slow(engine)
    text = msgspec.json.encode([{"Plan": plan}]).decode()
    async with registry_writing(engine) as connection:
        await connection.execute("SELECT public.note_plan($1, $2)", row["id"], text)

    page = await shown(site, f"/slow-queries/{row['fingerprint']}")

    assert page.count('class="plan-step"') == 91


async def test_a_statement_that_nobody_ran_is_not_there(site):
    for fingerprint in (uuid4().hex[:16], "x", "0" * 17, "A" * 16):
        answer = await site.get(f"/slow-queries/{fingerprint}")
        assert answer.status_code == 404, fingerprint


# -- health --------------------------------------------------------------------------------------------


async def test_health_has_a_history(site, engine, troubled):
    diary = HealthDiary(troubled.id)
    now = datetime.now(UTC)
    for minutes, before, status in ((192, "healthy", "unhealthy"), (300, "degraded", "healthy")):
        diary.note(
            HealthEvent(
                kind="health-change",
                check_name="pool",
                at=now - timedelta(minutes=minutes),
                status_before=before,
                status=status,
                detail=f"because of {MARKUP}",
            )
        )
    async with registry_writing(engine) as connection:
        await diary.write(connection)

    page = await shown(site, "/health-history", since="6h")
    other = await shown(site, "/health-history", check_name="cache")

    said = words_of(page)
    assert "Connection pool unhealthy unhealthy for 3 h 12 min, degraded for 59 min" in said
    assert (
        f"Connection pool degraded then healthy because of {MARKUP}".replace(
            "degraded", "degraded →"
        )
        in said
    )
    assert 'class="strip-unhealthy"' in page
    assert MARKUP not in page
    assert "because of" not in other


# -- migrations ----------------------------------------------------------------------------------------


async def test_a_failed_migration_is_first_in_the_ledger_and_can_be_upgraded(
    site, new_tenant, as_owner
):
    tenant = await new_tenant()
    schema = tenant.tenant.schema_name
    await as_owner(
        "UPDATE public.tenant_schemas SET status = 'failed', last_error = :error"
        " WHERE schema_name = :schema",
        schema=schema,
        error=f"lock timeout {MARKUP}",
    )

    page = await shown(site, "/migrations", state="failed")
    asked = await site.post("/migrations", data={"schema": schema})

    await as_owner(
        "UPDATE public.tenant_schemas SET status = 'ready', last_error = NULL"
        " WHERE schema_name = :schema",
        schema=schema,
    )
    assert f"{tenant.slug} failed" in words_of(page)
    assert f"lock timeout {MARKUP}" in words_of(page)
    assert MARKUP not in page
    assert asked.status_code == 303
    assert {"schema": schema} in [job["arguments"] for job in await jobs_of(site, "upgrade")]


# -- what is asked wrongly -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("/tenants", {"sort": "name"}, "sort"),
        ("/tenants", {"page": "0"}, "page"),
        ("/tenants", {"status": "deleted"}, "status"),
        ("/tenants", {"colour": "red"}, "colour"),
        ("/slow-queries", {"since": "1y"}, "since"),
        ("/health-history", {"kind": "x"}, "kind"),
        ("/migrations", {"state": "x"}, "state"),
        ("/jobs", {"limit": "501"}, "limit"),
    ],
)
async def test_a_wrong_parameter_is_named(site, path, query, named):
    answer = await site.client.get(
        path, params=query, headers={**site.headers, "Accept": "text/html"}
    )

    assert answer.status_code == 400
    assert named in answer.text


@pytest.mark.parametrize("path", ["/tenants", "/health-history", "/migrations", "/jobs"])
async def test_a_page_after_the_last_says_so(site, path, new_tenant):
    await new_tenant()
    said = words_of(await shown(site, path, page=9000, limit=1))

    assert "Traceback" not in said
    assert len(said) > 100
