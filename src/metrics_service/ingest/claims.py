"""What telemetry claims of a person, and which of several claims is believed.

A claim proves nothing: only the key that sent it does, so its owner comes first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

OWNER = "key"
EMAIL = "email"
IMPORTER = "import.key"
"""Who owns the key that brought in what a laptop had recorded, of whomever: hardly more than nothing."""
SENT_BY = "ingest.key"
"""The id of the key that sent it: no person, but rules may make one of it."""
BY_KEY = frozenset({OWNER, IMPORTER})
"""Claims whose value is a user's id."""
MAX_EMAIL = 254

_is_email = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+").fullmatch


class Claim(msgspec.Struct, frozen=True):
    """What names a person: by key, by email, or by the name of an attribute."""

    kind: str
    value: str


def best_claim(said: Mapping[str, tuple[int, Any]]) -> Claim | None:
    """The best claim among what was said of a session (`@` and the attribute's name)."""
    is_gateway = said.get("@identity.source", (0, ""))[1] == "gateway-oidc"
    for kind in _ORDER_AT_GATEWAY if is_gateway else _ORDER:
        found = said.get(f"@{kind}")
        # No text of the database can hold it, and a name without it is the same name.
        if found is not None and (value := found[1].replace("\0", "")):
            return _claim(kind, value)
    return None


# The best first; behind it nothing else is asked.
_ORDER = (
    OWNER,
    "user.email",
    "cursor.user.email",
    "enduser.id",
    "user.account_uuid",
    "user.account_id",
    "gen_ai.user.id",
    "cursor.user.id",
    "ai.telemetry.metadata.userId",
    "enduser.pseudo.id",
    "user.id",
    "installation.id",
    IMPORTER,
)
# Behind a gateway the subject of the identity provider stands where an installation's id would be.
_ORDER_AT_GATEWAY = tuple(
    kind
    for known in _ORDER
    for kind in ((known, "user.id") if known == "user.account_uuid" else (known,))
)


def _claim(kind: str, value: str) -> Claim:
    if kind not in BY_KEY and len(value) <= MAX_EMAIL and _is_email(value):
        return Claim(EMAIL, value.lower())
    return Claim(kind, value)
