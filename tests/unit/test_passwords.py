"""Passwords: which are taken, and that looking at them is bounded, slow enough and even."""

from __future__ import annotations

import asyncio
import threading
import time
import unicodedata
from collections.abc import AsyncIterator

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import HashingError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY
from asgi import make_scope

from metrics_service.errors import InvalidBodyError, TooManyRequestsError, UnavailableError
from metrics_service.http import throttle as throttle_module
from metrics_service.http.throttle import PasswordThrottle
from metrics_service.tenants import passwords as passwords_module
from metrics_service.tenants.passwords import Passwords, fault_of

GOOD = "a long sentence"


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("password", "fault"),
    [
        ("x" * 9, "must have 10 to 200 characters"),
        ("x" * 10, None),
        ("1111111111", None),
        ("x" * 200, None),
        ("x" * 201, "must have 10 to 200 characters"),
        ("", "must have 10 to 200 characters"),
        ("          ", None),
        ("пароль из слов", None),
        ("🔑" * 10, None),
        # Four ligatures of three letters each.
        ("ﬃ" * 4, None),
        ("long enough\0", "must not contain U+0000"),
        ("ada@example.com", "must not be the email"),
        ("ADA@EXAMPLE.COM", "must not be the email"),
        ("ａda@example.com", "must not be the email"),
        ("ada@example.com!", None),
    ],
)
def test_length_decides_and_nothing_about_kinds_of_characters(password, fault):
    assert fault_of(password, email="ada@example.com") == fault


async def test_a_password_is_kept_as_argon2id_with_the_low_memory_parameters(passwords):
    kept = await passwords.hash(GOOD)

    assert GOOD not in kept
    assert extract_parameters(kept) == RFC_9106_LOW_MEMORY
    assert kept != await passwords.hash(GOOD)
    assert await passwords.matches(GOOD, kept)
    assert not await passwords.matches(GOOD + "!", kept)
    assert not passwords.is_outdated(kept)


async def test_the_same_characters_are_the_same_password_however_they_were_typed(passwords):
    composed = "Zoë's déjà vu"

    kept = await passwords.hash(unicodedata.normalize("NFD", composed))

    assert await passwords.matches(composed, kept)


async def test_a_hash_of_weaker_parameters_still_holds_and_is_told_to_be_outdated(passwords):
    weaker = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(GOOD)

    assert await passwords.matches(GOOD, weaker)
    assert passwords.is_outdated(weaker)


@pytest.mark.parametrize("kept", ["", "nonsense", "$2b$12$of-another-kind"])
async def test_what_is_no_hash_matches_nothing(passwords, kept):
    assert not await passwords.matches(GOOD, kept)


async def test_nobodys_password_is_compared_as_somebodys_is(passwords, monkeypatch):
    compared = []
    verify = PasswordHasher.verify

    def watched(hasher, kept, password):
        compared.append(extract_parameters(kept))
        return verify(hasher, kept, password)

    monkeypatch.setattr(PasswordHasher, "verify", watched)

    assert not await passwords.matches(GOOD, None)
    assert compared == [RFC_9106_LOW_MEMORY]


async def test_so_many_at_a_time_so_many_wait_and_the_rest_are_sent_away(passwords, monkeypatch):
    at_once, most = 0, 0
    lock, go_on = threading.Lock(), threading.Event()

    def slow(hasher, kept, password):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        go_on.wait(5)
        with lock:
            at_once -= 1
        return True

    monkeypatch.setattr(PasswordHasher, "verify", slow)
    room = passwords_module.AT_A_TIME + passwords_module.WAITING_AT_MOST
    begun = [asyncio.create_task(passwords.matches(GOOD, "kept")) for _ in range(room)]
    await asyncio.sleep(0.05)

    with pytest.raises(UnavailableError) as refused:
        await passwords.matches(GOOD, "kept")
    # Whoever leaves gives up a place among those who wait, but no thread that works.
    begun.pop().cancel()
    await asyncio.sleep(0)
    begun.append(asyncio.create_task(passwords.matches(GOOD, "kept")))
    await asyncio.sleep(0)
    go_on.set()

    assert await asyncio.gather(*begun) == [True] * room
    assert most == passwords_module.AT_A_TIME
    assert refused.value.retry_after_s >= 1
    assert await passwords.matches(GOOD, "kept")


