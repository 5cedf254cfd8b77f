"""Answers OTLP over gRPC: the same steps as over HTTP, by the same rules.

The asyncio server of grpcio would fit better, but does not tell which host a client asked for (grpc/grpc
issue 38906), and the host is the tenant. The threaded one does, in an attribute that is not public. So a
thread holds each call, and everything that has to do with the database happens on one loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from time import perf_counter
from typing import Any, TypeVar, cast
from urllib.parse import unquote
from uuid import UUID

import grpc
import msgspec
import structlog
from litestar.types import Scope

from metrics_service.db.again import attempted
from metrics_service.db.failures import domain_error
from metrics_service.errors import (
    ForbiddenError,
    MalformedRequestError,
    MethodNotAllowedError,
    MetricsServiceError,
    UnavailableError,
)
from metrics_service.fields import Signal
from metrics_service.http.access_log import CLIENT_GONE as CLIENT_GONE_STATUS
from metrics_service.http.access_log import request_id_of
from metrics_service.http.admission import Purpose
from metrics_service.http.auth import header_credential
from metrics_service.http.dependencies import Caller
from metrics_service.http.diary_notes import reason_of, sender_of
from metrics_service.http.foundation import Foundation
from metrics_service.http.headers import Header
from metrics_service.http.in_flight import InFlight
from metrics_service.http.limits import MAX_OTLP_BYTES
from metrics_service.http.otlp_errors import status_for
from metrics_service.http.served import note_called
from metrics_service.http.tenant import require_served
from metrics_service.http.throttle import FailureThrottle, Network, client_address
from metrics_service.ingest.diary_page import UNKNOWN_SIGNAL, Sender, Taken
from metrics_service.observability.trace_context import NONE, trace_context
from metrics_service.observability.work import Work, begin, end, inside, is_tracing
from metrics_service.otlp.answers import answer_protobuf
from metrics_service.otlp.grpc_status import DETAILS, http_status, refused
from metrics_service.otlp.receive import receive
from metrics_service.tenants.authenticate import Principal
from metrics_service.tenants.names import normalize_host
from metrics_service.tenants.resolve import ServedTenant

_SERVICES = "/opentelemetry.proto.collector"
SIGNALS: dict[str, Signal] = {
    f"{_SERVICES}.logs.v1.LogsService/Export": "logs",
    f"{_SERVICES}.metrics.v1.MetricsService/Export": "metrics",
    f"{_SERVICES}.trace.v1.TraceService/Export": "traces",
}

MAX_CALLS = 256
# Threads for calls over the limit: they need one for a moment, to be told to come again.
SPARE_THREADS = 16
# Each holds a message of up to 64 MiB: fewer than requests over HTTP, whose bytes are counted.
EXPORTS_A_TENANT = 8
# gRPC shows no progress within a message, so this is for all of it.
MESSAGE_PATIENCE_S = 60.0

OK = "OK"
CLIENT_GONE = "CANCELLED"
"""The status in the log when a call was over before it was answered."""
NOT_WHOLE = f"the message did not arrive whole, or has more than {MAX_OTLP_BYTES} bytes"
"""Which of them, grpc does not tell."""

OTHER_METHOD = "_OTHER"

ResultT = TypeVar("ResultT")
log = structlog.get_logger(__name__)


class Call(msgspec.Struct):
    """One call: what its client said before the message."""

    context: Any
    """grpc's `ServicerContext`."""
    method: str
    headers: list[Header]
    work: Work
    tenant_id: UUID | None = None
    key_id: UUID | None = None
    principal_kind: str | None = None
    body_bytes: int = 0
    taken: Taken | None = None
    patience: asyncio.TimerHandle | None = None

    @property
    def known_method(self) -> str:
        """The method where it is one of ours: anything else is a client's own word."""
        return self.method.strip("/") if self.method in SIGNALS else OTHER_METHOD

    @property
    def authority(self) -> str:
        host: bytes = self.context._rpc_event.call_details.host  # noqa: SLF001  # see the module's text
        return host.decode("latin-1")

    def sender(self) -> Sender:
        signal = SIGNALS.get(self.method, UNKNOWN_SIGNAL)
        return sender_of(self.headers, key_id=self.key_id, signal=signal, encoding="grpc")

    def client(self, trusted_proxies: Sequence[Network]) -> str:
        scope = {"client": (peer_host(self.context.peer()), 0), "headers": self.headers}
        return client_address(cast("Scope", scope), trusted_proxies)


