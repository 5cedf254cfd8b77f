"""Finds transcripts below a folder, each once, however it is reached."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from metrics_service.send_test.plain import plain_path

SUFFIX = ".jsonl"


class Found(msgspec.Struct, frozen=True):
    """A transcript as it was when it was found."""

    path: str
    size: int
    mtime_ns: int


class Search(msgspec.Struct):
    """What there is to read, and what could not be looked at."""

    files: list[Found] = []
    unreadable: list[str] = []
    """Files and folders as they can be shown, with the reason."""


def find_transcripts(root: Path, *, since_ns: int = 0) -> Search:
    """The transcripts at or below a path, in the order of their names.

    Links to folders are not followed, so that none leads in a circle. What nobody wrote to since
    `since_ns` is left out.
    """
    search = Search()
    seen: set[tuple[int, int]] = set()
    for path in sorted(_paths(root, search)):
        try:
            status = os.stat(path)  # noqa: PTH116  # thousands of them
        except OSError as error:
            search.unreadable.append(f"{plain_path(path)}: {error.strerror}")
            continue
        identity = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode) or identity in seen:
            continue
        seen.add(identity)
        if status.st_size and status.st_mtime_ns >= since_ns:
            search.files.append(Found(path, status.st_size, status.st_mtime_ns))
    return search


def _paths(root: Path, search: Search) -> Iterator[str]:
    if not root.is_dir():
        yield str(root)
        return

    def note(error: OSError) -> None:
        search.unreadable.append(f"{plain_path(error.filename)}: {error.strerror}")

    for folder, _, names in os.walk(root, onerror=note):
        for name in names:
            if name.endswith(SUFFIX):
                yield os.path.join(folder, name)  # noqa: PTH118  # as above
