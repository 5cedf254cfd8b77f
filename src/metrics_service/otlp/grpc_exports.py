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

from metrics_service.db.failures import domain_error
from metrics_service.errors import (
    ForbiddenError,
    MalformedRequestError,
    MethodNotAllowedError,
    MetricsServiceError,
    UnavailableError,
)
from metrics_service.fields import Signal
from metrics_service.http.access_log import request_id_of
from metrics_service.http.auth import header_credential
from metrics_service.http.dependencies import Caller
from metrics_service.http.diary_notes import reason_of, sender_of
from metrics_service.http.foundation import Foundation
from metrics_service.http.headers import Header
from metrics_service.http.limits import MAX_OTLP_BYTES
from metrics_service.http.otlp_errors import status_for
from metrics_service.http.tenant import require_served
from metrics_service.http.throttle import FailureThrottle, InFlight, Network, client_address
from metrics_service.ingest.diary_page import UNKNOWN_SIGNAL, Sender
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

ResultT = TypeVar("ResultT")
log = structlog.get_logger(__name__)


class Call(msgspec.Struct):
    """One call: what its client said before the message."""

    context: Any
    """grpc's `ServicerContext`."""
    method: str
    headers: list[Header]
    started: float
    tenant_id: UUID | None = None
    key_id: UUID | None = None
    patience: asyncio.TimerHandle | None = None

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
        call = Call(context, method, _headers(context.invocation_metadata()), perf_counter())
        structlog.contextvars.bind_contextvars(request_id=request_id_of(call.headers))
        try:
            answer = self._serve(call, messages)
        except CallBrokenOffError:
            _write(call, CLIENT_GONE)
            self._note(call, 503, NOT_WHOLE)
            return b""
        except MetricsServiceError as error:
            refusal = refused(error)
            self._note(call, status_for(error, http_status(error)), reason_of(error))
            _write(call, refusal.code, is_ours=http_status(error) >= 500)
            context.set_trailing_metadata(((DETAILS, refusal.details),))
            context.abort(grpc.StatusCode[refusal.code], refusal.text)
        _write(call, OK)
        return answer

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
            return self._on_loop(_store(call, caller, signal, body))

    async def _admit(self, call: Call) -> Caller:
        host = normalize_host(call.authority)
        tenant = require_served(await self._foundation.directory.find(host))
        call.tenant_id = tenant.id
        principal = await self._authenticate(call, host, tenant)
        call.key_id = principal.id
        if not principal.allows("ingest"):
            raise ForbiddenError("this key lacks the scope ingest")
        call.patience = self._loop.call_later(MESSAGE_PATIENCE_S, call.context.cancel)
        return Caller(tenant=tenant, principal=principal, database=self._foundation.database)

    async def _authenticate(self, call: Call, host: str, tenant: ServedTenant) -> Principal:
        key = header_credential(call.headers)
        keys = self._foundation.keys
        principal = await keys.find_principal(tenant.id, key) if key is not None else None
        if principal is not None:
            return principal
        # Only failing attempts are counted and refused: a valid credential is always served.
        address = call.client(self._trusted_proxies)
        self._throttle.check(address, host)
        self._throttle.record_failure(address, host)
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
    reading = await receive(caller, signal, body, is_json=False)
    caller.database.diary.accept(caller.tenant_id, call.sender(), reading.taken())
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


def _write(call: Call, status: str, *, is_ours: bool = False) -> None:
    (log.warning if is_ours else log.info)(
        "request",
        method="gRPC",
        route=call.method if call.method in SIGNALS else "/:other",
        status=status,
        duration_ms=round((perf_counter() - call.started) * 1000, 3),
        tenant=None if call.tenant_id is None else str(call.tenant_id),
    )
