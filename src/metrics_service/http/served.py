"""What became of a request, counted: for the process's meters, and for its tenant's activity."""

from __future__ import annotations

from uuid import UUID

from litestar.types import Scope

from metrics_service.fleet.activity import Activity
from metrics_service.http.diary_notes import signal_of, taken_from
from metrics_service.http.headers import values_of
from metrics_service.http.limits import LIVE_PATH
from metrics_service.ingest.diary_page import Taken
from metrics_service.observability import catalog

NO_ROUTE = ""
"""Of what no route was found for: a path is a client's own word."""


def note_served(
    scope: Scope, activity: Activity | None, *, method: str, status: int, duration_s: float
) -> None:
    """Count a request that was answered; an operator's is no tenant's and has no activity."""
    route = scope.get("path_template") or NO_ROUTE
    if route != LIVE_PATH or status != 200:
        # A page that waits for news for hours is not slow.
        catalog.HTTP_REQUEST_DURATION.record(
            duration_s, catalog.known_method(method), route, status
        )
    tenant_id = scope["state"].get("tenant_id")
    if activity is None or tenant_id is None:
        return
    signal = signal_of(scope)
    if signal is None:
        activity.note(tenant_id, status=status)
        return
    taken = taken_from(scope) if status < 400 else None
    # Of a body that was taken in, the guard has written how long it really is.
    size = 0 if taken is None else int(values_of(scope["headers"], b"content-length")[0])
    _note(activity, tenant_id, signal, taken, status=status, size=size)


def note_called(
    activity: Activity,
    tenant_id: UUID | None,
    signal: str,
    taken: Taken | None,
    *,
    size: int,
    method: str,
    code: str,
    status: int,
    duration_s: float,
) -> None:
    """Count a call over gRPC; its status is what HTTP would have answered, its method one of ours."""
    catalog.RPC_DURATION.record(duration_s, method, code)
    if tenant_id is not None:
        _note(activity, str(tenant_id), signal, taken, status=status, size=size)


def _note(
    activity: Activity,
    tenant_id: str,
    signal: str,
    taken: Taken | None,
    *,
    status: int,
    size: int,
) -> None:
    if taken is None:
        catalog.INGEST_REQUESTS.add(1, signal, "refused")
        activity.note(tenant_id, status=status)
        return
    catalog.INGEST_REQUESTS.add(1, signal, "accepted")
    inserted, refused = taken.items - taken.duplicates, sum(taken.refused.values())
    for count, outcome in (
        (inserted, "inserted"),
        (taken.duplicates, "duplicate"),
        (refused, "refused"),
    ):
        if count:
            catalog.INGEST_RECORDS.add(count, signal, outcome)
    catalog.INGEST_BYTES.add(size, signal)
    activity.note(
        tenant_id, status=status, records=inserted, duplicates=taken.duplicates, size=size
    )
