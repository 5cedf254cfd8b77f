"""Takes the plan of a slow statement: as the tenant that ran it, for any values, without running it.

What is prepared in SQL and explained with nulls under a generic plan needs no value of the client's,
and its plan has none. EXPLAIN without ANALYZE tells what the planner believes of the tenant's own
tables, not what it found in them.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.observability.slow import SlowStatement

APART_S = 600.0
MAX_REMEMBERED = 2000
MAX_TEXT_LENGTH = 64 * 1024
MAX_PLAN_LENGTH = 64 * 1024
TIMEOUT_MS = 1000
OPERATIONS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})

NAME = "slow_statement"
PARAMETERS = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1"

# What stands in a plan under these keys are words of PostgreSQL's and names; under all others,
# expressions.
NAMES = frozenset(
    {
        *("Node Type", "Parent Relationship", "Join Type", "Strategy", "Partial Mode", "Operation"),
        *("Relation Name", "Schema", "Alias", "Index Name", "Function Name", "CTE Name"),
        *("Tuplestore Name", "Subplan Name", "Scan Direction", "Command", "Conflict Resolution"),
        *("Conflict Arbiter Indexes", "Custom Plan Provider", "Cache Mode"),
    }
)
_EXPRESSION = re.compile(
    r"""(?P<kept> \$\d+ | (?:InitPlan|SubPlan)\ \d+ | [A-Za-z_][\w$]* | "(?:[^"]|"")*" )
      | '(?:[^']|'')*(?:'|\Z) | \d+(?:\.\d+)?(?:[eE][+-]?\d+)?""",
    re.VERBOSE,
)


class PlanTaker:
    """Takes one plan at a time, of a tenant's statement once in ten minutes."""

    def __init__(self, engine: AsyncEngine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._taken: OrderedDict[tuple[object, str], float] = OrderedDict()

    def is_due(self, slow: SlowStatement) -> bool:
        """Whether its plan should be taken, in which case it counts as taken."""
        if slow.is_planned_as is None or not _is_plannable(slow):
            return False
        key = (slow.tenant_id, slow.statement.fingerprint)
        now = self._clock()
        last = self._taken.get(key)
        if last is not None and now - last < APART_S:
            return False
        self._taken[key] = now
        self._taken.move_to_end(key)
        if len(self._taken) > MAX_REMEMBERED:
            self._taken.popitem(last=False)
        return True

    async def take(self, slow: SlowStatement) -> str | None:
        """The plan as JSON, without any literal; None where there is none to have."""
        if self._is_pool_busy():
            return None
        context: TenantContext = msgspec.structs.replace(
            slow.is_planned_as,
            timeout_ms=TIMEOUT_MS,
            read_only=True,
            is_snapshot=False,
            shared_lock=None,
        )
        async with tenant_connection(self._engine, context) as connection:
            try:
                found = await _explain(connection, slow.text)
            except asyncpg.PostgresError:
                # A table that is gone, a type that cannot be guessed, a second of planning.
                return None
        plan = msgspec.json.encode(without_literals(found)).decode()
        return plan if len(plan) <= MAX_PLAN_LENGTH else None

    def _is_pool_busy(self) -> bool:
        # Those who wait for a connection are served first.
        pool = self._engine.sync_engine.pool
        return isinstance(pool, QueuePool) and pool.checkedout() >= pool.size()


def _is_plannable(slow: SlowStatement) -> bool:
    return (
        slow.statement.operation in OPERATIONS
        and len(slow.text) <= MAX_TEXT_LENGTH
        # It is sent in a message that may hold several.
        and ";" not in slow.text.rstrip().rstrip(";")
    )


async def _explain(connection: ContextConnection, text: str) -> Any:
    # The pool's connections read JSON themselves.
    await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    if await connection.fetchval(PARAMETERS, NAME) is not None:
        # Who took one before was cut off in the middle; a pooler keeps the server's side of it.
        await connection.execute(f"DEALLOCATE {NAME}")
    async with connection.transaction():
        await connection.execute(f"PREPARE {NAME} AS {text}")
    try:
        # In a savepoint, because what is prepared outlives an error, and a pooler would lend it out.
        async with connection.transaction():
            nulls = ", ".join(["NULL"] * await connection.fetchval(PARAMETERS, NAME))
            arguments = f"({nulls})" if nulls else ""
            return await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {NAME}{arguments}")
    finally:
        await connection.execute(f"DEALLOCATE {NAME}")


def without_literals(plan: Any, key: str = "") -> Any:
    """The plan with a `?` for every literal of its expressions."""
    if isinstance(plan, dict):
        return {name: without_literals(value, name) for name, value in plan.items()}
    if isinstance(plan, list):
        return [without_literals(value, key) for value in plan]
    if isinstance(plan, str) and key not in NAMES:
        return _EXPRESSION.sub(lambda found: found["kept"] or "?", plan)
    return plan
