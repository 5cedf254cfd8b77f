"""A flood of refusals is a few lines, and one a second that says how many they were."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from structlog.typing import EventDict

from metrics_service.http import refused_lines
from metrics_service.http.refused_lines import WRITTEN_A_SECOND, RefusedLines


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_lines, "TELL_EVERY_S", 0.01)


async def told(count: int) -> list[EventDict]:
    """What was written by the time that so many lines should have been, or a long time after."""
    with structlog.testing.capture_logs() as lines:
        for _ in range(500):
            await asyncio.sleep(0.01)
            if len(lines) >= count:
                break
    return lines


async def test_the_first_are_written_and_the_others_counted_by_tenant_and_status() -> None:
    refused = RefusedLines()

    written = [not refused.take("loud", 429) for _ in range(1000)]
    assert refused.take("quiet", 503)
    lines = await told(2)

    assert written == [True] * WRITTEN_A_SECOND + [False] * (1000 - WRITTEN_A_SECOND)
    assert lines == [
        {
            "event": "requests refused",
            "log_level": "info",
            "tenant": "loud",
            "status": 429,
            "count": 1000 - WRITTEN_A_SECOND,
        },
        {
            "event": "requests refused",
            "log_level": "warning",
            "tenant": "quiet",
            "status": 503,
            "count": 1,
        },
    ]


async def test_a_few_refusals_are_all_written_and_none_is_told_twice() -> None:
    refused = RefusedLines()

    assert not any(refused.take("t", 429) for _ in range(WRITTEN_A_SECOND))
    with structlog.testing.capture_logs() as lines:
        await asyncio.sleep(0.1)
    again = [refused.take("t", 429) for _ in range(WRITTEN_A_SECOND + 1)]

    assert lines == []
    assert again == [False] * WRITTEN_A_SECOND + [True]
    assert [line["count"] for line in await told(1)] == [1]


async def test_however_many_tenants_are_refused_the_lines_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refused_lines, "MAX_TENANTS_TOLD", 3)
    refused = RefusedLines()

    for _ in range(WRITTEN_A_SECOND):
        refused.take(None, 429)
    for number in range(100):
        for _ in range(number + 1):
            refused.take(f"t{number}", 429)
    lines = await told(4)

    assert [line["tenant"] for line in lines] == ["t99", "t98", "t97", "others"]
    assert sum(line["count"] for line in lines) == 100 * 101 // 2
