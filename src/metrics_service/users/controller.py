"""`/api/v1/me/password` and `/api/v1/me/sign-ins`: what people change about their own signing in."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from metrics_service.db.pages import Page, PageMeta
from metrics_service.errors import ForbiddenError, NotFoundError
from metrics_service.http.bodies import JsonBody
from metrics_service.http.cookies import sign_in_token
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.tenants.sign_ins import (
    KIND,
    MAX_OF_A_USER,
    SignInRow,
    end_sign_in,
    list_sign_ins,
)
from metrics_service.users.schemas import PasswordIn
from metrics_service.users.write import People, change_password

EXAMPLE = {"current": "what it was until now", "new": "a sentence of your own"}


class OwnSignInController(Controller):
    path = "/api/v1/me"
    tags = ["me"]
    opt = requires(None)

    # Without Idempotency-Key: its fingerprint of the body would be a fast hash of two passwords.
    @post("/password", dto=JsonBody[PasswordIn], return_dto=None, status_code=204)
    async def post_password(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        data: Annotated[PasswordIn, Body(examples=[Example(value=EXAMPLE)])],
    ) -> None:
        """Change your own password; it ends your other sign-ins. For people who signed in."""
        user_id, token = _person(request)
        database = caller.database
        people = People(database.engine, caller.tenant_id, database.passwords)
        # As many as of the form: whoever found a browser open does not find the password by it.
        with database.password_throttle.attempt(request.scope, str(user_id)):
            await change_password(people, user_id, current=data.current, new=data.new, token=token)
        # Here at once; elsewhere when it is heard.
        database.sign_ins.forget_everywhere(caller.tenant_id)

    @get("/sign-ins")
    async def list_own_sign_ins(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Page[SignInRow]:
        """List where you are signed in, the latest first. For people who signed in."""
        user_id, token = _person(request)
        async with caller.reading() as connection:
            rows = await list_sign_ins(connection, user_id, current=token)
        return Page(rows, PageMeta(limit=MAX_OF_A_USER, next_cursor=None))

    @delete("/sign-ins/{sign_in_id:uuid}")
    async def delete_own_sign_in(
        self, request: AnyRequest, caller: NamedDependency[Caller], sign_in_id: FromPath[UUID]
    ) -> None:
        """Sign out somewhere else; it holds within two seconds. For people who signed in."""
        user_id, _ = _person(request)
        async with caller.writing() as connection:
            if not await end_sign_in(connection, user_id, sign_in_id):
                raise NotFoundError("sign-in", sign_in_id)
        caller.database.sign_ins.forget_everywhere(caller.tenant_id)


def _person(request: AnyRequest) -> tuple[UUID, str]:
    """Who signed in, and by which token; raises `ForbiddenError` for keys, those of users too."""
    token = sign_in_token(request.scope["headers"])
    if request.user.kind != KIND or token is None:
        raise ForbiddenError("only people who signed in have sign-ins and a password, keys do not")
    return request.user.id, token
