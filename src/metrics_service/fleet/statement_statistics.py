"""What pg_stat_statements counts, by the fingerprints that slow statements have here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import blake2b

import msgspec
from asyncpg import Connection, Record

from metrics_service.observability.statements import describe

# Those that take the most time: to find out what a statement is takes a millisecond the first time.
_STATISTICS_OF_OPERATOR = """
    SELECT query, calls, total_ms, row_count FROM public.operator_statements($1)
    ORDER BY total_ms DESC LIMIT 1000
"""
_STATISTICS_OF_OWNER = """
    SELECT query, calls, total_ms, row_count FROM public.statement_statistics()
    ORDER BY total_ms DESC LIMIT 1000
"""
MAX_FINGERPRINTS = 10_000
# By a digest, because some of the texts are long.
_fingerprints: dict[bytes, str] = {}


class StatementStatistics(msgspec.Struct, frozen=True):
    """What pg_stat_statements knows of a statement: all executions, fast ones too, of all tenants."""

    calls: int
    total_ms: float
    mean_ms: float
    row_count: int


async def fetch_statistics(
    connection: Connection, key_hash: bytes | None
) -> dict[str, StatementStatistics]:
    """What pg_stat_statements knows, by fingerprint; nothing where the server does not have it.

    As an operator, or without a key as the owner.
    """
    rows = await (
        connection.fetch(_STATISTICS_OF_OWNER)
        if key_hash is None
        else connection.fetch(_STATISTICS_OF_OPERATOR, key_hash)
    )
    # A second that others shall not wait.
    return await asyncio.to_thread(_by_fingerprint, rows)


def _by_fingerprint(rows: Sequence[Record]) -> dict[str, StatementStatistics]:
    sums: dict[str, tuple[int, float, int]] = {}
    for row in rows:
        fingerprint = _fingerprint_of(row["query"])
        calls, total_ms, row_count = sums.get(fingerprint, (0, 0.0, 0))
        sums[fingerprint] = (
            calls + row["calls"],
            total_ms + row["total_ms"],
            row_count + row["row_count"],
        )
    return {
        fingerprint: StatementStatistics(
            calls, round(total_ms, 3), round(total_ms / max(calls, 1), 3), row_count
        )
        for fingerprint, (calls, total_ms, row_count) in sums.items()
    }


def _fingerprint_of(text: str) -> str:
    digest = blake2b(text.encode(), digest_size=16).digest()
    fingerprint = _fingerprints.get(digest)
    if fingerprint is None:
        if len(_fingerprints) >= MAX_FINGERPRINTS:
            _fingerprints.clear()
        fingerprint = _fingerprints[digest] = describe(text).fingerprint
    return fingerprint
