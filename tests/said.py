"""What processes said beside a test: shown where it fails, for that may not happen again soon."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from weakref import WeakSet

LATEST = 4_000
"""So many characters of each."""


class Speaker(Protocol):
    text: str


SAID: WeakSet[Speaker] = WeakSet()
"""Whatever runs now, or did a moment ago."""


def latest_of_processes() -> list[str]:
    return [speaker.text[-LATEST:] for speaker in list(SAID) if speaker.text]


def latest_of_postgresql(root: Path) -> str:
    """What the server that all processes of a run share has logged last."""
    logs = sorted(root.rglob("postgresql-*.log"))
    return logs[-1].read_text(errors="replace")[-LATEST:] if logs else ""
