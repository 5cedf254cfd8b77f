"""What a module here says about its client: what it speaks, and how it is configured."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from metrics_service.fields import Protocol, Signal
from metrics_service.setup.connection import Connection
from metrics_service.setup.schemas import Part

SIGNALS: tuple[Signal, ...] = ("logs", "metrics", "traces")


class Snippet(msgspec.Struct, frozen=True):
    """What to paste, and what to know about it, a sentence each."""

    parts: list[Part]
    notes: list[str]


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """One client that can be set up."""

    code: str
    """As sessions name it."""
    name: str
    protocols: tuple[Protocol, ...]
    """The first is its default."""
    signals: tuple[Signal, ...] = SIGNALS
    is_remote: bool = False
    """Whether its vendor's servers send, not the machine on which it is used."""
    write: Callable[[Connection], Snippet]
