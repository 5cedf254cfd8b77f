"""Builds the text of hot statements from constant fragments; values are always bound."""

from __future__ import annotations

from typing import Any


class Where:
    """Conditions joined by AND, and the values for their `$n`."""

    def __init__(self, *values: Any) -> None:
        self.values: list[Any] = list(values)
        self._conditions: list[str] = []

    def add(self, condition: str, value: Any) -> None:
        """Add a condition in which `?` stands for the value."""
        self.values.append(value)
        self._conditions.append(condition.replace("?", f"${len(self.values)}"))

    def bind(self, value: Any) -> str:
        """Bind one more value and return its placeholder."""
        self.values.append(value)
        return f"${len(self.values)}"

    def require(self, condition: str) -> None:
        """Add a condition without a value."""
        self._conditions.append(condition)

    def __str__(self) -> str:
        return f"WHERE {' AND '.join(self._conditions)}" if self._conditions else ""
