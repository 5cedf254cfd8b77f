"""What a client has to be told: where, over which protocol, with which key, and for whom."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

import msgspec

from metrics_service.fields import Protocol, Signal

Scheme = Literal["http", "https"]

PLACEHOLDER = "msk_..."
"""Stands where a key goes."""

DEFAULT_PORTS = {"http": 80, "https": 443}
LOOPBACK = "127.0.0.1"
# The characters of W3C Baggage that nobody gives a meaning; what else there is, is encoded.
_PLAIN = "/:@"


class Endpoint(msgspec.Struct, frozen=True):
    """Where a tenant is served."""

    scheme: Scheme
    host: str
    port: int | None = None
    """None is the scheme's own."""
    grpc: str | None = None
    """As OpenTelemetry spells it; None where nothing takes OTLP over gRPC."""

    @property
    def origin(self) -> str:
        """The tenant's own address."""
        return self._origin(self.host)

    @property
    def is_local(self) -> bool:
        """Whether only browsers and curl know the name; agents ask the system, and fail silently."""
        return self.scheme == "http" and self.host.endswith(".localhost")

    @property
    def url(self) -> str:
        """The address that leads there without the help of a resolver."""
        return self._origin(LOOPBACK if self.is_local else self.host)

    def _origin(self, host: str) -> str:
        if self.port in {None, DEFAULT_PORTS[self.scheme]}:
            return f"{self.scheme}://{host}"
        return f"{self.scheme}://{host}:{self.port}"


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One client's way to one tenant."""

    endpoint: Endpoint
    protocol: Protocol
    key: str = PLACEHOLDER
    repository: str | None = None
    team: str | None = None
    is_remote: bool = False
    """Whether the client is on no machine of ours, and asks a resolver of its own."""

    @property
    def url(self) -> str:
        """The base address, without a path."""
        if self.protocol == "grpc":
            return self.endpoint.grpc or ""
        return self.endpoint.origin if self.is_remote else self.endpoint.url

    def url_of(self, signal: Signal) -> str:
        """Where requests with a signal go."""
        return self.url if self.protocol == "grpc" else f"{self.url}/v1/{signal}"

    @property
    def needs_host(self) -> bool:
        """Whether the tenant must be named in a header. Over gRPC no header does that."""
        return self.endpoint.is_local and self.protocol != "grpc" and not self.is_remote

    @property
    def headers(self) -> dict[str, str]:
        named = {"host": self.endpoint.host} if self.needs_host else {}
        return {"x-api-key": self.key} | named

    @property
    def header_list(self) -> str:
        """As `OTEL_EXPORTER_OTLP_HEADERS` has them."""
        return ",".join(f"{name}={quote(value)}" for name, value in self.headers.items())

    @property
    def attributes(self) -> dict[str, str]:
        """Resource attributes by the names under which the mappers look for them."""
        given = {"team": self.team, "vcs.repository.name": self.repository}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def attribute_list(self) -> str:
        """As `OTEL_RESOURCE_ATTRIBUTES` has them: percent-encoded, by OpenTelemetry's rule."""
        return ",".join(
            f"{name}={quote(value, safe=_PLAIN)}" for name, value in self.attributes.items()
        )

    @property
    def literal_attribute_list(self) -> str:
        """For clients that take values as they stand. A comma would begin the next: it stays encoded."""
        return ",".join(
            f"{name}={value.replace(',', '%2C')}" for name, value in self.attributes.items()
        )

    @property
    def has_plain_attributes(self) -> bool:
        """Whether it makes no difference if a client undoes the encoding."""
        return self.attribute_list == self.literal_attribute_list
