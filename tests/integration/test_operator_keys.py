"""Operators' keys: issued and taken back on the command line, and the only way to read the fleet."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from command_line import CommandLine, on_database
from sqlalchemy import text

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.tenancy import registry_connection, registry_writing
from metrics_service.errors import UnavailableError
from metrics_service.fleet import reading
from metrics_service.fleet.operator_keys import (
    create_operator_key,
    prefix_of,
    revoke_operator_key,
)
from metrics_service.fleet.operators import OperatorKeys
from metrics_service.fleet.views import (
    AuditQuery,
    HealthEventsQuery,
    JobsQuery,
    SchemasQuery,
    TenantsQuery,
)
from metrics_service.http.throttle import FailureThrottle
from metrics_service.operations.cookies import OperatorCookies, Shown
from metrics_service.operations.gate import OperatorGate
from metrics_service.tenants.keys import hash_key
from metrics_service.tenants.listener import RegistryListener

NOW = timedelta(0)

# Every function of the registry that says something of more than one tenant, or queues something.
OF_OPERATORS = {
    "operator_tenants": "SELECT * FROM public.operator_tenants($1)",
    "operator_activity": "SELECT * FROM public.operator_activity($1, NULL)",
    "operator_schemas": "SELECT * FROM public.operator_schemas($1)",
    "operator_processes": "SELECT * FROM public.operator_processes($1)",
    "operator_health_events": "SELECT * FROM public.operator_health_events($1, '-infinity')",
    "operator_slow_queries": "SELECT * FROM public.operator_slow_queries($1, '-infinity')",
    "operator_statements": "SELECT * FROM public.operator_statements($1)",
    "operator_jobs": "SELECT * FROM public.operator_jobs($1)",
    "operator_audit_log": "SELECT * FROM public.operator_audit_log($1)",
    "queue_job": "SELECT public.queue_job($1, gen_random_uuid(), 'upgrade', '{}', NULL)",
}

READERS = {
    "list_tenants": lambda c, o: reading.list_tenants(c, o, TenantsQuery()),
    "get_tenant": lambda c, o: reading.get_tenant(c, o, uuid4()),
    "is_taken": lambda c, o: reading.is_taken(c, o, slug="a", domain="a"),
    "find_slugs": reading.find_slugs,
    "read_totals": reading.read_totals,
    "list_activity": reading.list_activity,
    "list_schemas": lambda c, o: reading.list_schemas(c, o, SchemasQuery()),
    "count_schemas": reading.count_schemas,
    "has_schema": lambda c, o: reading.has_schema(c, o, "public"),
    "list_processes": reading.list_processes,
    "list_health_events": lambda c, o: reading.list_health_events(c, o, HealthEventsQuery()),
    "list_jobs": lambda c, o: reading.list_jobs(c, o, JobsQuery()),
    "find_job": lambda c, o: reading.find_job(c, o, uuid4()),
    "get_job": lambda c, o: reading.get_job(c, o, uuid4()),
    "list_audit": lambda c, o: reading.list_audit(c, o, AuditQuery()),
}


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


async def issue(addresses: Addresses, name: str = "night shift", **options):
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        return await create_operator_key(connection, name=name, **options)


async def revoke(addresses: Addresses, key_id) -> None:
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        await revoke_operator_key(connection, key_id, grace=NOW)


async def find(keys: OperatorKeys, key: str):
    return await keys.find(prefix_of(key), hash_key(key))


# -- on the command line ----------------------------------------------------------------------------


def test_a_key_is_shown_once_and_listed_without_itself(line):
    issued = line(
        "key", "create", "--operator", "--name", "night shift", "--expires-in", "1d", "--json"
    ).json()
    listed = line.here("key", "list", "--operator", "--json")

    assert list(issued) == ["id", "key", "prefix", "name", "expires_at"]
    assert issued["key"].startswith(f"mso_{issued['prefix']}_")
    (row,) = [row for row in listed.json() if row["id"] == issued["id"]]
    assert list(row) == ["id", "prefix", "name", "created_at", "expires_at", "revoked_at"]
    assert (row["name"], row["expires_at"], row["revoked_at"]) == (
        "night shift",
        issued["expires_at"],
        None,
    )
    left = datetime.fromisoformat(issued["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(days=1)
    assert issued["key"].split("_", 2)[2] not in listed.out


def test_rotating_and_revoking_take_either_kind_of_key(line):
    slug = f"c{uuid4().hex[:12]}"
    line.here("tenant", "create", slug, "--json").json()
    tenants = line.here("key", "create", slug, "--scope", "read", "--json").json()
    operators = line.here("key", "create", "--operator", "--json").json()

    rotated = line.here("key", "rotate", operators["id"], "--grace", "0s", "--json").json()
    of_tenant = line.here("key", "rotate", tenants["id"], "--json").json()
    revoked = line.here("key", "revoke", rotated["id"], "--yes")

    assert revoked.code == 0, revoked.err
    assert list(rotated) == ["id", "key", "prefix", "name", "expires_at"]
    assert rotated["key"].startswith("mso_")
    assert of_tenant["key"].startswith("msk_")
    rows = {row["id"]: row for row in line.here("key", "list", "--operator", "--json").json()}
    assert rows[operators["id"]]["revoked_at"] is not None
    assert rows[rotated["id"]]["revoked_at"] is not None
    assert of_tenant["id"] not in rows
    assert line.here("key", "rotate", rotated["id"]).code == 3
    assert line.here("key", "revoke", str(uuid4()), "--yes").code == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "--operator", "acme"),
        ("create", "--operator", "--scope", "read"),
        ("create", "--operator", "--user", "a@b.example"),
        ("create", "--operator", "--name", "a\nb"),
        ("create", "--operator", "--expires-in", "0d"),
        ("create", "acme"),
        ("list",),
        ("list", "acme", "--operator"),
    ],
)
def test_wrong_options_exit_with_2_and_issue_nothing(line, arguments):
    before = line.here("key", "list", "--operator", "--json").json()

    assert line.here("key", *arguments).code == 2
    assert line.here("key", "list", "--operator", "--json").json() == before


def test_what_is_done_with_keys_stands_in_the_operators_audit(line, addresses):
    issued = line.here("key", "create", "--operator", "--json").json()
    line.here("key", "revoke", issued["id"], "--yes")

    async def actions() -> list[str]:
        async with owner_connection(addresses.require_owner()) as connection, connection.begin():
            await connection.execute(text("SET LOCAL ROLE app_owner"))
            rows = await connection.execute(
                text(
                    "SELECT action FROM public.operator_audit WHERE detail ->> 'key' = :id"
                    " ORDER BY at"
                ),
                {"id": issued["id"]},
            )
            return list(rows.scalars())

    assert asyncio.run(actions()) == ["operator key create", "operator key revoke"]


# -- by the service ---------------------------------------------------------------------------------


async def test_a_key_is_found_by_itself_and_by_nothing_that_is_nearly_it(addresses, engine):
    issued = await issue(addresses)
    keys = OperatorKeys(engine, ttl_s=lambda: 60.0)

    operator = await find(keys, issued.key)

    assert operator is not None
    assert (operator.id, operator.name, operator.kind) == (issued.id, "night shift", "operator")
    assert operator.key_hash == hash_key(issued.key)
    for nearly in (
        issued.key[:-1],
        issued.key + "x",
        issued.key.replace("mso_", "msk_"),
        issued.key[:15] + "A" * 43,
        "",
        "mso_",
        "mso_\0\0\0\0\0\0\0\0\0\0_x",
    ):
        assert await find(keys, nearly) is None, nearly


async def test_a_tenants_key_is_no_operators_and_the_other_way_round(addresses, engine, new_tenant):
    tenant, issued = await new_tenant(), await issue(addresses)

    assert await find(OperatorKeys(engine, ttl_s=lambda: 60.0), tenant.key) is None
    async with registry_connection(engine) as connection:
        prefix = issued.prefix
        assert (
            await connection.fetchrow(
                "SELECT * FROM public.find_api_key($1, $2)", tenant.id, prefix
            )
            is None
        )


async def test_a_remembered_key_dies_when_its_time_has_come(addresses, engine):
    issued = await issue(addresses, expires_in=timedelta(seconds=1))
    keys = OperatorKeys(engine, ttl_s=lambda: 60.0)

    before = await find(keys, issued.key)
    await asyncio.sleep(1.05)

    assert before is not None
    assert await find(keys, issued.key) is None
    assert keys.find_known(hash_key(issued.key)) is None


async def test_a_revoked_key_is_forgotten_within_two_seconds(addresses, engine):
    issued = await issue(addresses)
    listener = RegistryListener(addresses.direct)
    keys = OperatorKeys(engine, ttl_s=lambda: 60.0)
    listener.tell(keys.forget)
    listener.start()
    try:
        while not listener.hears():
            await asyncio.sleep(0.02)
        assert await find(keys, issued.key) is not None
        await revoke(addresses, issued.id)
        begun = time.monotonic()
        while await find(keys, issued.key) is not None:
            assert time.monotonic() - begun < 5
            await asyncio.sleep(0.02)
    finally:
        await listener.stop()

    assert time.monotonic() - begun < 2
    assert keys.find_known(hash_key(issued.key)) is None


async def test_a_change_of_a_tenant_takes_no_operator_out_of_memory(addresses, engine):
    issued = await issue(addresses)
    keys = OperatorKeys(engine, ttl_s=lambda: 60.0)
    await find(keys, issued.key)

    keys.forget(uuid4())
    assert keys.find_known(hash_key(issued.key)) is not None
    keys.forget(None)
    assert keys.find_known(hash_key(issued.key)) is None


async def test_while_the_database_is_away_only_who_was_known_is_known(addresses):
    issued = await issue(addresses)
    nowhere = runtime_engine("postgresql://app_runtime:x@127.0.0.1:1/none", pool_max=1)
    here = runtime_engine(addresses.runtime, pool_max=1)
    try:
        keys = OperatorKeys(here, ttl_s=lambda: 0.0)
        await find(keys, issued.key)
        keys._engine = nowhere

        with pytest.raises(UnavailableError):
            await find(keys, issued.key)
        assert keys.find_known(hash_key(issued.key)) is not None
        assert keys.find_known(hash_key(issued.key + "x")) is None
    finally:
        await nowhere.dispose()
        await here.dispose()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/metrics", 200),
        ("/", 200),
        ("/tenants", 503),
        ("/operator/api/v1/tenants", 503),
    ],
)
async def test_while_the_database_is_away_an_operator_sees_what_the_process_knows_itself(
    addresses, path, status
):
    issued = await issue(addresses)
    here = runtime_engine(addresses.runtime, pool_max=1)
    nowhere = runtime_engine("postgresql://app_runtime:x@127.0.0.1:1/none", pool_max=1)
    keys = OperatorKeys(here, ttl_s=lambda: 0.0)
    gate = gate_of(keys)
    try:
        known = await statuses(gate, path, issued.key)
        keys._engine = nowhere
        away = await statuses(gate, path, issued.key)
        stranger = await statuses(gate, path, issued.key + "x")
        with pytest.raises(UnavailableError, match="so no key can be checked"):
            await gate._find(Shown(prefix_of(issued.key), hash_key(issued.key + "x")), path)
    finally:
        await here.dispose()
        await nowhere.dispose()

    assert (known, away, stranger) == ([200], [status], [503])


async def test_a_database_that_says_nothing_does_not_keep_health_from_an_operator(addresses):
    issued = await issue(addresses)
    silence = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silence.sockets[0].getsockname()[1]
    here = runtime_engine(addresses.runtime, pool_max=1)
    silent = runtime_engine(f"postgresql://app_runtime:x@127.0.0.1:{port}/none", pool_max=1)
    keys = OperatorKeys(here, ttl_s=lambda: 0.0)
    gate = gate_of(keys)
    try:
        await statuses(gate, "/health", issued.key)
        keys._engine = silent
        begun = time.monotonic()
        status = await statuses(gate, "/health", issued.key)
        took = time.monotonic() - begun
    finally:
        silence.close()
        await here.dispose()
        await silent.dispose()

    assert status == [200]
    assert took < 2


def gate_of(keys: OperatorKeys) -> OperatorGate:
    return OperatorGate(
        served,
        keys,
        OperatorCookies(b"a secret of this test"),
        throttle=FailureThrottle(0),
        trusted_proxies=[],
    )


async def say_nothing(reader, writer) -> None:
    await reader.read()
    writer.close()


async def served(scope, receive, send) -> None:
    """An application that answers whoever gets to it."""
    assert scope["user"].kind == "operator"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def statuses(app, path: str, key: str) -> list[int]:
    said = []

    async def send(message) -> None:
        if message["type"] == "http.response.start":
            said.append(message["status"])

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": [(b"authorization", f"Bearer {key}".encode())],
        "state": {"host": "operator", "request_id": "x"},
    }
    await app(scope, None, send)
    return said


# -- in the database --------------------------------------------------------------------------------


async def test_no_function_of_operators_was_forgotten_here(engine):
    async with registry_connection(engine) as connection:
        rows = await connection.fetch(
            """
            SELECT proname FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace AND prosecdef
              AND 'p_operator' = ANY (proargnames)
            """
        )

    assert {row["proname"] for row in rows} == OF_OPERATORS.keys()


@pytest.fixture(scope="module")
async def dead(addresses) -> list[bytes | None]:
    """Hashes of keys that are nobody's, a tenant's, expired and revoked."""
    expired, revoked = await issue(addresses), await issue(addresses)
    await revoke(addresses, revoked.id)
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        await connection.execute(text("SET LOCAL ROLE app_owner"))
        await connection.execute(
            text("UPDATE public.operator_keys SET expires_at = now() WHERE id = :id"),
            {"id": expired.id},
        )
    return [None, b"", bytes(32), hash_key(expired.key), hash_key(revoked.key)]


@pytest.fixture(scope="module")
async def tenant(new_tenant):
    return await new_tenant()


@pytest.mark.parametrize("name", OF_OPERATORS)
async def test_without_a_living_key_a_function_tells_nothing(engine, tenant, dead, name):
    for key_hash in (*dead, hash_key(tenant.key)):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            async with registry_writing(engine) as connection:
                await connection.fetch(OF_OPERATORS[name], key_hash)


@pytest.mark.parametrize("name", READERS)
async def test_without_a_living_key_a_reader_raises(engine, dead, name):
    for key_hash in dead[2:]:
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            async with registry_connection(engine) as connection:
                await READERS[name](connection, key_hash)


@pytest.mark.parametrize(
    "table",
    [
        "operator_keys",
        "service_processes",
        "health_events",
        "slow_queries",
        "tenant_activity",
        "tenant_sizes",
        "fleet_jobs",
    ],
)
async def test_the_runtime_login_cannot_look_into_the_tables_behind_them(engine, table):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with registry_connection(engine) as connection:
            await connection.fetch(f"SELECT 1 FROM public.{table}")


async def test_the_inner_functions_are_nobodys(engine):
    for statement in (
        "SELECT public.acting_operator('x')",
        "SELECT * FROM public.statement_statistics()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with registry_connection(engine) as connection:
                await connection.fetch(statement)
