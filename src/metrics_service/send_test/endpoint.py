"""Where to send, with what: an endpoint, a key and headers, as an exporter would be told."""

from __future__ import annotations

import re
from collections.abc import Iterable

import httpx
import msgspec

from metrics_service.fields import Protocol
from metrics_service.http.limits import KEYED_PREFIX
from metrics_service.send_test.diagnosis import ADVICE, Finding, Symptom, UnusableError

GRPC_PORT = 4317
PORTS = {"http": 80, "https": 443}
KEY_HEADER = "x-api-key"
CREDENTIALS = frozenset({KEY_HEADER, "authorization"})
# Not worth hiding, and likely to be a word of an answer.
MIN_SECRET_LENGTH = 8
HIDDEN = "***"

_scheme = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_keyed = re.compile(rf"(?<={re.escape(KEYED_PREFIX)})[^/]+")
_is_key = re.compile(r"[!-~]+").fullmatch
_is_header_name = re.compile(r"[A-Za-z0-9_.-]+").fullmatch
_is_header_value = re.compile(r"[ -~]*").fullmatch
_is_host = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?(:[0-9]{1,5})?").fullmatch
# What an exporter says about its own bytes.
_FRAMING = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "te", "transfer-encoding"}
)


class Endpoint(msgspec.Struct, frozen=True):
    """An address that can be sent to."""

    scheme: str
    host: str
    """In ASCII, as it is resolved."""
    port: int
    path: str
    """Without a slash at its end; what comes before `/v1/logs`."""
    asked: str
    """The host that the server is asked for: the tenant's."""

    @property
    def is_tls(self) -> bool:
        return self.scheme == "https"

    @property
    def has_key(self) -> bool:
        """Whether the path holds one."""
        return KEYED_PREFIX in self.path

    @property
    def authority(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def asked_name(self) -> str:
        """The host that is asked for, without a port."""
        if self.asked == _at(self.host, self.port, self.scheme):
            return self.host
        return self.asked.partition(":")[0]

    @property
    def shown(self) -> str:
        """The address without the key that may be in its path."""
        path = _keyed.sub(HIDDEN, self.path)
        return f"{self.scheme}://{_at(self.host, self.port, self.scheme)}{path}"

    @property
    def page(self) -> str:
        """Where the same server answers to people, at the host that was asked for."""
        asked = self.asked
        if self.asked_name != self.host and ":" not in asked:
            asked = _at(asked, self.port, self.scheme)
        return f"{self.scheme}://{asked}{self.path.partition(KEYED_PREFIX)[0]}"

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.authority}{self.path}{path}"

    def advice(self, finding: Finding) -> str:
        """What to change."""
        return ADVICE[finding.symptom].format(
            scheme=self.scheme,
            host=self.host,
            port=self.port,
            asked=self.asked_name,
            endpoint=self.shown,
            detail=finding.detail,
        )

    def of_grpc(self) -> Endpoint:
        """The usual place of gRPC beside this one of HTTP."""
        asked = self.asked_name if self.asked_name != self.host else ""
        return msgspec.structs.replace(
            self,
            port=GRPC_PORT,
            path="",
            asked=asked or _at(self.host, GRPC_PORT, self.scheme),
        )


class Target(msgspec.Struct, frozen=True):
    """One protocol, and where it goes."""

    protocol: Protocol
    endpoint: Endpoint


class Told(msgspec.Struct, frozen=True):
    """What is sent along with every request."""

    headers: dict[str, str]
    timeout_s: float

    @property
    def has_credential(self) -> bool:
        return not CREDENTIALS.isdisjoint(self.headers)

    def hide(self, text: str) -> str:
        """Blot out what must not be seen, whoever repeats it."""
        for value in sorted(self.headers.values(), key=len, reverse=True):
            if len(value) >= MIN_SECRET_LENGTH:
                text = text.replace(value, HIDDEN)
        return _keyed.sub(HIDDEN, text)


