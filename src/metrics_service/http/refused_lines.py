"""Keeps a flood of refusals from being a flood of lines: the first few are written, the others counted.

Whoever asks for too much would otherwise have a line written for each request that costs nothing else,
fill the disk with them, and hide all other lines.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TypeAlias

import structlog

REFUSED = frozenset({429, 503})
WRITTEN_A_SECOND = 10
TELL_EVERY_S = 1.0
MAX_TENANTS_TOLD = 20
"""The loudest; all others are told of together."""

_Whose: TypeAlias = tuple[str | None, int]

_log = structlog.get_logger(__name__)


class RefusedLines:
    """The lines of one process's refused requests."""

    def __init__(self) -> None:
        self._written = 0
        self._counted: Counter[_Whose] = Counter()
        self._is_timed = False

    def take(self, tenant: str | None, status: int) -> bool:
        """Whether the line of a refused request is not to be written, because it is counted."""
        if not self._is_timed:
            self._is_timed = True
            asyncio.get_running_loop().call_later(TELL_EVERY_S, self._tell)
        if self._written < WRITTEN_A_SECOND:
            self._written += 1
            return False
        self._counted[tenant, status] += 1
        return True

    def _tell(self) -> None:
        counted, self._counted = self._counted, Counter()
        self._written, self._is_timed = 0, False
        others: Counter[int] = Counter()
        for place, ((tenant, status), count) in enumerate(counted.most_common()):
            if place < MAX_TENANTS_TOLD:
                _write(tenant, status, count)
            else:
                others[status] += count
        for status, count in others.items():
            _write("others", status, count)


def _write(tenant: str | None, status: int, count: int) -> None:
    # As the line of one of them would be.
    log = _log.warning if status >= 500 else _log.info
    log("requests refused", tenant=tenant, status=status, count=count)