async def test_the_process_goes_on_while_one_is_hashed(passwords):
    beats = 0

    async def beat():
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    beating = asyncio.create_task(beat())
    begun = time.perf_counter()
    await passwords.hash(GOOD)
    took = time.perf_counter() - begun
    beating.cancel()

    assert beats >= min(3, took / 0.05)


@pytest.mark.parametrize(
    ("method", "error"), [("hash", HashingError()), ("verify", VerificationError("memory"))]
)
async def test_too_little_memory_is_nobodys_wrong_password(passwords, monkeypatch, method, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(PasswordHasher, method, fails)

    with pytest.raises(UnavailableError):
        await (passwords.hash(GOOD) if method == "hash" else passwords.matches(GOOD, "kept"))


# -- attempts ---------------------------------------------------------------------------------------


class Tenant:
    def __init__(self, id_: int = 1) -> None:
        self.id = id_


def scope(address: str = "192.0.2.1", *, host: str = "a", tenant: int = 1):
    made = make_scope("POST", "/sign-in", client=(address, 1))
    made["state"] = {"host": host, "tenant": Tenant(tenant)}
    return made


def fail(throttle: PasswordThrottle, *given, **options) -> None:
    with pytest.raises(InvalidBodyError), throttle.attempt(scope(**options), *given):
        raise InvalidBodyError([])


def throttle_of(per_minute: int) -> PasswordThrottle:
    return PasswordThrottle(per_minute, trusted_proxies=[])


def test_an_address_has_so_many_attempts_whoever_it_tries() -> None:
    throttle = throttle_of(3)
    for number in range(3):
        fail(throttle, f"u{number}@example.com")

    with pytest.raises(TooManyRequestsError), throttle.attempt(scope(), "ada@example.com"):
        pytest.fail("it was looked at")
    with throttle.attempt(scope("192.0.2.2"), "ada@example.com"):
        pass


def test_an_account_has_so_many_attempts_wherever_they_come_from() -> None:
    throttle = throttle_of(3)
    for number in range(3):
        fail(throttle, "ada@example.com", address=f"192.0.2.{number}", host=f"h{number}")

    refused = scope("198.51.100.1")
    with pytest.raises(TooManyRequestsError), throttle.attempt(refused, "ada@example.com"):
        pytest.fail("it was looked at")
    for other in (scope("198.51.100.2", tenant=2), scope("198.51.100.3")):
        email = "ada@example.com" if other["state"]["tenant"].id == 2 else "eve@example.com"
        with throttle.attempt(other, email):
            pass


def test_as_many_as_may_be_wrong_are_looked_at_together_and_the_next_comes_back_at_once() -> None:
    throttle = throttle_of(3)
    fail(throttle, "eve@example.com")

    # An office signs in, behind one address.
    with (
        throttle.attempt(scope(), "ada@example.com"),
        throttle.attempt(scope(), "bob@example.com"),
        pytest.raises(UnavailableError) as busy,
        throttle.attempt(scope(), "cem@example.com"),
    ):
        pytest.fail("it was looked at")

    assert busy.value.retry_after_s is not None and busy.value.retry_after_s < 10
    with throttle.attempt(scope(), "cem@example.com"):
        pass
    assert not throttle._under_way


@pytest.mark.parametrize("times", [1, 10])
def test_a_right_password_and_one_that_nobody_looked_at_are_no_failures(times) -> None:
    throttle = throttle_of(2)
    for _ in range(times):
        with throttle.attempt(scope(), "a@b.cc"):
            pass
        with pytest.raises(UnavailableError), throttle.attempt(scope(), "a@b.cc"):
            raise UnavailableError

    fail(throttle, "a@b.cc")
    fail(throttle, "a@b.cc")
    with pytest.raises(TooManyRequestsError), throttle.attempt(scope(), "a@b.cc"):
        pytest.fail("it was looked at")


def test_what_is_remembered_of_attempts_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(throttle_module, "MAX_ENTRIES", 50)
    throttle = throttle_of(3)

    for number in range(500):
        fail(throttle, f"u{number}@example.com", address=f"198.51.{number // 250}.{number % 250}")

    assert len(throttle._by_address._failures) == len(throttle._by_account._failures) == 50
