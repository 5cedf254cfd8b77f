"""The tenant's address as whoever asks has reached it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

import msgspec

from metrics_service.http.headers import values_of
from metrics_service.http.throttle import comes_from
from metrics_service.setup.connection import DEFAULT_PORTS, Endpoint, Scheme

if TYPE_CHECKING:
    from litestar.types import Scope


class Reach(msgspec.Struct, frozen=True):
    """What of the service's own place its requests do not tell."""

    trusted_proxies: Sequence[IPv4Network | IPv6Network]
    grpc_port: int | None
    """Where OTLP is taken over gRPC; a proxy in front is expected to forward the same port."""

    def endpoint(self, scope: Scope) -> Endpoint:
        """The endpoint of a request that passed the tenant gate: so its host is the tenant's."""
        scheme, host = self._scheme(scope), str(scope["state"]["host"])
        is_plain = self.grpc_port is None
        grpc = None if is_plain else f"{scheme}://{host}:{self.grpc_port}"
        return Endpoint(scheme, host, _port(scope, scheme), grpc)

    def _scheme(self, scope: Scope) -> Scheme:
        # TLS ends before the server. Its proxy says so, or whoever wants a key sent in the clear does.
        if comes_from(scope, self.trusted_proxies):
            told = [
                value.strip().lower() for value in values_of(scope["headers"], b"x-forwarded-proto")
            ]
            if told == [b"https"]:
                return "https"
        return "http"


def _port(scope: Scope, scheme: Scheme) -> int | None:
    """The port of the Host header, which was checked when the request was admitted."""
    given = values_of(scope["headers"], b"host")[0].decode().strip().rpartition(":")[2]
    port = int(given) if given.isdecimal() else None
    return None if port == DEFAULT_PORTS[scheme] else port
