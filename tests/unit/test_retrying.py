"""What the database undid by chance is done again, where that is safe, and nobody hears of it."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import Any

import pytest
from asgi import Reply, exchange, make_scope
from litestar import Litestar, Request, get, post
from litestar.response import Stream

from metrics_service.db.again import ATTEMPTS, attempted
from metrics_service.db.attempts import ATTEMPT
from metrics_service.errors import CommitUnknownError, TransientError, UnavailableError
from metrics_service.http.body import BodyGuard, take_body
from metrics_service.http.failures import EXCEPTION_HANDLERS
from metrics_service.http.retrying import RetryGate, is_repeatable
from metrics_service.observability import catalog

SOME_ID = "01980000-0000-7000-8000-000000000001"

BATCH = "/api/v1/tool-metrics/batch"
JSON = [("content-type", "application/json")]


class Handler:
    """A handler that fails as it is told, attempt by attempt, and then says what it was sent."""

    def __init__(self, *failures: Exception | None, commits: bool = False) -> None:
        self.failures = list(failures)
        self.commits = commits
        self.bodies: list[bytes] = []
        self.scopes: list[int] = []
        self.states: list[set[str]] = []

    async def __call__(self, request: Request[Any, Any, Any]) -> str:
        self.bodies.append(await take_body(request) if request.method == "POST" else b"")
        self.scopes.append(id(request.scope))
        self.states.append(set(request.scope["state"]))
        request.scope["state"]["left by an attempt"] = True
        attempt = ATTEMPT.get()
        assert attempt is not None
        assert not attempt.has_committed
        attempt.has_committed = self.commits
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return "done"


def app_of(handler: Any, *, is_guarded: bool = True) -> Any:
    async def answer(request: Request[Any, Any, Any]) -> str:
        return await handler(request)

    async def read(request: Request[Any, Any, Any]) -> str:
        return await handler(request)

    litestar = Litestar(
        [
            post([BATCH, "/api/v1/keys", "/api/v1/me/password", "/v1/logs"], status_code=200)(
                answer
            ),
            get("/api/v1/sessions")(read),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        logging_config=None,
        openapi_config=None,
    )
    return BodyGuard(RetryGate(litestar)) if is_guarded else BodyGuard(litestar)


async def ask(
    app: Any, method: str, path: str, *, headers: Any = (), body: bytes = b"[1]"
) -> Reply:
    steps = [body[:1], body[1:]] if method == "POST" else []
    return await exchange(app, make_scope(method, path, headers=[*JSON, *headers]), steps)


def retries() -> float:
    return sum(number.value for number in catalog.REQUEST_RETRIES.points())


def interrupted() -> TransientError:
    return TransientError()


@pytest.mark.parametrize("failures", [1, 2])
async def test_it_is_done_again_and_its_client_does_not_hear_of_it(failures):
    handler = Handler(*(interrupted() for _ in range(failures)))
    before = retries()

    reply = await ask(app_of(handler), "POST", "/api/v1/keys")

    assert (reply.status, reply.body) == (200, b"done")
    assert handler.bodies == [b"[1]"] * (failures + 1)
    assert retries() == before + failures


async def test_the_next_attempt_finds_what_the_first_one_found():
    handler = Handler(interrupted(), interrupted())

    await ask(app_of(handler), "GET", "/api/v1/sessions")

    assert len(handler.states) == 3
    assert all(state == handler.states[0] for state in handler.states)
    assert not any("left by an attempt" in state for state in handler.states)
    # The same object: the layers in front look into it afterwards.
    assert len(set(handler.scopes)) == 1


async def test_after_the_last_attempt_it_is_answered():
    handler = Handler(*(interrupted() for _ in range(9)))
    begun = time.monotonic()

    reply = await ask(app_of(handler), "POST", BATCH)

    assert reply.status == 503
    assert reply.header("retry-after") == "1"
    assert reply.json()["detail"] == "the service was interrupted"
    assert len(handler.bodies) == ATTEMPTS
    assert time.monotonic() - begun < 2


async def test_what_is_busy_is_answered_at_once():
    handler = Handler(UnavailableError())

    reply = await ask(app_of(handler), "GET", "/api/v1/sessions")

    assert reply.status == 503
    assert len(handler.bodies) == 1


@pytest.mark.parametrize(
    ("path", "headers", "is_again"),
    [
        ("/api/v1/keys", [], False),
        ("/api/v1/keys", [("idempotency-key", "k")], True),
        ("/api/v1/me/password", [("idempotency-key", "k")], False),
        (BATCH, [], True),
        ("/v1/logs", [], True),
    ],
)
@pytest.mark.parametrize("failure", [TransientError, CommitUnknownError])
async def test_what_may_be_stored_is_done_again_only_where_that_changes_nothing(
    path, headers, is_again, failure
):
    handler = Handler(failure(), commits=True)

    reply = await ask(app_of(handler), "POST", path, headers=headers)

    assert len(handler.bodies) == 1 + is_again
    assert reply.status == (200 if is_again else 503)


async def test_a_commit_that_nobody_confirmed_is_told_to_who_sent_it():
    reply = await ask(app_of(Handler(CommitUnknownError())), "POST", "/api/v1/keys")

    assert reply.status == 503
    assert "may be stored" in reply.json()["detail"]


async def test_without_the_gate_it_is_answered():
    async def fails(_: Any) -> str:
        raise interrupted()

    reply = await ask(app_of(fails, is_guarded=False), "GET", "/api/v1/sessions")

    assert reply.status == 503


async def test_what_has_begun_to_be_answered_is_not_done_again():
    begun = []

    async def pieces() -> Any:
        begun.append(True)
        yield b"first"
        raise interrupted()

    @get("/")
    async def stream() -> Stream:
        return Stream(pieces())

    app = RetryGate(Litestar([stream], exception_handlers=EXCEPTION_HANDLERS, logging_config=None))

    with pytest.raises(Exception, match="after response started"):
        await exchange(app, make_scope("GET", "/"))

    assert len(begun) == 1


async def test_a_bug_is_not_done_again():
    handler = Handler(RuntimeError("a bug"))

    with pytest.raises(RuntimeError):
        await ask(app_of(handler), "GET", "/api/v1/sessions")

    assert len(handler.bodies) == 1


async def test_an_attempt_ends_with_its_request():
    await ask(app_of(Handler()), "GET", "/api/v1/sessions")

    assert ATTEMPT.get() is None


async def test_a_client_that_leaves_between_attempts_disturbs_nobody():
    handler = Handler(interrupted())
    asking = asyncio.create_task(ask(app_of(handler), "POST", BATCH))
    async with asyncio.timeout(5):
        while not handler.bodies:
            await asyncio.sleep(0.001)

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert ATTEMPT.get() is None


async def test_what_an_attempt_had_parsed_is_let_go_of_before_the_next():
    class Parsed:
        """Stands for the rows of a batch."""

    parsed: list[weakref.ref[Parsed]] = []
    alive: list[int] = []

    async def do() -> str:
        gc.collect()
        alive.append(sum(one() is not None for one in parsed))
        rows = Parsed()
        parsed.append(weakref.ref(rows))
        if len(parsed) < ATTEMPTS:
            raise interrupted() from ConnectionResetError()
        return str(bool(rows))

    assert await attempted(do, is_repeatable=True) == "True"

    assert alive == [0, 0, 0]


@pytest.mark.timeout(10)
async def test_a_cause_that_many_wait_for_may_come_back_while_it_is_handled():
    shared = ConnectionResetError()

    async def do() -> str:
        try:
            raise shared
        except ConnectionResetError as error:
            raise interrupted() from error

    with pytest.raises(TransientError):
        await attempted(do, is_repeatable=True)

    assert shared.__context__.__cause__ is shared


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/anything", True),
        ("HEAD", "/", True),
        ("POST", "/api/v1/sessions", True),
        ("POST", "/api/v1/sessions/batch", True),
        ("POST", "/v1/traces", True),
        ("POST", "/v1/traces/", True),
        ("POST", "/sign-in", False),
        ("PUT", f"/api/v1/dashboards/{SOME_ID}", False),
        ("PATCH", f"/api/v1/sessions/{SOME_ID}", False),
        ("DELETE", f"/api/v1/sessions/{SOME_ID}", False),
    ],
)
def test_which_requests_may_be_done_twice(method, path, expected):
    assert is_repeatable(make_scope(method, path)) is expected


@pytest.mark.parametrize("path", ["/api/v1/me/password/", "//api/v1//me/password"])
def test_a_password_is_not_changed_twice_however_its_path_is_spelt(path):
    assert not is_repeatable(make_scope("POST", path, headers=[("idempotency-key", "k")]))


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_key_makes_only_a_post_repeatable(method):
    scope = make_scope(method, "/api/v1/dashboards", headers=[("idempotency-key", "k")])

    assert not is_repeatable(scope)
