"""Undoes Content-Encoding piece by piece, so that a bomb is stopped while it is still small."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import zstandard

from metrics_service.errors import MalformedRequestError

# What one step may grow to: deflate makes at most 1,032 bytes of one, zstd 128 KiB of four.
ZLIB_STEP_BYTES = 2048  # 2 MiB
ZSTD_STEP_BYTES = 256  # 8 MiB
# What RFC 9659 grants a client of HTTP; more would be memory that a small body could claim.
ZSTD_WINDOW_BYTES = 8 * 1024 * 1024
# Opening a member costs far more than its 20 bytes: a body of nothing else would be hard work.
MAX_MEMBERS = 1024

_DEFLATED = 8
_LARGEST_WINDOW = 7


class Stream(Protocol):
    """What the decompression objects of zlib and zstandard have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class Inflater:
    """One encoded body: feed it as it arrives, then `finish` it."""

    def __init__(
        self, coding: str, open_stream: Callable[[bytes], Stream], *, step: int, max_members: int
    ) -> None:
        self._coding = coding
        self._open_stream = open_stream
        self._step = step
        self._members_left = max_members
        self._stream: Stream | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the data inflates to, in pieces of a few MiB at most."""
        for start in range(0, len(data), self._step):
            rest = data[start : start + self._step]
            while rest:
                stream = self._current(rest)
                try:
                    yield stream.decompress(rest)
                except (zlib.error, zstandard.ZstdError):
                    raise self._broken() from None
                rest = stream.unused_data if stream.eof else b""

    def finish(self) -> None:
        """Raise when the body ended before its encoding did."""
        if self._stream is None or not self._stream.eof:
            raise MalformedRequestError(f"the {self._coding} body ends too early")

    def _current(self, data: bytes) -> Stream:
        if self._stream is None or self._stream.eof:
            if self._members_left == 0:
                raise self._broken()
            self._members_left -= 1
            self._stream = self._open_stream(data)
        return self._stream

    def _broken(self) -> MalformedRequestError:
        return MalformedRequestError(f"the body is not valid {self._coding}")


def open_inflater(coding: str) -> Inflater:
    """An inflater for gzip, deflate or zstd."""
    if coding == "zstd":
        return Inflater(coding, _open_zstd, step=ZSTD_STEP_BYTES, max_members=MAX_MEMBERS)
    if coding == "gzip":
        return Inflater(coding, _open_gzip, step=ZLIB_STEP_BYTES, max_members=MAX_MEMBERS)
    return Inflater(coding, _open_deflate, step=ZLIB_STEP_BYTES, max_members=1)


def _open_gzip(_: bytes) -> Stream:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)


def _open_deflate(data: bytes) -> Stream:
    # The standard says zlib, old clients send it bare; no bare encoder begins with these bits.
    is_zlib = data[0] & 0x0F == _DEFLATED and data[0] >> 4 <= _LARGEST_WINDOW
    return zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _open_zstd(_: bytes) -> Stream:
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
