"""What the `OTEL_*` variables say, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Kind = Literal["traces", "metrics", "logs"]
Way = Literal["otlp", "console"]
Protocol = Literal["http/protobuf", "grpc"]

RANDOM_BITS = 56
"""The last of a trace id, which W3C wants to be random: every service with this ratio keeps the same."""

KINDS: tuple[Kind, ...] = ("traces", "metrics", "logs")


class Target(msgspec.Struct, frozen=True):
    """Where one signal goes over OTLP, and how."""

    protocol: Protocol
    is_tls: bool
    host: str
    port: int
    path: str
    """Over HTTP; with its query."""
    headers: Mapping[str, str]
    timeout_s: float
    """For one batch, with all that is tried again."""
    is_gzipped: bool
    authorities: str | None
    """A file of certificates to trust; the usual ones otherwise."""
    client_certificate: str | None
    client_key: str | None
    proxy: str | None = None
    """Over HTTP; gRPC finds its own."""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Batching(msgspec.Struct, frozen=True):
    """How spans, or lines of the log, are collected."""

    delay_s: float
    timeout_s: float
    max_queue: int
    max_batch: int


class Sampling(msgspec.Struct, frozen=True):
    """Which traces are kept."""

    ratio: float
    """Of those that begin here."""
    follows_parent: bool
    """Whether a caller's decision is ours."""

    def keeps(self, trace_id: bytes, is_sampled_by_caller: bool | None) -> bool:
        """Decide by a trace's id, the same in every process."""
        if self.follows_parent and is_sampled_by_caller is not None:
            return is_sampled_by_caller
        below: int = round(self.ratio * 2**RANDOM_BITS)
        return int.from_bytes(trace_id[-RANDOM_BITS // 8 :]) < below


class OtelSettings(msgspec.Struct, frozen=True):
    """All of it, for one process; without any variable nothing is sent."""

    ways: Mapping[Kind, tuple[Way, ...]]
    """What is sent; a signal that is not is missing."""
    targets: Mapping[Kind, Target]
    """For each signal that goes out over OTLP."""
    resource: Mapping[str, str]
    sampling: Sampling
    spans: Batching
    lines: Batching
    metric_interval_s: float
    metric_timeout_s: float

    @property
    def is_on(self) -> bool:
        return bool(self.ways)
