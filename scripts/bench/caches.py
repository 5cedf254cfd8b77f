"""What it takes to know who is asking: hosts and keys from memory, from Redis and from the database.

    python scripts/bench/caches.py [--data DIR] [--tenants 10000] [--lookups 1000000]

In one process with the real listener, on a registry of so many tenants that have no schemas; each
look-up is of a tenant at random. With redis-server installed, the second level is timed as well.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
import psutil
from common import SECRET, admin_dsn, database, table
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.cache.second_level import SecondLevel
from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import runtime_engine
from metrics_service.observability import catalog
from metrics_service.tenants.authenticate import CACHE as KEYS
from metrics_service.tenants.authenticate import KeyRing
from metrics_service.tenants.initialise import prepare_embedded
from metrics_service.tenants.keys import KEY_MARK, PREFIX_BYTES, hash_key, prefix_of
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.looked_up import Shared
from metrics_service.tenants.resolve import CACHE as HOSTS
from metrics_service.tenants.resolve import TenantDirectory

DATA = Path("/tmp/metrics-bench-caches")  # noqa: S108 - short enough for a socket, and not worth keeping
SAMPLE = 1000
AT_ONCE = 1000

FILL = """
WITH made AS (
    INSERT INTO public.tenants (id, slug, name, domain, schema_name, status)
    SELECT id, slug, slug, slug, 't_' || replace(slug, '-', ''), 'active'
    FROM unnest($1::uuid[], $2::text[]) AS given (id, slug)
    RETURNING id, domain
), reached AS (
    INSERT INTO public.tenant_domains (host, tenant_id) SELECT domain, id FROM made
)
INSERT INTO public.api_keys (id, tenant_id, prefix, key_hash, name, scopes)
SELECT id, id, prefix, key_hash, 'bench', '{ingest}'
FROM unnest($1::uuid[], $3::text[], $4::bytea[]) AS given (id, prefix, key_hash)
"""


class Known(msgspec.Struct, frozen=True):
    """A tenant to be asked for."""

    id: UUID
    host: str
    key: str


class Process(msgspec.Struct, frozen=True):
    """What one process of the service knows of tenants."""

    directory: TenantDirectory
    keys: KeyRing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--lookups", type=int, default=1_000_000)
    chosen = parser.parse_args()
    with database(chosen.data) as addresses, redis_server() as url:
        asyncio.run(_run(addresses, chosen.tenants, chosen.lookups, url))


async def _run(addresses: Addresses, count: int, lookups: int, url: str | None) -> None:
    await prepare_embedded(addresses, upgrade=True)
    tenants = await _fill(admin_dsn(addresses), count)
    engine = runtime_engine(addresses.runtime, pool_max=4)
    rows = []
    async with _second(url) as second, _listening(addresses, second) as listener:
        process = _process(engine, listener, None)
        rows += await _at_once(process, tenants[0])
        rows += await _each("from the database", process, tenants[:SAMPLE])
        rows += await _memory(process, tenants)
        rows += await _hits(process, tenants, lookups)
        if second is not None:
            # The one has looked up all, the other asks Redis.
            shared = Shared(second, listener)
            here, there = (_process(engine, listener, shared) for _ in range(2))
            await asyncio.sleep(1)
            for tenant in tenants[:SAMPLE]:
                await _find(here, tenant)
            rows += await _each("from Redis", there, tenants[:SAMPLE])
    await engine.dispose()
    print(table(["what", "median", "99 %", "beside it"], rows))


async def _fill(dsn: str, count: int) -> list[Known]:
    made = [
        Known(
            UUID(bytes=sha256(b"%d" % number).digest()[:16]),
            f"cache-{number:05}",
            f"{KEY_MARK}_{number:0{2 * PREFIX_BYTES}}_{sha256(b'key %d' % number).hexdigest()}",
        )
        for number in range(count)
    ]
    connection = await asyncpg.connect(dsn)
    await connection.execute("DELETE FROM public.tenants WHERE slug LIKE 'cache-%'")
    await connection.execute(
        FILL,
        [tenant.id for tenant in made],
        [tenant.host for tenant in made],
        [prefix_of(tenant.key) for tenant in made],
        [hash_key(tenant.key) for tenant in made],
    )
    await connection.execute("ANALYZE public.tenants, public.tenant_domains, public.api_keys")
    await connection.close()
    return made


def _process(engine: AsyncEngine, listener: RegistryListener, shared: Shared | None) -> Process:
    return Process(
        TenantDirectory(engine, base_domain="localhost", ttl_s=listener.ttl_s, shared=shared),
        KeyRing(engine, ttl_s=listener.ttl_s, shared=shared),
    )


@asynccontextmanager
async def _second(url: str | None) -> AsyncIterator[SecondLevel | None]:
    if url is None:
        yield None
        return
    second = SecondLevel(url, secret=SECRET.encode())
    async with second.kept():
        yield second


@asynccontextmanager
async def _listening(
    addresses: Addresses, second: SecondLevel | None
) -> AsyncIterator[RegistryListener]:
    listener = RegistryListener(addresses.direct, second=second)
    listener.start()
    while not listener.hears():  # noqa: ASYNC110  # it has no event
        await asyncio.sleep(0.05)
    yield listener
    await listener.stop()


async def _find(process: Process, tenant: Known) -> None:
    assert await process.directory.find(tenant.host) is not None
    assert await process.keys.find_principal(tenant.id, tenant.key) is not None


async def _at_once(process: Process, tenant: Known) -> list[list[str]]:
    before = _noted(HOSTS, "miss")
    begun = time.perf_counter()
    await asyncio.gather(*(process.directory.find(tenant.host) for _ in range(AT_ONCE)))
    took = time.perf_counter() - begun
    asked = _noted(HOSTS, "miss") - before
    return [
        [
            f"{AT_ONCE} at once for a cold host",
            f"{took * 1000:.1f} ms all",
            "",
            f"{asked:.0f} asked",
        ]
    ]


async def _each(name: str, process: Process, tenants: list[Known]) -> list[list[str]]:
    async def host(tenant: Known) -> None:
        assert await process.directory.find(tenant.host) is not None

    async def key(tenant: Known) -> None:
        assert await process.keys.find_principal(tenant.id, tenant.key) is not None

    found = _noted("redis", "hit")
    rows = [
        _row(f"{what} {name}", await _timed(find, tenants), "")
        for what, find in (("host", host), ("key", key))
    ]
    rows[-1][-1] = f"{_noted('redis', 'hit') - found:.0f} of {2 * len(tenants)} found in Redis"
    return rows


async def _memory(process: Process, tenants: list[Known]) -> list[list[str]]:
    gc.collect()
    own = psutil.Process()
    before = own.memory_info().rss
    for tenant in tenants:
        await _find(process, tenant)
    gc.collect()
    grown = own.memory_info().rss - before
    each = f"{grown / len(tenants) / 1024:.1f} KiB a tenant"
    return [[f"{len(tenants)} tenants in memory", f"{grown / 2**20:.1f} MiB", "", each]]


async def _hits(process: Process, tenants: list[Known], lookups: int) -> list[list[str]]:
    chosen = [random.choice(tenants) for _ in range(lookups)]
    noted = {cache: (_noted(cache, "hit"), _noted(cache, "miss")) for cache in (HOSTS, KEYS)}
    hosts: list[int] = []
    keys: list[int] = []
    clock = time.perf_counter_ns
    for number, tenant in enumerate(chosen):
        if number % 50 == 0:
            # As between requests: the listener's heartbeat comes through.
            await asyncio.sleep(0)
        begun = clock()
        await process.directory.find(tenant.host)
        between = clock()
        await process.keys.find_principal(tenant.id, tenant.key)
        keys.append(clock() - between)
        hosts.append(between - begun)
    rows = []
    for what, cache, times in (("host", HOSTS, hosts), ("key", KEYS, keys)):
        hits = _noted(cache, "hit") - noted[cache][0]
        misses = _noted(cache, "miss") - noted[cache][1]
        share = 100 * hits / (hits + misses)
        rows.append(_row(f"{what} from memory", times, f"{share:.2f} % found there"))
    return rows


async def _timed(find: Callable[[Known], Awaitable[None]], tenants: list[Known]) -> list[int]:
    times = []
    for tenant in tenants:
        begun = time.perf_counter_ns()
        await find(tenant)
        times.append(time.perf_counter_ns() - begun)
    return times


def _row(what: str, times: list[int], beside: str) -> list[str]:
    times.sort()
    middle, late = statistics.median(times), times[len(times) * 99 // 100]
    return [what, f"{middle / 1000:.1f} us", f"{late / 1000:.1f} us", beside]


def _noted(cache: str, outcome: str) -> float:
    points = {point.values: point.value for point in catalog.CACHE_LOOKUPS.points()}
    return points.get((cache, outcome), 0)


@contextmanager
def redis_server() -> Iterator[str | None]:
    """One of our own that keeps nothing; None where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "--bind", "127.0.0.1", "--port", str(port), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
