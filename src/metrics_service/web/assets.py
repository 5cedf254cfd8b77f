"""What pages are made of besides HTML: read once, compressed once, and kept by browsers for ever."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import msgspec

STATIC = Path(__file__).parent / "static"
LEVEL = 9

# The framework adds the charset to what is text.
MEDIA_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


class Asset(msgspec.Struct, frozen=True):
    """One file as it is sent."""

    body: bytes
    """Compressed with gzip."""
    media_type: str


class Assets:
    """All static files by their path; the version changes when any of them does."""

    def __init__(self, extra: str) -> None:
        files = {
            path.relative_to(STATIC).as_posix(): path.read_bytes()
            for path in sorted(STATIC.rglob("*"))
            if path.suffix in MEDIA_TYPES
        }
        digest = hashlib.sha256(extra.encode())
        for name, body in files.items():
            digest.update(f"{name}\0{len(body)}\0".encode() + body)
        self.version = digest.hexdigest()[:12]
        self._found = {
            # Without a time in it, so that every process makes the same.
            name: Asset(gzip.compress(body, LEVEL, mtime=0), MEDIA_TYPES[Path(name).suffix])
            for name, body in files.items()
        }

    def find(self, path: str) -> Asset | None:
        return self._found.get(path)
