"""Counts failed authentications by where they come from, in memory of a fixed size.

Where there is Redis all processes count together: each counts on for itself, and hears soon after what
the others counted. Nobody waits for it.
"""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import TypeAlias

import msgspec
from litestar.types import Scope

from metrics_service.cache.second_level import SecondLevel
from metrics_service.errors import TooManyRequestsError, UnavailableError
from metrics_service.http.headers import values_of
from metrics_service.observability import catalog

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

WINDOW_S = 60.0
MAX_ENTRIES = 10_000
UNKNOWN = "unknown"
RETRY_AFTER_S = 2

# One household or host commonly has a whole /64: counting addresses would count nothing.
_IPV6_PREFIX_BITS = 64


class _Failures(msgspec.Struct):
    since: float
    count: int


class FailureThrottle:
    """Counts failed authentications by address and host, a minute at a time."""

    def __init__(
        self,
        per_minute: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        second: SecondLevel | None = None,
        kind: str = "credentials",
    ) -> None:
        self._per_minute = per_minute
        self._second = second
        self._kind = kind
        self._clock = clock
        # Windows are begun in order, so the first entry is always the oldest.
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def check(self, address: str, host: str, *, under_way: int = 0) -> None:
        """Raise `TooManyRequestsError` when the address failed too often at this host.

        `UnavailableError` when it would have, should all that is under way fail.
        """
        if self._per_minute == 0:
            return
        failures = self._failures.get((_neighbourhood(address), host))
        left_s = 0.0 if failures is None else failures.since + WINDOW_S - self._clock()
        failed = failures.count if failures is not None and left_s > 0 else 0
        if failed >= self._per_minute:
            catalog.REFUSALS.add(1, "failed_authentications")
            raise TooManyRequestsError(
                "too many failed authentications", retry_after_s=math.ceil(left_s)
            )
        if failed + under_way >= self._per_minute:
            catalog.REFUSALS.add(1, "authentications_under_way")
            raise UnavailableError("too many attempts are under way", retry_after_s=RETRY_AFTER_S)

    def refuse(self, address: str, host: str) -> None:
        """Count one that failed; raises `TooManyRequestsError` where too many did before.

        Only failing attempts come here: a valid credential is always served.
        """
        self.check(address, host)
        self.record_failure(address, host)

    def record_failure(self, address: str, host: str) -> None:
        if self._per_minute == 0:
            return
        key = (_neighbourhood(address), host)
        now = self._clock()
        failures = self._failures.get(key)
        if failures is not None and now < failures.since + WINDOW_S:
            failures.count += 1
        else:
            failures = self._failures[key] = _Failures(since=now, count=1)
            self._failures.move_to_end(key)
            if len(self._failures) > MAX_ENTRIES:
                self._failures.popitem(last=False)
        if self._second is not None:
            self._second.soon(self._count_together(self._second, key, failures))

    async def _count_together(
        self, second: SecondLevel, key: tuple[str, str], failures: _Failures
    ) -> None:
        name = "\0".join((self._kind, *key)).encode()
        total = await second.count(name, 1, window_s=int(WINDOW_S))
        if total is not None:
            # More than the limit says no more than that it is reached.
            failures.count = max(failures.count, min(total, self._per_minute))


class PasswordThrottle:
    """Counts attempts at passwords by where they come from, and by whose password it is."""

    def __init__(
        self,
        per_minute: int,
        *,
        trusted_proxies: Sequence[Network],
        clock: Callable[[], float] = time.monotonic,
        second: SecondLevel | None = None,
    ) -> None:
        self._by_address = FailureThrottle(
            per_minute, clock=clock, second=second, kind="passwords by address"
        )
        self._by_account = FailureThrottle(
            per_minute, clock=clock, second=second, kind="passwords by account"
        )
        self._under_way: Counter[tuple[str, str]] = Counter()
        self._trusted_proxies = trusted_proxies

    @contextmanager
    def attempt(self, scope: Scope, email: str) -> Iterator[None]:
        """Look at a password within; raises `TooManyRequestsError` before when too many were wrong.

        What is under way may be wrong: a thousand at once are not all looked at. But it may be right,
        as it is where a whole office signs in: who comes then is asked to come back at once, by
        `UnavailableError`.
        """
        address = (
            _neighbourhood(client_address(scope, self._trusted_proxies)),
            scope["state"]["host"],
        )
        # Whichever of the tenant's hosts it is: the password is the same.
        account = (email, str(scope["state"]["tenant"].id))
        self._by_address.check(*address, under_way=self._under_way[address])
        self._by_account.check(*account, under_way=self._under_way[account])
        self._under_way.update((address, account))
        try:
            yield
        except UnavailableError:
            # Nobody looked at it.
            raise
        except BaseException:
            # Who leaves before the answer has tried it as well.
            self._by_address.record_failure(*address)
            self._by_account.record_failure(*account)
            raise
        finally:
            self._under_way -= Counter((address, account))


def client_address(scope: Scope, trusted_proxies: Sequence[Network]) -> str:
    """The address that the request came from, as far as trusted proxies vouch for it."""
    client = scope.get("client")
    peer = _parsed(client[0]) if client else None
    if peer is None:
        return UNKNOWN
    if not _is_trusted(peer, trusted_proxies):
        return str(peer)
    return str(_forwarded(scope, trusted_proxies) or peer)


def comes_from(scope: Scope, trusted_proxies: Sequence[Network]) -> bool:
    """Whether the other end of the connection is one of the proxies, whose headers are believed."""
    client = scope.get("client")
    peer = _parsed(client[0]) if client else None
    return peer is not None and _is_trusted(peer, trusted_proxies)


def _forwarded(scope: Scope, trusted_proxies: Sequence[Network]) -> Address | None:
    # From the right: each trusted proxy added who spoke to it, and only that can be believed.
    header = b",".join(values_of(scope["headers"], b"x-forwarded-for")).decode("latin-1")
    address = None
    for text in reversed(header.split(",")):
        address = _parsed(text.strip())
        if address is None or not _is_trusted(address, trusted_proxies):
            return address
    return address


def _is_trusted(address: Address, trusted_proxies: Sequence[Network]) -> bool:
    return any(address in network for network in trusted_proxies)


def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A socket for both families shows an IPv4 peer in this disguise; no network list would match.
    return getattr(address, "ipv4_mapped", None) or address


def _neighbourhood(address: str) -> str:
    if ":" not in address:
        return address
    parsed = _parsed(address)
    if not isinstance(parsed, IPv6Address):
        return address if parsed is None else str(parsed)
    return str(IPv6Network((int(parsed), _IPV6_PREFIX_BITS), strict=False))
