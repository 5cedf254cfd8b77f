"""What a transcript tells, in the words of the client's own telemetry and without what anybody wrote.

Only what is named in these modules leaves the machine: sizes, names, ids, times, models, tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias

import msgspec

Attribute: TypeAlias = "str | int | float | bool"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_TEXT = 255
MAX_NUMBER = 2**63
MAX_OPEN = 1000
"""Calls that are waited for; more than any client has under way."""

_has_login = re.compile(r"^([a-z+]+://)[^/@]*@")
_is_remote = re.compile(
    r"(?:(?:https?|ssh|git)://[\w.-]+|(?:[\w.-]+@)?[\w.-]+\.[a-z]+:)[\w./~:+-]+"
).fullmatch


class UnreadableLineError(Exception):
    """A line that is no JSON object of the kind that the client writes."""


class Record(msgspec.Struct, gc=False):
    """One event of a session."""

    name: str
    session_id: str
    time_ns: int
    attributes: dict[str, Attribute]


class Open(msgspec.Struct, omit_defaults=True):
    """A tool call of which there is no result yet."""

    name: str
    at_ns: int
    input_bytes: int | None = None


class Reader(Protocol):
    """Reads the lines of one transcript."""

    other_lines: int
    """How many were of kinds that are not read."""

    @property
    def memory(self) -> msgspec.Struct:
        """What it must know to read on from here."""

    def feed(self, line: bytes, end: int) -> Iterable[Record]:
        """What a line tells; raises `UnreadableLineError`. `end` is where the line ends in its file."""

    def finish(self) -> Iterable[Record]:
        """What was held back because more could have followed."""


def nanoseconds(moment: datetime) -> int:
    """Since 1970; raises `UnreadableLineError` for what no computer's clock has ever said."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    time_ns = (moment - EPOCH) // timedelta(microseconds=1) * 1000
    if not 0 < time_ns < MAX_NUMBER:
        raise UnreadableLineError
    return time_ns


def milliseconds(start_ns: int, end_ns: int) -> float:
    """How long that was; clocks may have been set back meanwhile."""
    return max(0, end_ns - start_ns) / 1e6


def told(**attributes: Attribute | None) -> dict[str, Attribute]:
    """The attributes that there are; `__` in a name stands for a dot."""
    return {
        name.replace("__", "."): value[:MAX_TEXT] if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None
        and value != ""
        and (isinstance(value, str) or -MAX_NUMBER <= value < MAX_NUMBER)
    }


def last_folder(path: str | None) -> str | None:
    """The name of the folder itself: where on the laptop it lies is nobody's business."""
    if not path:
        return None
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or None


def remote(url: str | None) -> str | None:
    """The address of a repository, without a login in it; None for a path of the laptop."""
    if not url:
        return None
    bare = _has_login.sub(r"\1", url)
    return bare if _is_remote(bare) else None


def as_text(raw: bytes | msgspec.Raw | None) -> str | None:
    """The string that some JSON is; None where it is something else."""
    if raw is None or bytes(memoryview(raw)[:1]) != b'"':
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Half of a pair of surrogates, say. Only its length and its beginning are asked for.
        return bytes(raw)[1:-1].decode("utf-8", "replace")


def text_bytes(raw: msgspec.Raw | None) -> int | None:
    """The size of what some JSON says: of the text, or of the JSON where it is none."""
    if raw is None or not raw:
        return None
    text = as_text(raw)
    return len(raw) if text is None else len(text.encode("utf-8", "replace"))


def decoded(line: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """A line as a struct; raises `UnreadableLineError`."""
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return decoder.decode(_mended(line))
    except (ValueError, RecursionError):
        raise UnreadableLineError from None


def _mended(line: bytes) -> bytes:
    """JSON with a mark for what is no UTF-8, or half of a pair: outputs are cut anywhere."""
    value = json.loads(line.decode("utf-8", "replace"))
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
