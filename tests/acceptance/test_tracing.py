"""The trace of a request, as the service makes it: what it is made of, whose it is, what it never says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from acceptance import export
from acceptance.talk import post_batch, session, tool_metric
from metrics_service.observability.own_exports import own_user_agent
from metrics_service.observability.slow import SLOW, SlowStatement, set_slow_threshold_ms, tell_slow
from metrics_service.observability.work import WAIT, Work, keep_spans

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CANARY = "canary4711"

STAGES = [
    "ingest.decode",
    "ingest.admit",
    "ingest.people",
    "ingest.rows",
    "ingest.insert",
    "ingest.sessions",
    "ingest.rollup",
]


@pytest.fixture
async def works(client: httpx.AsyncClient) -> AsyncIterator[list[Work]]:
    """The works that ended; every one is sampled but those whose caller says no."""
    assert client is not None
    taken: list[Work] = []
    stop = keep_spans(lambda _, caller: caller is not False, taken.append)
    yield taken
    stop()


def requests(works: list[Work]) -> list[Work]:
    return [work for work in works if work.kind == "server"]


def shape(work: Work) -> list[tuple[str, str | None]]:
    """Its spans as they began, each with the name of its parent; None is the work itself."""
    names = {one.span_id: one.name for one in work.spans}
    ordered = sorted(work.spans, key=lambda one: (one.started, -one.ended))
    assert all(one.parent_id == work.span_id or one.parent_id in names for one in ordered)
    return [(one.name, names.get(one.parent_id)) for one in ordered]


async def test_the_trace_of_a_page(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any], works: list[Work]
) -> None:
    tenant = await new_tenant()
    await client.get("/api/v1/sessions", headers=tenant.headers)
    works.clear()

    answer = await client.get(
        f"/api/v1/sessions?agent={CANARY}",
        headers={
            **tenant.headers,
            "traceparent": f"00-{TRACE}-{PARENT}-01",
            "tracestate": "vendor=1",
            "X-Request-ID": "the-request",
        },
    )

    (work,) = requests(works)
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{work.span_id.hex()}-01"
    assert (work.name, work.kind, work.error) == ("GET /api/v1/sessions", "server", None)
    assert (work.trace_id.hex(), (work.parent_id or b"").hex()) == (TRACE, PARENT)
    assert work.trace_state == "vendor=1"
    assert work.attributes == {
        "http.request.method": "GET",
        "http.route": "/api/v1/sessions",
        "http.response.status_code": 200,
        "metrics_service.tenant.id": str(tenant.id),
        "metrics_service.principal.kind": "api_key",
        "metrics_service.request_id": "the-request",
    }
    assert shape(work) == [
        (WAIT, None),
        ("BEGIN", None),
        ("SELECT metrics_sessions", None),
        ("COMMIT", None),
    ]
    read = work.spans[2]
    assert read.statement is not None
    assert read.statement.operation == "SELECT"
    assert read.row_count == 0
    assert CANARY not in repr(work)


async def test_the_trace_of_a_batch(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any], works: list[Work]
) -> None:
    tenant = await new_tenant()
    items = [
        tool_metric(
            tool_name=f"{CANARY}{number}",
            agent=CANARY,
            external_session_id=CANARY,
            user_email=f"{CANARY}@example.com",
            metadata={"note": CANARY},
        )
        for number in range(3)
    ]

    # Who the tenant and the key are is known from here on.
    await client.get("/api/v1/me", headers=tenant.headers)
    works.clear()

    answer = await post_batch(client, tenant, [*items, items[0]])

    assert answer.json() == {"inserted": 3, "duplicates": 1}
    (work,) = requests(works)
    assert work.name == "POST /api/v1/tool-metrics/batch"
    spans = shape(work)
    stages = [(name, parent) for name, parent in spans if name.startswith("ingest.")]
    assert stages == [(name, None) for name in STAGES]
    # Every statement but those of the transaction itself is a part of a stage.
    assert {name for name, parent in spans if parent is None} - set(STAGES) == {
        WAIT,
        "BEGIN",
        "COMMIT",
    }
    assert ("INSERT tool_metrics", "ingest.insert") in spans
    assert any(name.endswith("metrics_sessions") for name, at in spans if at == "ingest.sessions")
    assert any("hourly" in name for name, at in spans if at == "ingest.rollup")
    assert spans[-1] == ("COMMIT", None)
    told = {one.name: one.attributes for one in work.spans}
    assert told["ingest.insert"] == {"records": 4, "inserted": 3, "duplicates": 1}
    assert (told["ingest.decode"] or {})["records"] == 4
    assert CANARY not in repr(work)
    assert tenant.key not in repr(work)


async def test_the_trace_of_sessions_that_are_stated(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any], works: list[Work]
) -> None:
    tenant = await new_tenant()

    await post_batch(client, tenant, [session()], path="/api/v1/sessions/batch")

    (work,) = requests(works)
    stages = [name for name, _ in shape(work) if name.startswith("ingest.")]
    assert stages == [
        "ingest.decode",
        "ingest.admit",
        "ingest.people",
        "ingest.sessions",
        "ingest.rollup",
    ]


@pytest.mark.parametrize("signal", ["logs", "metrics", "traces"])
async def test_the_trace_of_otlp(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any], works: list[Work], signal: str
) -> None:
    tenant = await new_tenant()

    answer = await export.export(client, tenant.headers, signal, export.good(signal))

    assert answer.status_code == 200
    (work,) = requests(works)
    spans = shape(work)
    stages = [name for name, _ in spans if name.startswith("ingest.")]
    assert stages == [
        "ingest.decode",
        "ingest.admit",
        "ingest.streams",
        "ingest.hold",
        "ingest.hand_over",
        "ingest.insert",
        "ingest.sessions",
        "ingest.rollup",
    ]
    # What an exporter sends about itself is what the caller's trace would be about.
    assert work.attributes["http.route"] == f"/v1/{signal}"
    assert spans[-1] == ("COMMIT", None)


async def test_who_is_asked_about_is_the_hosts_tenant_whatever_the_trace_says(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any], works: list[Work]
) -> None:
    tenant, other = await new_tenant(), await new_tenant()
    said = {
        "traceparent": f"00-{TRACE}-{PARENT}-01",
        "tracestate": f"tenant={other.id}",
        "baggage": f"metrics_service.tenant.id={other.id},tenant_id={other.id}",
    }

    mine = await client.get("/api/v1/me", headers={**tenant.headers, **said})
    theirs = await client.get("/api/v1/me", headers={**other.headers, **said})
    strange = {**tenant.headers, "Authorization": other.headers["Authorization"]}
    refused = await client.get("/api/v1/me", headers={**strange, **said})

    assert mine.json()["tenant"]["id"] == str(tenant.id)
    assert (theirs.status_code, refused.status_code) == (200, 401)
    tenants = [work.attributes["metrics_service.tenant.id"] for work in requests(works)]
    assert tenants == [str(tenant.id), str(other.id), str(tenant.id)]
    assert "metrics_service.principal.kind" not in requests(works)[2].attributes
    assert {work.trace_id.hex() for work in requests(works)} == {TRACE}
    assert len({work.span_id for work in requests(works)}) == 3


@pytest.mark.parametrize(
    "header",
    ["x" * 8192, f"00-{TRACE}-{PARENT}", f"ff-{TRACE}-{PARENT}-01", "\N{LATIN SMALL LETTER E}"],
)
async def test_a_bad_trace_header_begins_a_trace_of_our_own(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any], works: list[Work], header: str
) -> None:
    tenant = await new_tenant()

    answer = await client.get("/api/v1/me", headers={**tenant.headers, "traceparent": header})

    assert answer.status_code == 200
    (work,) = requests(works)
    assert work.trace_id.hex() != TRACE
    assert work.parent_id is None


async def test_callers_who_keep_no_trace_and_our_own_exports_leave_none(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any], works: list[Work]
) -> None:
    tenant = await new_tenant()
    unkept = {**tenant.headers, "traceparent": f"00-{TRACE}-{PARENT}-00"}
    own = {**tenant.headers, "User-Agent": own_user_agent()}

    first = await client.get("/api/v1/me", headers=unkept)
    second = await export.export(client, own, "traces", export.good("traces"))

    assert (first.status_code, second.status_code) == (200, 200)
    assert "traceresponse" not in first.headers
    assert "traceresponse" not in second.headers
    assert requests(works) == []


async def test_a_path_that_is_no_route_is_not_told(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any], works: list[Work]
) -> None:
    tenant = await new_tenant()

    answer = await client.get(f"/api/v1/{CANARY}", headers=tenant.headers)

    assert answer.status_code == 404
    (work,) = requests(works)
    assert work.name == "GET"
    assert "http.route" not in work.attributes
    assert work.attributes["http.response.status_code"] == 404
    assert work.error is None


async def test_a_slow_statement_of_a_request_is_told_with_its_route_and_tenant(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any], works: list[Work]
) -> None:
    tenant = await new_tenant()
    told: list[tuple[Work | None, list[SlowStatement]]] = []
    before = SLOW.threshold_s
    stop = tell_slow(lambda work, slow: told.append((work, slow)))
    set_slow_threshold_ms(0)
    try:
        await client.get("/api/v1/sessions", headers=tenant.headers)
    finally:
        SLOW.threshold_s = before
        stop()

    (mine,) = [
        (work, slow) for work, slow in told if work is not None and work.tenant_id == str(tenant.id)
    ]
    work, slow = mine
    assert work.route == "/api/v1/sessions"
    assert work.is_sampled
    read = next(one for one in slow if one.statement.table == "metrics_sessions")
    assert read.tenant_id == tenant.id
    assert read.is_planned_as.tenant_id == tenant.id
    assert [one.is_slow for one in work.spans if one.statement == read.statement] == [True]
    # Whatever asked the registry on the way was not the tenant's own.
    assert {one.tenant_id for one in slow} <= {tenant.id, None}
    assert requests(works) == [work]
