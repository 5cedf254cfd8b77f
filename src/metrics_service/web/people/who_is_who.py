"""Who is who, for administrators: what telemetry claims, and is matched to nobody who has an email."""

from __future__ import annotations

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.identities.repository import (
    fetch_identities,
    fetch_unclaimed,
    identity_views,
)
from metrics_service.identities.schemas import IdentityQuery, IdentityView, Unclaimed
from metrics_service.users.repository import list_users
from metrics_service.users.schemas import UserRow

# Looked through from the newest; whoever has more of them makes rules.
LOOKED_THROUGH = 500
SHOWN = 50


class Unknown(msgspec.Struct, frozen=True):
    """What can be assigned, and to whom."""

    identities: list[IdentityView] = []
    more: int = 0
    unclaimed: list[Unclaimed] = []
    users: list[UserRow] = []


async def read_unknown(connection: ContextConnection) -> Unknown:
    rows = await fetch_identities(
        connection, IdentityQuery(is_assigned=False), after=None, limit=LOOKED_THROUGH, offset=0
    )
    # Whom telemetry alone knows has no email, and no name but what it claims.
    views = [
        view
        for view in await identity_views(connection, rows)
        if view.sessions and (view.user is None or view.user.email is None)
    ]
    telling = sorted(views, key=lambda view: view.sessions, reverse=True)
    unclaimed = [one for one in await fetch_unclaimed(connection) if one.user_source is None]
    if not telling and not unclaimed:
        return Unknown()
    users = [user for user in await list_users(connection) if user.email is not None]
    return Unknown(telling[:SHOWN], max(0, len(telling) - SHOWN), unclaimed, users)
