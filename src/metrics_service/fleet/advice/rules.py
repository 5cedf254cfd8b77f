"""From what was seen to what to do: one function for each thing that can be wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from metrics_service.fleet.advice.evidence import REGISTRY, Evidence, Schema, TableState, WholeRead
from metrics_service.fleet.advice.findings import Finding, Severity, in_order
from metrics_service.fleet.advice.indexes import REGISTRY_INDEXES, TENANT_INDEXES, Index

# Below these a table is small enough to be read whole, and to be left alone.
MIN_UNKNOWN_ROWS = 1000
MIN_VACUUM_ROWS = 10_000
MIN_DEAD_ROWS = 5000
DEAD_SHARE = 0.2
BLOAT_SHARE = 0.5
MIN_SCANNED_ROWS = 10_000
MIN_WHOLE_SCANS = 50
STALE_SHARE = 0.1
# The server stops at two thousand million, and begins to insist at its own setting.
OLD_AGE = 500_000_000
DEADLY_AGE = 1_500_000_000
MAX_POOL_GROWTH = 2


def judge(evidence: Evidence) -> list[Finding]:
    """Everything that should be done, the worst first."""
    slugs = {schema.name: schema.slug for schema in evidence.schemas}
    reads = _reads(evidence)
    missing = {
        (schema.name, index): None
        for schema in evidence.schemas
        for index in _missing(schema, evidence)
    }
    findings = [
        _missing_index(schema, index, slugs[schema], reads[schema, index.table])
        for schema, index in missing
    ]
    findings += _invalid_indexes(evidence, slugs)
    lacking = {(schema, index.table): index for schema, index in missing}
    for table in evidence.tables:
        slug = slugs[table.schema]
        findings += _unattended(table, slug)
        findings += _dead_rows(table, slug)
        findings += _bloat(table, slug)
        findings += _age(table, slug, evidence.server.freeze_max_age)
        findings += _whole_scans(
            table, slug, reads[table.schema, table.name], lacking.get((table.schema, table.name))
        )
    findings += _server(evidence)
    findings += _lock_waits(evidence)
    findings += _pools(evidence)
    return in_order(findings)


# -- indexes ----------------------------------------------------------------------------------------


def _missing(schema: Schema, evidence: Evidence) -> Iterator[Index]:
    # Of a schema that is behind nobody says here which it should have: it is migrated first.
    if not schema.is_at_head:
        return
    there = {one.name for one in evidence.indexes if one.schema == schema.name}
    tables = {one.name for one in evidence.tables if one.schema == schema.name}
    for index in REGISTRY_INDEXES if schema.name == REGISTRY else TENANT_INDEXES:
        # A table that is gone is no matter of indexes: health and `db check` name it.
        if index.name not in there and index.table in tables:
            yield index


def _missing_index(schema: str, index: Index, slug: str | None, reads: list[WholeRead]) -> Finding:
    reason = f"{index.table} lacks its {index.kind} {index.name}, which the migrations made"
    if reads:
        reason += f"; {_slow(reads)}"
    return Finding(
        "critical" if reads or index.kind != "index" else "warning",
        "missing-index",
        f"{schema}.{index.name}",
        slug,
        reason,
        index.made_again(schema),
    )


def _invalid_indexes(evidence: Evidence, slugs: dict[str, str | None]) -> Iterator[Finding]:
    for one in evidence.indexes:
        if one.is_valid or one.is_being_built:
            continue
        qualified = f"{one.schema}.{one.name}"
        # What REINDEX CONCURRENTLY left behind has another name than what it was to replace.
        is_left = one.name.rstrip("0123456789").endswith(("_ccnew", "_ccold"))
        yield Finding(
            "warning",
            "invalid-index",
            qualified,
            slugs[one.schema],
            f"an index of {one.table} that was never finished: every write pays for it, no read uses it",
            [f"{'DROP' if is_left else 'REINDEX'} INDEX CONCURRENTLY {qualified}"],
        )


# -- tables -----------------------------------------------------------------------------------------


def _unattended(table: TableState, slug: str | None) -> Iterator[Finding]:
    if table.vacuumed_at is None and table.live_rows >= MIN_VACUUM_ROWS:
        also = "" if table.analyzed_at is not None else " nor analyzed"
        yield Finding(
            "warning",
            "never-vacuumed",
            table.qualified,
            slug,
            f"{table.live_rows:,} rows were never vacuumed{also}: no index alone can answer for them",
            [f"VACUUM (ANALYZE) {table.qualified}"],
        )
    elif table.analyzed_at is None and table.live_rows >= MIN_UNKNOWN_ROWS:
        yield Finding(
            "warning",
            "never-analyzed",
            table.qualified,
            slug,
            f"the planner has no statistics of {table.live_rows:,} rows, and guesses",
            [f"ANALYZE {table.qualified}"],
        )


def _dead_rows(table: TableState, slug: str | None) -> Iterator[Finding]:
    share = table.dead_rows / max(1, table.live_rows + table.dead_rows)
    if table.dead_rows < MIN_DEAD_ROWS or share < DEAD_SHARE:
        return
    yield Finding(
        "warning",
        "dead-rows",
        table.qualified,
        slug,
        f"{table.dead_rows:,} dead rows beside {table.live_rows:,} live ones ({share:.0%}); "
        f"{_last('vacuumed', table)}",
        [f"VACUUM (ANALYZE) {table.qualified}"],
    )


def _last(what: str, table: TableState) -> str:
    if table.vacuumed_at is None:
        return f"never {what}"
    return f"last {what} {table.vacuumed_at:%Y-%m-%d %H:%M} UTC"


def _bloat(table: TableState, slug: str | None) -> Iterator[Finding]:
    if table.bloat_bytes <= BLOAT_SHARE * table.bytes:
        return
    yield Finding(
        "hint",
        "bloat",
        table.qualified,
        slug,
        f"about {_mib(table.bloat_bytes)} of {_mib(table.bytes)} hold nothing; to give them back locks "
        "the table while it is written anew",
        [f"VACUUM (FULL, ANALYZE) {table.qualified}"],
    )


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:,.0f} MiB"


def _age(table: TableState, slug: str | None, freeze_max_age: int) -> Iterator[Finding]:
    if table.age < max(OLD_AGE, 2 * freeze_max_age) and table.age < DEADLY_AGE:
        return
    yield Finding(
        "critical" if table.age >= DEADLY_AGE else "warning",
        "wraparound",
        table.qualified,
        slug,
        f"its oldest row is {table.age:,} transactions old; at 2,000,000,000 the server takes no writes",
        [f"VACUUM (FREEZE) {table.qualified}"],
    )


def _whole_scans(
    table: TableState, slug: str | None, reads: list[WholeRead], lacking: Index | None
) -> Iterator[Finding]:
    is_usual = table.whole_scans >= MIN_WHOLE_SCANS and table.rows_a_whole_scan >= MIN_SCANNED_ROWS
    if table.live_rows < MIN_SCANNED_ROWS or not (reads or is_usual):
        return
    reason = f"{table.whole_scans:,} scans read about {table.rows_a_whole_scan:,.0f} rows each"
    if reads:
        reason += f"; {_slow(reads)}"
    severity: Severity = "warning" if reads else "hint"
    yield Finding(
        severity,
        "sequential-scans",
        table.qualified,
        slug,
        reason,
        _against_scans(table, slug, reads, lacking),
    )


def _against_scans(
    table: TableState, slug: str | None, reads: list[WholeRead], lacking: Index | None
) -> list[str]:
    if lacking is not None:
        return lacking.made_again(table.schema)
    if table.analyzed_at is None or table.changed_rows > STALE_SHARE * table.live_rows:
        return [f"ANALYZE {table.qualified}"]
    whose = "" if slug is None else f" --tenant {slug}"
    if not reads:
        return [f"metrics-service db slow-queries{whose}"]
    return [
        f"metrics-service db slow-queries{whose} --fingerprint {read.fingerprint}"
        for read in reads[:3]
    ]


def _reads(evidence: Evidence) -> defaultdict[tuple[str, str], list[WholeRead]]:
    """The slow statements that read a table whole, the slowest first."""
    schema_of = {schema.tenant_id: schema.name for schema in evidence.schemas}
    reads: defaultdict[tuple[str, str], list[WholeRead]] = defaultdict(list)
    for read in sorted(evidence.whole_reads, key=lambda one: -one.worst_ms):
        reads[schema_of[read.tenant_id], read.table].append(read)
    return reads


def _slow(reads: list[WholeRead]) -> str:
    calls = sum(read.calls for read in reads)
    return (
        f"{calls} slow executions read it whole, the worst in {reads[0].worst_ms:,.0f} ms "
        f"({', '.join(read.fingerprint for read in reads[:3])})"
    )


# -- the server and its clients ---------------------------------------------------------------------


def _server(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.server.is_autovacuum_on:
        yield Finding(
            "critical",
            "autovacuum-off",
            "server",
            None,
            "autovacuum or track_counts is off: dead rows stay, statistics age, transaction ids run out",
            [
                "ALTER SYSTEM SET autovacuum = on",
                "ALTER SYSTEM SET track_counts = on",
                "SELECT pg_reload_conf()",
            ],
        )


BLOCKERS = (
    "SELECT pid, usename, application_name, state, xact_start FROM pg_stat_activity WHERE pid IN "
    "(SELECT unnest(pg_blocking_pids(pid)) FROM pg_stat_activity)"
)
"""Who holds now what others wait for."""


def _lock_waits(evidence: Evidence) -> Iterator[Finding]:
    schema_of = {schema.tenant_id: schema for schema in evidence.schemas}
    for waits in evidence.lock_waits:
        schema = schema_of[waits.tenant_id]
        yield Finding(
            "warning",
            "lock-waits",
            schema.name,
            schema.slug,
            f"{waits.calls} slow executions gave up waiting for a lock, the last at "
            f"{waits.last_at:%Y-%m-%d %H:%M} UTC ({', '.join(waits.fingerprints)}); a larger pool "
            "does not help against that",
            [BLOCKERS],
        )


def _pools(evidence: Evidence) -> Iterator[Finding]:
    for pool in evidence.pools:
        if not (pool.timeouts or pool.waiting or pool.was_short):
            continue
        yield Finding(
            "warning" if pool.timeouts or pool.was_short else "hint",
            "pool-too-small",
            f"{pool.processes} {pool.kind} with {pool.size} connections each",
            None,
            f"{pool.timeouts} requests got no connection in time, {pool.waiting} wait now, "
            f"{pool.was_short} reports of the last day say it was nearly used up",
            [f"DATABASE_POOL_MAX={pool.size * MAX_POOL_GROWTH}"],
        )
