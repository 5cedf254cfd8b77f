"""Who is speaking: the resource of everything that one process sends, and the scope of what is in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from importlib.metadata import version
from uuid import uuid4

from metrics_service.observability.export.wire import key_value, text
from metrics_service.observability.own_exports import NAME
from metrics_service.observability.work import Attribute


def resource_of(given: Mapping[str, str], *, process: str) -> dict[str, Attribute]:
    """What is known about this process; what the environment says comes first."""
    own: dict[str, Attribute] = {
        "service.version": version(NAME),
        # Several workers are several instances: what they count is not one series.
        "service.instance.id": str(uuid4()),
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
        "metrics_service.process": process,
    }
    return {**own, **given}


def encoded_resource(attributes: Mapping[str, Attribute]) -> bytes:
    """`opentelemetry.proto.resource.v1.Resource`."""
    return b"".join(key_value(1, key, value) for key, value in attributes.items())


def encoded_scope() -> bytes:
    """`opentelemetry.proto.common.v1.InstrumentationScope`."""
    return text(1, NAME.replace("-", "_")) + text(2, version(NAME))
