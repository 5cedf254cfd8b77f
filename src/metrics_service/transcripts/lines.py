"""Reads the lines of a file that may be of any size, may be broken and may grow meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

BLOCK = 1024 * 1024
MAX_LINE = 64 * 1024 * 1024


class Line(msgspec.Struct, gc=False):
    """One line, without what ends it."""

    end: int
    """Where in the file the next line begins."""
    data: bytes
    is_ended: bool = True
    """False for the last line where nothing ends it: it may still be being written."""
    is_too_long: bool = False
    """It was passed over, and `data` is empty."""


def read_lines(
    file: BinaryIO, start: int, *, block: int = BLOCK, max_line: int = MAX_LINE
) -> Iterator[Line]:
    """The lines from `start` on; what is longer than allowed is passed over without being held."""
    file.seek(start)
    end = start
    pieces: list[bytes] = []
    length = 0
    while data := file.read(block):
        begin = 0
        while (found := data.find(b"\n", begin)) >= 0:
            length += found - begin
            end += length + 1
            if length > max_line:
                yield Line(end, b"", is_too_long=True)
            else:
                yield Line(
                    end, b"".join([*pieces, data[begin:found]]) if pieces else data[begin:found]
                )
            pieces.clear()
            length = 0
            begin = found + 1
        length += len(data) - begin
        if length > max_line:
            pieces.clear()
        else:
            pieces.append(data[begin:])
    if length > max_line:
        yield Line(end + length, b"", is_ended=False, is_too_long=True)
    elif length:
        yield Line(end + length, b"".join(pieces), is_ended=False)
