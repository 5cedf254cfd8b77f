"""What an answer over HTTP means: the server's own words where they are its own, else whose they may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from metrics_service.errors import TenantSuspendedError, UnknownHostError
from metrics_service.fields import Signal
from metrics_service.send_test.diagnosis import Finding, Symptom
from metrics_service.send_test.endpoint import Endpoint
from metrics_service.send_test.session import KINDS

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
MAX_MESSAGE = 300
MAX_SEEN = 80
MAX_DIGITS = 6
# As the throttle of the server says it, which counts keys that fail.
_FAILED_TOO_OFTEN = "too many failed authentications"
# What Go's servers and nginx say to plain HTTP where they expect TLS.
_WANTS_TLS = (b"to an HTTPS server", b"sent to HTTPS port")
_BUSY = frozenset({429, 502, 503, 504})
# JSON that is none, that is no UTF-8, or that is nested too deeply.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
SIGNAL_PATHS = ("/v1/logs", "/v1/metrics", "/v1/traces")


class HttpAnswer(msgspec.Struct, frozen=True):
    """An answer, of whoever it is."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True
    """False where only the beginning of the body was waited for."""

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def looks(self) -> str:
        """What there is to see of a stranger."""
        words = [f"status {self.status}"]
        if self.media_type:
            words.append(self.media_type[:MAX_SEEN])
        if server := self.headers.get("server", ""):
            words.append(f"Server: {server[:MAX_SEEN]}")
        return ", ".join(words)


class Meaning(msgspec.Struct, frozen=True):
    """What an answer says."""

    finding: Finding | None = None
    message: str = ""
    """The server's own."""
    rejected: int = 0


def read_answer(
    answer: HttpAnswer, endpoint: Endpoint, signal: Signal, *, sent: str, has_credential: bool
) -> Meaning:
    """Say what came back for a request of the media type `sent`."""
    if 300 <= answer.status < 400:
        return Meaning(_of_redirect(answer, endpoint))
    if answer.status == 200:
        return _of_success(answer, signal, sent)
    message = _status_message(answer)
    if answer.status == 400 and any(words in answer.body for words in _WANTS_TLS):
        return Meaning(Finding(Symptom.PLAIN_TO_TLS))
    return Meaning(
        _of_failure(answer, endpoint, message, has_credential=has_credential), message or ""
    )


def of_message(message: Any, signal: Signal) -> Meaning:
    """What a decoded success says of refused items."""
    partial = message.partial_success
    rejected = max(0, int(getattr(partial, KINDS[signal].rejected)))
    finding = Finding(Symptom.ITEMS_REFUSED) if rejected else None
    return Meaning(finding, partial.error_message[:MAX_MESSAGE], rejected)


def refusal_of(
    status: int, message: str, endpoint: Endpoint, *, has_credential: bool
) -> Finding | None:
    """What the server means by a refusal that is its own; None where the status alone says it."""
    if status == 401:
        return Finding(Symptom.KEY_UNKNOWN if has_credential else Symptom.KEY_MISSING)
    if status == 403:
        is_suspended = message == str(TenantSuspendedError())
        return Finding(Symptom.SUSPENDED if is_suspended else Symptom.SCOPE_MISSING)
    if status == 404:
        return _of_nowhere(message, endpoint)
    return Finding(Symptom.METHOD) if status == 405 else None


def _of_nowhere(message: str, endpoint: Endpoint) -> Finding:
    if message == str(UnknownHostError()):
        return Finding(Symptom.HOST_UNKNOWN)
    for path in SIGNAL_PATHS:
        if endpoint.path.endswith(path):
            return Finding(Symptom.PATH_TWICE, path)
    return Finding(Symptom.PATH_WRONG, f"{endpoint.shown}/v1/...")


