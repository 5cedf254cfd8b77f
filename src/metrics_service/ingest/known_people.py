"""Whose telemetry it is: from claims, and from what the tenant said about them, to a user.

A user is known, the first that holds: by the key that sent it, because somebody assigned the claim,
by a rule, or by the claim itself. Users whom only a claim knows are made on first sight, and what
people edited about them stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.claims import BY_KEY, EMAIL, OWNER, SENT_BY, Claim, best_claim
from metrics_service.ingest.people import users_by_email
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.telemetry import row_id_of

Source = Literal["key", "assigned", "rule", "claim", "stated"]
RuleKind = Literal["account_id", "email_domain", "key"]
Said = Mapping[str, tuple[int, Any]]

PEOPLE_LOCK = "people"
"""Whoever stores telemetry shares it, from before people are looked up until all is committed."""

ACCOUNT_IDS = ("user.account_uuid", "user.account_id")
RULE_ORDER: tuple[RuleKind, ...] = ("account_id", "email_domain", "key")
"""The most exact first."""

# One round trip: rules are few, and most tenants have none.
READ = """
WITH wanted AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(kind text, value text)
)
SELECT NULL::uuid AS rule_id, i.kind, i.value, i.user_id, i.assigned_user_id, NULL AS to_domain
FROM user_identities i JOIN wanted USING (kind, value)
UNION ALL
SELECT r.id, r.kind, r.value, r.user_id, NULL, r.to_domain FROM identity_rules r
"""

ADD_USERS = """
INSERT INTO users (id, name)
SELECT id, value FROM json_to_recordset($1::json) AS r(id uuid, value text) ORDER BY id
ON CONFLICT (tenant_id, id) DO NOTHING
"""

ADD_IDENTITIES = """
INSERT INTO user_identities AS i (id, kind, value, user_id)
SELECT id, kind, value, user_id
FROM json_to_recordset($1::json) AS r(id uuid, kind text, value text, user_id uuid)
ORDER BY kind, value
ON CONFLICT (tenant_id, kind, value) DO UPDATE SET user_id = coalesce(i.user_id, excluded.user_id)
RETURNING i.kind, i.value, i.user_id, i.assigned_user_id
"""


class Known(msgspec.Struct, frozen=True, omit_defaults=True):
    """The person of a session, and by what they are known."""

    claim: Claim | None
    user_id: UUID
    source: Source = "claim"
    rule_id: UUID | None = None


class Rule(msgspec.Struct, frozen=True):
    """What a tenant says about claims: whose they are, or which domain stands for theirs."""

    id: UUID
    kind: RuleKind
    value: str
    user_id: UUID | None
    to_domain: str | None

    def matches(self, said: Said, claim: Claim | None) -> bool:
        if self.kind == "email_domain":
            return claim is not None and claim.kind == EMAIL and _domain_of(claim) == self.value
        names = ACCOUNT_IDS if self.kind == "account_id" else (SENT_BY,)
        return any(said.get(f"@{name}", (0, None))[1] == self.value for name in names)

    def alias(self, claim: Claim) -> Claim:
        """The same name at the other domain."""
        return Claim(EMAIL, f"{claim.value.rpartition('@')[0]}@{self.to_domain}")


class KnownPeople(msgspec.Struct):
    """What one transaction read of the people behind claims."""

    rules: list[Rule] = []
    own: dict[Claim, UUID] = {}
    """The users whom claims made."""
    assigned: dict[Claim, UUID] = {}
    read: set[Claim] = set()
    """All claims that were looked up; of others only `before` knows."""
    listed: set[Claim] = set()
    """Those of them that were seen before."""
    before: dict[Claim, Known] = {}
    """What sessions remember."""

    def who(self, said: Said) -> Known | None:
        """The person of a session of which this was said; None when nobody can be named."""
        claim = best_claim(said)
        if claim is not None and claim.kind == OWNER:
            return Known(claim, UUID(claim.value), "key")
        if claim is not None and (assigned := self._assigned(claim)) is not None:
            return Known(claim, assigned, "assigned")
        if (rule := self.rule_for(said, claim)) is not None:
            user_id = rule.user_id or (self._user_of(rule.alias(claim)) if claim else None)
            if user_id is not None:
                return Known(claim, user_id, "rule", rule.id)
        if claim is None or (user_id := self._user_of(claim)) is None:
            return None
        return Known(claim, user_id)

    def has_read(self, said: Said) -> bool:
        """Whether the claim of such a session was looked up."""
        claim = best_claim(said)
        return claim is None or claim.kind in BY_KEY or claim in self.read

    def rule_for(self, said: Said, claim: Claim | None) -> Rule | None:
        return next((rule for rule in self.rules if rule.matches(said, claim)), None)

    def _assigned(self, claim: Claim) -> UUID | None:
        known = None if claim in self.read else self.before.get(claim)
        if known is not None and known.source == "assigned":
            return known.user_id
        return self.assigned.get(claim)

    def _user_of(self, claim: Claim) -> UUID | None:
        if claim.kind in BY_KEY:
            return UUID(claim.value)
        if (found := self.assigned.get(claim) or self.own.get(claim)) is not None:
            return found
        known = self.before.get(claim)
        return known.user_id if known is not None and known.source == "claim" else None


async def look_up_people(
    connection: ContextConnection, tenant_id: UUID, all_said: Iterable[Said]
) -> KnownPeople:
    """Read what is known of these sessions' people; those whom nobody knows become users."""
    people = KnownPeople()
    open_ = [(said, claim) for said in all_said if not _is_proven(claim := best_claim(said))]
    if not open_:
        return people
    await _read(connection, people, {claim for _, claim in open_ if claim is not None})
    seen: set[Claim] = set()
    lonely: set[Claim] = set()
    aliases: set[Claim] = set()
    for said, claim in open_:
        if claim is None or claim.kind in BY_KEY:
            continue
        seen.add(claim)
        rule = None if claim in people.assigned else people.rule_for(said, claim)
        if rule is not None and rule.to_domain is not None:
            aliases.add(rule.alias(claim))
        elif rule is None and claim not in people.assigned:
            lonely.add(claim)
    if aliases := aliases - people.read:
        await _read(connection, people, aliases)
    await _make(connection, tenant_id, people, lonely | aliases, seen)
    return people


