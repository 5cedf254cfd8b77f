"""Bounds what a tenant has under way in a process: requests, and the bytes of their bodies."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from metrics_service.errors import TooManyRequestsError
from metrics_service.observability import catalog

IN_FLIGHT_A_TENANT = 64


class InFlight:
    """Counts what a tenant has under way in this process, so that one cannot take all of it."""

    def __init__(self, limit: int = IN_FLIGHT_A_TENANT) -> None:
        self._limit = limit
        self._under_way: dict[Hashable, int] = {}

    @contextmanager
    def hold(self, tenant: Hashable) -> Iterator[None]:
        """Take one of the tenant's places; raises `TooManyRequestsError` when all are taken."""
        count = self._under_way.get(tenant, 0)
        if count >= self._limit:
            catalog.REFUSALS.add(1, "requests_in_flight")
            raise TooManyRequestsError("too many requests at the same time", retry_after_s=1)
        self._under_way[tenant] = count + 1
        try:
            yield
        finally:
            self._release(tenant)

    def _release(self, tenant: Hashable) -> None:
        count = self._under_way.pop(tenant) - 1
        if count:
            self._under_way[tenant] = count


class HeldBytes:
    """Counts the bytes of a tenant's bodies in this process, so that one cannot fill its memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Hashable, int] = {}

    @contextmanager
    def request(self, tenant: Hashable) -> Iterator[Callable[[int], None]]:
        """Give a function that counts bytes before they are held; all are given back in the end.

        It raises `TooManyRequestsError` where they are more than the tenant may hold.
        """
        own = 0

        def hold(size: int) -> None:
            nonlocal own
            held = self._held.get(tenant, 0) + size
            if held > self._limit:
                catalog.REFUSALS.add(1, "bytes_in_flight")
                raise TooManyRequestsError("too many bytes at the same time", retry_after_s=1)
            self._held[tenant] = held
            own += size

        try:
            yield hold
        finally:
            if own:
                self._release(tenant, own)

    def _release(self, tenant: Hashable, size: int) -> None:
        held = self._held.pop(tenant) - size
        if held:
            self._held[tenant] = held
