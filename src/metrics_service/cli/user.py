"""`metrics-service user`: let people sign in, and say what they may."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar, get_args
from uuid import UUID

import msgspec
import rich_click as click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.cli.connect import Opened, opened_database
from metrics_service.cli.output import json_option, print_many, print_one
from metrics_service.cli.signals import run_async
from metrics_service.db.engine import runtime_engine
from metrics_service.db.roles import OWNER
from metrics_service.errors import InvalidBodyError, InvalidNameError
from metrics_service.tenants.names import validate_display_name
from metrics_service.tenants.passwords import Passwords
from metrics_service.tenants.registry import record_action
from metrics_service.users.repository import list_users
from metrics_service.users.schemas import NewUser, Role, UserRow
from metrics_service.users.write import (
    People,
    change_role,
    create_user,
    email_of,
    new_password,
    reset_password,
)

Result = TypeVar("Result")

ROLES = get_args(Role)

password_option = click.option(
    "--password-stdin",
    "is_told",
    is_flag=True,
    help="Read the password from the first line of standard input, instead of making one up.",
)


class Login(msgspec.Struct, frozen=True):
    """Somebody who can sign in; the password is there when it was made up, and only now."""

    id: UUID
    email: str | None
    name: str | None
    role: str
    team: str | None
    password: str | None


class Listed(msgspec.Struct, frozen=True):
    """A user in one line."""

    email: str | None
    name: str | None
    role: str
    team: str | None
    can_sign_in: bool
    last_seen_at: datetime | None


@click.group()
def user() -> None:
    """Let people of a tenant sign in, and say what they may."""


@user.command()
@click.argument("slug")
@click.argument("email")
@click.option(
    "--role", type=click.Choice(ROLES), help="What they may do; of somebody new viewer unless said."
)
@click.option("--name", help="What others see.")
@click.option("--team", help="The team that they belong to.")
@password_option
@json_option
def create(
    slug: str,
    email: str,
    role: Role | None,
    name: str | None,
    team: str | None,
    is_told: bool,
    as_json: bool,
) -> None:
    """Let EMAIL sign in to the tenant SLUG; a password that is made up is printed only now.

    Whoever telemetry has named already keeps their sessions, and what is not said here.
    """
    wanted = NewUser(
        email=_email(email),
        role=role,
        name=None if name is None else validate_display_name(name),
        team=None if team is None else _team(team),
    )
    password = _password(is_told=is_told)
    row = _changed(slug, "user create", lambda people: create_user(people, wanted, password))
    print_one(_login(row, None if is_told else password), as_json=as_json)


@user.command(name="list")
@click.argument("slug")
@json_option
def list_(slug: str, as_json: bool) -> None:
    """List the people of the tenant SLUG, those too who cannot sign in."""

    async def find(people: People) -> list[UserRow]:
        async with people.reading() as connection:
            return await list_users(connection)

    with opened_database() as opened:
        rows = _among(opened, opened.served_tenant(slug).id, find)
    listed = [
        Listed(row.email, row.name, row.role, row.team, row.can_sign_in, row.last_seen_at)
        for row in rows
    ]
    print_many(listed, as_json=as_json, none="the tenant has no users")


@user.command()
@click.argument("slug")
@click.argument("email")
@password_option
@json_option
def password(slug: str, email: str, is_told: bool, as_json: bool) -> None:
    """Give EMAIL another password, and sign them out everywhere."""
    known, wanted = _email(email), _password(is_told=is_told)
    row = _changed(slug, "user password", lambda people: reset_password(people, known, wanted))
    print_one(_login(row, None if is_told else wanted), as_json=as_json)


@user.command()
@click.argument("slug")
@click.argument("email")
@click.argument("role", type=click.Choice(ROLES))
def role(slug: str, email: str, role: Role) -> None:
    """Give EMAIL another role, which holds within two seconds where they are signed in."""
    known = _email(email)
    _changed(slug, "user role", lambda people: change_role(people, known, role))


def _email(given: str) -> str:
    email = email_of(given)
    if email is None:
        raise InvalidNameError(f"email: {given!r} is not an email address")
    return email


def _team(given: str) -> str:
    try:
        return validate_display_name(given)
    except InvalidNameError as error:
        raise InvalidNameError(str(error).replace("name", "team", 1)) from None


def _password(*, is_told: bool) -> str:
    if not is_told:
        return new_password()
    line = sys.stdin.buffer.readline()
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise InvalidNameError("the password is not valid UTF-8") from None


def _login(row: UserRow, password: str | None) -> Login:
    return Login(row.id, row.email, row.name, row.role, row.team, password)


def _changed(slug: str, action: str, change: Callable[[People], Awaitable[UserRow]]) -> UserRow:
    """Do it in the tenant, and note in the registry's audit that an operator did."""
    with opened_database() as opened:
        tenant_id = opened.served_tenant(slug).id
        try:
            row = _among(opened, tenant_id, change)
        except InvalidBodyError as error:
            raise InvalidNameError(str(error)) from None

        async def note(connection: AsyncConnection) -> None:
            await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
            await record_action(connection, action, tenant_id, user=str(row.id))

        opened.in_transaction(note)
    return row


def _among(opened: Opened, tenant_id: UUID, work: Callable[[People], Awaitable[Result]]) -> Result:
    """Do the work as the service itself would: users live in the tenant's schema."""

    async def done() -> Result:
        engine, passwords = runtime_engine(opened.addresses.runtime, pool_max=1), Passwords()
        try:
            return await work(People(engine, tenant_id, passwords))
        finally:
            passwords.close()
            await engine.dispose()

    return run_async(done())
