"""What others wrote, as it can be shown on a terminal."""

from __future__ import annotations

import os


def plain(text: str) -> str:
    """On one line, without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def plain_path(path: str | os.PathLike[str]) -> str:
    """A file's name, which may be of any bytes: those that are no text are shown as numbers."""
    return plain(os.fsencode(path).decode("utf-8", "backslashreplace"))
