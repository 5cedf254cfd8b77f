"""Signs people in, and gives them passwords and roles.

Argon2 takes its time, so no transaction is open meanwhile: what was compared with is looked at again
in the transaction that relies on it.
"""

from __future__ import annotations

import secrets
from contextlib import AbstractAsyncContextManager
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.errors import ConflictError, FieldError, InvalidBodyError, NotFoundError
from metrics_service.fields import Email
from metrics_service.tenants.passwords import LONGEST, Passwords, fault_of
from metrics_service.tenants.sign_ins import NewSignIn, announce, begin_sign_in, end_sign_ins
from metrics_service.users.repository import (
    add_password,
    find_account,
    find_account_of,
    get_user,
    is_still_password,
    put_user,
    set_password,
    set_role,
)
from metrics_service.users.schemas import Account, NewUser, Role, UserRow

WRONG = "email or password is wrong"

# 90 bits; without what looks alike, in groups that one can read out.
ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
GROUPS, IN_A_GROUP = 3, 6


class People(msgspec.Struct, frozen=True):
    """The people of one tenant, where passwords are concerned."""

    engine: AsyncEngine
    tenant_id: UUID
    passwords: Passwords

    def reading(self) -> AbstractAsyncContextManager[ContextConnection]:
        return tenant_connection(self.engine, TenantContext(self.tenant_id, read_only=True))

    def writing(self) -> AbstractAsyncContextManager[ContextConnection]:
        return tenant_connection(self.engine, TenantContext(self.tenant_id))

    def admitting(self) -> AbstractAsyncContextManager[ContextConnection]:
        """As `writing`, for what no page of figures shows: passwords, and who has signed in."""
        return tenant_connection(self.engine, TenantContext(self.tenant_id, notes_change=False))


def email_of(text: str) -> str | None:
    """An email as users have them: in lower case; None when it is none."""
    try:
        return msgspec.convert(text.strip().lower(), Email)
    except msgspec.ValidationError:
        return None


def new_password() -> str:
    """A password to be read off a screen once."""
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(IN_A_GROUP)) for _ in range(GROUPS))
    return "-".join(groups)


async def sign_in(
    people: People, *, email: str, password: str, user_agent: str | None
) -> NewSignIn:
    """Sign in whoever has this email and this password.

    Raises `InvalidBodyError`, the same for an email that nobody has, after the same time.
    """
    known = email_of(email)
    account = None
    if known is not None and "\0" not in known:
        async with people.reading() as connection:
            account = await find_account(connection, known)
    kept = await _compared(people.passwords, account, password)
    if account is None or kept is None:
        raise wrong_password()
    renewed = await people.passwords.hash(password) if people.passwords.is_outdated(kept) else None
    async with people.admitting() as connection:
        # Else somebody whose password was changed meanwhile would be let in by the old one.
        if not await is_still_password(connection, account.user_id, kept):
            raise wrong_password()
        if renewed is not None:
            await set_password(connection, account.user_id, renewed)
        return await begin_sign_in(connection, account.user_id, user_agent=user_agent)


def wrong_password() -> InvalidBodyError:
    """What every sign-in that fails is answered; what was wrong is told to nobody."""
    return InvalidBodyError([FieldError(WRONG, field="password")], WRONG)


async def _compared(passwords: Passwords, account: Account | None, password: str) -> str | None:
    """The hash that the password has; None when it is not the one."""
    if len(password) > LONGEST:
        # Nobody's: none that long is taken.
        return None
    kept = None if account is None else account.password_hash
    return kept if await passwords.matches(password, kept) else None


async def change_password(
    people: People, user_id: UUID, *, current: str, new: str, token: str
) -> None:
    """Change somebody's own password; all their sign-ins end but the one of this token.

    Raises `InvalidBodyError` when the current one is wrong, or the new one not to be taken.
    """
    async with people.reading() as connection:
        account = await find_account_of(connection, user_id)
    if account is None:
        raise NotFoundError("user", user_id)
    if (fault := fault_of(new, email=account.email)) is not None:
        raise InvalidBodyError([FieldError(fault, field="new")])
    kept = await _compared(people.passwords, account, current)
    wrong = InvalidBodyError([FieldError("is not your password", field="current")])
    if kept is None:
        raise wrong
    password_hash = await people.passwords.hash(new)
    async with people.admitting() as connection:
        if not await is_still_password(connection, user_id, kept):
            raise wrong
        await set_password(connection, user_id, password_hash)
        await end_sign_ins(connection, user_id, but=token)


async def create_user(people: People, user: NewUser, password: str) -> UserRow:
    """Let somebody sign in who could not; telemetry may have made them a user before.

    Raises `InvalidBodyError`, and `ConflictError` when they have a password, or are no person.
    """
    password_hash = await _hashed(people, password, user.email)
    async with people.writing() as connection:
        user_id = await put_user(connection, user)
        if not await add_password(connection, user_id, password_hash):
            raise ConflictError(f"{user.email} has a password already; use `user password`")
        row = await get_user(connection, user_id)
        if row.role == "service":
            raise ConflictError(f"{user.email} is a service, which has keys; give it another role")
        # A role that was there before may be another now.
        await announce(connection)
        return row


async def reset_password(people: People, email: str, password: str) -> UserRow:
    """Give a user another password, and end all their sign-ins.

    Raises `NotFoundError`, and `InvalidBodyError` when the password is not to be taken.
    """
    password_hash = await _hashed(people, password, email)
    async with people.writing() as connection:
        user_id = await _known(connection, email)
        await set_password(connection, user_id, password_hash)
        await end_sign_ins(connection, user_id)
        return await get_user(connection, user_id)


async def change_role(people: People, email: str, role: Role) -> UserRow:
    """Give a user another role, which holds for those who are signed in too."""
    async with people.writing() as connection:
        user_id = await _known(connection, email)
        await set_role(connection, user_id, role)
        await announce(connection)
        return await get_user(connection, user_id)


async def _known(connection: ContextConnection, email: str) -> UUID:
    account = await find_account(connection, email)
    if account is None:
        raise NotFoundError("user", email)
    return account.user_id


async def _hashed(people: People, password: str, email: str) -> str:
    if (fault := fault_of(password, email=email)) is not None:
        raise InvalidBodyError([FieldError(fault, field="password")], f"the password {fault}")
    return await people.passwords.hash(password)
