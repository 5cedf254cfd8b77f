"""What tells of a person, and is kept from those who have signed in where their tenant hides people.

They see teams, repositories and agents. What somebody wrote on purpose stays as it is: metadata, tags,
the owners of dashboards, and the users with whom those are shared.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import msgspec

from metrics_service.errors import ForbiddenError

HIDDEN = "people are hidden in this organisation"

PERSON = "user_id"
"""The dimension and the filter by which figures are those of one person."""

# The last five are words of clients, in which there may be anything: emails, the name of a home.
TELLING = frozenset(
    {
        PERSON, "user_email", "user", "user_key", "user_key_kind", "user_source", "claims",
        "resource", "workspace_paths", "attributes", "extra",
    }
)  # fmt: skip

T = TypeVar("T", bound=msgspec.Struct)


def check_question(query: msgspec.Struct, *, sees_people: bool) -> None:
    """Raises `ForbiddenError` where people are filtered or grouped by, and not to be seen."""
    asks = getattr(query, PERSON, None) is not None or PERSON in getattr(query, "groups", ())
    if asks and not sees_people:
        raise ForbiddenError(HIDDEN)


def shown(view: T, *, sees_people: bool) -> T:
    """The view as it may be seen."""
    return view if sees_people else msgspec.structs.replace(view, **_nothing(type(view)))


@cache
def _nothing(kind: type[msgspec.Struct]) -> dict[str, None]:
    return dict.fromkeys(TELLING.intersection(kind.__struct_fields__))
