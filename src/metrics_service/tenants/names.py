"""Names: a Host header in its one canonical form, and the slugs, domains and names we register."""

from __future__ import annotations

import re
import unicodedata
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna

from metrics_service.errors import InvalidNameError, MalformedRequestError

MAX_NAME_LENGTH = 253
MAX_DISPLAY_LENGTH = 255
# A name, the dot after it, a colon and five digits: nothing longer can be a Host.
MAX_HOST_LENGTH = MAX_NAME_LENGTH + 7

RESERVED = frozenset(
    [
        "admin",
        "administrator",
        "api",
        "app",
        "assets",
        "auth",
        "autoconfig",
        "autodiscover",
        "broadcasthost",
        "dashboard",
        "docs",
        "ftp",
        "graphql",
        "grpc",
        "health",
        "healthz",
        "hostmaster",
        "imap",
        "internal",
        "invalid",
        "livez",
        "local",
        "localdomain",
        "localhost",
        "login",
        "logout",
        "mail",
        "metrics",
        "monitoring",
        "mx",
        "noc",
        "ns",
        "ns1",
        "ns2",
        "oauth",
        "operator",
        "operators",
        "otel",
        "otlp",
        "pop",
        "postgres",
        "postmaster",
        "private",
        "public",
        "readyz",
        "registry",
        "root",
        "schema",
        "security",
        "shared",
        "sign-in",
        "sign-out",
        "sign-up",
        "signin",
        "signout",
        "signup",
        "smtp",
        "sso",
        "static",
        "status",
        "support",
        "system",
        "webmaster",
        "wpad",
        "www",
    ]
)

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_IS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*").fullmatch
_IS_SLUG = re.compile(_LABEL).fullmatch
_IS_PORT = re.compile(r"[0-9]{1,5}").fullmatch
_IS_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::(.*))?", re.DOTALL).fullmatch

# They turn the reading order around, so that one name can be shown as another.
_BIDI_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_INVISIBLE_BREAKS = frozenset({"Cc", "Cs", "Zl", "Zp"})


class _RefusedError(ValueError):
    """Why a text is not a host name; says so in words that fit after the name of a field."""


def normalize_host(raw: str) -> str:
    """Bring the value of a Host header to the form that hosts are stored and looked up in."""
    try:
        return _host(raw)
    except _RefusedError as refused:
        raise MalformedRequestError(f"the Host header {refused}") from None


def strip_base(host: str, base_domain: str) -> str:
    """Drop the base domain (itself in canonical form) from the end of a host, once."""
    return host.removesuffix("." + base_domain)


def validate_slug(text: str) -> str:
    """Return the text when it may be a tenant's slug."""
    if not _IS_SLUG(text):
        raise InvalidNameError(
            "slug must be 1 to 63 lower-case letters, digits and inner hyphens (a-z, 0-9, -)"
        )
    if text.isdigit():
        raise InvalidNameError("slug must not be digits alone")
    if text.startswith("xn--"):
        raise InvalidNameError("slug must not begin with xn--")
    if text in RESERVED:
        raise InvalidNameError(f"slug {text} is reserved")
    return text


def normalize_domain(text: str, base_domain: str) -> str:
    """Bring a domain to the form in which it is registered: canonical, without the base domain."""
    try:
        host = _name(text)
    except _RefusedError as refused:
        raise InvalidNameError(f"domain {refused}") from None
    domain = strip_base(host, base_domain)
    if _is_ipv4(host) or _is_ipv4(domain) or domain.rpartition(".")[2].isdigit():
        raise InvalidNameError("domain must not be an IP address or end in a number")
    # What still ends in the base would be stripped again from a Host, and never be found.
    if domain == base_domain or domain.endswith("." + base_domain):
        raise InvalidNameError(f"domain must not be or repeat the base domain {base_domain}")
    if domain in RESERVED:
        raise InvalidNameError(f"domain {domain} is reserved")
    return domain


def validate_display_name(text: str) -> str:
    """Return the name without surrounding space when people can be shown it."""
    name = text.strip()
    if not 1 <= len(name) <= MAX_DISPLAY_LENGTH:
        raise InvalidNameError(f"name must have 1 to {MAX_DISPLAY_LENGTH} characters")
    if any(unicodedata.category(character) in _INVISIBLE_BREAKS for character in name):
        raise InvalidNameError("name must not have control characters or line breaks")
    if not _BIDI_OVERRIDES.isdisjoint(name):
        raise InvalidNameError("name must not change the direction of text")
    if not any(unicodedata.category(character)[0] in "LNPS" for character in name):
        raise InvalidNameError("name must have a visible character")
    return name


def _host(raw: str) -> str:
    if len(raw) > MAX_HOST_LENGTH:
        raise _RefusedError("is too long")
    if raw.startswith("["):
        return _ipv6(raw)
    name, colon, port = raw.partition(":")
    if colon:
        _check_port(port)
    return _name(name)


def _ipv6(raw: str) -> str:
    match = _IS_BRACKETED(raw)
    if match is None:
        raise _RefusedError("is not an IPv6 address")
    literal, port = match.groups()
    if port is not None:
        _check_port(port)
    try:
        return IPv6Address(literal).compressed
    except AddressValueError:
        raise _RefusedError("is not an IPv6 address") from None


def _check_port(port: str) -> None:
    if not _IS_PORT(port) or not 1 <= int(port) <= 65535:
        raise _RefusedError("has a port that is not a number from 1 to 65535")


def _name(text: str) -> str:
    if len(text) > MAX_HOST_LENGTH:
        raise _RefusedError("is too long")
    name = text if text.isascii() else _to_ascii(text)
    name = name.lower().removesuffix(".")
    # After the mapping to ASCII, never before it: that is what turns look-alike dots into dots.
    if not _IS_NAME(name):
        raise _RefusedError("is not a host name")
    if len(name) > MAX_NAME_LENGTH:
        raise _RefusedError("is too long")
    if name.rpartition(".")[2].isdigit() and not _is_ipv4(name):
        raise _RefusedError("is neither a host name nor an IPv4 address")
    if "xn--" in name:
        _check_a_labels(name)
    return name


def _to_ascii(text: str) -> str:
    try:
        return idna.encode(text, uts46=True, std3_rules=True, transitional=False).decode()
    except (idna.IDNAError, UnicodeError):
        raise _RefusedError("is not a host name") from None


def _check_a_labels(name: str) -> None:
    for label in name.split("."):
        if label.startswith("xn--") and not _is_a_label(label):
            raise _RefusedError("is not a host name")


def _is_a_label(label: str) -> bool:
    # Some invalid Punycode decodes to what has another, proper spelling: two names for one host.
    try:
        return idna.alabel(idna.ulabel(label)).decode() == label
    except (idna.IDNAError, UnicodeError):
        return False


def _is_ipv4(name: str) -> bool:
    try:
        IPv4Address(name)
    except AddressValueError:
        return False
    return True
