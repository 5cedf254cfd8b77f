"""`/api/v1/identities` and `/api/v1/identity-rules`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from metrics_service.db.listing import ListQuery, position_of
from metrics_service.db.pages import Page
from metrics_service.errors import ForbiddenError
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import (
    AnyRequest,
    Caller,
    authorize,
    provide_caller,
    requires,
)
from metrics_service.http.hidden_people import HIDDEN
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation
from metrics_service.identities.repository import (
    count_identities,
    count_rules,
    fetch_identities,
    fetch_rules,
    fetch_unclaimed,
    identity_views,
    rule_views,
)
from metrics_service.identities.schemas import (
    AssignedIdentity,
    Assignment,
    IdentityQuery,
    IdentityView,
    MadeRule,
    RuleIn,
    RuleView,
    UnclaimedList,
)
from metrics_service.identities.write import (
    assign_identity,
    get_identity,
    make_rule,
    remove_rule,
)

IDENTITIES = "/api/v1/identities"
RULES = "/api/v1/identity-rules"
ASSIGNED = {"user_email": "ada@example.com"}
RULE = {"kind": "email_domain", "value": "old.example.com", "to_domain": "example.com"}


async def authorize_who_sees_people(request: AnyRequest) -> None:
    """As `authorize`; raises `ForbiddenError` where people are hidden, too."""
    await authorize(request)
    if not await (await provide_caller(request)).sees_people():
        raise ForbiddenError(HIDDEN)


class IdentityController(Controller):
    path = IDENTITIES
    tags = ["identities"]
    opt = requires("admin")
    before_request = staticmethod(authorize_who_sees_people)

    @get(operation_class=query_operation(IdentityQuery))
    async def list_identities(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Page[IdentityView]:
        """List what telemetry claims of people, with how much, and whom it was matched to."""
        query = parse_query(request, IdentityQuery)
        async with caller.summarising() as connection:
            page = await answer_page(
                caller,
                IDENTITIES,
                query,
                fetch=lambda after, limit, offset: fetch_identities(
                    connection, query, after=after, limit=limit, offset=offset
                ),
                count=lambda: count_identities(connection, query),
                position=position_of(query.sort),
                view=lambda row: row,
            )
            return Page(await identity_views(connection, page.data), page.meta)

    @get("/unclaimed")
    async def list_unclaimed(self, caller: NamedDependency[Caller]) -> UnclaimedList:
        """List how many sessions claim nobody, by the key that sent them."""
        async with caller.summarising() as connection:
            return UnclaimedList(await fetch_unclaimed(connection))

    @get("/{identity_id:uuid}")
    async def get_one(
        self, caller: NamedDependency[Caller], identity_id: FromPath[UUID]
    ) -> IdentityView:
        """Get one identity."""
        async with caller.reading() as connection:
            return await get_identity(connection, identity_id)

    @patch("/{identity_id:uuid}", dto=JsonBody[Assignment], return_dto=None)
    async def patch_one(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        identity_id: FromPath[UUID],
        data: Annotated[Assignment, Body(examples=[Example(value=ASSIGNED)])],
    ) -> AssignedIdentity:
        """Assign an identity to a user, or take that back; past sessions follow."""
        return await assign_identity(caller, request.app.state.followers, identity_id, data)


class IdentityRuleController(Controller):
    path = RULES
    tags = ["identities"]
    opt = requires("admin")
    before_request = staticmethod(authorize_who_sees_people)

    @get(operation_class=query_operation(ListQuery))
    async def list_rules(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Page[RuleView]:
        """List the rules, newest first."""
        query = parse_query(request, ListQuery)
        async with caller.reading() as connection:
            page = await answer_page(
                caller,
                RULES,
                query,
                fetch=lambda after, limit, offset: fetch_rules(
                    connection, after=after, limit=limit, offset=offset
                ),
                count=lambda: count_rules(connection),
                position=position_of("-created_at"),
                view=lambda row: row,
            )
            return Page(await rule_views(connection, page.data), page.meta)

    @post(dto=JsonBody[RuleIn], return_dto=None)
    async def post_rule(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        data: Annotated[RuleIn, Body(examples=[Example(value=RULE)])],
    ) -> Response[MadeRule]:
        """Make a rule for an account, a domain or a key; past sessions follow."""
        made, is_new = await make_rule(caller, request.app.state.followers, data)
        return Response(made, status_code=201 if is_new else 200)

    @delete("/{rule_id:uuid}")
    async def delete_rule(
        self, request: AnyRequest, caller: NamedDependency[Caller], rule_id: FromPath[UUID]
    ) -> None:
        """Remove a rule; past sessions go back to whom they were without it."""
        await remove_rule(caller, request.app.state.followers, rule_id)
