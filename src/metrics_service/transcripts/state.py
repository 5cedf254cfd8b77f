"""What was acknowledged of each transcript: a small file for each, beside no transcript.

Losing it loses nothing: what is sent again finds itself. It is written after an answer and never before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import msgspec

MAX_PRINT = 256


class Progress(msgspec.Struct, omit_defaults=True):
    """How far one transcript has been sent."""

    file: str
    """What `file_id` says of its path."""
    size: int = 0
    mtime_ns: int = 0
    """The file's, where it was read to its end; 0 where there is more to read."""
    offset: int = 0
    before: str = ""
    """A digest of what stands before `offset`: whether it is still the same file."""
    since_ns: int = 0
    """What is older was left out."""
    memory: msgspec.Raw = msgspec.Raw(b"{}")
    """What its reader has to know to read on."""


def folder_of(environ: Mapping[str, str], target: str) -> Path:
    """Where progress is kept of what goes to one place as one person's."""
    given = environ.get("XDG_STATE_HOME", "")
    # The specification of XDG: what is not absolute is not valid.
    base = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    return base / "metrics-service" / "import" / sha256(target.encode()).hexdigest()[:16]


class Progresses:
    """The progress of all transcripts that go to one place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, file: str) -> Progress:
        """What is known of a file; the beginning, where it is nothing or cannot be read."""
        try:
            found = msgspec.json.decode(self._place(file).read_bytes(), type=Progress)
        except (OSError, msgspec.DecodeError):
            return Progress(file)
        return found if found.file == file else Progress(file)

    def keep(self, progress: Progress) -> None:
        """Keep it, all or nothing of it."""
        place = self._place(progress.file)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        waiting = place.with_suffix(f".{os.getpid()}")
        waiting.write_bytes(msgspec.json.encode(progress))
        waiting.replace(place)

    def _place(self, file: str) -> Path:
        return self._folder / f"{file[:32]}.json"


def file_id(path: str) -> str:
    """A digest of a path: names of files are bytes, which no JSON need take."""
    return sha256(os.fsencode(path)).hexdigest()


def print_of(file: BinaryIO, offset: int) -> str:
    """A digest of what stands before an offset."""
    start = max(0, offset - MAX_PRINT)
    file.seek(start)
    return sha256(file.read(offset - start)).hexdigest()
