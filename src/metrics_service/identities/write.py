"""Changing who is who."""

from __future__ import annotations

import re
from uuid import UUID

from msgspec import UNSET

from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import (
    ConflictError,
    FieldError,
    InvalidBodyError,
    NotFoundError,
)
from metrics_service.http.dependencies import Caller
from metrics_service.identities.followers import Followers
from metrics_service.identities.repository import (
    add_rule,
    assign,
    drop_rule,
    find_identity,
    find_rule,
    has_key,
    has_named,
    rule_views,
)
from metrics_service.identities.schemas import (
    DOMAIN,
    AssignedIdentity,
    Assignment,
    Chosen,
    IdentityView,
    MadeRule,
    RuleIn,
)
from metrics_service.ingest.past_sessions import Concerned
from metrics_service.ingest.people import unknown_users, users_by_email

_is_domain = re.compile(DOMAIN).match


async def get_identity(connection: ContextConnection, identity_id: UUID) -> IdentityView:
    """Raises `NotFoundError`."""
    view = await find_identity(connection, identity_id)
    if view is None:
        raise NotFoundError("identity", identity_id)
    return view


async def assign_identity(
    caller: Caller, followers: Followers, identity_id: UUID, data: Assignment
) -> AssignedIdentity:
    """Assign an identity, or take that back; what was stored before follows."""
    async with caller.writing() as connection:
        user_id = await _chosen(connection, data)
        claim = await assign(connection, identity_id, user_id, caller.principal.user_id)
        if claim is None:
            raise NotFoundError("identity", identity_id)
    past = await followers.follow(caller, Concerned("identity", claim.value, claim.kind))
    async with caller.writing() as connection:
        return AssignedIdentity(await get_identity(connection, identity_id), past)


async def make_rule(caller: Caller, followers: Followers, data: RuleIn) -> tuple[MadeRule, bool]:
    """Make a rule, or find the same one; return it and whether it is new. What was stored follows.

    Raises `ConflictError` when there is another one for the same.
    """
    async with caller.writing() as connection:
        value = await _value(connection, data)
        to_domain = _to_domain(data, value)
        user_id = await _chosen(connection, data) if to_domain is None else None
        if user_id is None and to_domain is None:
            raise _invalid("give a user: user_id or user_email", "user_id")
        is_new = await add_rule(
            connection,
            data.kind,
            value,
            user_id=user_id,
            to_domain=to_domain,
            by=caller.principal.user_id,
        )
        row = await find_rule(connection, data.kind, value)
        if row is None or (row["user_id"], row["to_domain"]) != (user_id, to_domain):
            raise ConflictError("there is another rule for this; delete it first")
        (rule,) = await rule_views(connection, [row])
    past = await followers.follow(caller, Concerned(data.kind, value))
    return MadeRule(rule, past), is_new


async def remove_rule(caller: Caller, followers: Followers, rule_id: UUID) -> None:
    """Remove a rule; sessions go back to whom they were without it.

    Asked again it goes on where sessions were left behind, as by a server that ended. Raises
    `NotFoundError` when there is neither the rule nor a session that it named.
    """
    async with caller.writing() as connection:
        row = await drop_rule(connection, rule_id)
        if row is None and not await has_named(connection, rule_id):
            raise NotFoundError("rule", rule_id)
    concerned = ("rule", str(rule_id)) if row is None else (row["kind"], row["value"])
    await followers.follow(caller, Concerned(*concerned))


async def _chosen(connection: ContextConnection, data: Chosen) -> UUID | None:
    """The user that was named; None when it was said that it is nobody."""
    if data.user_email is not UNSET and data.user_id is not UNSET:
        raise _invalid("give user_id or user_email, not both", "user_id")
    if data.user_email is not UNSET:
        email = data.user_email.lower()
        return (await users_by_email(connection, [email]))[email]
    if data.user_id is UNSET:
        raise _invalid("give user_id or user_email", "user_id")
    if data.user_id is not None and await unknown_users(connection, [data.user_id]):
        raise _invalid("there is no such user", "user_id")
    return data.user_id


def _to_domain(data: RuleIn, value: str) -> str | None:
    """The domain that the rule's own stands for; None where it names a user."""
    if data.to_domain is None:
        return None
    to_domain = data.to_domain.lower()
    if data.kind != "email_domain":
        raise _invalid("is for email_domain alone", "to_domain")
    if to_domain == value:
        raise _invalid("is the domain itself", "to_domain")
    if data.user_id is not UNSET or data.user_email is not UNSET:
        raise _invalid("give a user or to_domain, not both", "to_domain")
    return to_domain


async def _value(connection: ContextConnection, data: RuleIn) -> str:
    """The rule's value as claims have it."""
    if data.kind == "email_domain":
        domain = data.value.lower().removeprefix("@")
        if _is_domain(domain) is None:
            raise _invalid("must be a domain, such as example.com", "value")
        return domain
    if data.kind == "key":
        key_id = _as_uuid(data.value)
        if key_id is None or not await has_key(connection, key_id):
            raise _invalid("must be the id of a key of this tenant", "value")
        return str(key_id)
    return data.value


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _invalid(reason: str, field: str) -> InvalidBodyError:
    return InvalidBodyError([FieldError(reason, field=field)])