def _of_redirect(answer: HttpAnswer, endpoint: Endpoint) -> Finding:
    target = answer.headers.get("location", "")
    try:
        parts = urlsplit(target)
        host = parts.hostname
    except ValueError:
        return Finding(Symptom.REDIRECT, "an address that cannot be read")
    # Without its query, in which sign-in pages keep what nobody else should see.
    place = (
        f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if host else parts.path
    )
    if (
        not endpoint.is_tls
        and parts.scheme == "https"
        and host in {endpoint.host, endpoint.asked_name}
    ):
        for path in SIGNAL_PATHS:
            place = place.removesuffix(path)
        return Finding(Symptom.REDIRECT_TO_TLS, place.rstrip("/"))
    return Finding(Symptom.REDIRECT, place[:MAX_SEEN] or "nowhere")


def _of_success(answer: HttpAnswer, signal: Signal, sent: str) -> Meaning:
    if answer.media_type != sent:
        is_page = answer.media_type == "text/html"
        return Meaning(Finding(Symptom.FOREIGN if is_page else Symptom.NOT_OTLP, answer.looks))
    if not answer.is_whole:
        # Whatever the beginning says: what is acknowledged stands in the whole.
        return Meaning(Finding(Symptom.NOT_OTLP, f"{answer.looks}, without an end"))
    message = KINDS[signal].answer()
    try:
        if sent == JSON:
            ParseDict(msgspec.json.decode(answer.body), message)
        else:
            message.ParseFromString(answer.body)
    except (*_UNREADABLE, ParseError, DecodeError, TypeError, AttributeError):
        return Meaning(Finding(Symptom.NOT_OTLP, f"{answer.looks}, of another form"))
    return of_message(message, signal)


def _status_message(answer: HttpAnswer) -> str | None:
    """The text of a `google.rpc.Status` or of a problem (RFC 9457); None: the answer is neither."""
    if answer.media_type == PROTOBUF:
        try:
            return str(Status.FromString(answer.body).message)[:MAX_MESSAGE]
        except DecodeError:
            return None
    try:
        said = msgspec.json.decode(answer.body) if "json" in answer.media_type else None
    except _UNREADABLE:
        return None
    if not isinstance(said, dict):
        return None
    message = said.get("message" if answer.media_type == JSON else "detail")
    return message[:MAX_MESSAGE] if isinstance(message, str) else None


def _of_failure(
    answer: HttpAnswer, endpoint: Endpoint, message: str | None, *, has_credential: bool
) -> Finding:
    status = answer.status
    if status == 407:
        return Finding(Symptom.PROXY_FAILED, "a proxy wants a password (status 407)")
    if status in _BUSY:
        return busy(message or "", answer.headers.get("retry-after"))
    symptom = _symptom_of(status)
    if symptom is not None:
        return Finding(symptom, answer.looks)
    if message is None:
        return Finding(Symptom.FOREIGN, answer.looks)
    known = refusal_of(status, message, endpoint, has_credential=has_credential)
    return known or Finding(Symptom.NOT_ACCEPTED, f"status {status}")


def _symptom_of(status: int) -> Symptom | None:
    """What a status means by itself, whoever says it: the server, or a proxy in between."""
    if 200 < status < 300:
        return Symptom.NOT_OTLP
    # A server of pages that knows no POST at all says 501.
    if status >= 500 and status != 501:
        return Symptom.SERVER_ERROR
    return {413: Symptom.TOO_LARGE, 415: Symptom.MEDIA_TYPE}.get(status)


def busy(message: str, wait_s: str | None) -> Finding:
    """What to say of a server that wants to be asked again, perhaps after some seconds."""
    if _FAILED_TOO_OFTEN in message:
        return Finding(Symptom.TOO_MANY_FAILURES)
    is_told = (
        wait_s is not None and wait_s.isdecimal() and wait_s != "0" and len(wait_s) <= MAX_DIGITS
    )
    return Finding(Symptom.BUSY, f" in {wait_s} s" if is_told else "")
