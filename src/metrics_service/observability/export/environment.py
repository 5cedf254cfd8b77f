"""Reads the standard `OTEL_*` variables; a wrong value stops the start and is named.

A signal is sent when its `OTEL_*_EXPORTER` says so, or, where that is not set, when an endpoint is. Names
that are not known here are left alone: other programs of the same environment have many.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable, Mapping
from typing import get_args

import msgspec

from metrics_service.observability.export.certificates import check_authorities, check_introduction
from metrics_service.observability.export.settings import (
    KINDS,
    Batching,
    Kind,
    OtelSettings,
    Protocol,
    Sampling,
    Target,
    Way,
)
from metrics_service.observability.export.values import (
    Address,
    Variables,
    address,
    is_metadata,
    proxy_address,
    wrong,
)

OTLP = "OTEL_EXPORTER_OTLP"
SAMPLERS: dict[str, tuple[float | None, bool]] = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}
"""The ratio, where it is not OTEL_TRACES_SAMPLER_ARG's; and whether a caller's decision holds."""

_PORTS: dict[Protocol, int] = {"http/protobuf": 4318, "grpc": 4317}
_SERVICE = "metrics-service"


def load_otel_settings(environ: Mapping[str, str] | None = None) -> OtelSettings:
    """Read and check the environment; raises `SettingsError` that names the variable."""
    variables = Variables(os.environ if environ is None else environ)
    ways = {kind: found for kind in KINDS if (found := _ways(variables, kind))}
    settings = OtelSettings(
        ways=ways,
        targets={kind: _target(variables, kind) for kind in ways if "otlp" in ways[kind]},
        resource=_resource(variables),
        sampling=_sampling(variables),
        spans=_batching(variables, "OTEL_BSP", delay_ms=5000),
        lines=_batching(variables, "OTEL_BLRP", delay_ms=1000),
        metric_interval_s=variables.seconds("OTEL_METRIC_EXPORT_INTERVAL", default_ms=60_000),
        metric_timeout_s=variables.seconds("OTEL_METRIC_EXPORT_TIMEOUT", default_ms=30_000),
    )
    # Checked all the same: whoever switches it on again is not to meet a mistake then.
    if variables.flag("OTEL_SDK_DISABLED"):
        return msgspec.structs.replace(settings, ways={}, targets={})
    return settings


def _ways(variables: Variables, kind: Kind) -> tuple[Way, ...]:
    found = variables.text(f"OTEL_{kind.upper()}_EXPORTER")
    if found is None:
        endpoint = variables.text(f"{OTLP}_{kind.upper()}_ENDPOINT", f"{OTLP}_ENDPOINT")
        return () if endpoint is None else ("otlp",)
    name, value = found
    words = {word.strip().lower() for word in value.split(",")}
    # What Prometheus fetches is always there to be fetched.
    silent = {"none", "prometheus"} if kind == "metrics" else {"none"}
    allowed = {*get_args(Way), *silent}
    if not words <= allowed or ("none" in words and len(words) > 1):
        raise wrong(name, f"it may be {', '.join(sorted(allowed))}")
    return tuple(way for way in get_args(Way) if way in words)


def _target(variables: Variables, kind: Kind) -> Target:
    def names(what: str) -> tuple[str, str]:
        return f"{OTLP}_{kind.upper()}_{what}", f"{OTLP}_{what}"

    protocol = _protocol(variables, names("PROTOCOL"))
    place = _address(variables, kind, protocol, names("ENDPOINT"))
    target = Target(
        protocol=protocol,
        is_tls=place.is_tls,
        host=place.host,
        port=place.port,
        path=place.path,
        headers=variables.headers(*names("HEADERS")),
        timeout_s=variables.seconds(*names("TIMEOUT"), default_ms=10_000),
        is_gzipped=variables.choice(names("COMPRESSION"), {"gzip": "gzip", "none": ""}, "") != "",
        authorities=variables.file(*names("CERTIFICATE")),
        client_certificate=variables.file(*names("CLIENT_CERTIFICATE")),
        client_key=variables.file(*names("CLIENT_KEY")),
    )
    _check_certificates(target, names)
    if protocol == "grpc":
        _check_metadata(variables, target, names("HEADERS"))
        return target
    return msgspec.structs.replace(target, proxy=_proxy(target))


def _protocol(variables: Variables, names: tuple[str, str]) -> Protocol:
    found = variables.choice(names, {"http/protobuf": "http/protobuf", "grpc": "grpc"}, "")
    return "grpc" if found == "grpc" else "http/protobuf"


def _address(
    variables: Variables, kind: Kind, protocol: Protocol, names: tuple[str, str]
) -> Address:
    is_grpc = protocol == "grpc"
    insecure = (f"{OTLP}_{kind.upper()}_INSECURE", f"{OTLP}_INSECURE")
    is_insecure = variables.flag(*insecure) if is_grpc else None
    found = variables.text(*names)
    if found is None:
        return Address(is_tls=False, host="localhost", port=_PORTS[protocol], path=f"/v1/{kind}")
    name, value = found
    place = address(name, value, is_insecure=is_insecure)
    # The signal's own is taken as it is, the common one is where all of them begin.
    path = place.path or "/"
    if name == names[1]:
        before, _, query = path.partition("?")
        path = f"{before.rstrip('/')}/v1/{kind}" + (f"?{query}" if query else "")
    return Address(place.is_tls, place.host, place.port, path)


def _check_certificates(target: Target, names: Callable[[str], tuple[str, str]]) -> None:
    try:
        check_authorities(target)
    except OSError:
        raise wrong(names("CERTIFICATE")[1], "the file has no certificates") from None
    try:
        check_introduction(target)
    except OSError:
        raise wrong(
            names("CLIENT_CERTIFICATE")[1], "the file and that of the key do not fit together"
        ) from None


def _check_metadata(variables: Variables, target: Target, names: tuple[str, str]) -> None:
    for key, value in target.headers.items():
        if not is_metadata(key, value):
            name, _ = variables.text(*names) or (names[1], "")
            raise wrong(name, "it has something that gRPC cannot send")


def _proxy(target: Target) -> str | None:
    """What stands between, as for other programs of this environment."""
    proxies = urllib.request.getproxies_environment()
    if urllib.request.proxy_bypass_environment(target.host, proxies):  # type: ignore[attr-defined]
        return None
    scheme = "https" if target.is_tls else "http"
    for name in (scheme, "all"):
        if url := proxies.get(name, "").strip():
            return proxy_address(f"{name}_proxy", url)
    return None


def _resource(variables: Variables) -> dict[str, str]:
    _, given = variables.pairs("OTEL_RESOURCE_ATTRIBUTES")
    named = variables.text("OTEL_SERVICE_NAME")
    return {"service.name": _SERVICE, **given, **({"service.name": named[1]} if named else {})}


def _sampling(variables: Variables) -> Sampling:
    words = {word: word for word in SAMPLERS}
    ratio, follows_parent = SAMPLERS[
        variables.choice(("OTEL_TRACES_SAMPLER",), words, "parentbased_always_on")
    ]
    if ratio is None:
        ratio = variables.ratio("OTEL_TRACES_SAMPLER_ARG")
    return Sampling(ratio, follows_parent)


def _batching(variables: Variables, prefix: str, *, delay_ms: int) -> Batching:
    max_queue = variables.number(f"{prefix}_MAX_QUEUE_SIZE", default=2048)
    batch = f"{prefix}_MAX_EXPORT_BATCH_SIZE"
    max_batch = variables.number(batch, default=min(512, max_queue))
    if max_batch > max_queue:
        raise wrong(batch, f"it is larger than {prefix}_MAX_QUEUE_SIZE")
    return Batching(
        delay_s=variables.seconds(f"{prefix}_SCHEDULE_DELAY", default_ms=delay_ms),
        timeout_s=variables.seconds(f"{prefix}_EXPORT_TIMEOUT", default_ms=30_000),
        max_queue=max_queue,
        max_batch=max_batch,
    )
