"""Whose certificates are trusted, and with which one we show who we are.

All of it raises `OSError` (`SSLError` is one) where a file cannot be used.
"""

from __future__ import annotations

import ssl

from metrics_service.observability.export.settings import Target


def trust_of(target: Target) -> ssl.SSLContext:
    """What TLS to the target needs; without a file of authorities, those of this machine."""
    trust = ssl.create_default_context(cafile=target.authorities)
    _introduce(trust, target)
    return trust


def check_authorities(target: Target) -> None:
    # Nothing of the machine's own, which takes a tenth of a second to read.
    if target.authorities is not None:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(target.authorities)


def check_introduction(target: Target) -> None:
    _introduce(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), target)


def _introduce(trust: ssl.SSLContext, target: Target) -> None:
    if target.client_certificate is not None:
        trust.load_cert_chain(target.client_certificate, target.client_key)
