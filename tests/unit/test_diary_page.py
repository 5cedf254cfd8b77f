"""The receiver's diary in memory: what is added up, what it has room for, and when it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from metrics_service.errors import FieldError, TenantSuspendedError, UnavailableError
from metrics_service.http.diary_notes import fault_of
from metrics_service.ingest import diary as diary_module
from metrics_service.ingest.diary import Diary
from metrics_service.ingest.diary_page import (
    MAX_LINES,
    MAX_REASON_LENGTH,
    MAX_REASONS,
    MAX_STRANGERS_LINES,
    OTHER,
    DiaryPage,
    Sender,
    Taken,
    client_of,
)

T0 = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
KEY = UUID(int=1)
SENDER = Sender(KEY, "logs", "protobuf", "exporter", "1.0")
STRANGER = Sender(None, "logs", "protobuf", "exporter", "1.0")
ONE, OTHER_TENANT = UUID(int=10), UUID(int=11)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


# -- who sends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_agent", "client"),
    [
        (b"OTel-OTLP-Exporter-JavaScript/0.219.0", ("OTel-OTLP-Exporter-JavaScript", "0.219.0")),
        (b"OTel OTLP Exporter Go/1.38.0", ("OTel OTLP Exporter Go", "1.38.0")),
        (
            b"OTel-OTLP-Exporter-Python/1.39.1 grpc-python/1.76.0 grpc-c/51.0.0 (linux; chttp2)",
            ("OTel-OTLP-Exporter-Python", "1.39.1"),
        ),
        (
            b"OpenTelemetry Collector Contrib/0.139.0 (linux/amd64)",
            ("OpenTelemetry Collector Contrib", "0.139.0"),
        ),
        (b"Mozilla/5.0 (X11; Linux x86_64)", ("Mozilla", "5.0")),
        (b"my agent (beta)", ("my agent", None)),
        (b"curl", ("curl", None)),
        (b"agent/1.0~beta", ("agent", None)),
        (b"", ("unknown", None)),
        (b"   ", ("unknown", None)),
        (b"\xff\xfe", (OTHER, None)),
        (b"'; DROP TABLE users", (OTHER, None)),
        (b"msk_0123456789_" + b"A" * 43, (OTHER, None)),
        (b"client/" + b"0" * 32, (OTHER, None)),
        (b"a" * 10_000, (OTHER, None)),
    ],
)
def test_the_first_product_is_the_client(user_agent, client):
    assert client_of(user_agent) == client


def test_a_line_finds_itself_by_what_it_is_about():
    again = Sender(KEY, "logs", "protobuf", "exporter", "2.0")
    others = [
        STRANGER,
        Sender(uuid4(), "logs", "protobuf", "exporter"),
        Sender(KEY, "traces", "protobuf", "exporter"),
        Sender(KEY, "logs", "json", "exporter"),
        Sender(KEY, "logs", "protobuf", "other exporter"),
    ]

    assert SENDER.id == again.id
    assert len({one.id for one in [SENDER, *others]}) == 6


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FieldError("is not a field", field="secret"), "there is a field that we do not know"),
        (FieldError("is required", field="agent"), "agent: is required"),
        (
            FieldError("expected `int`, got `str`", field="tags[3]"),
            "tags: expected `int`, got `str`",
        ),
        (FieldError("invalid enum value 'secret'", field="status"), "status: invalid enum value"),
        (FieldError("is not valid JSON"), "is not valid JSON"),
        (FieldError("expected `str`", field="metadata[...].x"), "metadata: expected `str`"),
    ],
)
def test_a_fault_says_nothing_that_its_client_wrote(error, told):
    assert fault_of(error) == told


# -- adding up ----------------------------------------------------------------------------------------


def test_what_comes_is_added_up_line_by_line():
    page = DiaryPage()
    page.accept(SENDER, Taken(10, agent="codex", agent_version="1"), at(0))
    page.accept(SENDER, Taken(5, {"bad": 2, "worse": 1}, "codex"), at(2))
    page.refuse(SENDER, 415, "no such type", at(3))
    page.refuse(STRANGER, 401, "who are you", at(1))

    mine, strangers = page.lines

    assert (mine.accepted_requests, mine.accepted_items) == (2, 15)
    assert (mine.refused_requests, mine.refused_items) == (1, 3)
    assert (mine.first_at, mine.last_at) == (at(0), at(3))
    assert (mine.last_accepted_at, mine.last_accepted_items) == (at(2), 5)
    assert mine.last_refused_at == at(3)
    assert (mine.agent, mine.agent_version) == ("codex", "1")
    assert {what: one.refused for what, one in mine.refusals.items()} == {
        (200, "bad"): 2,
        (200, "worse"): 1,
        (415, "no such type"): 1,
    }
    assert (strangers.sender, strangers.refused_requests) == (STRANGER, 1)


def test_an_agent_of_another_version_replaces_the_one_before():
    page = DiaryPage()
    page.accept(SENDER, Taken(1, agent="codex", agent_version="1"), at(0))
    page.accept(SENDER, Taken(1, agent="claude-code"), at(1))
    page.accept(Sender(KEY, "logs", "protobuf", "exporter", "2.0"), Taken(1), at(2))

    (line,) = page.lines

    assert (line.agent, line.agent_version) == ("claude-code", None)
    assert line.sender.client_version == "2.0"


def test_an_agent_is_named_as_it_can_be_stored():
    page = DiaryPage()
    page.accept(SENDER, Taken(1, agent="co\0dex", agent_version="1\ud800" + "2" * 1000), at(0))

    (line,) = page.lines

    assert line.agent == "co dex"
    assert line.agent_version is not None
    assert line.agent_version.startswith("1 22")
    assert len(line.agent_version) == MAX_REASON_LENGTH


def test_a_page_that_comes_back_is_added_to_what_came_meanwhile():
    first, second, whole = DiaryPage(), DiaryPage(), DiaryPage()
    for number, page in enumerate([first, first, second, second, second]):
        for one in (page, whole):
            one.accept(SENDER, Taken(number, {"bad": number}, "codex", str(number)), at(number))
            one.refuse(STRANGER, 401 + number % 2, "why", at(number))

    first.add(second)

    assert first.lines == whole.lines


def test_there_is_room_for_so_many_lines_and_the_rest_are_one():
    page = DiaryPage()
    for number in range(MAX_LINES + 50):
        page.accept(Sender(KEY, "logs", "json", f"c{number}"), Taken(1), at(number))
        page.refuse(Sender(None, "logs", "json", f"c{number}"), 401, "why", at(number))

    mine = [line for line in page.lines if line.sender.key_id]
    strangers = [line for line in page.lines if not line.sender.key_id]

    assert len(mine) == MAX_LINES + 1
    assert len(strangers) == MAX_STRANGERS_LINES + 1
    assert sum(line.accepted_requests for line in mine) == MAX_LINES + 50
    assert sum(line.refused_requests for line in strangers) == MAX_LINES + 50
    assert mine[-1].sender.client == strangers[-1].sender.client == OTHER


def test_there_is_room_for_so_many_reasons_and_the_rest_are_one():
    page = DiaryPage()
    for number in range(MAX_REASONS + 30):
        page.refuse(SENDER, 400, f"reason {number}", at(number))
        page.refuse(SENDER, 400, "reason 0", at(number))

    (line,) = page.lines

    assert len(line.refusals) == MAX_REASONS + 1
    assert line.refusals[400, "reason 0"].refused == MAX_REASONS + 31
    assert line.refusals[400, OTHER].refused == 30
    assert sum(one.refused for one in line.refusals.values()) == line.refused_requests


def test_a_reason_is_a_sentence_that_can_be_stored():
    page = DiaryPage()
    page.refuse(SENDER, 400, "a\0b\nc\ud800" + "x" * 1000, at(0))

    (line,) = page.lines
    ((_, reason),) = line.refusals

    assert reason.startswith("a b c x")
    assert len(reason) == MAX_REASON_LENGTH


# -- when it is written -------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Table:
    """Where pages are written to, or why not."""

    def __init__(self) -> None:
        self.pages: list[tuple[UUID, DiaryPage]] = []
        self.error: Exception | None = None

    @asynccontextmanager
    async def connection(self, _: Any, context: Any) -> AsyncIterator[UUID]:
        if self.error is not None:
            raise self.error
        yield context.tenant_id

    async def write(
        self, tenant_id: UUID, page: DiaryPage, known: frozenset[UUID]
    ) -> frozenset[UUID]:
        self.pages.append((tenant_id, page))
        return known

    def requests(self, tenant_id: UUID) -> int:
        return sum(
            line.accepted_requests + line.refused_requests
            for one, page in self.pages
            if one == tenant_id
            for line in page.lines
        )


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    made = Table()
    monkeypatch.setattr(diary_module, "tenant_connection", made.connection)
    monkeypatch.setattr(diary_module, "write_page", made.write)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def diary(table: Table, clock: Clock) -> Diary:
    engine: Any = None
    return Diary(engine, clock=clock)


async def pass_by(clock: Clock, diary: Diary, seconds: float) -> None:
    """Let time pass, and the background task notice."""
    clock.now += seconds
    # Something that is due earlier wakes it; this asks it to look again.
    diary._is_earlier.set()
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_is_accepted_is_written_after_a_few_seconds(table, clock, diary):
    async with diary.kept():
        for _ in range(100):
            diary.accept(ONE, SENDER, Taken(1))
        await pass_by(clock, diary, 4.9)
        before = len(table.pages)
        await pass_by(clock, diary, 0.2)

        assert (before, len(table.pages), table.requests(ONE)) == (0, 1, 100)


async def test_what_is_refused_is_written_at_once_but_once_a_second(table, clock, diary):
    async with diary.kept():
        diary.refuse(ONE, SENDER, 401, "why")
        await pass_by(clock, diary, 0)
        at_once = table.requests(ONE)
        for _ in range(50):
            diary.refuse(ONE, SENDER, 401, "why")
            await pass_by(clock, diary, 0.019)
        within_a_second = len(table.pages)
        diary.refuse(OTHER_TENANT, SENDER, 401, "why")
        await pass_by(clock, diary, 0)
        of_another = table.requests(OTHER_TENANT)
        await pass_by(clock, diary, 1.1)

        assert (at_once, within_a_second, of_another) == (1, 1, 1)
        assert table.requests(ONE) == 51


async def test_what_is_left_is_written_in_the_end(table, diary):
    async with diary.kept():
        diary.accept(ONE, SENDER, Taken(1))
        diary.accept(OTHER_TENANT, SENDER, Taken(1))

    assert (table.requests(ONE), table.requests(OTHER_TENANT)) == (1, 1)


async def test_while_the_database_is_away_everything_is_kept(table, clock, diary):
    async with diary.kept():
        table.error = UnavailableError()
        for _ in range(10):
            diary.accept(ONE, SENDER, Taken(1))
            diary.refuse(ONE, SENDER, 503, "away")
            await pass_by(clock, diary, 6)
        table.error = ZeroDivisionError()
        await pass_by(clock, diary, 6)
        table.error = None
        await pass_by(clock, diary, 6)

        assert table.requests(ONE) == 20


async def test_a_tenant_that_is_gone_is_forgotten(table, clock, diary):
    async with diary.kept():
        table.error = TenantSuspendedError()
        diary.refuse(ONE, SENDER, 401, "why")
        await pass_by(clock, diary, 6)
        table.error = None
        await pass_by(clock, diary, 6)

    assert table.pages == []


async def test_who_reads_gets_what_is_noted_now(table, diary):
    diary.accept(ONE, SENDER, Taken(1))
    diary.accept(OTHER_TENANT, SENDER, Taken(1))

    await diary.flush(ONE)
    await diary.flush(ONE)

    assert [tenant_id for tenant_id, _ in table.pages] == [ONE]


async def test_a_database_that_does_not_come_back_ends_in_time(table, diary, monkeypatch):
    monkeypatch.setattr(diary_module, "LAST_WORDS_S", 0.05)

    async def stuck(*_: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(diary_module, "write_page", stuck)

    async with asyncio.timeout(5):
        async with diary.kept():
            diary.accept(ONE, SENDER, Taken(1))
