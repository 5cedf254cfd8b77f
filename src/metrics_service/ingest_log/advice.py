"""What to change so that something arrives: one sentence for each way of being refused."""

from __future__ import annotations

from metrics_service.ingest.diary_page import UNKNOWN_SIGNAL

OTLP_SIGNALS = ("logs", "metrics", "traces")

_BY_STATUS = {
    200: "The rest was stored; mend the items that are named, or update the client.",
    403: "Send with a key that has the scope ingest; in a path, with one that has no other.",
    405: "Point the exporter at the OTLP services for logs, metrics and traces alone.",
    408: "Look at the network or the proxy in between: the body stopped on its way.",
    413: "Send smaller batches: lower OTEL_BLRP_MAX_EXPORT_BATCH_SIZE and OTEL_BSP_MAX_EXPORT_BATCH_SIZE, or the collector's send_batch_max_size.",
    422: "Mend the field that is named, or send with on_error=skip to store the other items.",
    429: "Send less at a time: larger batches, a longer export interval, or a collector in between.",
    500: "Nothing that the client can change; the operator finds the request in the service's log.",
    504: "Send smaller batches: the database took too long for one.",
}


def advice_of(status: int, reason: str, *, signal: str, encoding: str) -> str:
    """Say what to change about requests that are refused so."""
    match status:
        case 400:
            advice = _of_body(reason, signal, encoding)
        case 401:
            advice = _of_credential(reason)
        case 404:
            advice = _of_path(signal)
        case 415:
            advice = _of_type(reason, signal)
        case 503:
            advice = _of_connection(reason)
        case _:
            advice = _BY_STATUS.get(status, "Look at the client's own log for what it sent.")
    return advice


def _of_credential(reason: str) -> str:
    if "no credential" in reason:
        return (
            "Send a key: OTEL_EXPORTER_OTLP_HEADERS=x-api-key=<key>; a client that cannot send "
            "headers puts one into the path, before /v1: /i/<key>/v1/..."
        )
    if "expired" in reason or "revoked" in reason:
        return (
            "Make another key with `metrics-service key create`, and put it in place of this one."
        )
    return (
        "Compare the key with the tenant's list of keys; it may be another tenant's, or cut short."
    )


def _of_path(signal: str) -> str:
    path = f"/v1/{signal}" if signal in OTLP_SIGNALS else "/v1/logs, /v1/metrics or /v1/traces"
    variable = (
        f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
        if signal in OTLP_SIGNALS
        else "an endpoint for each signal"
    )
    return f"The address needs {path} at its end: set {variable} with it, or OTEL_EXPORTER_OTLP_ENDPOINT without."


def _of_connection(reason: str) -> str:
    if "did not arrive whole" in reason:
        return "Send smaller batches, and look at the network or the proxy in between."
    if "broke off" in reason or "stopped arriving" in reason:
        return (
            "Let the client wait longer (OTEL_EXPORTER_OTLP_TIMEOUT), or look at the proxy in "
            "between: the body ended too early."
        )
    return "Nothing, if it passes: clients try again by themselves; else ask the operator."


def _of_type(reason: str, signal: str) -> str:
    if "Content-Encoding" in reason:
        return "Let the client compress with gzip: OTEL_EXPORTER_OTLP_COMPRESSION=gzip (or none)."
    if signal in (*OTLP_SIGNALS, UNKNOWN_SIGNAL):
        return (
            "Let the client speak OTLP: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf (or http/json)."
        )
    return "Send JSON, with Content-Type: application/json."


def _of_body(reason: str, signal: str, encoding: str) -> str:
    if "request for /v1/" in reason or "sent to /v1/" in reason:
        return "Each signal has an address of its own: see that logs, metrics and traces are not mixed up."
    if signal in OTLP_SIGNALS:
        protocol = "http/json" if encoding == "json" else "http/protobuf"
        return f"See that the client speaks what its Content-Type says: OTEL_EXPORTER_OTLP_PROTOCOL={protocol}."
    return "Mend the request as the reason says; the API's description shows one that works."
