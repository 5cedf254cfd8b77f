"""What the environment says about the way to a server: proxies, and whose certificates are trusted.

A proxy is gone through, as most exporters do (gRPC, Python, Go; those of Node.js do not): one that is in
their way then shows here as well.
"""

from __future__ import annotations

import os
import ssl
import urllib.request
from pathlib import Path

import httpx
import msgspec

from metrics_service.send_test.diagnosis import Symptom, UnusableError
from metrics_service.send_test.endpoint import PORTS, Endpoint

_is_exempt = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # forgotten
_OF_GRPC = ("grpc", "https", "http")
"""The order in which gRPC looks for one; it knows no `all_proxy`."""


class Proxy(msgspec.Struct, frozen=True):
    """A proxy that the environment puts between."""

    variable: str
    url: str

    @property
    def place(self) -> str:
        """Its address without the password that may be in it."""
        return self.url.rpartition("@")[2].rpartition("//")[2].rstrip("/")

    @property
    def words(self) -> str:
        return f"the proxy {self.place} of {self.variable}"


def find_proxy(endpoint: Endpoint, *, is_grpc: bool) -> Proxy | None:
    """The proxy on the way to an endpoint; raises `UnusableError` for one that is none of HTTP."""
    proxies = urllib.request.getproxies_environment()
    if _is_exempt(endpoint.host, proxies):
        return None
    if is_grpc:
        # The library reads the names in small letters alone.
        proxies = {scheme: os.environ.get(f"{scheme}_proxy", "") for scheme in _OF_GRPC}
    for scheme in _OF_GRPC if is_grpc else (endpoint.scheme, "all"):
        if url := proxies.get(scheme, "").strip():
            return _proxy(f"{scheme}_proxy", url if "://" in url else f"http://{url}")
    return None


def _proxy(variable: str, url: str) -> Proxy:
    try:
        is_usable = httpx.URL(url).scheme in PORTS
    except httpx.InvalidURL:
        is_usable = False
    if not is_usable:
        raise UnusableError(Symptom.PROXY_UNUSABLE, variable)
    return Proxy(variable, url)


def trusted() -> ssl.SSLContext:
    """SSL_CERT_FILE or SSL_CERT_DIR where they are set, else the usual authorities."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise _unusable(error) from None


def trusted_by_grpc() -> bytes | None:
    """The certificates of SSL_CERT_FILE; None: gRPC's own."""
    path = os.environ.get("SSL_CERT_FILE")
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unusable(error) from None


def _unusable(error: OSError) -> UnusableError:
    return UnusableError(Symptom.AUTHORITIES_UNUSABLE, error.strerror or type(error).__name__)
