"""Clients that note what they were told is stored; and whether the database says the same.

What was acknowledged is there exactly once. What was not is there whole, or not at all. What is counted
of it, in sessions and in rollups, is what is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import httpx
import msgspec
from acceptance.export import JSON, api_request, encode, logs, tool_result
from acceptance.talk import check_answer, dashboard, session, tool_metric
from rolled import check_rollups
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import TenantContext, tenant_connection

BATCH, SESSIONS, DASHBOARDS = "/api/v1/tool-metrics/batch", "/api/v1/sessions", "/api/v1/dashboards"
LOGS = "/v1/logs"
BATCH_SIZE = 6
AGENT = "claude-code"
TRY_AGAIN = {429, 503}
GIVE_UP_AFTER_S = 60.0


class Counts(msgspec.Struct, frozen=True):
    """What there is under one name."""

    calls: int = 0
    """Tool calls of a batch, which say the name."""
    sessions: int = 0
    session_calls: int = 0
    session_model_calls: int = 0
    dashboards: int = 0
    tags: int = 0


NOTHING = Counts()


class Deed(msgspec.Struct):
    """One request that stores something under a name of its own."""

    name: str
    path: str
    body: bytes
    stores: Counts
    method: str = "POST"
    headers: dict[str, str] = {}
    is_acknowledged: bool = False
    statuses: list[int] = msgspec.field(default_factory=list)
    breaks: int = 0

    async def ask(self, client: httpx.AsyncClient) -> httpx.Response:
        """Once; notes what it was told."""
        answer = await client.request(
            self.method,
            self.path,
            content=self.body,
            headers={"Content-Type": JSON, **self.headers},
        )
        self.statuses.append(answer.status_code)
        self.is_acknowledged |= answer.is_success
        return answer

    async def deliver(self, client: httpx.AsyncClient, *, may_break: bool = False) -> None:
        """Until it is acknowledged, as often as it is told to try again, and not before it is to."""
        give_up_at = time.monotonic() + GIVE_UP_AFTER_S
        while not self.is_acknowledged:
            assert time.monotonic() < give_up_at, (self.path, self.statuses, self.breaks)
            try:
                answer = await self.ask(client)
            except httpx.TransportError:
                assert may_break, "the server does not even answer"
                self.breaks += 1
                await asyncio.sleep(0.05)
                continue
            if not answer.is_success:
                assert answer.status_code in TRY_AGAIN, (answer.status_code, answer.text)
                await asyncio.sleep(float(answer.headers["retry-after"]))


def batch() -> Deed:
    name = uuid4().hex
    items = [
        tool_metric(
            tool_name=f"tool-{number % 3}",
            tool_category=name,
            duration_ms=number,
            agent=AGENT,
            external_session_id=name,
            user_email=f"user-{number % 2}@example.com",
            **({"id": uuid4()} if number % 2 else {}),
        )
        for number in range(BATCH_SIZE)
    ]
    stores = Counts(calls=BATCH_SIZE, sessions=1, session_calls=BATCH_SIZE)
    return Deed(name, BATCH, msgspec.json.encode(items), stores)


def telemetry() -> Deed:
    name = uuid4().hex
    records = (
        tool_result(f"{name}-1", session__id=name),
        tool_result(f"{name}-2", session__id=name),
        api_request(f"{name}-3", session__id=name),
    )
    stores = Counts(sessions=1, session_calls=2, session_model_calls=1)
    return Deed(name, LOGS, encode("logs", logs(*records), JSON), stores)


def new_session() -> Deed:
    body = session(agent=AGENT)
    return Deed(body["external_id"], SESSIONS, msgspec.json.encode(body), Counts(sessions=1))


def new_dashboard() -> Deed:
    name = uuid4().hex
    body = msgspec.json.encode(dashboard(name=name))
    return Deed(name, DASHBOARDS, body, Counts(dashboards=1))


def keyed_dashboard() -> Deed:
    deed = new_dashboard()
    deed.headers = {"Idempotency-Key": deed.name}
    return deed


async def tagged(client: httpx.AsyncClient) -> Deed:
    """A change of a session that is there."""
    before = new_session()
    view = (await before.ask(client)).json()
    body = msgspec.json.encode({"tags": ["one", "two"]})
    path = f"{SESSIONS}/{view['id']}"
    return Deed(before.name, path, body, Counts(sessions=1, tags=2), method="PATCH")


REPEATED = (batch, telemetry, new_session, keyed_dashboard)
"""Those that a client may send again whatever became of them."""


class Ledger:
    """What all clients of one tenant sent."""

    def __init__(self) -> None:
        self.deeds: list[Deed] = []

    def add(self, deed: Deed) -> Deed:
        self.deeds.append(deed)
        return deed

    @property
    def acknowledged(self) -> list[Deed]:
        return [deed for deed in self.deeds if deed.is_acknowledged]

    @property
    def refusals(self) -> int:
        """How often clients were told to try again."""
        return sum(status in TRY_AGAIN for deed in self.deeds for status in deed.statuses)

    @property
    def breaks(self) -> int:
        return sum(deed.breaks for deed in self.deeds)

    async def check(
        self, engine: AsyncEngine, tenant_id: UUID, *, of_others: Iterable[Deed] = ()
    ) -> None:
        """Nothing acknowledged is lost, and nothing is there twice, by half or unasked."""
        found = await stored(engine, tenant_id)
        for deed in self.deeds:
            there = found.pop(deed.name, NOTHING)
            if deed.is_acknowledged:
                assert there == deed.stores, (deed.path, deed.statuses)
            elif deed.method == "POST":
                assert there in {deed.stores, NOTHING}, (deed.path, deed.statuses)
        assert found.keys() <= {deed.name for deed in of_others}, "nobody sent that"


STORED = """
WITH found AS (
    SELECT tool_category AS name, count(*) AS calls, 0 AS sessions, 0 AS session_calls,
           0 AS session_model_calls, 0 AS dashboards, 0 AS tags
    FROM tool_metrics WHERE tool_category ~ '^[0-9a-f]{32}$' GROUP BY 1
    UNION ALL
    SELECT external_id, 0, 1,
           (SELECT count(*) FROM tool_metrics f WHERE f.session_id = s.id),
           (SELECT count(*) FROM model_calls f WHERE f.session_id = s.id), 0,
           (SELECT count(*) FROM session_tags t WHERE t.session_id = s.id)
    FROM metrics_sessions s
    UNION ALL
    SELECT name, 0, 0, 0, 0, count(*), 0 FROM dashboard_configs GROUP BY 1
)
SELECT name, sum(calls)::int AS calls, sum(sessions)::int AS sessions,
       sum(session_calls)::int AS session_calls,
       sum(session_model_calls)::int AS session_model_calls,
       sum(dashboards)::int AS dashboards, sum(tags)::int AS tags