def parse_endpoint(text: str, *, host: str | None, is_grpc: bool = False) -> Endpoint:
    """Read an endpoint; raises `UnusableError` for one that no exporter could send to."""
    text = text.strip()
    url = _url(text)
    if is_grpc and url.path.strip("/"):
        raise UnusableError(Symptom.GRPC_HAS_PATH, _keyed.sub(HIDDEN, url.path))
    if host is not None and not _is_host(host):
        raise UnusableError(Symptom.HOST_UNUSABLE, repr(host))
    name, port = url.raw_host.decode("ascii").strip("[]"), url.port or PORTS[url.scheme]
    return Endpoint(
        scheme=url.scheme,
        host=name,
        port=port,
        path=url.raw_path.decode("ascii").rstrip("/"),
        asked=host or _at(name, port, url.scheme),
    )


def _url(text: str) -> httpx.URL:
    scheme = _scheme.match(text)
    if scheme is None:
        raise UnusableError(Symptom.SCHEME_MISSING, endpoint=_without_user(text))
    if scheme[1].lower() not in PORTS:
        raise UnusableError(Symptom.SCHEME_OTHER, scheme[1])
    try:
        url = httpx.URL(text)
        # As it is resolved, which knows of longer and empty labels too late, and `host` of odd ones.
        url.raw_host.decode("ascii").encode("idna")
        host = url.host
    except (httpx.InvalidURL, UnicodeError):
        # Its own message repeats what may be a piece of a password.
        raise UnusableError(
            Symptom.URL_UNREADABLE,
            "look at its name and its port, and for odd characters",
            endpoint=_without_user(text),
        ) from None
    # Not of the parsed one, for which an empty query is none.
    if "?" in text or "#" in text:
        raise UnusableError(Symptom.URL_HAS_QUERY)
    if url.userinfo:
        raise UnusableError(Symptom.URL_HAS_PASSWORD)
    if not host or not 0 < (url.port or 1) < 65536:
        problem = "its port is out of range" if host else "there is no host"
        raise UnusableError(Symptom.URL_UNREADABLE, problem, endpoint=text)
    return url


def _without_user(text: str) -> str:
    return _keyed.sub(HIDDEN, re.sub(r"[^/\s]*@", "", text.partition("?")[0]))


def parse_told(
    key: str | None, headers: Iterable[str], timeout_s: float
) -> tuple[Told, str | None]:
    """Read key and headers; the second is the host, where a header names it.

    Raises `UnusableError` for what no HTTP client can send.
    """
    told: dict[str, str] = {}
    if key is not None:
        _check_key(key)
        told[KEY_HEADER] = key
    for header in headers:
        name, value = _header(header)
        told[name] = value
    host = told.pop("host", None)
    return Told(headers=told, timeout_s=timeout_s), host


def _check_key(key: str) -> None:
    if _is_key(key):
        return
    problem = "has a character outside of ASCII"
    if not key:
        problem = "is empty"
    elif "\n" in key or "\r" in key:
        problem = "has a line break"
    elif key.isascii():
        problem = "has a space or a control character"
    raise UnusableError(Symptom.KEY_UNUSABLE, problem)


def _header(text: str) -> tuple[str, str]:
    # The value is not repeated: it may be a key.
    name, equals, value = text.partition("=")
    name, value = name.strip().lower(), value.strip()
    problem = None
    if not equals or not name:
        problem = "has no name, or no = after it"
    elif not _is_header_name(name) or name.endswith("-bin"):
        problem = f"has a name that cannot be sent, {name[:40]!r}"
    elif name in _FRAMING:
        problem = f"{name} is the exporter's own"
    elif not _is_header_value(value):
        problem = f"{name} has a line break or a character outside of ASCII"
    if problem is not None:
        raise UnusableError(Symptom.HEADER_UNUSABLE, problem)
    return name, value


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _at(host: str, port: int, scheme: str) -> str:
    return _bracketed(host) if port == PORTS[scheme] else f"{_bracketed(host)}:{port}"
