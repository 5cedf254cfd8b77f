"""`/api/v1/setup`: how clients are pointed at this tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.errors import (
    FieldError,
    InvalidBodyError,
    InvalidQueryError,
    MetricsServiceError,
)
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.idempotency import once
from metrics_service.http.query import parse_query, query_operation
from metrics_service.keys.schemas import KeyIn
from metrics_service.keys.write import issue_key
from metrics_service.setup.compose import (
    WrongProtocolError,
    choose_protocol,
    compose,
    find_agent,
    list_agents,
)
from metrics_service.setup.connection import Connection
from metrics_service.setup.request import Reach
from metrics_service.setup.schemas import AgentList, IssuedSetup, Setup, SetupIn, SetupQuery

EXAMPLE = {"key": {"name": "laptops", "expires_in_days": 90}, "team": "web"}


class SetupController(Controller):
    path = "/api/v1/setup"
    tags = ["setup"]

    @get(opt=requires("read"))
    async def list_setups(self) -> AgentList:
        """List the clients that can be set up, with the protocols that each speaks."""
        return AgentList(list_agents())

    @get("/{agent:str}", opt=requires("read"), operation_class=query_operation(SetupQuery))
    async def get_setup(self, request: AnyRequest, agent: FromPath[str]) -> Setup:
        """Show a client's configuration for this tenant, with a placeholder where the key goes."""
        wanted = parse_query(request, SetupQuery)
        return compose(find_agent(agent), _connection(request, agent, wanted, _query_error))

    @post("/{agent:str}", opt=requires("admin"), dto=JsonBody[SetupIn], return_dto=None)
    async def post_setup(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        agent: FromPath[str],
        data: Annotated[SetupIn, Body(examples=[Example(value=EXAMPLE)])],
    ) -> Response[IssuedSetup]:
        """Issue a key with the scope ingest, and show the configuration with it; it is shown here alone."""
        found = find_agent(agent)
        connection = _connection(request, agent, data, _body_error)

        async def act() -> IssuedSetup:
            wanted = KeyIn(**msgspec.structs.asdict(data.key), scopes=["ingest"])
            issued = await issue_key(tx, wanted, within="key.")
            setup = compose(found, msgspec.structs.replace(connection, key=issued.key))
            return IssuedSetup(**msgspec.structs.asdict(setup), key=issued)

        return await once(request, caller, tx, act)


def _connection(
    request: AnyRequest,
    code: str,
    wanted: SetupQuery | SetupIn,
    refuse: Callable[[str], MetricsServiceError],
) -> Connection:
    reach: Reach = request.app.state.reach
    endpoint = reach.endpoint(request.scope)
    try:
        protocol = choose_protocol(find_agent(code), wanted.protocol, endpoint)
    except WrongProtocolError as error:
        raise refuse(str(error)) from None
    return Connection(
        endpoint=endpoint, protocol=protocol, repository=wanted.repository, team=wanted.team
    )


def _query_error(reason: str) -> MetricsServiceError:
    return InvalidQueryError(f"parameter protocol: {reason}")


def _body_error(reason: str) -> MetricsServiceError:
    return InvalidBodyError([FieldError(reason, field="protocol")])