FROM found GROUP BY 1
"""

MISCOUNTED = """
SELECT s.external_id, s.tool_call_count, s.model_call_count FROM metrics_sessions s
WHERE s.tool_call_count <> (SELECT count(*) FROM tool_metrics f WHERE f.session_id = s.id)
   OR s.model_call_count <> (SELECT count(*) FROM model_calls f WHERE f.session_id = s.id)
"""


async def stored(engine: AsyncEngine, tenant_id: UUID) -> dict[str, Counts]:
    """What is there by name, after a look at what is counted of it; as the runtime login sees it."""
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        found = {
            row["name"]: Counts(**{name: row[name] for name in Counts.__struct_fields__})
            for row in await connection.fetch(STORED)
        }
        assert [tuple(row) for row in await connection.fetch(MISCOUNTED)] == []
        await check_rollups(connection)
    return found


@asynccontextmanager
async def client_of(port: int, headers: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client that holds every answer to what is promised for all of them: no 500 above all."""
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers=headers,
        event_hooks={"response": [check_answer]},
        timeout=60,
        trust_env=False,
    ) as client:
        yield client


class Load:
    """Several clients that send one thing after the other, each until it is acknowledged."""

    def __init__(self, port: int, headers: dict[str, str], *, may_break: bool = False) -> None:
        self.ledger = Ledger()
        self._port, self._headers, self._may_break = port, headers, may_break
        self._is_over = asyncio.Event()

    async def one(self, number: int) -> None:
        async with client_of(self._port, self._headers) as client:
            while not self._is_over.is_set():
                deed = self.ledger.add(REPEATED[number % len(REPEATED)]())
                number += 1
                await deed.deliver(client, may_break=self._may_break)
                await asyncio.sleep(0.01)

    async def acknowledges(self, more: int, within_s: float = GIVE_UP_AFTER_S) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.ledger.acknowledged) + more
        async with asyncio.timeout(within_s):
            while len(self.ledger.acknowledged) < wanted:
                await asyncio.sleep(0.02)

    async def is_refused(self, more: int, within_s: float = GIVE_UP_AFTER_S) -> None:
        """Wait until clients were told so many times more to try again."""
        wanted = self.ledger.refusals + more
        async with asyncio.timeout(within_s):
            while self.ledger.refusals < wanted:
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def kept_up(self, clients: int, *, is_given_up: bool = False) -> AsyncIterator[None]:
        """While this is open; in the end what is under way is delivered, or given up."""
        async with asyncio.TaskGroup() as group:
            sending = [group.create_task(self.one(number)) for number in range(clients)]
            try:
                yield
            finally:
                self._is_over.set()
                if is_given_up:
                    for task in sending:
                        task.cancel()


async def served_again(client: httpx.AsyncClient, ledger: Ledger) -> float:
    """How long it takes, asking all the time, until something is stored."""
    begun = time.perf_counter()
    deed = ledger.add(batch())
    while not (await deed.ask(client)).is_success:
        assert time.perf_counter() - begun < GIVE_UP_AFTER_S, deed.statuses
        await asyncio.sleep(0.02)
    return time.perf_counter() - begun


def say(finding: str) -> None:
    """A figure for whoever reads what the tests printed."""
    print(finding)  # noqa: T201  # that is what it is for
