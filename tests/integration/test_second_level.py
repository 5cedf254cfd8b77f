"""Redis behind the memory: it makes faster, and whatever becomes of it, nothing else changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import pytest
import structlog
from redis_servers import RedisServer, lying_server, redis_server
from sqlalchemy import text

from metrics_service.cache import link
from metrics_service.cache.second_level import MAX_UNDER_WAY, MAX_VALUE_BYTES, SecondLevel
from metrics_service.cache.two_levels import TwoLevels
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.roles import OWNER
from metrics_service.errors import TooManyRequestsError
from metrics_service.http.throttle import FailureThrottle
from metrics_service.observability import catalog
from metrics_service.tenants.authenticate import KeyRing, Principal
from metrics_service.tenants.keys import revoke_key
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.looked_up import Shared
from metrics_service.tenants.registry import notify
from metrics_service.tenants.resolve import TenantDirectory
from metrics_service.tenants.sign_ins import SignIns

SECRET = b"a secret key that only tests ever use"
TENANT, OTHER = uuid4(), uuid4()
# On a machine that is busy with something else; how quick it is by itself is asked where it matters.
PATIENCE_S = 2.0
SOON_S = 10.0


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RedisServer]:
    """For tests that leave it as it is."""
    with redis_server() as server:
        yield server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """For tests that do something to it."""
    with redis_server() as server:
        yield server


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PATIENCE_S", PATIENCE_S)


@asynccontextmanager
async def opened(url: str, *, secret: bytes = SECRET) -> AsyncIterator[SecondLevel]:
    """As one process has it."""
    second = SecondLevel(url, secret=secret)
    async with second.kept():
        yield second


@pytest.fixture
async def second(shared_server, patient) -> AsyncIterator[SecondLevel]:
    async with opened(shared_server.url) as second:
        await until(lambda: second.state.is_well)
        yield second


async def until(holds: Callable[[], bool | Awaitable[bool]]) -> float:
    """Wait until it holds; how long that took."""
    begun = time.monotonic()
    while True:
        answer = holds()
        if answer if isinstance(answer, bool) else await answer:
            return time.monotonic() - begun
        assert time.monotonic() - begun < SOON_S
        await asyncio.sleep(0.02)


async def timed(asked: Awaitable[object]) -> tuple[object, float]:
    begun = time.monotonic()
    answer = await asked
    return answer, time.monotonic() - begun


def lookups(cache: str, outcome: str) -> float:
    points = {point.values: point.value for point in catalog.CACHE_LOOKUPS.points()}
    return points.get((cache, outcome), 0)


# -- values -------------------------------------------------------------------------------------------


async def test_what_is_put_is_found_by_another_process_of_the_service(second, shared_server):
    async with opened(shared_server.url) as elsewhere:
        await until(lambda: elsewhere.state.is_well)
        await second.put(TENANT, "kind", b"key", b"value", ttl_s=60)

        assert await elsewhere.get(TENANT, "kind", b"key") == b"value"
        assert await elsewhere.get_many(TENANT, "kind", [b"key", b"none"]) == {b"key": b"value"}

        await elsewhere.delete(TENANT, "kind", b"key", b"none")
        assert await second.get(TENANT, "kind", b"key") is None


async def test_another_tenant_and_another_kind_find_nothing_under_the_same_key(second):
    await second.put(TENANT, "kind", b"same", b"ours", ttl_s=60)

    assert await second.get(OTHER, "kind", b"same") is None
    assert await second.get_many(OTHER, "kind", [b"same"]) == {}
    assert await second.get(TENANT, "kinds", b"same") is None
    await second.delete(OTHER, "kind", b"same")
    assert await second.get(TENANT, "kind", b"same") == b"ours"


async def test_a_service_with_another_secret_finds_nothing(second, shared_server):
    await second.put(TENANT, "kind", b"mine", b"value", ttl_s=60)

    async with opened(shared_server.url, secret=b"another secret of another service") as stranger:
        await until(lambda: stranger.state.is_well)
        assert await stranger.get(TENANT, "kind", b"mine") is None


async def test_a_value_ends_with_its_time(second):
    await second.put(TENANT, "kind", b"short", b"value", ttl_s=0.05)
    await asyncio.sleep(0.1)

    assert await second.get(TENANT, "kind", b"short") is None


async def test_what_is_too_large_is_left_out(second):
    await second.put(TENANT, "kind", b"large", bytes(MAX_VALUE_BYTES + 1), ttl_s=60)

    assert await second.get(TENANT, "kind", b"large") is None
    assert second.state.is_well


async def test_an_empty_value_is_a_value(second):
    await second.put(TENANT, "kind", b"empty", b"", ttl_s=60)

    assert await second.get(TENANT, "kind", b"empty") == b""


async def test_redis_sees_nothing_that_can_be_read_and_everything_there_ends(
    server, patient, new_tenant, engine
):
    tenant = await new_tenant()
    async with opened(server.url) as second:
        await until(lambda: second.state.is_well)
        await second.put(tenant.id, "kind", b"the key", b"the value", ttl_s=60)
        await second.count(b"192.0.2.1", 1, window_s=60)

    stored = b""
    for name in server.ask("KEYS", "*"):
        assert name.startswith(b"metrics:")
        assert 0 < server.ask("TTL", name) <= 60
        stored += name + server.ask("GET", name)
    for secret in (b"key", b"value", b"kind", b"192.0", tenant.id.bytes, str(tenant.id).encode()):
        assert secret not in stored.removeprefix(b"metrics:")
    assert stored


# -- a Redis that lies --------------------------------------------------------------------------------


async def test_values_that_change_places_are_misses(server, patient):
    async with opened(server.url) as second:
        await until(lambda: second.state.is_well)
        await second.put(TENANT, "kind", b"a", b"ours", ttl_s=60)
        await second.put(OTHER, "kind", b"a", b"theirs", ttl_s=60)
        one, another = server.ask("KEYS", "*")
        values = server.ask("GET", one), server.ask("GET", another)
        server.ask("SET", one, values[1])
        server.ask("SET", another, values[0])

        assert await second.get(TENANT, "kind", b"a") is None
        assert await second.get(OTHER, "kind", b"a") is None
        assert await second.get_many(TENANT, "kind", [b"a"]) == {}


async def test_what_somebody_else_wrote_is_a_miss_and_what_is_put_then_is_found(server, patient):
    async with opened(server.url) as second:
        await until(lambda: second.state.is_well)
        await second.put(TENANT, "kind", b"key", b"value", ttl_s=60)
        (name,) = server.ask("KEYS", "*")

        for write in (
            ("SET", name, "x"),
            ("SET", name, bytes(100)),
            ("LPUSH", name, "x"),
            ("HSET", name, "a", "b"),
        ):
            server.ask("DEL", name)
            server.ask(*write)
            assert await second.get(TENANT, "kind", b"key") is None
            assert await second.get_many(TENANT, "kind", [b"key"]) == {}
        assert second.state.is_well

        await second.put(TENANT, "kind", b"key", b"value", ttl_s=60)
        assert await second.get(TENANT, "kind", b"key") == b"value"


LIES = {
    "nothing": b"",
    "garbage": b"\x00\xff garbage",
    "another type": b":7\r\n",
    "a list": b"*2\r\n:1\r\n$-1\r\n",
    "a number that is none": b":seven\r\n",
    "a length that is none": b"$many\r\n",
    "more than there is": b"$1000000000\r\nabc",
    "a depth without end": b"*1\r\n" * 100_000,
    "an error": b"-ERR no\r\n",
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "no authentication": b"-NOAUTH Authentication required.\r\n",
    "elsewhere": b"-MOVED 3999 127.0.0.1:1\r\n",
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "two answers": b"$1\r\na\r\n$1\r\nb\r\n",
}


@pytest.mark.parametrize("after", [0, 2, 3])
@pytest.mark.parametrize("lie", LIES)
async def test_whatever_answers_there_is_a_miss_and_never_an_error(lie, after):
    heard = []
    async with lying_server(LIES[lie], after=after) as url:
        second = SecondLevel(url, secret=SECRET)
        second.hear("channel", heard.append)
        async with second.kept():
            for _ in range(4):
                assert await second.get(TENANT, "kind", b"key") is None
                assert await second.get_many(TENANT, "kind", [b"key", b"b"]) == {}
                await second.put(TENANT, "kind", b"key", b"value", ttl_s=60)
                await second.delete(TENANT, "kind", b"key")
                total = await second.count(b"name", 1, window_s=60)
                assert total is None or total >= 1
                await second.publish("channel", b"message")
                await asyncio.sleep(0.05)

    assert heard == []


# -- a Redis that is away -----------------------------------------------------------------------------


async def test_redis_may_be_away_from_the_start_and_is_used_when_it_comes(patient):
    server = RedisServer()
    try:
        async with opened(server.url) as second:
            await second.put(TENANT, "kind", b"key", b"value", ttl_s=60)
            assert await second.get(TENANT, "kind", b"key") is None
            await asyncio.sleep(0.1)
            assert not second.state.is_well
            assert "away" in second.state.finding

            server.start()

            assert await until(lambda: second.state.is_well) < 4
            await second.put(TENANT, "kind", b"key", b"value", ttl_s=60)
            assert await second.get(TENANT, "kind", b"key") == b"value"
    finally:
        server.kill()


async def test_redis_that_is_killed_is_a_miss_and_one_that_comes_back_empty_is_used_again(
    server, patient
):
    async with opened(server.url) as second:
        await until(lambda: second.state.is_well)
        await second.put(TENANT, "kind", b"key", b"value", ttl_s=60)

        with structlog.testing.capture_logs() as logs:
            server.kill()
            for _ in range(100):
                assert await second.get(TENANT, "kind", b"key") is None
            await asyncio.sleep(1.5)
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
            "redis is away"
        ]
        assert not second.state.is_well

        server.start()
        assert await until(lambda: second.state.is_well) < 4
        assert await second.get(TENANT, "kind", b"key") is None
        await second.put(TENANT, "kind", b"key", b"again", ttl_s=60)
        assert await second.get(TENANT, "kind", b"key") == b"again"


async def test_nobody_waits_long_for_redis_that_is_frozen_and_answers_are_not_mixed_up_afterwards(
    server, monkeypatch
):
    async with opened(server.url) as second:
        with monkeypatch.context() as context:
            context.setattr(link, "PATIENCE_S", PATIENCE_S)
            await until(lambda: second.state.is_well)
            for number in range(50):
                await second.put(TENANT, "kind", b"%d" % number, b"value %d" % number, ttl_s=60)

        with server.frozen():
            at_first = await asyncio.gather(
                *(timed(second.get(TENANT, "kind", b"%d" % number)) for number in range(50))
            )
            # Whether it was this process that was too busy is found out at the next look.
            await until(lambda: not second.state.is_well)
            then = [await timed(second.get(TENANT, "kind", b"1")) for _ in range(50)]
        monkeypatch.setattr(link, "PATIENCE_S", PATIENCE_S)
        await until(lambda: second.state.is_well)
        numbers = range(50)
        found = await asyncio.gather(
            *(second.get(TENANT, "kind", b"%d" % number) for number in numbers)
        )

    assert {answer for answer, _ in (*at_first, *then)} == {None}
    assert max(took for _, took in at_first) < 1
    assert sorted(took for _, took in then)[25] < 0.001
    assert found == [b"value %d" % number for number in numbers]


async def test_redis_that_is_full_still_answers_and_takes_again_when_there_is_room(server, patient):
    async with opened(server.url) as second:
        await until(lambda: second.state.is_well)
        await second.put(TENANT, "kind", b"key", b"value", ttl_s=60)
        server.ask("CONFIG", "SET", "maxmemory", "1")

        await second.put(TENANT, "kind", b"more", b"value", ttl_s=60)
        assert await second.count(b"name", 1, window_s=60) is None
        assert await second.get(TENANT, "kind", b"key") == b"value"
        assert not second.state.is_well
        assert "takes nothing" in second.state.finding

        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await until(lambda: second.state.is_well) < 4
        await second.put(TENANT, "kind", b"more", b"value", ttl_s=60)
        assert await second.get(TENANT, "kind", b"more") == b"value"


async def test_a_replica_that_may_not_be_written_to_still_answers(server, patient):
    async with opened(server.url) as second:
        await until(lambda: second.state.is_well)
        await second.put(TENANT, "kind", b"key", b"value", ttl_s=60)
        server.ask("REPLICAOF", "127.0.0.1", "1")

        await second.put(TENANT, "kind", b"more", b"value", ttl_s=60)
        await second.delete(TENANT, "kind", b"key")

        assert not second.state.is_well
        assert await second.get(TENANT, "kind", b"more") is None


async def test_what_is_done_in_the_background_is_bounded(second):
    for number in range(3 * MAX_UNDER_WAY):
        second.soon(second.put(TENANT, "background", b"%d" % number, b"value", ttl_s=60))

    assert len(second._under_way) == MAX_UNDER_WAY
    await until(lambda: not second._under_way)
    assert await second.get(TENANT, "background", b"0") == b"value"


# -- counters and messages ----------------------------------------------------------------------------


async def test_processes_count_together_until_the_window_ends(second, shared_server):
    name = uuid4().bytes
    async with opened(shared_server.url) as elsewhere:
        await until(lambda: elsewhere.state.is_well)

        assert await second.count(name, 1, window_s=1) == 1
        assert await elsewhere.count(name, 5, window_s=1) == 6
        assert await second.count(uuid4().bytes, 1, window_s=1) == 1
        await asyncio.sleep(1.1)
        assert await second.count(name, 1, window_s=1) == 1


async def test_what_is_told_is_heard_by_all_who_hear_and_what_others_say_is_not(server, patient):
    heard: list[bytes] = []
    told: list[bytes] = []
    second = SecondLevel(server.url, secret=SECRET)
    second.hear("channel", heard.append)
    stranger = SecondLevel(server.url, secret=b"another secret of another service")
    stranger.hear("channel", told.append)

    async with second.kept(), stranger.kept():
        await until(lambda: len(server.ask("PUBSUB", "CHANNELS")) == 2)
        for channel in server.ask("PUBSUB", "CHANNELS"):
            server.ask("PUBLISH", channel, "forged")
        await second.publish("another", b"elsewhere")
        await second.publish("channel", b"message")
        await until(lambda: bool(heard))

    assert heard == [b"message"]
    assert told == []


async def test_messages_are_heard_again_when_redis_is_back(server, patient):
    heard: list[bytes] = []
    second = SecondLevel(server.url, secret=SECRET)
    second.hear("channel", heard.append)

    async with second.kept():
        await until(lambda: len(server.ask("PUBSUB", "CHANNELS")) == 1)
        server.kill()
        await until(lambda: not second.state.is_well)
        server.start()
        await until(lambda: len(server.ask("PUBSUB", "CHANNELS")) == 1)
        await second.publish("channel", b"message")
        await until(lambda: bool(heard))

    assert heard == [b"message"]


# -- dear answers -------------------------------------------------------------------------------------


async def test_an_answer_that_another_process_made_is_not_made_again(second, shared_server):
    made = []

    async def make() -> bytes:
        made.append(1)
        return b"answer"

    key = uuid4().bytes
    async with opened(shared_server.url) as elsewhere:
        await until(lambda: elsewhere.state.is_well)
        here = TwoLevels("tests", max_bytes=10_000, ttl_s=60, second=second)
        there = TwoLevels("tests", max_bytes=10_000, ttl_s=60, second=elsewhere)

        assert await here.get(TENANT, "data", key, make) == b"answer"
        await until(lambda: not second._under_way)
        assert await there.get(TENANT, "data", key, make) == b"answer"
        assert len(made) == 1
        assert await there.get(OTHER, "data", key, make) == b"answer"
        assert len(made) == 2


# -- look-ups -----------------------------------------------------------------------------------------


class Process(msgspec.Struct):
    """What one process of the service has: its listener, its Redis, and what it looked up."""

    listener: RegistryListener
    second: SecondLevel
    keys: KeyRing
    hosts: TenantDirectory
    sign_ins: SignIns

    async def finds(self, tenant) -> Principal | None:
        return await self.keys.find_principal(tenant.id, tenant.key)


@pytest.fixture
async def new_process(addresses, engine, shared_server, patient):
    """Start one that hears, unless it is to be deaf."""
    async with AsyncExitStack() as stack:

        async def make(*, hears: bool = True, server: RedisServer = shared_server) -> Process:
            second = SecondLevel(server.url, secret=SECRET)
            listener = RegistryListener(addresses.direct, second=second)
            shared = Shared(second, listener)
            process = Process(
                listener,
                second,
                KeyRing(engine, ttl_s=listener.ttl_s, shared=shared),
                TenantDirectory(
                    engine, base_domain="localhost", ttl_s=listener.ttl_s, shared=shared
                ),
                SignIns(engine, ttl_s=listener.ttl_s, shared=shared),
            )
            for known in (process.keys, process.hosts, process.sign_ins):
                listener.tell(known.forget)
            await stack.enter_async_context(second.kept())
            if hears:
                listener.start()
                stack.push_async_callback(listener.stop)
                await until(listener.hears)
            await until(lambda: second.state.is_well)
            return process

        yield make


async def put_there(process: Process) -> None:
    await until(lambda: not process.second._under_way)


async def test_a_look_up_of_another_process_is_not_repeated(new_process, new_tenant, addresses):
    tenant = await new_tenant()
    here, there = await new_process(), await new_process()
    # Within the heartbeat that saw both begin, nobody knows what was first.
    await asyncio.sleep(0.1)
    found = await here.finds(tenant), await here.hosts.find(tenant.tenant.domain)
    await put_there(here)
    nowhere = runtime_engine("postgresql://nobody@127.0.0.1:1/none", pool_max=1)
    there.keys._engine = there.hosts._engine = nowhere
    hits = lookups("redis", "hit")

    assert await there.finds(tenant) == found[0] is not None
    assert await there.hosts.find(tenant.tenant.domain) == found[1] is not None
    assert lookups("redis", "hit") - hits == 2
    await nowhere.dispose()


async def test_the_key_of_one_tenant_is_nobodys_at_another_also_by_redis(new_process, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    here, there = await new_process(), await new_process()
    await asyncio.sleep(0.1)
    assert await here.finds(tenant) is not None
    await put_there(here)

    assert await there.keys.find_principal(other.id, tenant.key) is None
    assert await there.keys.find_principal(tenant.id, other.key) is None


async def revoke(addresses, key_id: UUID) -> None:
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        await revoke_key(connection, key_id, grace=timedelta(0))


class Keeper:
    """A Redis that forgets nothing: what was deleted is there again."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.kept = {name: server.ask("GET", name) for name in server.ask("KEYS", "*")}

    def restore(self) -> None:
        for name, value in self.kept.items():
            self.server.ask("SET", name, value)


