"""Looks at a database as its owner and says what to do about it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg

from metrics_service.db.roles import OWNER
from metrics_service.fleet.advice.evidence import gather
from metrics_service.fleet.advice.findings import Finding
from metrics_service.fleet.advice.rules import judge
from metrics_service.tenants.revisions import head


async def advise(
    connection: asyncpg.Connection[Any], *, tenant_id: UUID | None = None
) -> list[Finding]:
    """What to do, the worst first; of one tenant's schema alone when it is named."""
    evidence = await gather(
        connection,
        registry_head=head("registry"),
        tenant_head=head("tenant"),
        owner=OWNER,
        tenant_id=tenant_id,
    )
    return judge(evidence)
