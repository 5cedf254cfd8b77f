"""Finds out why there is no conversation, by trying each step of one: name, connection, TLS, language.

Clients say it in a hundred different texts; the steps themselves do not.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import closing

from metrics_service.send_test.diagnosis import Finding, Symptom
from metrics_service.send_test.endpoint import Endpoint
from metrics_service.send_test.environment import trusted

# The steps come after a request that has already been waited for.
MAX_STEP_S = 3.0
HTTP = "HTTP/1.1"
GRPC = "gRPC"
_TLS = "TLS"
_NOTHING = "nothing"
_GOODBYE = "goodbye"
_ALPN = {HTTP: "http/1.1", GRPC: "h2"}
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"})
_WRONG_LANGUAGE = {
    HTTP: Symptom.GRPC_TO_HTTP,
    GRPC: Symptom.HTTP_TO_GRPC,
    _TLS: Symptom.PLAIN_TO_TLS,
    _NOTHING: Symptom.SILENT,
    _GOODBYE: Symptom.BROKEN_OFF,
}

# Begins a conversation in HTTP/2 (RFC 9113, 3.4): the preface and empty settings. Whoever speaks
# HTTP/1.1 or TLS answers that it is none of theirs, each in their own way.
_HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_SETTINGS = 4
_ALERT = 0x15
_MISMATCHES = frozenset({62, 63, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and those of addresses."""
_TIMES = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


def find_cause(endpoint: Endpoint, *, wants: str, timeout_s: float) -> Finding | None:
    """Why nobody at the endpoint speaks what is wanted; None where somebody does."""
    step_s = min(timeout_s, MAX_STEP_S)
    try:
        connection = _connected(endpoint, step_s)
    except OSError as error:
        return _of_connecting(endpoint, error)
    with closing(connection):
        if endpoint.is_tls:
            return _of_tls(endpoint, connection, wants)
    spoken = _language(endpoint, step_s)
    if spoken == wants:
        return None
    return Finding(_WRONG_LANGUAGE[spoken])


def of_name(host: str) -> Finding:
    """What to say of a name that is not known."""
    is_local = host.lower().rstrip(".").endswith("localhost")
    return Finding(Symptom.NAME_LOCALHOST if is_local else Symptom.NAME_UNKNOWN)


def of_certificate(error: ssl.SSLCertVerificationError) -> Finding:
    """What to say of a certificate that is refused."""
    symptom = Symptom.CERTIFICATE_UNTRUSTED
    if error.verify_code in _MISMATCHES:
        symptom = Symptom.CERTIFICATE_HOST
    elif error.verify_code in _TIMES:
        symptom = Symptom.CERTIFICATE_EXPIRED
    return Finding(symptom, error.verify_message.rstrip("."))


def _of_connecting(endpoint: Endpoint, error: OSError) -> Finding:
    if isinstance(error, socket.gaierror):
        return of_name(endpoint.host)
    if isinstance(error, ConnectionRefusedError):
        return Finding(Symptom.REFUSED)
    if isinstance(error, TimeoutError):
        return Finding(Symptom.CONNECT_TIMEOUT)
    return Finding(Symptom.UNREACHABLE, error.strerror or type(error).__name__)


def _connected(endpoint: Endpoint, step_s: float) -> socket.socket:
    return socket.create_connection((endpoint.host, endpoint.port), timeout=step_s)


def _of_tls(endpoint: Endpoint, connection: socket.socket, wants: str) -> Finding | None:
    try:
        agreed = _agreed(endpoint, connection, _ALPN[wants])
    except OSError as error:
        return _of_handshake(endpoint, error)
    if wants == GRPC:
        return None if agreed else Finding(Symptom.GRPC_TO_HTTP)
    # Many who speak HTTP/1.1 do not agree on it: it goes without saying.
    return Finding(Symptom.HTTP_TO_GRPC) if not agreed and _has_http_2(endpoint) else None


def _of_handshake(endpoint: Endpoint, error: OSError) -> Finding:
    if isinstance(error, ssl.SSLCertVerificationError):
        return of_certificate(error)
    if isinstance(error, TimeoutError):
        return Finding(Symptom.SILENT)
    if isinstance(error, ssl.SSLError) and error.reason not in _NO_TLS | {None}:
        return Finding(Symptom.TLS_FAILED, str(error.reason).lower())
    # Whoever does not know TLS answers in what they know, or hangs up.
    is_plain = _language(endpoint, MAX_STEP_S) in {HTTP, GRPC}
    return Finding(Symptom.TLS_TO_PLAIN if is_plain else Symptom.BROKEN_OFF)


def _agreed(endpoint: Endpoint, connection: socket.socket, protocol: str) -> bool:
    """Whether the other side agrees to the protocol within TLS (ALPN, RFC 7301)."""
    context = trusted()
    context.set_alpn_protocols([protocol])
    try:
        with context.wrap_socket(connection, server_hostname=endpoint.asked_name) as secured:
            return secured.selected_alpn_protocol() == protocol
    except ssl.SSLError as error:
        if "NO_APPLICATION_PROTOCOL" in (error.reason or ""):
            return False
        raise


def _has_http_2(endpoint: Endpoint) -> bool:
    try:
        with closing(_connected(endpoint, MAX_STEP_S)) as connection:
            return _agreed(endpoint, connection, _ALPN[GRPC])
    except OSError:
        return False


def _language(endpoint: Endpoint, step_s: float) -> str:
    """What is spoken at a port, TLS included."""
    said = _said(endpoint, _HTTP_2, step_s)
    if said[3:4] == bytes([_SETTINGS]):
        return GRPC
    if said.startswith(b"HTTP/"):
        return HTTP
    if said[:1] == bytes([_ALERT]) or _takes_tls(endpoint, step_s):
        return _TLS
    hello = f"HEAD / HTTP/1.1\r\nHost: {endpoint.asked}\r\nConnection: close\r\n\r\n"
    answer = _said(endpoint, hello.encode(), step_s)
    if answer.startswith(b"HTTP/"):
        return HTTP
    return _GOODBYE if answer or _hangs_up(endpoint, step_s) else _NOTHING


def _said(endpoint: Endpoint, hello: bytes, step_s: float) -> bytes:
    """The first bytes of the answer to a greeting; empty where there is none."""
    try:
        with closing(_connected(endpoint, step_s)) as connection:
            connection.sendall(hello)
            return connection.recv(16)
    except OSError:
        return b""


def _takes_tls(endpoint: Endpoint, step_s: float) -> bool:
    context = ssl.create_default_context()
    # Only to see whether anybody answers; nothing is sent.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            closing(_connected(endpoint, step_s)) as connection,
            context.wrap_socket(connection, server_hostname=endpoint.asked_name),
        ):
            return True
    except OSError:
        return False


def _hangs_up(endpoint: Endpoint, step_s: float) -> bool:
    try:
        with closing(_connected(endpoint, step_s)) as connection:
            connection.sendall(b"\r\n\r\n")
            return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
