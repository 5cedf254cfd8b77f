"""Sends over HTTP as an exporter does: one POST for each signal, no redirect followed, nothing tried again."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Self

import httpx
import msgspec

from metrics_service.fields import Protocol
from metrics_service.send_test.answers import JSON, PROTOBUF, HttpAnswer, Meaning, read_answer
from metrics_service.send_test.as_json import as_json
from metrics_service.send_test.diagnosis import Finding, Symptom
from metrics_service.send_test.endpoint import Endpoint, Told
from metrics_service.send_test.environment import Proxy, find_proxy, trusted
from metrics_service.send_test.patience import Patience
from metrics_service.send_test.probe import HTTP, find_cause
from metrics_service.send_test.session import Export

# More than any answer of OTLP; whatever else answers may never end.
MAX_ANSWER_BYTES = 256 * 1024
USER_AGENT = "metrics-service-send-test"


class Reply(msgspec.Struct, frozen=True):
    """What came back, over whichever protocol."""

    meaning: Meaning
    status: str = ""


class HttpSender:
    """A connection to one endpoint, in one of the two encodings."""

    def __init__(self, protocol: Protocol, endpoint: Endpoint, told: Told) -> None:
        self._endpoint = endpoint
        self._told = told
        self._is_json = protocol == "http/json"
        self.proxy = find_proxy(endpoint, is_grpc=False)
        self._client = new_client(self.proxy, told)
        self._patience = Patience(told.timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def send(self, export: Export) -> Reply:
        media_type = JSON if self._is_json else PROTOBUF
        body = as_json(export.request) if self._is_json else export.request.SerializeToString()
        try:
            answer = self._post(f"/v1/{export.signal}", media_type, body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            cause = cause_of(error, self._endpoint, self.proxy, self._told)
            return Reply(Meaning(cause))
        meaning = read_answer(
            answer,
            self._endpoint,
            export.signal,
            sent=media_type,
            has_credential=self._told.has_credential or self._endpoint.has_key,
        )
        return Reply(meaning, str(answer.status))

    def _post(self, path: str, media_type: str, body: bytes) -> HttpAnswer:
        deadline = monotonic() + self._told.timeout_s
        request = self._client.build_request(
            "POST",
            self._endpoint.url(path),
            headers={
                "accept-encoding": "identity",
                "user-agent": USER_AGENT,
                "host": self._endpoint.asked,
                **self._told.headers,
                "content-type": media_type,
            },
            content=body,
            extensions={**sni_of(self._endpoint), "trace": self._patience.note},
        )
        with self._open(request) as response:
            body = _beginning(response, deadline)
            return HttpAnswer(response.status_code, dict(response.headers), body)

    @contextmanager
    def _open(self, request: httpx.Request) -> Iterator[httpx.Response]:
        with self._patience.for_head():
            response = self._client.send(request, stream=True)
        try:
            yield response
        finally:
            response.close()


def cause_of(error: Exception, endpoint: Endpoint, proxy: Proxy | None, told: Told) -> Finding:
    """Why there is no answer to a request that ended in this error."""
    if proxy is not None:
        return Finding(Symptom.PROXY_FAILED, f"{proxy.words} does not let it pass")
    if isinstance(error, httpx.ConnectTimeout):
        return Finding(Symptom.CONNECT_TIMEOUT)
    found = find_cause(endpoint, wants=HTTP, timeout_s=told.timeout_s)
    if found is not None:
        return found
    # Somebody speaks HTTP there, and did not this time.
    is_late = isinstance(error, httpx.TimeoutException)
    return Finding(Symptom.SILENT if is_late else Symptom.BROKEN_OFF)


def new_client(proxy: Proxy | None, told: Told) -> httpx.Client:
    """A client that does what an exporter does, and no more."""
    trust: ssl.SSLContext = trusted()
    return httpx.Client(
        verify=trust,
        proxy=None if proxy is None else _proxied(proxy, trust),
        timeout=told.timeout_s,
        # What it would read from there is found in environment.py, where it can be told of.
        trust_env=False,
        follow_redirects=False,
    )


def _proxied(proxy: Proxy, trust: ssl.SSLContext) -> httpx.Proxy:
    is_tls = proxy.url.startswith("https:")
    return httpx.Proxy(proxy.url, ssl_context=trust if is_tls else None)


def sni_of(endpoint: Endpoint) -> dict[str, str]:
    """What TLS is to be told where the host that is asked for is not the one connected to."""
    is_renamed = endpoint.is_tls and endpoint.asked_name != endpoint.host
    return {"sni_hostname": endpoint.asked_name} if is_renamed else {}


def _beginning(response: httpx.Response, deadline: float) -> bytes:
    body = b""
    for piece in response.iter_raw():
        body += piece
        if len(body) >= MAX_ANSWER_BYTES or monotonic() > deadline:
            break
    return body[:MAX_ANSWER_BYTES]
