"""What msgspec says of a value that is not as it should be, in our words; knows no framework."""

from __future__ import annotations

import re

import msgspec

_PATH = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")
_NAMED = re.compile(r"(?:required|unknown) field `([^`]*)`")


def told(error: msgspec.ValidationError) -> tuple[str, str]:
    """Split `Expected int - at $[3].wait_ms` into what is said and the path, empty for the whole."""
    text = str(error)
    found = _PATH.search(text)
    return (text[: found.start()], found["path"]) if found else (text, "")


def reason_of(said: str) -> str:
    if said.startswith("Object missing required field"):
        return "is required"
    if said.startswith("Object contains unknown field"):
        return "is not a field"
    return said[:1].lower() + said[1:]


def named_field(said: str) -> str | None:
    """The field that is missing, or that should not be there."""
    found = _NAMED.search(said)
    return found[1] if found else None
