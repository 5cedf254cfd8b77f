"""What acceptance tests say to the service, and what they look for in its answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import msgspec
from google.rpc.status_pb2 import Status

BASE = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)

# What only the database, the driver or the interpreter says; no client may ever read it.
_LEAK = re.compile(
    r"""
    \bSELECT\b | \bINSERT\s+INTO\b | \bUPDATE\s+\w+\s+SET\b | \bDELETE\s+FROM\b | sqlstate
    | asyncpg | sqlalchemy | msgspec | litestar | Traceback | \.py\b | \bline\ \d
    | \bt_[a-z2-7]{26}\b | app_(?:runtime|tenant|owner|migrator|backup) | metrics_sessions
    | session_tags | dashboard_(?:configs|versions|shares) | api_keys
    | tenant_(?:id|domains|schemas) | search_path | row-level | pg_ | relation\ | \bcolumn\ "
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PROTOBUF = ("application/x-protobuf", "application/protobuf")
_OTLP_PATH = re.compile("(/+i/+[^/]+)?/+v1/")
# The codes of gRPC that say the same.
_CODES = {
    400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 413: 8, 415: 3, 429: 8, 431: 3, 503: 14, 504: 4,
}  # fmt: skip
_PROBLEM = {"type", "title", "status", "detail", "instance", "request_id"}


