"""Refuses JSON that a parser should not be given: byte order mark, broken UTF-8, deep nesting."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from metrics_service.errors import MalformedRequestError
from metrics_service.http.limits import MAX_DEPTH

# Bodies are walked in blocks: the copies that a step makes stay small beside a body of 20 MiB.
BLOCK_BYTES = 512 * 1024

# How many levels are taken off all over the body at once, from the innermost; few bodies have more.
QUICK_LEVELS = 6

_OPEN = ord("[")
_SHAPE = bytes.maketrans(b"{}", b"[]")
_NOISE = bytes(set(range(256)) - set(b'[]{}"'))
_NOISE_IN_LINES = bytes(set(_NOISE) - set(b"\n"))
_text = re.compile(rb'"[^"\n]*"?')
_runs = re.compile(rb"\[+|\]+|\n").findall


def check_json(body: bytes, *, is_lines: bool = False) -> None:
    """Check a JSON document, or newline-delimited ones, before a parser sees them.

    What passes may still be invalid JSON, but never makes a parser recurse deeper than allowed.
    """
    if body.startswith(codecs.BOM_UTF8):
        raise MalformedRequestError("the body begins with a byte order mark")
    if not body.isascii():
        _check_utf8(body)
    if not is_shallow(body, is_lines=is_lines):
        raise MalformedRequestError(f"the JSON is malformed or nested over {MAX_DEPTH} levels deep")


def is_shallow(body: bytes, *, is_lines: bool = False) -> bool:
    """Whether JSON, or the valid beginning of what is none, stays within the depth."""
    noise = _NOISE_IN_LINES if is_lines else _NOISE
    shape = b"".join(_shape(block, noise) for block in _blocks(body))
    if b'"' in shape:
        # The quotes left stand around brackets that are text.
        shape = _text.sub(b"", shape)
    levels = 0
    while levels < QUICK_LEVELS and len(shape) != len(smaller := shape.replace(b"[]", b"")):
        shape = smaller
        levels += 1
    # Something is left of every malformed text: a parser will say where, if it cannot get too deep.
    return levels + _deepest(shape) <= MAX_DEPTH


def _check_utf8(body: bytes) -> None:
    decode = codecs.getincrementaldecoder("utf-8")().decode
    try:
        for start in range(0, len(body), BLOCK_BYTES):
            decode(body[start : start + BLOCK_BYTES])
        decode(b"", final=True)
    except UnicodeDecodeError:
        raise MalformedRequestError("the body is not valid UTF-8") from None


def _blocks(body: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(body):
        end = start + BLOCK_BYTES
        block = body[start:end]
        # An escape is never cut in two: its second half would be taken for a quote.
        if (len(block) - len(block.rstrip(b"\\"))) % 2:
            end += 1
            block = body[start:end]
        yield block
        start = end


def _shape(block: bytes, noise: bytes) -> bytes:
    """Only brackets, all of one kind, and the quotes around those inside texts.

    Taking two neighbouring quotes away never changes which bracket is inside a text.
    """
    if b"\\" in block:
        # Twice as fast as two `replace`, which look for everything twice.
        block = b"".join(b"".join(block.split(b"\\\\")).split(b'\\"'))
    return block.translate(_SHAPE, noise).replace(b'""', b"")


def _deepest(shape: bytes) -> int:
    depth = deepest = 0
    for start in range(0, len(shape), BLOCK_BYTES):
        for run in _runs(shape[start : start + BLOCK_BYTES]):
            if run[0] == _OPEN:
                depth += len(run)
                deepest = max(deepest, depth)
            else:
                depth = 0 if run == b"\n" else depth - len(run)
    return deepest
