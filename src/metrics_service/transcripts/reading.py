"""Reads one transcript from where it was left, and hands on what it tells with how far that is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from metrics_service.send_test.plain import plain_path
from metrics_service.transcripts import claude_code, codex
from metrics_service.transcripts.files import Found
from metrics_service.transcripts.lines import Line, read_lines
from metrics_service.transcripts.records import Reader, Record, UnreadableLineError
from metrics_service.transcripts.state import Progress, file_id, print_of

Client = Literal["claude-code", "codex"]


# Nested too deeply, or with a number that no clock and no counter has ever said.
_UNREADABLE = (UnreadableLineError, RecursionError, OverflowError)


class Troubles(msgspec.Struct):
    """What was passed over."""

    unreadable_lines: int = 0
    long_lines: int = 0


class Transcript:
    """One transcript being read."""

    def __init__(self, client: Client, found: Found, progress: Progress, *, since_ns: int) -> None:
        self._client = client
        self._found = found
        self._since_ns = since_ns
        self._progress = self._usable(progress)
        self._offset = self._progress.offset
        self._is_at_end = False
        self._reader = _reader(client, found, self._progress)
        self.troubles = Troubles()

    @property
    def offset(self) -> int:
        return self._offset

    @property
    def other_lines(self) -> int:
        """How many were of kinds that are not read."""
        return self._reader.other_lines

    def is_done(self) -> bool:
        """Whether nothing happened since it was read to its end."""
        kept = self._progress
        return bool(kept.offset) and (kept.size, kept.mtime_ns) == (
            self._found.size,
            self._found.mtime_ns,
        )

    def records(self) -> Iterator[Record | None]:
        """What is new in it; None now and then, where nothing is. Raises `OSError`."""
        with Path(self._found.path).open("rb") as file:
            self._begin(file)
            for line in read_lines(file, self._offset):
                try:
                    yield from filter(self._is_wanted, self._told(line))
                except _UNREADABLE:
                    if not line.is_ended:
                        # Still being written: next time it may be whole.
                        break
                    self.troubles.unreadable_lines += 1
                self._offset = line.end
                yield None
        yield from filter(self._is_wanted, self._reader.finish())
        self._is_at_end = True
        yield None

    def progress(self) -> Progress:
        """How far it has been read; to be kept once all that it told is acknowledged."""
        with Path(self._found.path).open("rb") as file:
            before = print_of(file, self._offset)
        return Progress(
            file=file_id(self._found.path),
            size=self._found.size,
            mtime_ns=self._found.mtime_ns if self._is_at_end else 0,
            offset=self._offset,
            before=before,
            since_ns=self._since_ns,
            memory=msgspec.Raw(msgspec.json.encode(self._reader.memory)),
        )

    def _told(self, line: Line) -> Iterator[Record]:
        if line.is_too_long:
            self.troubles.long_lines += 1
        elif line.data.strip():
            yield from self._reader.feed(line.data, line.end)

    def _is_wanted(self, record: Record) -> bool:
        return record.time_ns >= self._since_ns

    def _usable(self, progress: Progress) -> Progress:
        """The beginning, where what was left out is wanted now, or the file has become shorter."""
        is_older = self._since_ns < progress.since_ns
        if is_older or self._found.size < progress.offset:
            return Progress(file_id(self._found.path))
        return progress

    def _begin(self, file: BinaryIO) -> None:
        if self._offset and print_of(file, self._offset) != self._progress.before:
            # Another file of the same name, or it was written anew.
            self._progress = Progress(file_id(self._found.path))
            self._offset = 0
            self._reader = _reader(self._client, self._found, self._progress)


def _reader(client: Client, found: Found, progress: Progress) -> Reader:
    name = plain_path(Path(found.path).stem)
    if client == "codex":
        return codex.CodexReader(name, _memory(progress, codex.Memory))
    return claude_code.ClaudeReader(name, _memory(progress, claude_code.Memory))


def _memory(progress: Progress, kind: Any) -> Any:
    try:
        return msgspec.json.decode(progress.memory, type=kind)
    except msgspec.DecodeError:
        # Of another version.
        return None
