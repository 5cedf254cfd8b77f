"""Posts batches, one at a time, and tries again what may yet succeed."""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from threading import Event
from types import TracebackType
from typing import Self

import msgspec

from metrics_service.send_test.answers import PROTOBUF, Meaning
from metrics_service.send_test.diagnosis import UNREACHED, Finding, Symptom
from metrics_service.send_test.endpoint import Endpoint, Told
from metrics_service.send_test.plain import plain
from metrics_service.send_test.posting import Poster

USER_AGENT = "metrics-service-import"
ATTEMPTS = 10
MAX_WAIT_S = 60.0
MAX_ASKED_S = 600.0
"""How long a server may ask to be left alone."""
COMPRESSION = 1
PASSING = frozenset(
    {
        Symptom.BUSY,
        Symptom.SERVER_ERROR,
        Symptom.BROKEN_OFF,
        Symptom.SILENT,
        Symptom.CONNECT_TIMEOUT,
        Symptom.REFUSED,
        Symptom.UNREACHABLE,
    }
)
"""What may be gone the next time."""


class NotTakenError(Exception):
    """The server did not take what was sent; the message says on one line what to change."""

    def __init__(self, message: str, *, is_unreached: bool) -> None:
        super().__init__(message)
        self.is_unreached = is_unreached


class Taken(msgspec.Struct, frozen=True):
    """What became of a batch."""

    rejected: int
    message: str


class Sender:
    """A connection to one endpoint; waits with `sleep` before it tries again."""

    def __init__(
        self, endpoint: Endpoint, told: Told, *, sleep: Callable[[float], object] | None = None
    ) -> None:
        """Raises `UnusableError` where the environment is in the way."""
        self._endpoint = endpoint
        self._told = told
        self._is_stopped = Event()
        self._sleep = sleep or self._is_stopped.wait
        self._has_been_answered = False
        self._poster = Poster(endpoint, told, user_agent=USER_AGENT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._poster.__exit__(kind, error, trace)

    def send(self, body: bytes) -> Taken:
        """Post a batch; raises `NotTakenError` when nothing but a change will help."""
        packed = gzip.compress(body, COMPRESSION, mtime=0)
        attempt = 1
        while True:
            meaning, asked_s = self._try(packed)
            symptom = meaning.finding.symptom if meaning.finding is not None else None
            if symptom in {None, Symptom.ITEMS_REFUSED}:
                self._has_been_answered = True
                return Taken(meaning.rejected, self._shown(meaning.message))
            if attempt < ATTEMPTS and self._may_pass(symptom):
                self._sleep(_wait_s(attempt, asked_s))
                attempt += 1
                if not self._is_stopped.is_set():
                    continue
            raise self._failure(meaning.finding or Finding(Symptom.NOT_ACCEPTED), meaning.message)

    def stop(self) -> None:
        """Wait for nothing any more: what is not answered now is given up."""
        self._is_stopped.set()

    def _may_pass(self, symptom: Symptom | None) -> bool:
        # Where nobody was ever reached it is the address, and not the moment.
        is_address = not self._has_been_answered and symptom in UNREACHED
        return symptom in PASSING and not is_address

    def _try(self, packed: bytes) -> tuple[Meaning, float]:
        meaning, answer = self._poster.post("logs", packed, media_type=PROTOBUF, is_gzipped=True)
        asked_s = 0.0 if answer is None else _asked_s(answer.headers.get("retry-after", ""))
        return meaning, asked_s

    def _shown(self, text: str) -> str:
        return self._told.hide(plain(text))

    def _failure(self, finding: Finding, message: str) -> NotTakenError:
        said = f"; the server said: {message}" if message else ""
        line = self._shown(f"{self._endpoint.advice(finding)}{said}")
        return NotTakenError(line, is_unreached=finding.symptom in UNREACHED)


def _wait_s(attempt: int, asked_s: float) -> float:
    # Not all at once: many laptops may be waiting for the same server.
    backed_off = min(MAX_WAIT_S, 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
    return max(asked_s, backed_off)


def _asked_s(retry_after: str) -> float:
    """What `Retry-After` asks for, in seconds or as a date (RFC 9110, 10.2.3)."""
    if retry_after.strip().isdecimal():
        return min(float(retry_after), MAX_ASKED_S)
    try:
        until = parsedate_to_datetime(retry_after).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, until - time.time()), MAX_ASKED_S)