class CallBrokenOffError(Exception):
    """The client left, or sent more than the server takes: nobody is there to be answered."""


class Exports(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no types
    """The three Export services; calls of anything else are answered and logged too."""

    def __init__(
        self,
        foundation: Foundation,
        *,
        throttle: FailureThrottle,
        trusted_proxies: Sequence[Network],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._foundation = foundation
        self._throttle = throttle
        self._trusted_proxies = trusted_proxies
        self._loop = loop
        self._calls = threading.BoundedSemaphore(MAX_CALLS)
        self._in_flight = InFlight(EXPORTS_A_TENANT)
        self._in_flight_lock = threading.Lock()

    def service(self, handler_call_details: Any) -> Any:
        """Take every call as one that streams, which looks the same to a client with one message.

        A handler of single messages is not asked before the message is there, so that strangers could
        make the process hold 64 MiB each.
        """
        return grpc.stream_unary_rpc_method_handler(
            partial(self._answer, handler_call_details.method)
        )

    def _answer(self, method: str, messages: Iterator[bytes], context: Any) -> bytes:
        # A context of their own: bound here, it is the call's, and its coroutines' too.
        headers = _headers(context.invocation_metadata())
        call = Call(context, method, headers, _work(headers))
        structlog.contextvars.bind_contextvars(request_id=call.work.request_id)
        with inside(call.work):
            try:
                answer = self._serve(call, messages)
            except CallBrokenOffError:
                self._end(call, CLIENT_GONE, CLIENT_GONE_STATUS)
                self._note(call, 503, NOT_WHOLE)
                return b""
            except MetricsServiceError as error:
                refusal = refused(error)
                status = status_for(error, http_status(error))
                self._note(call, status, reason_of(error))
                self._end(call, refusal.code, status, is_ours=http_status(error) >= 500)
                context.set_trailing_metadata(((DETAILS, refusal.details),))
                context.abort(grpc.StatusCode[refusal.code], refusal.text)
            self._end(call, OK, 200)
            return answer

    def _end(self, call: Call, code: str, status: int, *, is_ours: bool = False) -> None:
        """Say in a line what became of it, and tell those who count, who belong to the loop's thread."""
        _describe(call, code, is_ours=is_ours)
        duration_s = _write(call, code, is_ours=is_ours)
        note = partial(
            note_called,
            self._foundation.activity,
            call.tenant_id,
            SIGNALS.get(call.method, UNKNOWN_SIGNAL),
            call.taken,
            size=call.body_bytes,
            method=call.known_method,
            code=code,
            status=status,
            duration_s=duration_s,
        )
        self._loop.call_soon_threadsafe(note)
        self._loop.call_soon_threadsafe(end, call.work)

    def _note(self, call: Call, status: int, reason: str) -> None:
        """Tell the diary, which belongs to the loop's thread."""
        if call.tenant_id is not None:
            self._loop.call_soon_threadsafe(
                self._foundation.database.diary.refuse,
                call.tenant_id,
                call.sender(),
                status,
                reason,
            )

    def _serve(self, call: Call, messages: Iterator[bytes]) -> bytes:
        # An exception that gets out would be UNKNOWN to the client, and what it sent would be lost.
        try:
            with self._one_of_all():
                return self._take(call, messages)
        except (MetricsServiceError, CallBrokenOffError):
            raise
        except concurrent.futures.CancelledError:
            raise UnavailableError from None
        except Exception as error:
            meaning = domain_error(error)
            if meaning is None:
                log.exception("request failed")
            raise meaning or UnavailableError from error

    def _take(self, call: Call, messages: Iterator[bytes]) -> bytes:
        signal = SIGNALS.get(call.method)
        if signal is None:
            raise MethodNotAllowedError("this method is not served here")
        caller = self._on_loop(self._admit(call))
        with self._place(caller.tenant_id):
            body = _message(messages)
            call.body_bytes = len(body)
            return self._on_loop(_store(call, caller, signal, body))

    async def _admit(self, call: Call) -> Caller:
        host = normalize_host(call.authority)
        tenant = require_served(await self._foundation.directory.find(host))
        call.tenant_id = tenant.id
        principal = await self._authenticate(call, host, tenant)
        call.key_id = principal.id
        call.principal_kind = principal.kind
        if not principal.allows("ingest"):
            raise ForbiddenError("this key lacks the scope ingest")
        database = self._foundation.database
        database.rate.take(tenant.id, principal.kind)
        database.admission.check(tenant.id, Purpose.WRITE)
        call.patience = self._loop.call_later(MESSAGE_PATIENCE_S, call.context.cancel)
        return Caller(tenant=tenant, principal=principal, database=database)

    async def _authenticate(self, call: Call, host: str, tenant: ServedTenant) -> Principal:
        key = header_credential(call.headers)
        keys = self._foundation.keys
        principal = await keys.find_principal(tenant.id, key) if key is not None else None
        if principal is not None:
            return principal
        address = call.client(self._trusted_proxies)
        self._throttle.refuse(address, host)
        error = await keys.why_not(tenant.id, key)
        call.key_id = error.key_id
        raise error

    @contextmanager
    def _one_of_all(self) -> Iterator[None]:
        """Take one of the process's places: the server's own limit would be final for clients."""
        if not self._calls.acquire(blocking=False):
            raise UnavailableError
        try:
            yield
        finally:
            self._calls.release()

    @contextmanager
    def _place(self, tenant_id: UUID) -> Iterator[None]:
        """Take one of the tenant's places; the count itself knows nothing of threads."""
        place = ExitStack()
        with self._in_flight_lock:
            place.enter_context(self._in_flight.hold(tenant_id))
        try:
            yield
        finally:
            with self._in_flight_lock:
                place.close()

    def _on_loop(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        # What has begun is finished, even when the client does not wait for it: the attempt that
        # follows then finds its items stored, instead of taking as long again.
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _store(call: Call, caller: Caller, signal: Signal, body: bytes) -> bytes:
    if call.patience is not None:
        call.patience.cancel()
    # The thread that holds the call holds the message too: another attempt costs no memory.
    reading = await attempted(
        partial(receive, caller, signal, body, is_json=False), is_repeatable=True
    )
    call.taken = reading.taken()
    caller.database.diary.accept(caller.tenant_id, call.sender(), call.taken)
    answer: bytes = answer_protobuf(signal, reading).SerializeToString()
    return answer


def _message(messages: Iterator[bytes]) -> bytes:
    try:
        return next(messages)
    except StopIteration:
        raise MalformedRequestError("there is no message that can be read") from None
    except grpc.RpcError:
        raise CallBrokenOffError from None


def _headers(metadata: Any) -> list[Header]:
    return [(key.encode(), value.encode()) for key, value in metadata if isinstance(value, str)]


def peer_host(peer: str) -> str:
    """The address in what grpc calls a peer: `ipv4:192.0.2.1:5000`, `ipv6:%5B2001:db8::1%5D:5000`."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _work(headers: list[Header]) -> Work:
    told = trace_context(headers) if is_tracing() else NONE
    return begin(
        "gRPC",
        kind="server",
        request_id=request_id_of(headers),
        trace_id=told.trace_id,
        parent_id=told.parent_id,
        is_sampled_by_caller=told.is_sampled,
        trace_state=told.state,
        is_own_export=told.is_own_export,
    )


def _describe(call: Call, code: str, *, is_ours: bool) -> None:
    """Say in its work what is known of the call now that it is answered."""
    work = call.work
    work.route = call.method if call.method in SIGNALS else "/:other"
    work.tenant_id = None if call.tenant_id is None else str(call.tenant_id)
    work.name = call.known_method
    work.attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": call.known_method,
        "rpc.response.status_code": code,
        "metrics_service.request_id": work.request_id or "",
    }
    if work.tenant_id is not None:
        work.attributes["metrics_service.tenant.id"] = work.tenant_id
    if call.principal_kind is not None:
        work.attributes["metrics_service.principal.kind"] = call.principal_kind
    if is_ours or code == CLIENT_GONE:
        work.error = code


def _write(call: Call, status: str, *, is_ours: bool = False) -> float:
    """One line about the call; returns how long it took."""
    duration_s = perf_counter() - call.work.started
    (log.warning if is_ours else log.info)(
        "request",
        method="gRPC",
        route=call.work.route,
        status=status,
        duration_ms=round(duration_s * 1000, 3),
        tenant=call.work.tenant_id,
    )
    return duration_s
