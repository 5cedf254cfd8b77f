"""What is found to be wrong with a database, why, and what to run."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["critical", "warning", "hint"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "hint")

Kind = Literal[
    "missing-index",
    "invalid-index",
    "sequential-scans",
    "never-vacuumed",
    "never-analyzed",
    "dead-rows",
    "bloat",
    "wraparound",
    "autovacuum-off",
    "lock-waits",
    "pool-too-small",
]


class Finding(msgspec.Struct, frozen=True):
    """One thing to do something about."""

    severity: Severity
    kind: Kind
    object: str
    """The table or index with its schema, the processes, or the server."""
    tenant: str | None
    """The slug, where it is one tenant's."""
    reason: str
    statements: list[str]
    """What to run, one after the other: SQL as the owner, a setting, or a command."""


def in_order(findings: list[Finding]) -> list[Finding]:
    """The worst first."""
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), one.kind, one.object))
