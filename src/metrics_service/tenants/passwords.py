"""Passwords: which are taken, how they are kept, and how one is looked at without hurrying."""

from __future__ import annotations

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any, ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import (
    HashingError,
    InvalidHashError,
    VerificationError,
    VerifyMismatchError,
)
from argon2.profiles import RFC_9106_LOW_MEMORY

from metrics_service.errors import UnavailableError
from metrics_service.observability import catalog

P = ParamSpec("P")
T = TypeVar("T")

SHORTEST, LONGEST = 10, 200

# Each takes the 64 MiB of RFC 9106's second recommendation: memory that strangers could fill.
AT_A_TIME = 2
WAITING_AT_MOST = 16
RETRY_AFTER_S = 2


def normalised(password: str) -> str:
    """The same characters however a keyboard made them: NFKC, as NIST SP 800-63B asks for."""
    return unicodedata.normalize("NFKC", password)


def fault_of(password: str, *, email: str | None) -> str | None:
    """Why this cannot become somebody's password, or None.

    Length decides, and nothing about kinds of characters: NIST SP 800-63B, "Password Verifiers".
    """
    password = normalised(password)
    if not SHORTEST <= len(password) <= LONGEST:
        return f"must have {SHORTEST} to {LONGEST} characters"
    if "\0" in password:
        return "must not contain U+0000"
    if email is not None and password.casefold() == normalised(email).casefold():
        return "must not be the email"
    return None


class Passwords:
    """Hashes and compares by argon2id, in threads of its own; raises `UnavailableError` when too many wait."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        self._nobodys = _hash_of_nothing()
        self._threads = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="password")
        self._places = BoundedSemaphore(AT_A_TIME + WAITING_AT_MOST)
        self._under_way: set[Future[Any]] = set()
        catalog.PASSWORDS_WAITING.read_of(self._under_way, len)

    async def hash(self, password: str) -> str:
        """What is kept of a password."""
        return await self._in_turn(self._hash, normalised(password))

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Whether it is that password; where there is none, it takes as long to say no."""
        kept = self._nobodys if password_hash is None else password_hash
        is_right = await self._in_turn(self._matches, normalised(password), kept)
        return is_right and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        """Whether it was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Let what runs come to its end, and begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_turn(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._places.acquire(blocking=False):
            catalog.REFUSALS.add(1, "passwords")
            raise UnavailableError(
                "too many passwords are being checked", retry_after_s=RETRY_AFTER_S
            )
        future = self._threads.submit(work, *args, **kwargs)
        self._under_way.add(future)
        # Of the thread, not of whoever waits for it: he may leave, and it works on.
        future.add_done_callback(self._give_back)
        return await asyncio.wrap_future(future)

    def _give_back(self, future: Future[T]) -> None:
        self._under_way.discard(future)
        self._places.release()

    def _hash(self, password: str) -> str:
        try:
            return self._hasher.hash(password)
        except HashingError as error:
            raise UnavailableError(retry_after_s=RETRY_AFTER_S) from error

    def _matches(self, password: str, password_hash: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerifyMismatchError, InvalidHashError):
            return False
        except VerificationError as error:
            # It says so of memory that it does not get.
            raise UnavailableError(retry_after_s=RETRY_AFTER_S) from error


def _hash_of_nothing() -> str:
    """A hash in today's parameters that no password is known for: it was drawn, not computed."""
    parameters = RFC_9106_LOW_MEMORY
    salt, digest = (
        base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()
        for size in (parameters.salt_len, parameters.hash_len)
    )
    return (
        f"$argon2id$v={parameters.version}$m={parameters.memory_cost},t={parameters.time_cost}"
        f",p={parameters.parallelism}${salt}${digest}"
    )
