"""Posts to one endpoint as an exporter does; waits for an answer, and reads of it, no more than one of OTLP takes."""

from __future__ import annotations

import ssl
from contextlib import suppress
from types import TracebackType
from typing import Self

import httpx

from metrics_service.fields import Signal
from metrics_service.send_test.answers import HttpAnswer, Meaning, read_answer
from metrics_service.send_test.diagnosis import Finding, Symptom
from metrics_service.send_test.endpoint import Endpoint, Told
from metrics_service.send_test.environment import Proxy, find_proxy, trusted
from metrics_service.send_test.patience import Patience
from metrics_service.send_test.probe import HTTP, find_cause

# More than any answer of OTLP; whatever else answers may never end.
MAX_ANSWER_BYTES = 256 * 1024


class Poster:
    """A connection to one endpoint: no redirect is followed, nothing is tried again."""

    def __init__(self, endpoint: Endpoint, told: Told, *, user_agent: str) -> None:
        """Raises `UnusableError` where the environment is in the way."""
        self._endpoint = endpoint
        self._told = told
        self._user_agent = user_agent
        self.proxy = find_proxy(endpoint, is_grpc=False)
        self._client = _new_client(self.proxy, told)
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

    def post(
        self, signal: Signal, body: bytes, *, media_type: str, is_gzipped: bool = False
    ) -> tuple[Meaning, HttpAnswer | None]:
        """Post an export: what the answer means, and the answer where there is one."""
        try:
            answer = self._answer(signal, body, media_type, is_gzipped=is_gzipped)
        # The name of a proxy that is none is found when it is looked up.
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            return Meaning(self._cause(error)), None
        meaning = read_answer(
            answer,
            self._endpoint,
            signal,
            sent=media_type,
            has_credential=self._told.has_credential or self._endpoint.has_key,
        )
        return meaning, answer

    def _answer(
        self, signal: Signal, body: bytes, media_type: str, *, is_gzipped: bool
    ) -> HttpAnswer:
        request = self._client.build_request(
            "POST",
            self._endpoint.url(f"/v1/{signal}"),
            headers={
                # What is packed small may be of any size.
                "accept-encoding": "identity",
                "user-agent": self._user_agent,
                "host": self._endpoint.asked,
                **self._told.headers,
                "content-type": media_type,
                **({"content-encoding": "gzip"} if is_gzipped else {}),
            },
            content=body,
            extensions={**_sni_of(self._endpoint), "trace": self._patience.note},
        )
        with self._patience.for_part():
            response = self._client.send(request, stream=True)
        try:
            return self._read(response)
        finally:
            response.close()

    def _read(self, response: httpx.Response) -> HttpAnswer:
        body, is_whole = b"", False
        with suppress(httpx.ReadTimeout), self._patience.for_part():
            # As it came: whoever packs it all the same is not to have it unpacked.
            for piece in response.iter_raw():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    break
            else:
                is_whole = not self._patience.is_over
        return HttpAnswer(
            response.status_code, dict(response.headers), body[:MAX_ANSWER_BYTES], is_whole
        )

    def _cause(self, error: Exception) -> Finding:
        """Why there is no answer to a request that ended in this error."""
        if self.proxy is not None:
            return Finding(Symptom.PROXY_FAILED, f"{self.proxy.words} does not let it pass")
        if isinstance(error, httpx.ConnectTimeout):
            return Finding(Symptom.CONNECT_TIMEOUT)
        found = find_cause(self._endpoint, wants=HTTP, timeout_s=self._told.timeout_s)
        if found is not None:
            return found
        # Somebody speaks HTTP there, and did not this time.
        is_late = isinstance(error, httpx.TimeoutException)
        return Finding(Symptom.SILENT if is_late else Symptom.BROKEN_OFF)


def _new_client(proxy: Proxy | None, told: Told) -> httpx.Client:
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


def _sni_of(endpoint: Endpoint) -> dict[str, str]:
    """What TLS is to be told where the host that is asked for is not the one connected to."""
    is_renamed = endpoint.is_tls and endpoint.asked_name != endpoint.host
    return {"sni_hostname": endpoint.asked_name} if is_renamed else {}
