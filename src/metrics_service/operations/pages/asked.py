"""A list that a page shows, and the addresses of others like it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

import msgspec

QueryT = TypeVar("QueryT", bound=msgspec.Struct)


class Choice(msgspec.Struct, frozen=True):
    """One of the links of which one is the page that is open."""

    label: str
    href: str
    is_chosen: bool
    count: int | None = None


class Asked(msgspec.Struct, Generic[QueryT], frozen=True):
    """What was asked for under a path."""

    path: str
    query: QueryT

    @property
    def given(self) -> dict[str, Any]:
        """The parameters that are not as usual, by the names that they have in addresses."""
        usual = type(self.query)()
        fields = msgspec.structs.fields(self.query)
        return {
            field.encode_name: value
            for field in fields
            if (value := getattr(self.query, field.name)) != getattr(usual, field.name)
        }

    def address(self, **changes: Any) -> str:
        """The same with other parameters, from the first page on; None leaves one out."""
        changed = {**self.given, "page": None, **changes}
        kept = {name: str(value) for name, value in changed.items() if value is not None}
        return f"{self.path}?{urlencode(kept)}" if kept else self.path

    def sorted_by(self, column: str) -> str:
        """Sorted by a column: downwards first, and upwards the second time where there is such a way."""
        sort = getattr(self.query, "sort", None)
        return self.address(sort=column if sort == f"-{column}" else f"-{column}")

    def choices(
        self, name: str, options: dict[str | None, str], counts: dict[str | None, int] | None = None
    ) -> list[Choice]:
        """Links for the values of a parameter."""
        chosen = self.given.get(name)
        return [
            Choice(
                label,
                self.address(**{name: value}),
                value == chosen,
                None if counts is None else counts.get(value),
            )
            for value, label in options.items()
        ]
