"""`scripts/provision_tenants.py`: many tenants from a file, through mistakes, rivals and crashes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from command_line import CommandLine, Ended, eventually, kill_group, on_database

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.errors import InvalidNameError
from metrics_service.tenants import provision
from metrics_service.tenants.initialise import target_of
from metrics_service.tenants.migrate import migrate
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.provision_file import InvalidFileError, read_tenants

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


@pytest.fixture(scope="module")
def script(line: CommandLine) -> CommandLine:
    return line.script("provision_tenants.py")


@pytest.fixture
def prefix() -> str:
    return f"p{uuid4().hex[:10]}"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str | bytes, name: str = "tenants.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to_file


def many(prefix: str, count: int) -> str:
    return "slug\n" + "".join(f"{prefix}-{number}\n" for number in range(count))


def tenants_of(addresses: Addresses, prefix: str) -> tuple[int, int, int]:
    """How many tenants, schemas and roles there are: the same number, or something is half."""

    async def count() -> asyncpg.Record:
        connection = await asyncpg.connect(addresses.require_owner())
        try:
            return await connection.fetchrow(
                """
                SELECT count(*), count(n.oid), count(r.oid) FROM public.tenants t
                LEFT JOIN pg_namespace n ON n.nspname = t.schema_name
                LEFT JOIN pg_roles r ON r.rolname = t.schema_name
                LEFT JOIN public.tenant_schemas s
                    ON s.schema_name = t.schema_name AND s.status = 'ready'
                WHERE starts_with(t.slug, $1)
                """,
                prefix,
            )
        finally:
            await connection.close()

    return tuple(asyncio.run(count()))


def orphans(addresses: Addresses) -> int:
    """Schemas of ours without a tenant: what a half made one would leave."""

    async def count() -> int:
        connection = await asyncpg.connect(addresses.require_owner())
        try:
            return await connection.fetchval(
                """
                SELECT count(*) FROM pg_namespace n
                WHERE n.nspname ~ '^t_[a-z0-9]+$'
                  AND NOT EXISTS (SELECT FROM public.tenants t WHERE t.schema_name = n.nspname)
                """
            )
        finally:
            await connection.close()

    return asyncio.run(count())


def report_of(ended: Ended) -> list[tuple[str, str]]:
    return [(one["slug"], one["status"]) for one in ended.json()["tenants"]]


# -- the file -----------------------------------------------------------------------------------------


def test_csv_and_toml_say_the_same(write):
    csv = write('\ufeffSlug,name,domain,plan\r\na,"A, Inc.",a.example,pro\r\n\r\n b ,,,\r\n')
    toml = write(
        '[[tenant]]\nslug = "a"\nname = "A, Inc."\ndomain = "a.example"\nplan = "pro"\n\n'
        '[[tenant]]  # nothing but a slug\nslug = "b"\n',
        "tenants.toml",
    )

    from_csv = read_tenants(csv, base_domain="localhost")

    assert from_csv == read_tenants(toml, base_domain="localhost")
    assert [(new.slug, new.name, new.domain, new.plan) for new in from_csv] == [
        ("a", "A, Inc.", "a.example", "pro"),
        ("b", "b", "b", "basic"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "mistakes"),
    [
        ("t.csv", "slug,plan\nfine,\nBad,\nother,gold\n", ["line 3: slug", "line 4: plan"]),
        (
            "t.csv",
            "slug,domain\na,x\nb,x\na,y\n",
            ["line 3: domain x is in line 2", "line 4: slug"],
        ),
        ("t.csv", "slug,colour\na,red\n", ["line 1: unknown column 'colour'"]),
        ("t.csv", "name\na\n", ["line 1: the column slug is missing"]),
        ("t.csv", "slug,slug\na,a\n", ["line 1: a column is there twice"]),
        ("t.csv", "slug,name\na\n", ["line 2: has 1 fields, the header has 2"]),
        ("t.csv", "slug,name\n,A\n", ["line 2: slug is missing"]),
        ("t.csv", 'slug\n"a\n', ["line 2"]),
        ("t.csv", b"slug\n\xff\n", ["byte 6 is not UTF-8"]),
        ("t.csv", "", ["is empty"]),
        ("t.toml", '[[tenant]]\nslug = 3\n\n[[tenant]]\nname = "x"\n', ["line 1: slug", "line 4"]),
        ("t.toml", '[[tenant]]\nslug = "a"\ncolour = "red"\n', ["line 1: unknown field 'colour'"]),
        ("t.toml", '[tenant]\nslug = "a"\n', ["needs a [[tenant]]"]),
        ("t.toml", '[[customer]]\nslug = "a"\n', ["unknown key 'customer'"]),
        ("t.toml", "[[tenant\n", ["line 1"]),
    ],
)
def test_every_mistake_is_named_with_its_line_and_field(write, name, text, mistakes):
    with pytest.raises(InvalidFileError) as caught:
        read_tenants(write(text, name), base_domain="localhost")

    assert isinstance(caught.value, InvalidNameError)
    assert len(caught.value.mistakes) == len(mistakes)
    for found, expected in zip(caught.value.mistakes, mistakes, strict=True):
        assert expected in found


def test_a_file_with_a_mistake_makes_nothing(line, script, addresses, write, prefix):
    path = write(f"slug\n{prefix}-1\nNot Valid\n")

    ended = script(str(path))

    assert (ended.code, ended.out) == (2, "")
    assert "tenants.csv: line 3: slug must" in ended.err
    assert ended.err.count("\n") == 1
    assert tenants_of(addresses, prefix) == (0, 0, 0)
    assert script(str(path.with_name("missing.csv"))).code == 2


# -- the work -----------------------------------------------------------------------------------------


def test_what_is_there_is_left_and_the_rest_is_made(line, script, write, prefix):
    there = line.here("tenant", "create", f"{prefix}-1", "--plan", "pro", "--json").json()
    line.here("tenant", "create", f"{prefix}-2", "--domain", f"{prefix}.example", "--json").json()
    line.here("tenant", "create", f"{prefix}-x", "--domain", f"{prefix}-4", "--json").json()
    path = write(many(prefix, 5))

    dry = script(str(path), "--dry-run", "--json")
    done = script(str(path), "--json")

    dry_statuses = [one["status"] for one in json.loads(dry.out)["tenants"]]
    assert dry_statuses == ["missing", "present", "failed", "missing", "missing"]
    assert dry.code == done.code == 1
    report = json.loads(done.out)
    assert (report["created"], report["present"], report["failed"]) == (2, 1, 2)
    assert [(one["slug"][-1], one["status"]) for one in report["tenants"]] == [
        ("0", "created"), ("1", "present"), ("2", "failed"), ("3", "created"), ("4", "failed"),
    ]  # fmt: skip
    assert report["tenants"][1]["id"] == there["id"]
    assert f"is there with the domain {prefix}.example" in report["tenants"][2]["reason"]
    assert f"domain {prefix}-4 is taken" in report["tenants"][4]["reason"]
    assert done.err == "metrics-service: 2 of 5 tenants failed\n"


def test_several_at_a_time_and_again(script, addresses, write, prefix):
    path = write(many(prefix, 8))

    first = script(str(path), "--jobs", "2", "--json")
    second = script(str(path), "--jobs", "2")

    assert report_of(first) == [(f"{prefix}-{number}", "created") for number in range(8)]
    assert second.code == 0
    assert "0 created, 8 present, 0 failed" in second.out
    assert tenants_of(addresses, prefix) == (8, 8, 8)


def test_nobody_waits_until_another_tenant_is_made(addresses, prefix, monkeypatch):
    async def make(number: int) -> None:
        new = NewTenant.of(
            f"{prefix}-{number}", name=None, domain=None, plan="basic", base_domain="localhost"
        )
        async with owner_connection(addresses.require_owner()) as connection:
            await create_tenant(connection, new, target_of(addresses))

    async def make_two() -> None:
        has_tables, goes_on = asyncio.Event(), asyncio.Event()

        async def migrate_and_wait(*given: Any, **named: Any) -> str | None:
            reached = await migrate(*given, **named)
            if not has_tables.is_set():
                has_tables.set()
                await goes_on.wait()
            return reached

        monkeypatch.setattr(provision, "migrate", migrate_and_wait)
        first = asyncio.create_task(make(1))
        await has_tables.wait()
        async with asyncio.timeout(30):
            await make(2)
        goes_on.set()
        await first

    asyncio.run(make_two())

    assert tenants_of(addresses, prefix) == (2, 2, 2)


def test_two_provisioners_of_one_file_share_the_work(script, addresses, write, prefix):
    path = write(many(prefix, 8))

    both = [script.start(str(path), "--jobs", "2", "--json") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]

    reports = [
        report_of(Ended(process.returncode, *output))
        for process, output in zip(both, outputs, strict=True)
    ]
    for (slug, one), (_, other) in zip(*reports, strict=True):
        assert {one, other} == {"created", "present"}, slug
    assert tenants_of(addresses, prefix) == (8, 8, 8)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_provisioner_that_was_killed_leaves_whole_tenants(script, addresses, write, prefix, jobs):
    path = write(many(prefix, 14))
    others = workers_of(addresses)
    process = script.start(str(path), "--jobs", jobs)
    try:
        eventually(lambda: tenants_of(addresses, prefix)[0] > 1)
        # The parent alone: whatever it started must end by itself.
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: workers_of(addresses) <= others)
    finally:
        kill_group(process)
    made, schemas, roles = tenants_of(addresses, prefix)
    assert made == schemas == roles < 14
    assert orphans(addresses) == 0

    again = script(str(path), "--json").json()

    assert (again["created"], again["present"]) == (14 - made, made)
    assert tenants_of(addresses, prefix) == (14, 14, 14)


def workers_of(addresses: Addresses) -> set[int]:
    """The sessions in which the owner works, by their process; those of the tests are among them."""

    async def pids() -> set[int]:
        connection = await asyncpg.connect(addresses.require_owner())
        try:
            rows = await connection.fetch(
                """
                SELECT pid FROM pg_stat_activity
                WHERE usename = current_user AND datname = current_database()
                  AND pid <> pg_backend_pid()
                """
            )
            return {row["pid"] for row in rows}
        finally:
            await connection.close()

    return asyncio.run(pids())
