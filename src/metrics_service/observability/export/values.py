"""Values of `OTEL_*` variables, read one by one; what is wrong is told without being repeated.

A value may hold a secret, and a message ends in a log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from metrics_service.errors import SettingsError

MAX_NUMBER = 2**31 - 1

_is_number = re.compile(r"[0-9]{1,10}", re.ASCII).fullmatch
_is_ratio = re.compile(r"[0-9]{0,3}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII).fullmatch
_is_header_name = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII).fullmatch
_is_header_value = re.compile(r"[\x20-\x7e\x80-\xff]*").fullmatch
_is_metadata_name = re.compile(r"[a-z0-9_.-]+", re.ASCII).fullmatch
_is_host = re.compile(r"[A-Za-z0-9._-]{1,255}|[0-9A-Fa-f:.]{2,45}", re.ASCII).fullmatch
_is_path = re.compile(r"[\x21-\x7e]*").fullmatch

# The framing is ours; a second one of these would make a request that says two things.
_FRAMING = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


class Address(msgspec.Struct, frozen=True):
    """An endpoint as it was given."""

    is_tls: bool
    host: str
    port: int
    path: str


class Variables:
    """The environment; an empty variable is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, *names: str) -> tuple[str, str] | None:
        """The first of the variables that is set: its name and its value."""
        for name in names:
            if value := self._environ.get(name, "").strip():
                return name, value
        return None

    def choice(self, names: Iterable[str], allowed: Mapping[str, str], default: str) -> str:
        """What the value stands for; `allowed` has it for every word that is known."""
        found = self.text(*names)
        if found is None:
            return default
        name, value = found
        if value.lower() not in allowed:
            raise wrong(name, f"it may be {', '.join(allowed)}")
        return allowed[value.lower()]

    def flag(self, *names: str) -> bool:
        return self.choice(names, {"true": "true", "false": ""}, "") == "true"

    def number(self, *names: str, default: int, least: int = 1) -> int:
        found = self.text(*names)
        if found is None:
            return default
        name, value = found
        if _is_number(value) is None or not least <= int(value) <= MAX_NUMBER:
            raise wrong(name, f"it must be a whole number from {least} to {MAX_NUMBER}")
        return int(value)

    def seconds(self, *names: str, default_ms: int, least: int = 1) -> float:
        return self.number(*names, default=default_ms, least=least) / 1000

    def ratio(self, name: str) -> float:
        found = self.text(name)
        if found is None:
            return 1.0
        try:
            ratio = float(found[1]) if _is_ratio(found[1]) else -1.0
        except ValueError:
            ratio = -1.0
        if not 0.0 <= ratio <= 1.0:
            raise wrong(name, "it must be a number from 0 to 1")
        return ratio

    def pairs(self, *names: str) -> tuple[str, dict[str, str]]:
        """`a=1,b=2`, percent-encoded; with the variable's name."""
        found = self.text(*names)
        if found is None:
            return names[0], {}
        name, value = found
        pairs: dict[str, str] = {}
        for member in filter(None, (part.strip() for part in value.split(","))):
            key, is_pair, text = member.partition("=")
            if not is_pair or not key.strip():
                raise wrong(name, "it must be a list like name=value,name=value")
            pairs[_unquoted(name, key)] = _unquoted(name, text)
        return name, pairs

    def headers(self, *names: str) -> dict[str, str]:
        name, pairs = self.pairs(*names)
        for key, value in pairs.items():
            if _is_header_name(key) is None or _is_header_value(value) is None:
                raise wrong(name, "it has something that cannot be in a header")
            if key.lower() in _FRAMING:
                raise wrong(name, f"the header {key.lower()} is the service's own")
        return {key.lower(): value for key, value in pairs.items()}

    def file(self, *names: str) -> str | None:
        """The path of a file that can be read."""
        found = self.text(*names)
        if found is None:
            return None
        name, value = found
        try:
            with Path(value).open("rb") as file:
                file.read(1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no path"
            raise wrong(name, f"the file cannot be read: {reason}") from None
        return value


def address(name: str, value: str, *, is_insecure: bool | None = None) -> Address:
    """An URL of http or https; or, where `is_insecure` says what that means, `host:port` alone."""
    if "://" not in value and is_insecure is not None:
        value = f"{'http' if is_insecure else 'https'}://{value}"
    try:
        parts = urlsplit(value)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise wrong(name, "it is no URL") from None
    if parts.scheme not in {"http", "https"}:
        raise wrong(name, "it must begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise wrong(name, "it must not name a user; OTEL_EXPORTER_OTLP_HEADERS takes credentials")
    if not host or _is_host(host) is None or port == 0:
        raise wrong(name, "it names no host that can be reached")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if _is_path(path) is None:
        raise wrong(name, "its path has characters that no URL has")
    is_tls = parts.scheme == "https"
    return Address(is_tls, host, port or (443 if is_tls else 80), path)


def proxy_address(name: str, url: str) -> str:
    """The URL of a proxy that is spoken to in the clear, as nearly all are."""
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise wrong(name, "telemetry goes through a proxy of http:// alone, or past it by no_proxy")
    return url


def is_metadata(key: str, value: str) -> bool:
    """Whether gRPC can send it: fewer characters than HTTP, and some names are its own."""
    if key.startswith(("grpc-", ":")) or key.endswith("-bin") or key == "user-agent":
        return False
    return _is_metadata_name(key) is not None and value.isascii() and value.isprintable()


def wrong(name: str, reason: str) -> SettingsError:
    return SettingsError(f"{name} has a wrong value: {reason}")


def _unquoted(name: str, text: str) -> str:
    try:
        return unquote(text.strip(), errors="strict")
    except UnicodeDecodeError:
        raise wrong(name, "it is not UTF-8 where it is percent-encoded") from None
