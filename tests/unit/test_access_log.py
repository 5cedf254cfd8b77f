"""The outermost layer: ids, security headers, one line a request, and what a crash may show."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import structlog
from asgi import Inner, Reply, exchange, make_scope
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.http.access_log import AccessLog, ResponseBrokenOffError, route_of
from metrics_service.logs import configure_logging
from metrics_service.observability.catalog import HTTP_ACTIVE_REQUESTS

SECRET = "secret-value-4711"
JSON, PROTOBUF = "application/json", "application/x-protobuf"


class Output(io.TextIOWrapper):
    """Standard output of one test."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    @property
    def text(self) -> str:
        self.flush()
        buffer: Any = self.buffer
        return str(buffer.getvalue().decode())

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[Output]:
    captured = Output()
    monkeypatch.setattr(sys, "stdout", captured)
    root = logging.getLogger()
    before = (root.handlers, root.level)
    configure_logging("info", json=True)
    yield captured
    root.handlers, root.level = before[0], before[1]
    structlog.reset_defaults()


def reconfigure(output: Output, level: str, *, json: bool) -> None:
    # The test runner puts its own standard output in place for each phase of a test.
    with contextlib.redirect_stdout(output):
        configure_logging(level, json=json)


async def ask(inner: Any = None, **options: Any) -> tuple[Reply, dict[str, Any]]:
    scope = make_scope(**options)
    reply = await exchange(AccessLog(inner or Inner(reads=False)), scope, [b""])
    return reply, scope


async def test_a_request_is_one_line(output: Output) -> None:
    inner = Inner(reads=False, set_state={"tenant_id": "t-1", "route": "/api/v1/sessions/{id}"})
    reply, _ = await ask(inner, path="/api/v1/sessions/5", query=f"q={SECRET}".encode())

    (line,) = output.lines
    assert line.pop("timestamp")
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": reply.header("x-request-id"),
        "method": "GET",
        "route": "/api/v1/sessions/{id}",
        "status": 200,
        "tenant": "t-1",
    }


async def test_requests_are_counted_while_they_are_under_way(output: Output) -> None:
    def under_way() -> float:
        return sum(point.value for point in HTTP_ACTIVE_REQUESTS.points())

    seen: list[float] = []

    async def inner(scope: Any, _receive: Any, send: Any) -> None:
        seen.append(under_way())
        if scope["path"] != "/inner":
            await exchange(log, make_scope(path="/inner"))
            raise ValueError
        await Inner(reads=False)(scope, _receive, send)

    before = under_way()
    log = AccessLog(inner)
    await exchange(log, make_scope(path="/outer"))

    assert [count - before for count in seen] == [1, 2]
    assert under_way() == before
    assert len(output.lines) == 3


async def test_a_harmless_request_id_is_kept_and_any_other_replaced(output: Output) -> None:
    kept, scope = await ask(headers=[("x-request-id", "Abc-1._")])
    assert kept.header("x-request-id") == "Abc-1._"
    assert scope["state"]["request_id"] == "Abc-1._"

    for bad in ["", "a b", "x" * 65, "a\n", "é", "a\r\nset-cookie: x"]:
        replaced, _ = await ask(headers=[("x-request-id", bad)])
        assert re.fullmatch(r"[0-9a-f]{32}", replaced.header("x-request-id") or "")

    twice, _ = await ask(headers=[("x-request-id", "a"), ("x-request-id", "b")])
    assert re.fullmatch(r"[0-9a-f]{32}", twice.header("x-request-id") or "")
    assert len({line["request_id"] for line in output.lines}) == 8


async def test_security_headers_are_added_but_not_repeated(output: Output) -> None:
    api, _ = await ask(path="/api/v1/me")
    page, _ = await ask(path="/")
    own, _ = await ask(
        Inner(reads=False, answer_headers=[(b"Cache-Control", b"max-age=60")]), path="/api/v1/x"
    )

    assert api.header("x-content-type-options") == "nosniff"
    assert api.header("cache-control") == "no-store"
    assert page.header("cache-control") is None
    assert (b"Cache-Control", b"max-age=60") in own.headers
    assert own.header("cache-control") is None
    assert output.lines


async def test_each_request_has_its_own_state_with_what_the_server_put_there(
    output: Output,
) -> None:
    shared = {"pool": object()}
    scopes = [make_scope(), make_scope()]
    for scope in scopes:
        scope["state"] = shared
        await exchange(AccessLog(Inner(reads=False, set_state={"tenant_id": "t"})), scope)

    assert scopes[0]["state"] is not scopes[1]["state"]
    assert scopes[0]["state"]["pool"] is shared["pool"]
    assert shared.keys() == {"pool"}
    assert len(output.lines) == 2


def crash() -> None:
    raise ValueError(SECRET)


async def test_a_crash_answers_a_constant_and_logs_where_but_not_what(output: Output) -> None:
    async def inner(_scope: Any, _receive: Any, _send: Any) -> None:
        try:
            crash()
        except ValueError as error:
            raise KeyError(SECRET) from error

    reply, _ = await ask(inner, path="/api/v1/me")

    failed, line = output.lines
    assert reply.status == 500
    assert reply.header("content-type") == "application/problem+json"
    assert reply.header("x-request-id") == line["request_id"] == reply.json()["request_id"]
    assert reply.json()["status"] == 500
    assert [link["type"] for link in failed["exception"]] == ["KeyError", "ValueError"]
    assert "unit/test_access_log.py:" in failed["exception"][1]["frames"][-1]
    assert failed["request_id"] == line["request_id"]
    assert (line["status"], line["level"]) == (500, "warning")
    assert SECRET not in output.text
    assert SECRET not in str(reply)