async def test_a_revoked_key_ends_everywhere_though_redis_keeps_what_was_put_before(
    new_process, new_tenant, addresses, server
):
    tenant = await new_tenant()
    here, there = await new_process(server=server), await new_process(server=server)
    await asyncio.sleep(0.1)
    principal = await here.finds(tenant)
    assert principal is not None
    await put_there(here)
    redis = Keeper(server)
    assert redis.kept

    await revoke(addresses, principal.id)
    redis.restore()
    begun = time.monotonic()
    await until(lambda: _is_none(there.finds(tenant)))
    await until(lambda: _is_none(here.finds(tenant)))
    assert time.monotonic() - begun < 2

    # Nor does it come back, for whoever heard, for as long as Redis says so.
    for _ in range(30):
        redis.restore()
        assert await here.finds(tenant) is None
        assert await there.finds(tenant) is None
        await asyncio.sleep(0.1)


async def _is_none(found: Awaitable[object]) -> bool:
    return await found is None


async def test_a_process_that_begins_later_believes_nothing_from_before(
    new_process, new_tenant, addresses, server
):
    tenant = await new_tenant()
    here = await new_process(server=server)
    await asyncio.sleep(0.1)
    principal = await here.finds(tenant)
    await put_there(here)
    redis = Keeper(server)
    # Nobody is left who heard it.
    await here.listener.stop()
    await revoke(addresses, principal.id)
    redis.restore()

    later = await new_process(server=server)

    assert await later.finds(tenant) is None


