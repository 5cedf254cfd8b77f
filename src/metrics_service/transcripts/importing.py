"""Brings in many transcripts: read in batches, sent one batch at a time, kept when acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from metrics_service.send_test.plain import plain_path
from metrics_service.transcripts.events import as_request
from metrics_service.transcripts.files import Found, Search
from metrics_service.transcripts.reading import Client, Transcript
from metrics_service.transcripts.records import Record
from metrics_service.transcripts.sending import Sender, Taken
from metrics_service.transcripts.state import Progress, Progresses, file_id
from metrics_service.transcripts.summary import Count, Summary, add_record, summed_up

BATCH = 1000

Advance = Callable[[int], None]
"""Gets how many bytes of all transcripts are done."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be brought in, and how."""

    client: Client
    search: Search
    user_email: str | None = None
    since_ns: int = 0
    is_again: bool = False
    """Whether what was acknowledged before is sent once more."""
    batch: int = BATCH


class _Batch(msgspec.Struct):
    """Records, and what of their transcripts is done once they are acknowledged."""

    records: list[Record] = []
    progresses: list[Progress] = []


class _Delivery:
    """Sends a batch while the next is read."""

    def __init__(self, sender: Sender, progresses: Progresses, task: Task, count: Count) -> None:
        self._sender = sender
        self._progresses = progresses
        self._task = task
        self._count = count
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future[None] | None = None

    def hand_over(self, batch: _Batch) -> None:
        """Send it as soon as the one before is taken; raises what that one raised."""
        self.wait()
        self._under_way = self._pool.submit(self._deliver, batch)

    def wait(self) -> None:
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def close(self) -> None:
        """Let the one under way come to its end: what was taken is to be kept as taken."""
        self._sender.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _deliver(self, batch: _Batch) -> None:
        if batch.records:
            body = as_request(self._task.client, self._task.user_email, batch.records)
            self._note(self._sender.send(body), len(batch.records))
        for progress in batch.progresses:
            self._progresses.keep(progress)

    def _note(self, taken: Taken, sent: int) -> None:
        refused = min(taken.rejected, sent)
        self._count.sent_records += sent - refused
        self._count.refused_records += refused
        if taken.message and taken.message not in self._count.server_said:
            self._count.server_said.append(taken.message)


def send_all(task: Task, progresses: Progresses, sender: Sender, advance: Advance) -> Summary:
    """Send what is new; raises `NotTakenError`, and then all that was acknowledged is kept."""
    count = Count(unreadable_files=list(task.search.unreadable))
    delivery = _Delivery(sender, progresses, task, count)
    try:
        for batch in _Batches(task, progresses, count, advance):
            delivery.hand_over(batch)
        delivery.wait()
    finally:
        delivery.close()
    return summed_up(count)


def look_through(task: Task, progresses: Progresses, advance: Advance) -> Summary:
    """Say what would be sent."""
    count = Count(is_dry_run=True, unreadable_files=list(task.search.unreadable))
    for _ in _Batches(task, progresses, count, advance):
        pass
    return summed_up(count)


class _Batches:
    """All batches of a task, in the order of its transcripts."""

    def __init__(self, task: Task, progresses: Progresses, count: Count, advance: Advance) -> None:
        self._task = task
        self._progresses = progresses
        self._count = count
        self._advance = advance
        self._batch = _Batch()
        self._done = 0

    def __iter__(self) -> Iterator[_Batch]:
        task = self._task
        for found in task.search.files:
            file = file_id(found.path)
            kept = Progress(file) if task.is_again else self._progresses.of(file)
            transcript = Transcript(task.client, found, kept, since_ns=task.since_ns)
            self._count.files += 1
            if transcript.is_done():
                self._count.files_done_before += 1
            else:
                yield from self._read(transcript, found)
            self._done += found.size
            self._advance(self._done)
        if self._batch.records or self._batch.progresses:
            yield self._full()

    def _read(self, transcript: Transcript, found: Found) -> Iterator[_Batch]:
        try:
            for record in transcript.records():
                if record is not None:
                    self._batch.records.append(record)
                    add_record(self._count, record)
                elif len(self._batch.records) >= self._task.batch:
                    self._batch.progresses.append(transcript.progress())
                    self._advance(self._done + transcript.offset)
                    yield self._full()
            self._batch.progresses.append(transcript.progress())
        except OSError as error:
            self._count.unreadable_files.append(f"{plain_path(found.path)}: {error.strerror}")
        self._count.unreadable_lines += transcript.troubles.unreadable_lines
        self._count.other_lines += transcript.other_lines
        self._count.long_lines += transcript.troubles.long_lines
        if len(self._batch.progresses) >= self._task.batch:
            yield self._full()

    def _full(self) -> _Batch:
        full, self._batch = self._batch, _Batch()
        return full
