"""`metrics-service maintain`, the process beside a server, and the domain that no tenant gets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from command_line import (
    CommandLine,
    eventually,
    free_port,
    is_alive,
    new_data_dir,
    on_database,
    on_directory,
    running,
)

from metrics_service.cli.connect import opened_database
from metrics_service.cli.maintenance import maintenance_beside
from metrics_service.db.addresses import MIGRATOR_LOGIN, Addresses
from metrics_service.db.embedded import embedded_server
from metrics_service.tenants.initialise import initialise

READY = "Metrics Service serves"
OPERATORS_DOMAIN = "ops.example.com"


@pytest.fixture(scope="module")
def addresses(new_database, admin_url) -> Addresses:
    made = new_database()
    asyncio.run(initialise(made, admin_url(urlsplit(made.runtime).path.removeprefix("/"))))
    return made


@pytest.fixture(scope="module")
def line(addresses) -> CommandLine:
    return on_database(addresses)


@pytest.fixture(scope="module")
def data_dir():
    with new_data_dir() as made:
        yield made


# -- the command ---------------------------------------------------------------------------------------


def test_once_does_everything_and_says_what(line):
    tenant = line.here("tenant", "create", "measured", "--json").json()

    first = line.here("maintain", "--once", "--json").json()
    spoken = line.here("maintain", "--once")

    assert tenant["status"] == "active"
    assert first == {
        "jobs_done": 0,
        "jobs_failed": 0,
        "tenants_measured": 1,
        "tenants_left_out": 0,
        "rows_pruned": 0,
    }
    assert spoken.code == 0
    assert "tenants_measured  1" in spoken.out


def test_once_is_a_conflict_while_another_process_leads(line):
    with running(line, "maintain", "--json") as (_, output):
        output.wait_for("maintenance leads")

        ended = line.here("maintain", "--once")

    assert ended.code == 4
    assert "another process maintains this database already" in ended.err


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_when_it_is_told(line, kind):
    with running(line, "maintain", "--json") as (process, output):
        output.wait_for('"turn":"measure"')
        told_at = time.monotonic()
        process.send_signal(kind)
        code = output.wait_for_end(within_s=10)

    assert code == 0
    assert time.monotonic() - told_at < 5
    assert all(json.loads(one) for one in output.text.splitlines())


def test_what_is_wrong_is_said_before_anything_is_done(line, new_database):
    other = new_database()
    empty = {"DATABASE_URL": other.runtime, "DATABASE_OWNER_URL": other.require_owner()}

    without_owner = line.here("maintain", DATABASE_OWNER_URL="")
    uninitialised = line.here("maintain", **empty)
    wrong_export = line.here("maintain", OTEL_TRACES_SAMPLER="sometimes")
    wrong_header = line.here(
        "serve", OTEL_EXPORTER_OTLP_HEADERS="canary4711", OTEL_LOGS_EXPORTER="otlp"
    )

    assert (without_owner.code, "DATABASE_OWNER_URL" in without_owner.err) == (2, True)
    assert (uninitialised.code, "not initialised" in uninitialised.err) == (1, True)
    assert (wrong_export.code, "OTEL_TRACES_SAMPLER" in wrong_export.err) == (2, True)
    assert (wrong_header.code, "OTEL_EXPORTER_OTLP_HEADERS" in wrong_header.err) == (2, True)
    assert "canary4711" not in wrong_header.err


# -- beside a server ------------------------------------------------------------------------------------


def test_a_server_on_the_embedded_database_has_one_beside_it_as_long_as_it_lives(data_dir):
    line = on_directory(data_dir)
    with running(line, "serve", "--port", str(free_port())) as (process, output):
        output.wait_for(READY)
        output.wait_for("maintenance leads")
        maintenance = leader_of(data_dir)
        os.kill(maintenance, signal.SIGKILL)
        eventually(lambda: output.text.count("maintenance leads") == 2)
        again = leader_of(data_dir)
        process.send_signal(signal.SIGTERM)
        code = output.wait_for_end()

    assert code == 0
    assert maintenance != again
    assert not is_alive(again)


def test_it_ends_when_the_server_is_killed(data_dir):
    line = on_directory(data_dir)
    with running(line, "serve", "--port", str(free_port())) as (process, output):
        output.wait_for("maintenance leads")
        maintenance = leader_of(data_dir)
        process.kill()
        process.wait()
        eventually(lambda: not is_alive(maintenance))


def leader_of(data_dir: Path) -> int:
    """The process that reported itself last, once it is there."""
    found: list[int] = []

    async def reported(dsn: str) -> list[int]:
        connection = await asyncpg.connect(dsn)
        rows = await connection.fetch(
            "SELECT pid FROM public.service_processes WHERE kind = 'maintenance' ORDER BY started_at"
        )
        await connection.close()
        return [row["pid"] for row in rows]

    def is_reported() -> bool:
        found[:] = asyncio.run(reported(server.dsn(MIGRATOR_LOGIN)))
        return bool(found) and is_alive(found[-1])

    with embedded_server(data_dir) as server:
        eventually(is_reported)
    return found[-1]


def test_a_server_on_a_given_database_has_none(line, monkeypatch):
    for name, value in line.environ.items():
        monkeypatch.setenv(name, value)

    with opened_database() as opened, maintenance_beside(opened) as process:
        assert opened.addresses.owner is not None
        assert process is None


# -- the operators' domain ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operators", "asked_for"),
    [
        (OPERATORS_DOMAIN, OPERATORS_DOMAIN),
        (OPERATORS_DOMAIN, "OPS.example.com."),
        (OPERATORS_DOMAIN, "ops.example.com.localhost"),
        ("ops.localhost", "ops"),
        ("ops", "ops.localhost"),
    ],
)
def test_no_tenant_gets_the_operators_domain(line, operators, asked_for):
    line.here("tenant", "create", "other")

    created = line.here(
        "tenant", "create", "hopeful", "--domain", asked_for, METRICS_OPERATOR_DOMAIN=operators
    )
    added = line.here(
        "tenant", "domain", "add", "other", asked_for, METRICS_OPERATOR_DOMAIN=operators
    )

    assert (created.code, added.code) == (2, 2)
    assert "METRICS_OPERATOR_DOMAIN" in created.err
    assert line.here("tenant", "show", "hopeful").code == 3
    hosts = line.here("tenant", "domain", "list", "other", "--json").json()
    assert [one["domain"] for one in hosts] == ["other"]


def test_a_file_of_tenants_does_not_get_it_either(line, tmp_path: Path):
    file = tmp_path / "tenants.csv"
    file.write_text(f"slug,domain\nhopeful,{OPERATORS_DOMAIN}\n")

    done = line.script("provision_tenants.py")(str(file), METRICS_OPERATOR_DOMAIN=OPERATORS_DOMAIN)

    assert done.code != 0
    assert "METRICS_OPERATOR_DOMAIN" in done.err
    assert line.here("tenant", "show", "hopeful").code == 3


def test_a_server_does_not_start_where_a_tenant_has_it(line):
    line.here("tenant", "create", "early", "--domain", "taken.example.com")

    refused = line.here(
        "serve", "--port", str(free_port()), METRICS_OPERATOR_DOMAIN="taken.example.com"
    )

    assert refused.code == 4
    assert "is a domain of tenant early" in refused.err