async def test_a_process_that_does_not_hear_believes_nothing(
    new_process, new_tenant, addresses, server
):
    tenant = await new_tenant()
    here, deaf = await new_process(server=server), await new_process(server=server, hears=False)
    await asyncio.sleep(0.1)
    principal = await here.finds(tenant)
    await put_there(here)
    redis = Keeper(server)
    await here.listener.stop()

    await revoke(addresses, principal.id)
    redis.restore()

    assert await deaf.finds(tenant) is None


async def test_a_suspended_tenant_and_a_host_that_moved_hold_within_two_seconds(
    new_process, new_tenant, addresses, server
):
    tenant, other = await new_tenant(), await new_tenant()
    here, there = await new_process(server=server), await new_process(server=server)
    host = tenant.tenant.domain
    await asyncio.sleep(0.1)
    assert (await here.hosts.find(host)).id == tenant.id
    await put_there(here)
    redis = Keeper(server)
    assert (await there.hosts.find(host)).id == tenant.id

    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        await connection.execute(
            text("UPDATE public.tenant_domains SET tenant_id = :to WHERE host = :host"),
            {"to": other.id, "host": host},
        )
        await notify(connection, tenant.id)
    redis.restore()

    async def has_moved(process: Process) -> bool:
        return (await process.hosts.find(host)).id == other.id

    begun = time.monotonic()
    await until(lambda: has_moved(there))
    await until(lambda: has_moved(here))
    assert time.monotonic() - begun < 2