async def read_people(connection: ContextConnection, claims: Iterable[Claim]) -> KnownPeople:
    """As `look_up_people`, of these claims, and making nobody."""
    people = KnownPeople()
    wanted = set(claims)
    await _read(connection, people, wanted)
    aliases = {
        rule.alias(claim)
        for rule in people.rules
        for claim in wanted
        if rule.to_domain is not None and rule.matches({}, claim)
    }
    if aliases := aliases - people.read:
        await _read(connection, people, aliases)
    return people


async def _read(connection: ContextConnection, people: KnownPeople, claims: set[Claim]) -> None:
    people.rules.clear()
    people.read |= claims
    for row in await connection.fetch(READ, as_json(list(claims))):
        if row["rule_id"] is not None:
            people.rules.append(
                Rule(row["rule_id"], row["kind"], row["value"], row["user_id"], row["to_domain"])
            )
        else:
            _note(people, row)
    people.rules.sort(key=lambda rule: (RULE_ORDER.index(rule.kind), rule.value))


async def _make(
    connection: ContextConnection,
    tenant_id: UUID,
    people: KnownPeople,
    wanted: set[Claim],
    seen: set[Claim],
) -> None:
    """Give users to those of the wanted claims that have none, and write down all that were seen."""
    missing = {
        claim for claim in wanted if claim not in people.own and claim not in people.assigned
    }
    unseen = (seen - people.listed) | missing
    if not unseen:
        return
    by_email = await users_by_email(
        connection, {claim.value for claim in missing if claim.kind == EMAIL}
    )
    others = sorted(
        (_user_id(tenant_id, claim), claim.value) for claim in missing if claim.kind != EMAIL
    )
    if others:
        await connection.execute(
            ADD_USERS, as_json([{"id": UUID(int=id_), "value": value} for id_, value in others])
        )
    rows = [
        {
            "id": UUID(int=row_id_of(tenant_id.bytes, "identity", f"{claim.kind}\0{claim.value}")),
            "kind": claim.kind,
            "value": claim.value,
            "user_id": _own_user(tenant_id, claim, by_email) if claim in missing else None,
        }
        for claim in unseen
    ]
    for row in await connection.fetch(ADD_IDENTITIES, as_json(rows)):
        _note(people, row)


def _own_user(tenant_id: UUID, claim: Claim, by_email: Mapping[str, UUID]) -> UUID:
    if claim.kind == EMAIL:
        return by_email[claim.value]
    return UUID(int=_user_id(tenant_id, claim))


def _user_id(tenant_id: UUID, claim: Claim) -> int:
    # It follows from the claim, so that two who see it first in one moment make one user.
    return row_id_of(tenant_id.bytes, "user", f"{claim.kind}\0{claim.value}")


def _note(people: KnownPeople, row: Mapping[str, Any]) -> None:
    claim = Claim(row["kind"], row["value"])
    people.listed.add(claim)
    if row["user_id"] is not None:
        people.own[claim] = row["user_id"]
    if row["assigned_user_id"] is not None:
        people.assigned[claim] = row["assigned_user_id"]


def _is_proven(claim: Claim | None) -> bool:
    return claim is not None and claim.kind == OWNER


def _domain_of(claim: Claim) -> str:
    return claim.value.rpartition("@")[2]
