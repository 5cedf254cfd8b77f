"""Counting failures, requests in flight and their bytes, and whose they are."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from asgi import make_scope
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.errors import TooManyRequestsError
from metrics_service.http import throttle as throttle_module
from metrics_service.http.in_flight import HeldBytes, InFlight
from metrics_service.http.throttle import FailureThrottle, client_address

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(
    throttle: FailureThrottle, times: int, address: str = "192.0.2.1", host: str = "a"
) -> None:
    for _ in range(times):
        throttle.check(address, host)
        throttle.record_failure(address, host)


def test_failures_up_to_the_limit_are_let_through_and_the_next_is_not() -> None:
    clock = Clock()
    throttle = FailureThrottle(3, clock=clock)
    fail(throttle, 3)
    clock.now += 20.5

    with pytest.raises(TooManyRequestsError) as refused:
        throttle.check("192.0.2.1", "a")

    assert refused.value.retry_after_s == 40


def test_another_address_and_another_host_are_counted_apart() -> None:
    throttle = FailureThrottle(3, clock=Clock())
    fail(throttle, 3)

    throttle.check("192.0.2.2", "a")
    throttle.check("192.0.2.1", "b")


def test_a_minute_later_the_count_begins_anew() -> None:
    clock = Clock()
    throttle = FailureThrottle(3, clock=clock)
    fail(throttle, 3)
    clock.now += 60
    fail(throttle, 3)

    with pytest.raises(TooManyRequestsError):
        throttle.check("192.0.2.1", "a")


def test_failures_while_refused_do_not_prolong_the_wait() -> None:
    clock = Clock()
    throttle = FailureThrottle(1, clock=clock)
    for _ in range(60):
        throttle.record_failure("192.0.2.1", "a")
        clock.now += 0.99
    clock.now += 1

    throttle.check("192.0.2.1", "a")


def test_nothing_is_counted_when_it_is_off() -> None:
    fail(FailureThrottle(0), 1000)


def test_one_ipv6_network_is_one_caller() -> None:
    throttle = FailureThrottle(3, clock=Clock())
    for number in range(3):
        throttle.record_failure(f"2001:db8::{number}", "a")

    with pytest.raises(TooManyRequestsError):
        throttle.check("2001:db8:0:0:ffff::9", "a")
    throttle.check("2001:db8:0:1::9", "a")


def test_memory_is_bounded_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle_module, "MAX_ENTRIES", 3)
    throttle = FailureThrottle(1, clock=Clock())
    for number in range(4):
        throttle.record_failure(f"192.0.2.{number}", "a")

    throttle.check("192.0.2.0", "a")
    for number in range(1, 4):
        with pytest.raises(TooManyRequestsError):
            throttle.check(f"192.0.2.{number}", "a")


def test_a_count_begun_anew_is_not_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle_module, "MAX_ENTRIES", 2)
    clock = Clock()
    throttle = FailureThrottle(1, clock=clock)
    throttle.record_failure("192.0.2.1", "a")
    clock.now += 30
    throttle.record_failure("192.0.2.2", "a")
    clock.now += 31
    throttle.record_failure("192.0.2.1", "a")
    throttle.record_failure("192.0.2.3", "a")

    with pytest.raises(TooManyRequestsError):
        throttle.check("192.0.2.1", "a")


def test_a_tenant_has_so_many_requests_in_flight_and_no_more() -> None:
    in_flight = InFlight(2)
    with in_flight.hold("a"), in_flight.hold("a"):
        with pytest.raises(TooManyRequestsError) as refused, in_flight.hold("a"):
            pass
        with in_flight.hold("b"):
            pass

    assert refused.value.retry_after_s == 1
    with in_flight.hold("a"), in_flight.hold("a"):
        pass


def test_a_place_is_given_back_after_a_failure_and_nothing_is_remembered() -> None:
    in_flight = InFlight(1)
    for _ in range(3):
        with pytest.raises(KeyError), in_flight.hold("a"):
            raise KeyError

    assert vars(in_flight)["_under_way"] == {}


def test_a_tenants_requests_hold_so_many_bytes_together_and_no_more() -> None:
    held = HeldBytes(10)
    with held.request("a") as first, held.request("a") as second, held.request("b") as other:
        first(4)
        first(2)
        second(4)
        with pytest.raises(TooManyRequestsError) as refused:
            second(1)
        other(10)

    assert refused.value.retry_after_s == 1


def test_bytes_are_given_back_with_their_request_and_not_before() -> None:
    held = HeldBytes(10)
    with held.request("a") as first:
        first(6)
        with held.request("a") as second:
            second(4)
        with held.request("a") as third, pytest.raises(TooManyRequestsError):
            third(5)
        with held.request("a") as fourth:
            fourth(4)


def test_bytes_are_given_back_after_a_failure_and_nothing_is_remembered() -> None:
    held = HeldBytes(10)
    for _ in range(3):
        with pytest.raises(KeyError), held.request("a") as hold:
            hold(10)
            raise KeyError
        with pytest.raises(TooManyRequestsError), held.request("a") as hold:
            hold(9)
            hold(2)
        with held.request("a"):
            pass

    assert vars(held)["_held"] == {}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["garbage, 198.51.100.7,10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7, garbage"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, garbage, 10.0.0.2"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7,"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("fd00::1", ["2001:DB8::0:1"], "2001:db8::1"),
        ("10.0.0.1", [b"\xff"], "10.0.0.1"),
    ],
)
def test_a_forwarded_address_counts_as_far_as_proxies_are_trusted(
    peer: str, forwarded: list[str | bytes], address: str
) -> None:
    headers = [("x-forwarded-for", value) for value in forwarded]
    scope: Any = make_scope(client=(peer, 1), headers=headers)

    assert client_address(scope, PROXIES) == address


def test_without_trusted_proxies_the_header_is_nothing() -> None:
    scope: Any = make_scope(client=("10.0.0.1", 1), headers=[("x-forwarded-for", "192.0.2.9")])

    assert client_address(scope, []) == "10.0.0.1"


def test_a_peer_without_an_address_has_a_constant_name() -> None:
    nobody: Any = make_scope(client=None)
    socket: Any = make_scope(client=("", 0), headers=[("x-forwarded-for", "192.0.2.9")])

    assert client_address(nobody, PROXIES) == "unknown"
    assert client_address(socket, PROXIES) == "unknown"


@given(st.lists(st.binary(max_size=30), max_size=3))
def test_no_header_makes_it_fail_or_lets_text_through(values: list[bytes]) -> None:
    scope: Any = make_scope(
        client=("10.0.0.1", 1), headers=[("x-forwarded-for", value) for value in values]
    )

    assert set(client_address(scope, PROXIES)) <= set("0123456789abcdef.:%")
