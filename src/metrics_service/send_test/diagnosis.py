"""Every symptom, and what to change: the one table in which to look it up."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Symptom(StrEnum):
    """What is wrong, as far as it can be told from here."""

    # Found before anything is sent.
    URL_UNREADABLE = "url_unreadable"
    SCHEME_MISSING = "scheme_missing"
    SCHEME_OTHER = "scheme_other"
    URL_HAS_QUERY = "url_has_query"
    URL_HAS_PASSWORD = "url_has_password"  # noqa: S105  # the name of a symptom
    GRPC_HAS_PATH = "grpc_has_path"
    KEY_UNUSABLE = "key_unusable"
    HEADER_UNUSABLE = "header_unusable"
    HOST_UNUSABLE = "host_unusable"
    PROXY_UNUSABLE = "proxy_unusable"
    AUTHORITIES_UNUSABLE = "authorities_unusable"
    # There is no conversation.
    NAME_UNKNOWN = "name_unknown"
    NAME_LOCALHOST = "name_localhost"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    CONNECT_TIMEOUT = "connect_timeout"
    SILENT = "silent"
    BROKEN_OFF = "broken_off"
    TLS_TO_PLAIN = "tls_to_plain"
    PLAIN_TO_TLS = "plain_to_tls"
    CERTIFICATE_UNTRUSTED = "certificate_untrusted"
    CERTIFICATE_HOST = "certificate_host"
    CERTIFICATE_EXPIRED = "certificate_expired"
    TLS_FAILED = "tls_failed"
    GRPC_TO_HTTP = "grpc_to_http"
    HTTP_TO_GRPC = "http_to_grpc"
    PROXY_FAILED = "proxy_failed"
    # Somebody answered.
    REDIRECT_TO_TLS = "redirect_to_tls"
    REDIRECT = "redirect"
    FOREIGN = "foreign"
    NOT_OTLP = "not_otlp"
    HOST_UNKNOWN = "host_unknown"
    PATH_TWICE = "path_twice"
    PATH_WRONG = "path_wrong"
    KEY_MISSING = "key_missing"
    KEY_UNKNOWN = "key_unknown"
    SCOPE_MISSING = "scope_missing"
    SUSPENDED = "suspended"
    METHOD = "method"
    TOO_LARGE = "too_large"
    MEDIA_TYPE = "media_type"
    TOO_MANY_FAILURES = "too_many_failures"
    BUSY = "busy"
    SERVER_ERROR = "server_error"
    NOT_ACCEPTED = "not_accepted"
    ITEMS_REFUSED = "items_refused"


# In braces: {endpoint} as it was given, {host} and {port} of its connection, {asked} the host that the
# server is asked for, {detail} what was seen.
ADVICE: dict[Symptom, str] = {
    Symptom.URL_UNREADABLE: (
        "{endpoint} is no address ({detail}): write it as https://HOST or http://HOST:PORT"
    ),
    Symptom.SCHEME_MISSING: (
        "the endpoint {endpoint} begins with neither http:// nor https://: write https://HOST,"
        " or http://HOST:PORT where the server has no TLS"
    ),
    Symptom.SCHEME_OTHER: (
        "the endpoint begins with {detail}://: write http:// or https://, for gRPC too"
    ),
    Symptom.URL_HAS_QUERY: (
        "leave out of the endpoint all that follows ? or #: exporters append /v1/logs to it"
    ),
    Symptom.URL_HAS_PASSWORD: (
        "leave user:password@ out of the endpoint: the key goes into --key, and with agents into the"
        " header x-api-key (OTEL_EXPORTER_OTLP_HEADERS=x-api-key=KEY)"
    ),
    Symptom.GRPC_HAS_PATH: (
        "gRPC has no paths: give its endpoint as http://HOST:4317, without {detail}"
    ),
    Symptom.KEY_UNUSABLE: (
        "the key {detail}: copy it again, as one word that begins with msk_, without quotes"
    ),
    Symptom.HEADER_UNUSABLE: "the header {detail}: give it as --header NAME=VALUE, in ASCII",
    Symptom.HOST_UNUSABLE: (
        "the host {detail} is no name: give the tenant's domain alone, without http:// and path"
    ),
    Symptom.PROXY_UNUSABLE: (
        "the variable {detail} names no HTTP proxy: write it as http://HOST:PORT, or unset it, here and"
        " where the agent runs"
    ),
    Symptom.AUTHORITIES_UNUSABLE: (
        "SSL_CERT_FILE or SSL_CERT_DIR cannot be read ({detail}): name a PEM file with the certificates"
        " to trust, or unset it"
    ),
    Symptom.NAME_UNKNOWN: (
        "this machine does not know the name {host}: check its spelling, the DNS and the VPN"
    ),
    Symptom.NAME_LOCALHOST: (
        "this machine does not know the name {host}, though browsers do: use the endpoint"
        " {scheme}://127.0.0.1:{port} and --host {host} (with agents the header host={host}), or add"
        " '127.0.0.1 {host}' to /etc/hosts"
    ),
    Symptom.REFUSED: (
        "nothing listens at {host} port {port}: is the server running, and is that its port?"
        " HTTP is usually at 8000 or 4318 (`metrics-service serve --port`), gRPC at 4317"
        " (`serve --otlp-grpc-port 4317`: without it there is no gRPC)"
    ),
    Symptom.UNREACHABLE: (
        "there is no way to {host} port {port} ({detail}): check the network, the VPN and the address"
    ),
    Symptom.CONNECT_TIMEOUT: (
        "{host} port {port} does not answer to being connected: a firewall drops it, or the machine"
        " is off; try from inside its network, and check the port"
    ),
    Symptom.SILENT: (
        "{host} port {port} takes the connection but says nothing in time: another program may be"
        " listening there, or the server hangs (see its /health/ready); else give more --timeout"
    ),
    Symptom.BROKEN_OFF: (
        "{host} port {port} ends the connection without an answer: check that it is the metrics"
        " service's port and not another program's, and that no proxy in between ended it"
    ),
    Symptom.TLS_TO_PLAIN: (
        "{host} port {port} does not speak TLS: write http:// in the endpoint, or use the port that"
        " has TLS"
    ),
    Symptom.PLAIN_TO_TLS: "{host} port {port} speaks TLS: write https:// in the endpoint",
    Symptom.CERTIFICATE_UNTRUSTED: (
        "the certificate of {host} is not trusted here ({detail}): name the authority's PEM file in"
        " SSL_CERT_FILE for this test, and for agents in OTEL_EXPORTER_OTLP_CERTIFICATE or, where they"
        " run on Node.js, NODE_EXTRA_CA_CERTS"
    ),
    Symptom.CERTIFICATE_HOST: (
        "the certificate is not for {asked} ({detail}): use a name that is in it, or have it issued"
        " for this name too"
    ),
    Symptom.CERTIFICATE_EXPIRED: (
        "the certificate of {host} is not valid now ({detail}): renew it, or set this machine's clock"
    ),
    Symptom.TLS_FAILED: (
        "TLS with {host} port {port} fails ({detail}): check which versions it takes, and whether it"
        " wants a client's certificate"
    ),
    Symptom.GRPC_TO_HTTP: (
        "{host} port {port} speaks HTTP/1.1 and not gRPC: use the port of gRPC (4317, `metrics-service"
        " serve --otlp-grpc-port 4317`), or the protocol http/protobuf at this one"
    ),
    Symptom.HTTP_TO_GRPC: (
        "{host} port {port} speaks gRPC and not HTTP/1.1: use the protocol grpc here, or the port of"
        " HTTP (8000 or 4318)"
    ),
    Symptom.PROXY_FAILED: (
        "{detail}: put {host} into NO_PROXY and no_proxy, here and where the agent runs, or have the"
        " proxy let it pass"
    ),
    Symptom.REDIRECT_TO_TLS: (
        "the server sends http on to https, and exporters do not follow: use the endpoint {detail}"
    ),
    Symptom.REDIRECT: (
        "the server sends on to {detail}, and exporters do not follow: use that address if it is the"
        " metrics service's, else have the sign-in in front of it let /v1/ pass"
    ),
    Symptom.FOREIGN: (
        "what answers at {endpoint} is not the metrics service ({detail}): another program has this"
        " port, or a proxy's own page stands in front; check host, port and path of the endpoint, and"
        " that the proxy lets POST to /v1/ pass"
    ),
    Symptom.NOT_OTLP: (
        "the answer is a success, but not OTLP's ({detail}), so nothing tells that anything was"
        " stored: check host and port of the endpoint, and what answers there"
    ),
    Symptom.HOST_UNKNOWN: (
        "no tenant lives at {asked}: use the tenant's domain (`metrics-service tenant list`) in the"
        " endpoint or as --host, and have a proxy in between pass on the Host header"
    ),
    Symptom.PATH_TWICE: (
        "the endpoint names the path of a signal already, and exporters append /v1/logs, /v1/metrics"
        " and /v1/traces: leave {detail} out of OTEL_EXPORTER_OTLP_ENDPOINT and --endpoint"
    ),
    Symptom.PATH_WRONG: (
        "there is no receiver at {detail}: give the endpoint without a path, or with the one under"
        " which a proxy serves the metrics service; /v1/logs is appended to it"
    ),
    Symptom.KEY_MISSING: (
        "no key was sent: give --key or METRICS_INGEST_KEY, and set the header x-api-key for agents"
        " (OTEL_EXPORTER_OTLP_HEADERS=x-api-key=KEY)"
    ),
    Symptom.KEY_UNKNOWN: (
        "{asked} does not take this key: it is misspelt, expired, revoked or another tenant's; look"
        " with `metrics-service key list TENANT`, and make one for the tenant of this very domain with"
        " `metrics-service key create TENANT --scope ingest`"
    ),
    Symptom.SCOPE_MISSING: (
        "the key may not send telemetry: make one with `metrics-service key create TENANT --scope"
        " ingest` (a key within the path may have no other scope)"
    ),
    Symptom.SUSPENDED: (
        "the tenant of {asked} is suspended: its operator resumes it with `metrics-service tenant"
        " resume TENANT`"
    ),
    Symptom.METHOD: (
        "the address takes no exports: check the path of the endpoint, and that no proxy turns POST"
        " into GET; at a gRPC endpoint, that it is an OTLP receiver's"
    ),
    Symptom.TOO_LARGE: (
        "this small request is too large for whatever answers: raise the limit of the proxy in"
        " between (client_max_body_size and the like); the server itself takes 64 MiB"
    ),
    Symptom.MEDIA_TYPE: (
        "the encoding is not taken: use http/protobuf (OTEL_EXPORTER_OTLP_PROTOCOL), without a"
        " compression other than gzip, and have no proxy change the Content-Type"
    ),
    Symptom.TOO_MANY_FAILURES: (
        "this machine's address sent too many wrong keys to {asked}, and this one is not taken either"
        " (a right one always is): make one for the tenant of this very domain with `metrics-service"
        " key create TENANT --scope ingest`, and look for an agent here that still has an old one"
    ),
    Symptom.BUSY: (
        "the server is busy or being upgraded: try again{detail}; exporters do so by themselves. If it"
        " stays, see /health/ready, and limits of a proxy in between"
    ),
    Symptom.SERVER_ERROR: (
        "the server failed ({detail}): its log says why, at the time of this test"
    ),
    Symptom.NOT_ACCEPTED: (
        "the server does not accept this ({detail}): its message says what; compare the versions of"
        " server and command"
    ),
    Symptom.ITEMS_REFUSED: (
        "a part was refused, and the server's message says what; compare the versions of server and"
        " command, and the clock of this machine"
    ),
}

UNREACHED = frozenset(
    {
        Symptom.NAME_UNKNOWN,
        Symptom.NAME_LOCALHOST,
        Symptom.REFUSED,
        Symptom.UNREACHABLE,
        Symptom.CONNECT_TIMEOUT,
        Symptom.SILENT,
        Symptom.BROKEN_OFF,
        Symptom.TLS_TO_PLAIN,
        Symptom.PLAIN_TO_TLS,
        Symptom.CERTIFICATE_UNTRUSTED,
        Symptom.CERTIFICATE_HOST,
        Symptom.CERTIFICATE_EXPIRED,
        Symptom.TLS_FAILED,
        Symptom.GRPC_TO_HTTP,
        Symptom.HTTP_TO_GRPC,
        Symptom.PROXY_FAILED,
    }
)
"""There was no conversation."""

SAME_FOR_ALL = UNREACHED | {
    Symptom.KEY_MISSING,
    Symptom.KEY_UNKNOWN,
    Symptom.TOO_MANY_FAILURES,
}
"""The next signal would end the same way; and servers count the keys that fail."""


class Finding(msgspec.Struct, frozen=True):
    """A symptom, and what was seen of it."""

    symptom: Symptom
    detail: str = ""


class UnusableError(Exception):
    """What was given cannot be sent with; nothing was."""

    def __init__(self, symptom: Symptom, detail: str = "", *, endpoint: str = "") -> None:
        super().__init__(ADVICE[symptom].format(detail=detail, endpoint=endpoint))
        self.symptom = symptom
