"""Rows and ids as one parameter: JSON that `json_to_recordset` turns into a table, or an array."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

# PostgreSQL parses one JSON parameter of this many rows faster than one of ten thousand.
ROWS_A_STATEMENT = 2000

_nul = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")

encode = msgspec.json.Encoder().encode


def as_json(value: Any) -> str:
    """A value as one JSON parameter; U+0000, which PostgreSQL cannot hold, is left out."""
    return _clean(encode(value)).decode()


def pieces(rows: Sequence[bytes]) -> Iterator[str]:
    """Encoded rows as JSON arrays of a size that PostgreSQL likes."""
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        yield array(rows[start : start + ROWS_A_STATEMENT])


def batched_ids(row_ids: Iterable[int]) -> Iterator[list[int]]:
    """Ids in order, as many at a time as PostgreSQL likes rows."""
    in_order = sorted(row_ids)
    for start in range(0, len(in_order), ROWS_A_STATEMENT):
        yield in_order[start : start + ROWS_A_STATEMENT]


def array(rows: Iterable[bytes]) -> str:
    return _clean(b"[%b]" % b",".join(rows)).decode()


def as_uuids(ids: Iterable[int]) -> str:
    """Ids as PostgreSQL writes an array of uuids: far cheaper than as many objects."""
    return f"{{{','.join([f'{one:032x}' for one in sorted(ids)])}}}"


def _clean(encoded: bytes) -> bytes:
    return _nul.sub(rb"\1", encoded) if b"\\u0000" in encoded else encoded
