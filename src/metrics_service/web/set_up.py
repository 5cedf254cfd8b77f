"""`/set-up`: how clients are pointed at this tenant, with which keys, and what arrived of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from metrics_service.dashboards.data import names_of
from metrics_service.dashboards.pictures.agents import agent_name
from metrics_service.errors import InvalidQueryError
from metrics_service.fields import Protocol, ShortText, now
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.ingest_log.repository import fetch_lines, line_view
from metrics_service.ingest_log.schemas import IngestLine, IngestLogQuery
from metrics_service.keys.repository import fetch_keys
from metrics_service.sessions.repository import fetch_sessions, session_view
from metrics_service.sessions.schemas import SessionQuery
from metrics_service.setup.agents import AGENTS
from metrics_service.setup.agents.agent import Agent
from metrics_service.setup.compose import WrongProtocolError, choose_protocol, compose
from metrics_service.setup.connection import PLACEHOLDER, Connection, Endpoint
from metrics_service.setup.request import Reach
from metrics_service.tenants.keys import SCOPES, KeyRow
from metrics_service.users.repository import list_users
from metrics_service.users.schemas import UserRow
from metrics_service.web.page import page
from metrics_service.web.query import page_query

DEFAULT_CLIENT = "claude-code"
DIARY_LINES = 30
MAX_KEYS = 500
WHERE = {
    "environment": "Into the environment of your shell",
    "file": "Into the file",
    "form": "Into the settings at",
}


class SetUpQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    client: ShortText = DEFAULT_CLIENT
    protocol: Protocol | None = None
    team: ShortText | None = None
    repository: ShortText | None = None


class Arrival(msgspec.Struct, frozen=True):
    """What arrived last."""

    agent: str
    version: str | None
    records: int | None
    """None where that is not told."""
    at: datetime


class ShownKey(msgspec.Struct, frozen=True):
    """A key as it is listed."""

    row: KeyRow
    person: str | None
    state: str


@get("/set-up", opt=requires("read"))
async def get_set_up(request: AnyRequest, caller: NamedDependency[Caller]) -> Response[bytes]:
    """The set-up of one client, the tenant's keys, and the receiver's diary."""
    query = page_query(request, SetUpQuery)
    if query.client not in AGENTS:
        raise InvalidQueryError(f"parameter client: is not one of {', '.join(AGENTS)}")
    reach: Reach = request.app.state.reach
    values = _configured(AGENTS[query.client], query, reach.endpoint(request.scope))
    is_admin = caller.principal.allows("admin")
    more = await _of_admins(caller) if is_admin else {"arrival": await _latest(caller)}
    return page(
        request,
        "set_up.html",
        title="Set-up",
        values={**values, **more, "is_admin": is_admin, "query": query},
        caller=caller,
        styles=["set_up.css"],
        scripts=["set_up.js"],
        refresh_s=5,
    )


# -- how a client is configured -----------------------------------------------------------------------


def _configured(agent: Agent, query: SetUpQuery, endpoint: Endpoint) -> dict[str, Any]:
    why = None
    try:
        protocol = choose_protocol(agent, query.protocol, endpoint)
    except WrongProtocolError as error:
        # It was chosen for another client: this one has its own.
        why, protocol = str(error), agent.protocols[0]
    connection = Connection(
        endpoint=endpoint, protocol=protocol, team=query.team, repository=query.repository
    )
    return {
        "agent": agent,
        "agents": AGENTS,
        "protocols": [one for one in agent.protocols if one != "grpc" or endpoint.grpc is not None],
        "endpoint": endpoint,
        "setup": compose(agent, connection),
        "where": WHERE,
        "placeholder": PLACEHOLDER,
        "wrong_protocol": why,
    }


# -- what arrived -------------------------------------------------------------------------------------


async def _latest(caller: Caller) -> Arrival | None:
    """All that those are told of the diary who may not read it."""
    async with caller.reading() as connection:
        rows = await fetch_sessions(
            connection, SessionQuery(sort="-updated_at"), after=None, limit=1, offset=0
        )
    if not rows:
        return None
    session = session_view(rows[0])
    return Arrival(agent_name(session.agent), session.agent_version, None, session.updated_at)


def _arrived(lines: list[IngestLine]) -> Arrival | None:
    """The latest of what was taken in."""
    taken = [(line.last_accepted_at, line) for line in lines if line.last_accepted_at is not None]
    if not taken:
        return None
    at, latest = max(taken, key=lambda one: one[0])
    name = agent_name(latest.agent) if latest.agent else latest.client
    version = latest.agent_version if latest.agent else latest.client_version
    return Arrival(name, version, latest.last_accepted_items, at)


# -- for administrators -------------------------------------------------------------------------------


async def _of_admins(caller: Caller) -> dict[str, Any]:
    sees_people = await caller.sees_people()
    # What this process has taken in but not written yet; before a connection is taken.
    await caller.database.diary.flush(caller.tenant_id)
    async with caller.looking() as tx:
        keys = await fetch_keys(tx, after=None, limit=MAX_KEYS, offset=0)
    async with caller.reading() as connection:
        rows = await fetch_lines(
            connection, IngestLogQuery(), after=None, limit=DIARY_LINES, offset=0
        )
        accepted = await fetch_lines(
            connection, IngestLogQuery(status="accepted"), after=None, limit=1, offset=0
        )
        people: list[UserRow] = []
        names: dict[str, str] = {}
        if sees_people:
            people = await list_users(connection)
            found = await names_of(connection, (key.user_id for key in keys))
            names = {user_id: one.name or one.email for user_id, one in found.items()}
    lines = [line_view(row) for row in rows]
    arrival = _arrived([*lines, *map(line_view, accepted)])
    return {
        "lines": lines,
        # The diary is not as old as what was imported, or seeded.
        "arrival": arrival or await _latest(caller),
        "keys": sorted(
            (_key(row, names) for row in keys),
            key=lambda key: (key.state != "active", -key.row.created_at.timestamp()),
        ),
        "has_more_keys": len(keys) == MAX_KEYS,
        "sees_people": sees_people,
        "people": people,
        "scopes": SCOPES,
    }


def _key(row: KeyRow, names: dict[str, str]) -> ShownKey:
    return ShownKey(row, names.get(str(row.user_id)), _state(row.expires_at, row.revoked_at))


def _state(expires_at: datetime | None, revoked_at: datetime | None) -> str:
    moment = now()
    if revoked_at is not None and revoked_at <= moment:
        return "revoked"
    return "expired" if expires_at is not None and expires_at <= moment else "active"
