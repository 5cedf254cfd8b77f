"""How large a request may be and what it may be made of, by its path; one table for the edge."""

from __future__ import annotations

import re

from metrics_service.errors import BodyTooLargeError

KIB = 1024
MIB = 1024 * KIB

MAX_HEADER_BYTES = 16 * KIB
MAX_TARGET_BYTES = 8 * KIB
MAX_DEPTH = 64
BODY_PATIENCE_S = 30.0

MAX_BODY_BYTES = 1 * MIB
MAX_BATCH_BYTES = 20 * MIB
MAX_OTLP_BYTES = 64 * MIB
MAX_FORM_BYTES = 16 * KIB
# Of all bodies of a tenant that a process holds together: four of the largest.
MAX_HELD_BYTES = 256 * MIB

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})

HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready"})
BATCH_PATHS = frozenset({"/api/v1/tool-metrics/batch", "/api/v1/sessions/batch"})
JSON_TYPES = frozenset({"application/json"})
LINE_TYPES = frozenset({"application/x-ndjson", "application/jsonl"})
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})
IMPORT_PATH = "/api/v1/dashboards/import"
OTLP_PREFIX = "/v1/"
KEYED_PREFIX = "/i/"
STATIC_PREFIX = "/static/"
LIVE_PATH = "/live"
SIGN_IN_PATH, SIGN_OUT_PATH = "/sign-in", "/sign-out"
FORM_PATHS = frozenset({SIGN_IN_PATH, SIGN_OUT_PATH})
MASKED_TOKEN = f"{KEYED_PREFIX}:token"
JSON_PREFIX = "/api/"

_slashes = re.compile(r"//+")


def routed_path(path: str) -> str:
    """The path as the router will read it: `//api/v1/x/` must not slip past a rule for `/api/`."""
    return _slashes.sub("/", f"/{path.strip('/')}") if "//" in path or path[-1:] == "/" else path


def take_token(path: str) -> tuple[str, str | None]:
    """Take the ingest token out of a path: `/i/<token>/v1/logs` is `/v1/logs` with a credential.

    It leads to OTLP alone: any other path behind it is shown without it, and is no route's.
    """
    if not path.startswith(KEYED_PREFIX):
        return path, None
    token, slash, rest = path.removeprefix(KEYED_PREFIX).partition("/")
    path = slash + rest
    return (path if is_otlp(path) else MASKED_TOKEN + path), token


def types_of(path: str) -> frozenset[str]:
    """The media types that a body under /api may have."""
    if path in BATCH_PATHS:
        return JSON_TYPES | LINE_TYPES
    return JSON_TYPES | YAML_TYPES if path == IMPORT_PATH else JSON_TYPES


def max_body_bytes(path: str) -> int:
    """The most bytes a body may have, as it arrives and after inflating."""
    if path in BATCH_PATHS:
        return MAX_BATCH_BYTES
    if path in FORM_PATHS:
        return MAX_FORM_BYTES
    return MAX_OTLP_BYTES if path.startswith(OTLP_PREFIX) else MAX_BODY_BYTES


def too_large(path: str) -> BodyTooLargeError:
    return BodyTooLargeError(f"a body may have {max_body_bytes(path)} bytes here")


def takes_json(path: str) -> bool:
    return path.startswith(JSON_PREFIX)


def is_otlp(path: str) -> bool:
    return path.startswith(OTLP_PREFIX)