async def test_a_deaf_process_hears_by_redis_of_what_another_heard(
    new_process, new_tenant, addresses
):
    tenant, other = await new_tenant(), await new_tenant()
    await new_process()
    deaf = await new_process(hears=False)
    told = []
    deaf.listener.tell(told.append)
    await until(lambda: _subscribed(deaf))

    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        await notify(connection, tenant.id)
    await until(lambda: tenant.id in told)
    deaf.listener.announce(other.id)
    await until(lambda: other.id in told)

    assert not deaf.listener.hears()


async def _subscribed(process: Process) -> bool:
    heard: list[UUID | None] = []
    process.listener.tell(heard.append)
    process.listener.announce(uuid4())
    await asyncio.sleep(0.1)
    return bool(heard)


async def test_it_works_the_same_when_redis_goes_away(new_process, new_tenant, addresses, server):
    tenant = await new_tenant()
    here = await new_process(server=server)
    server.kill()

    principal = await here.finds(tenant)
    assert principal is not None
    assert (await here.hosts.find(tenant.tenant.domain)).id == tenant.id
    await revoke(addresses, principal.id)
    assert await until(lambda: _is_none(here.finds(tenant))) < 2


# -- failures that are counted together ---------------------------------------------------------------


async def test_failed_authentications_count_over_all_processes(second, shared_server):
    address, host = "192.0.2.77", uuid4().hex
    async with opened(shared_server.url) as elsewhere:
        await until(lambda: elsewhere.state.is_well)
        here, there = FailureThrottle(5, second=second), FailureThrottle(5, second=elsewhere)
        for _ in range(5):
            here.check(address, host)
            here.record_failure(address, host)
        await until(lambda: not second._under_way)

        # It learns of the others with the first that fails here.
        there.check(address, host)
        there.record_failure(address, host)
        await until(lambda: not elsewhere._under_way)

        with pytest.raises(TooManyRequestsError):
            there.check(address, host)
        there.check("192.0.2.78", host)
        there.check(address, uuid4().hex)
        FailureThrottle(5, second=elsewhere, kind="passwords").check(address, host)


async def test_without_redis_each_process_counts_for_itself():
    second = SecondLevel("redis://127.0.0.1:1", secret=SECRET)
    throttle = FailureThrottle(2, second=second)
    for _ in range(2):
        throttle.check("192.0.2.1", "host")
        throttle.record_failure("192.0.2.1", "host")

    with pytest.raises(TooManyRequestsError):
        throttle.check("192.0.2.1", "host")