def at(seconds: float = 0) -> str:
    """A time in the form that the service answers with."""
    return (BASE + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def session(**changes: Any) -> dict[str, Any]:
    return {
        "agent": "claude-code",
        "external_id": uuid4().hex,
        "started_at": at(),
        **changes,
    }


def tool_metric(**changes: Any) -> dict[str, Any]:
    return {"tool_name": "Bash", "started_at": at(), "duration_ms": 12.5, **changes}


def widget(**changes: Any) -> dict[str, Any]:
    query = {"source": "tool_metrics", "measures": ["count"], "group_by": ["day"]}
    return {"id": "a", "title": "Calls", "kind": "chart", "query": query, **changes}


def dashboard(**changes: Any) -> dict[str, Any]:
    layout = {"a": {"x": 0, "y": 0, "w": 6, "h": 4}}
    return {"name": "Tools", "layout": layout, "widgets": [widget()], **changes}


def check_problem(response: httpx.Response, status: int | None = None) -> dict[str, Any]:
    """The body of a refusal, after a look at its form and at what it must not tell."""
    assert status is None or response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert _PROBLEM <= problem.keys() <= _PROBLEM | {"errors"}, problem
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    # What the client itself wrote may come back to it: the path, the names of fields.
    told = " ".join([problem["title"], problem["detail"], problem["type"]])
    told += " ".join(error["reason"] for error in problem.get("errors", ()))
    assert _LEAK.search(told) is None, told
    return problem


def check_status(response: httpx.Response, status: int | None = None) -> str:
    """The message of a refusal to an OTLP client, after a look at its form."""
    assert status is None or response.status_code == status, (response.status_code, response.text)
    media_type = _media_type(response.request)
    if media_type in _PROTOBUF:
        assert response.headers["content-type"] == media_type
        found = Status.FromString(response.content)
        code, message = found.code, found.message
    else:
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        assert body.keys() == {"code", "message"}
        code, message = body["code"], body["message"]
    assert code == _CODES[response.status_code]
    assert message
    assert _LEAK.search(message) is None, message
    return str(message)


def check_refusal(response: httpx.Response, status: int) -> str:
    """What a refusal says, in whichever form it has to have."""
    if is_for_otlp(response.request):
        return check_status(response, status)
    problem = check_problem(response, status)
    assert "errors" not in problem
    return str(problem["detail"])


def is_for_otlp(request: httpx.Request) -> bool:
    """Whether its errors must be `google.rpc.Status`."""
    path = request.url.path
    if _OTLP_PATH.match(path):
        return True
    is_ours = request.headers.get("sec-fetch-site") == "same-origin"
    is_export = request.method == "POST" and not is_ours and not re.match("/+api/", path)
    return is_export and _media_type(request) in {*_PROTOBUF, "application/json"}


def _media_type(request: httpx.Request) -> str:
    return request.headers.get("content-type", "").lower().partition(";")[0].strip()


def check_page(response: httpx.Response) -> None:
    """What holds of everything that a browser shows; and what a refusal may not say."""
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    if response.url.path.startswith("/schema"):
        return
    assert response.headers["cache-control"] == "no-store"
    assert "script-src 'self'; style-src 'self'" in response.headers["content-security-policy"]
    if response.status_code >= 400:
        assert _LEAK.search(response.text) is None, response.text


async def check_answer(response: httpx.Response) -> None:
    """Hold every answer of every test to what is promised for all of them."""
    status = response.status_code
    await response.aread()
    assert status < 500 or status in (503, 504), (status, response.request.url, response.text)
    assert response.headers["x-content-type-options"] == "nosniff"
    is_otlp = is_for_otlp(response.request)
    is_page = response.headers.get("content-type", "").startswith("text/html")
    if is_page:
        check_page(response)
    elif status >= 400 and response.request.method != "HEAD" and "/health" not in response.url.path:
        (check_status if is_otlp else check_problem)(response)
    if status in (429, 503) and "/health" not in response.url.path:
        assert int(response.headers["retry-after"]) >= 1
    if is_otlp:
        assert status not in (408, 409, 422, 500)
        assert int(response.headers.get("retry-after", 1)) <= 5
        assert ("retry-after" in response.headers) == (status in (429, 503, 504))


def same_but_for_ids(response: httpx.Response, *ids: Any) -> tuple[int, bytes, list[Any]]:
    """All that one can learn from an answer, without what must differ."""
    body = response.content
    for one in (response.headers["x-request-id"], *map(str, ids)):
        body = body.replace(one.encode(), b"*")
    headers = sorted(
        (name, value) for name, value in response.headers.items() if name != "x-request-id"
    )
    return response.status_code, body, [pair for pair in headers if pair[0] != "content-length"]


async def walk(
    client: httpx.AsyncClient, path: str, tenant: Any, **query: Any
) -> AsyncIterator[dict[str, Any]]:
    """Every row of a list, by following its cursors."""
    cursor: str | None = None
    while True:
        given = query if cursor is None else {**query, "cursor": cursor}
        response = await client.get(path, params=given, headers=tenant.headers)
        assert response.status_code == 200, response.text
        page = response.json()
        assert page.keys() == {"data", "meta"}
        assert page["meta"].keys() == {"limit", "next_cursor"}
        assert len(page["data"]) <= page["meta"]["limit"]
        for row in page["data"]:
            yield row
        cursor = page["meta"]["next_cursor"]
        if cursor is None:
            return


async def rows_of(
    client: httpx.AsyncClient, path: str, tenant: Any, **query: Any
) -> list[dict[str, Any]]:
    return [row async for row in walk(client, path, tenant, **{"limit": 500, **query})]


async def post_batch(
    client: httpx.AsyncClient,
    tenant: Any,
    items: Iterable[Any],
    *,
    path: str = "/api/v1/tool-metrics/batch",
    **query: str,
) -> httpx.Response:
    body = msgspec.json.encode(list(items))
    headers = {**tenant.headers, "Content-Type": "application/json"}
    return await client.post(path, content=body, params=query, headers=headers)


async def stored_batch(
    client: httpx.AsyncClient, tenant: Any, items: Iterable[Any]
) -> dict[str, Any]:
    response = await post_batch(client, tenant, items)
    assert response.status_code == 200, response.text
    receipt: dict[str, Any] = response.json()
    return receipt


async def stored_session(client: httpx.AsyncClient, tenant: Any, **changes: Any) -> dict[str, Any]:
    response = await client.post(
        "/api/v1/sessions", json=session(**changes), headers=tenant.headers
    )
    assert response.status_code in (200, 201), response.text
    view: dict[str, Any] = response.json()
    return view


async def stored_dashboard(
    client: httpx.AsyncClient, tenant: Any, **changes: Any
) -> dict[str, Any]:
    body = dashboard(**changes)
    response = await client.post("/api/v1/dashboards", json=body, headers=tenant.headers)
    assert response.status_code == 201, response.text
    view: dict[str, Any] = response.json()
    return view