async def test_a_crash_in_front_of_otlp_makes_its_client_try_again(output: Output) -> None:
    async def inner(_scope: Any, _receive: Any, _send: Any) -> None:
        crash()

    for path, media_type in [("/v1/logs", JSON), ("/v1/logs", PROTOBUF), ("/logs", PROTOBUF)]:
        reply, _ = await ask(
            inner, method="POST", path=path, headers=[("content-type", media_type)]
        )

        assert reply.status == 503
        assert reply.header("retry-after") == "1"
        assert reply.header("content-type") == media_type
        assert output.lines[-1]["status"] == 503


async def test_a_crash_in_the_middle_of_an_answer_closes_it_without_words(output: Output) -> None:
    async def inner(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        crash()

    with pytest.raises(ResponseBrokenOffError) as raised:
        await ask(inner)

    assert raised.value.__suppress_context__
    assert [line["event"] for line in output.lines] == ["request failed", "request"]
    assert SECRET not in output.text


async def test_a_client_that_left_is_logged_as_gone(output: Output) -> None:
    async def inner(_scope: Any, _receive: Any, _send: Any) -> None:
        return

    reply, _ = await ask(inner)

    assert reply.status is None
    assert output.lines[0]["status"] == 499


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("/api/v1/tool-metrics/batch", "/api/v1/tool-metrics/batch"),
        ("/api/v1/sessions/0198c0de-0000-7000-8000-000000000000", "/api/v1/sessions/:id"),
        ("/api/v1/sessions/12/events", "/api/v1/sessions/:id/events"),
        ("/schema/openapi.json", "/schema/openapi.json"),
        ("/i/mk_live_abcdefgh/v1/logs", "/i/:token/v1/logs"),
        ("/i/short", "/i/:token"),
        ("/x/mk_4f9a8b7c6d", "/x/:id"),
        ("/" + "a" * 25, "/:id"),
        ("/a\nb", "/:id"),
        ("/é", "/:id"),
        ("/a" * 50, "/a" * 8),
    ],
)
def test_a_route_in_the_log_shows_words_only(path: str, route: str) -> None:
    assert route_of(path) == route


async def test_a_token_in_the_path_is_not_logged_by_any_detour(output: Output) -> None:
    for path in ["/i/tok/v1/logs", "//i//tok", "/i/tok", "/i//tok/"]:
        await ask(path=path)

    assert "tok/" not in output.text.replace(":token", "")
    assert '"/i/:token' in output.text


@given(st.text(max_size=60))
def test_a_logged_route_is_always_one_short_plain_line(path: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9/:._-]{1,210}", route_of("/" + path))


async def test_an_unknown_method_is_not_quoted(output: Output) -> None:
    await ask(method="EVIL\n")

    assert output.lines[0]["method"] == "OTHER"


async def test_what_is_not_http_passes_untouched(output: Output) -> None:
    seen = []

    async def inner(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope)

    log: Any = AccessLog(inner)
    await log({"type": "lifespan"}, None, None)

    assert seen == [{"type": "lifespan"}]
    assert output.lines == []


def test_lines_of_libraries_are_the_same_json_without_texts_of_exceptions(output: Output) -> None:
    try:
        crash()
    except ValueError:
        logging.getLogger("_granian").exception("failed %s", "here")

    (line,) = output.lines
    assert line["event"] == "failed here"
    assert line["logger"] == "_granian"
    assert line["level"] == "error"
    assert line["exception"][0]["type"] == "ValueError"
    assert SECRET not in output.text


@pytest.mark.parametrize("name", ["asyncio", "_granian.utils"])
def test_an_exception_within_a_message_is_left_out(name: str, output: Output) -> None:
    logging.getLogger(name).error("something was lost\nfuture: %r", ValueError(SECRET))

    assert output.lines[0]["event"] == "something was lost"
    assert SECRET not in output.text


def test_a_group_of_exceptions_shows_its_members_and_a_circle_ends(output: Output) -> None:
    first, second = ValueError(SECRET), KeyError(SECRET)
    first.__cause__, second.__cause__ = second, first
    structlog.get_logger().error("many", exc_info=ExceptionGroup(SECRET, [first, OSError()]))

    types = [link["type"] for link in output.lines[0]["exception"]]
    assert types == ["ExceptionGroup", "ValueError", "OSError", "KeyError"]
    assert SECRET not in output.text


def test_no_value_stops_a_line_from_being_logged(output: Output) -> None:
    log = structlog.get_logger()
    log.info("odd", value=object(), text="\ud800", id=UUID(int=0))
    log.info("fine", number=1)

    assert [line["event"] for line in output.lines] == ["odd", "fine"]
    assert output.lines[0]["value"] == "<object>"
    assert output.lines[0]["id"] == str(UUID(int=0))


def test_below_the_level_nothing_is_written(output: Output) -> None:
    reconfigure(output, "warning", json=True)
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    logging.getLogger("library").warning("heard")

    assert [line["event"] for line in output.lines] == ["heard"]


def test_on_a_terminal_lines_are_for_people(output: Output) -> None:
    reconfigure(output, "info", json=False)
    structlog.get_logger().info("hello", tenant="acme")
    try:
        crash()
    except ValueError:
        structlog.get_logger().exception("broken")

    assert "hello" in output.text
    assert not output.text.startswith("{")
    assert SECRET not in output.text


async def test_of_a_flood_of_refusals_a_few_have_a_line_and_what_is_served_has(
    output: Output,
) -> None:
    async def refusing(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 429, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    log = AccessLog(refusing)
    for _ in range(50):
        await exchange(log, make_scope())
    served, _ = await ask()

    statuses = [line["status"] for line in output.lines]
    assert statuses == [429] * 10 + [200]
    assert output.lines[-1]["request_id"] == served.header("x-request-id")
