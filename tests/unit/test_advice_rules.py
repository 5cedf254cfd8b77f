"""What is judged worth doing, from what was seen."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest

from metrics_service.fleet.advice.evidence import (
    Evidence,
    IndexState,
    LockWaits,
    PoolState,
    Schema,
    Server,
    TableState,
    WholeRead,
)
from metrics_service.fleet.advice.indexes import REGISTRY_INDEXES, TENANT_INDEXES
from metrics_service.fleet.advice.rules import judge

SCHEMA = Schema("t_a", uuid4(), "acme", is_at_head=True)
THERE = [
    IndexState("t_a", one.table, one.name, is_valid=True, is_being_built=False)
    for one in TENANT_INDEXES
]
TABLE = TableState(
    schema="t_a",
    name="tool_metrics",
    bytes=1000,
    live_rows=100_000,
    dead_rows=0,
    changed_rows=0,
    vacuumed_at=datetime(2026, 11, 1, 9, 30, tzinfo=UTC),
    analyzed_at=datetime(2026, 11, 1, 9, 30, tzinfo=UTC),
    whole_scans=0,
    rows_a_whole_scan=0,
    age=1000,
)
NOTHING = Evidence(
    schemas=[SCHEMA],
    indexes=THERE,
    tables=[TABLE],
    whole_reads=[],
    lock_waits=[],
    pools=[],
    server=Server(freeze_max_age=200_000_000, is_autovacuum_on=True),
)


def found(**changes):
    return judge(msgspec.structs.replace(NOTHING, **changes))


def tables_of(schema, indexes):
    return [
        msgspec.structs.replace(TABLE, schema=schema, name=name)
        for name in {one.table for one in indexes}
    ]


def of_table(**changes):
    return found(tables=[msgspec.structs.replace(TABLE, **changes)])


def test_what_is_as_it_should_be_needs_nothing():
    assert found() == []


def test_a_schema_that_is_behind_is_to_be_migrated_first():
    behind = msgspec.structs.replace(SCHEMA, is_at_head=False)

    tables = tables_of("t_a", TENANT_INDEXES)

    assert found(schemas=[behind], indexes=[], tables=tables) == []
    assert len(found(indexes=[], tables=tables)) == len(TENANT_INDEXES)


def test_no_index_is_made_on_a_table_that_is_gone():
    assert found(indexes=[], tables=[]) == []


def test_statements_that_gave_up_waiting_for_a_lock_are_told_with_who_holds_it():
    waits = LockWaits(SCHEMA.tenant_id, 71, datetime(2026, 11, 2, 3, 7, tzinfo=UTC), ["abc"])

    (finding,) = found(lock_waits=[waits])

    assert (finding.kind, finding.object, finding.tenant) == ("lock-waits", "t_a", "acme")
    assert finding.reason.startswith(
        "71 slow executions gave up waiting for a lock, the last at 2026-11-02 03:07 UTC (abc)"
    )
    assert "pg_blocking_pids" in finding.statements[0]


def test_the_registry_has_indexes_of_its_own():
    registry = Schema("public", None, None, is_at_head=True)

    tables = [TABLE, *tables_of("public", REGISTRY_INDEXES)]
    missing = found(schemas=[SCHEMA, registry], tables=tables)

    assert {one.object for one in missing} == {f"public.{one.name}" for one in REGISTRY_INDEXES}


@pytest.mark.parametrize(
    ("age", "severity"),
    [(499_999_999, None), (500_000_000, "warning"), (1_500_000_000, "critical")],
)
def test_transaction_ids_that_run_out_are_told_in_time(age, severity):
    findings = of_table(age=age)

    assert [one.severity for one in findings] == ([severity] if severity else [])
    if severity:
        assert findings[0].kind == "wraparound"
        assert findings[0].statements == ["VACUUM (FREEZE) t_a.tool_metrics"]


def test_an_age_that_the_servers_settings_allow_is_no_reason_to_worry():
    server = Server(freeze_max_age=600_000_000, is_autovacuum_on=True)

    assert found(server=server, tables=[msgspec.structs.replace(TABLE, age=900_000_000)]) == []


def test_a_server_that_never_vacuums_is_the_first_thing_to_mend():
    server = Server(freeze_max_age=200_000_000, is_autovacuum_on=False)

    findings = found(server=server, tables=[msgspec.structs.replace(TABLE, dead_rows=50_000)])

    assert [one.kind for one in findings] == ["autovacuum-off", "dead-rows"]
    assert findings[0].statements[0] == "ALTER SYSTEM SET autovacuum = on"


@pytest.mark.parametrize(
    ("dead", "live", "is_told"),
    [
        (4_999, 100, False),
        (5_000, 100_000, False),
        (25_000, 100_000, True),
        (25_000, 100_001, False),
    ],
)
def test_dead_rows_count_when_they_are_many_and_a_fifth(dead, live, is_told):
    findings = of_table(dead_rows=dead, live_rows=live)

    assert [one.kind for one in findings] == (["dead-rows"] if is_told else [])
    if is_told:
        assert "last vacuumed 2026-11-01 09:30 UTC" in findings[0].reason


def test_a_table_in_use_is_not_called_unknown_because_it_is_small():
    assert of_table(vacuumed_at=None, analyzed_at=None, live_rows=999) == []
    assert [one.kind for one in of_table(vacuumed_at=None, live_rows=10_000)] == ["never-vacuumed"]
    assert [one.kind for one in of_table(analyzed_at=None)] == ["never-analyzed"]


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({"whole_scans": 50, "rows_a_whole_scan": 10_000}, True),
        ({"whole_scans": 49, "rows_a_whole_scan": 10_000}, False),
        ({"whole_scans": 5000, "rows_a_whole_scan": 9_999}, False),
        ({"whole_scans": 5000, "rows_a_whole_scan": 50_000, "live_rows": 9_999}, False),
    ],
)
def test_whole_scans_count_where_they_are_large_and_usual(changes, is_told):
    assert [one.kind for one in of_table(**changes)] == (["sequential-scans"] if is_told else [])


def test_a_slow_statement_that_reads_it_whole_is_where_to_look():
    reads = [
        WholeRead(SCHEMA.tenant_id, "tool_metrics", "a" * 16, 3, 900.0),
        WholeRead(SCHEMA.tenant_id, "tool_metrics", "b" * 16, 2, 4000.0),
        WholeRead(SCHEMA.tenant_id, "users", "c" * 16, 2, 4000.0),
    ]

    [scans] = found(whole_reads=reads)
    [stale] = found(whole_reads=reads, tables=[msgspec.structs.replace(TABLE, changed_rows=10_001)])

    assert scans.severity == "warning"
    assert "5 slow executions read it whole, the worst in 4,000 ms" in scans.reason
    assert scans.statements == [
        f"metrics-service db slow-queries --tenant acme --fingerprint {'b' * 16}",
        f"metrics-service db slow-queries --tenant acme --fingerprint {'a' * 16}",
    ]
    assert stale.statements == ["ANALYZE t_a.tool_metrics"]


def test_an_index_that_is_being_built_is_left_alone_and_what_was_left_behind_is_dropped():
    def half(name, *, is_being_built=False):
        state = IndexState("t_a", "users", name, is_valid=False, is_being_built=is_being_built)
        return [one.statements for one in found(indexes=[*THERE, state])]

    assert half("users_pk_ccnew1") == [["DROP INDEX CONCURRENTLY t_a.users_pk_ccnew1"]]
    assert half("mine") == [["REINDEX INDEX CONCURRENTLY t_a.mine"]]
    assert half("mine", is_being_built=True) == []


def test_a_pool_that_suffices_is_not_enlarged():
    calm = PoolState("http", 10, processes=2, waiting=0, timeouts=0, was_short=0)

    assert found(pools=[calm]) == []
    for changes, severity in (
        ({"waiting": 1}, "hint"),
        ({"timeouts": 1}, "warning"),
        ({"was_short": 1}, "warning"),
    ):
        [finding] = found(pools=[msgspec.structs.replace(calm, **changes)])
        assert (finding.severity, finding.statements) == (severity, ["DATABASE_POOL_MAX=20"])
