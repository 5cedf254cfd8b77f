"""One person of each demonstration company who can sign in, with a password that everybody knows."""

from __future__ import annotations

from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.seeds.companies import Company
from metrics_service.tenants.passwords import Passwords
from metrics_service.users.repository import find_account
from metrics_service.users.schemas import NewUser
from metrics_service.users.write import People, create_user

# Fixed, so that it still works on the second day; for tenants that hold nothing but a story.
PASSWORD = "metrics-demo-1"  # noqa: S105  # it says itself what it is for


class Login(msgspec.Struct, frozen=True):
    """Who signs in; the password is None where somebody has chosen another one."""

    email: str
    password: str | None


async def ensure_login(
    engine: AsyncEngine, passwords: Passwords, tenant_id: UUID, company: Company
) -> Login:
    """Let the owner of a company sign in; one who can already is left as they are."""
    people = People(engine, tenant_id, passwords)
    owner = next(person for person in company.people if person.role == "owner")
    async with people.reading() as connection:
        account = await find_account(connection, owner.email)
    if account is None or account.password_hash is None:
        new = NewUser(email=owner.email, role="owner", name=owner.name, team=owner.team)
        await create_user(people, new, PASSWORD)
        return Login(owner.email, PASSWORD)
    is_ours = await passwords.matches(PASSWORD, account.password_hash)
    return Login(owner.email, PASSWORD if is_ours else None)
