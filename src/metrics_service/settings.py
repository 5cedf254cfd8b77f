"""Everything read from the environment, once; a wrong or misspelt variable stops the start."""

from __future__ import annotations

import difflib
import os
import re
import secrets
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from metrics_service.errors import SettingsError

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Percent = Annotated[int, Meta(ge=1, le=100)]
Port = Annotated[int, Meta(ge=1, le=65535)]
PreparedStatements = Literal["auto", "on", "off"]
"""Whether the driver keeps statements prepared; `auto` does not where it finds a pooler."""

# A variable with one of these beginnings is ours: one that we do not know is a misspelling.
OUR_PREFIXES = ("METRICS_", "DATABASE_", "DB_RETRY_", "SLOW_QUERY_", "REDIS_")
# What clients on the same machine are given; no setting of the service.
CLIENTS_KEY = "METRICS_INGEST_KEY"
# Canonical already: lower case, no dot at the end.
DOMAIN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
_between_replicas = re.compile(r",(?=\s*postgres(?:ql)?://)")
SECRET_FILE = "secret_key"  # noqa: S105  # a name
MIN_SECRET_LENGTH = 32


class Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="upper"
):
    """The settings of one process; times in milliseconds where the name says so."""

    database_url: str | None = None
    """DSN of the runtime login; without it the embedded server is used."""
    database_owner_url: str | None = None
    """DSN of the migrator; only the command line and maintenance need it."""
    database_direct_url: str | None = None
    """DSN that passes by a pooler, for LISTEN and session locks; DATABASE_URL by default."""
    database_replica_urls: str | None = None
    database_pool_min: NotNegative = 2
    database_pool_max: Positive = 10
    database_pool_timeout_ms: Positive = 5000
    database_query_timeout_ms: Positive = 10000
    database_prepared_statements: PreparedStatements = "auto"
    slow_query_threshold_ms: Positive = 1000
    db_retry_attempts: Positive = 5
    db_retry_delay_ms: Positive = 500
    redis_url: str | None = None
    metrics_data_dir: str = ".metrics-service"
    metrics_base_domain: Annotated[str, Meta(pattern=DOMAIN)] = "localhost"
    metrics_operator_domain: Annotated[str, Meta(pattern=DOMAIN)] | None = None
    """Where operators look; nothing is served there without it."""
    metrics_secret_key: str | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 8000
    metrics_workers: Positive = 1
    metrics_otlp_grpc_port: Port | None = None
    metrics_log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_trusted_proxies: str = ""
    metrics_auth_failures_per_minute: NotNegative = 20
    metrics_requests_per_second: NotNegative = 500
    """Of one tenant, in each process, or in all together where there is Redis; 0 is no limit."""
    metrics_streams_max: Positive = 2000
    metrics_prices_file: str | None = None
    metrics_health_interval_ms: Annotated[int, Meta(ge=100, le=20_000)] = 10_000
    """How often a process looks after itself and reports."""
    metrics_health_latency_ms: Positive = 250
    """From where on a database that answers is degraded."""
    metrics_health_pool_percent: Percent = 90
    metrics_health_disk_free_percent: Percent = 10
    metrics_health_replica_lag_ms: Positive = 10_000
    metrics_drain_delay_ms: NotNegative = 0
    """How long a worker that was told to end serves on, not ready any more."""

    @property
    def data_dir(self) -> Path:
        """Where the embedded server and the generated secret live; absolute."""
        return Path(self.metrics_data_dir).expanduser().absolute()

    @property
    def prices_file(self) -> Path | None:
        """The operator's own price table; absolute."""
        if self.metrics_prices_file is None:
            return None
        return Path(self.metrics_prices_file).expanduser().absolute()

    @property
    def is_embedded(self) -> bool:
        return self.database_url is None

    @property
    def replica_urls(self) -> list[str]:
        """A DSN for each replica; one may name several hosts, with commas between them."""
        if self.database_replica_urls is None:
            return []
        return [url.strip() for url in _between_replicas.split(self.database_replica_urls)]

    @property
    def trusted_proxies(self) -> list[IPv4Network | IPv6Network]:
        return [
            ip_network(text.strip())
            for text in self.metrics_trusted_proxies.split(",")
            if text.strip()
        ]

    def secret_key(self) -> bytes:
        """The key that signs cursors and seals kept answers; made once where nobody gave one.

        Raises `SettingsError` when a given database comes without METRICS_SECRET_KEY: several
        processes would each make their own, and refuse each other's cursors.
        """
        if self.metrics_secret_key is not None:
            return self.metrics_secret_key.encode()
        if not self.is_embedded:
            raise SettingsError("METRICS_SECRET_KEY is required together with DATABASE_URL")
        return _made_secret(self.data_dir / SECRET_FILE)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check the environment; raises `SettingsError` that names the variable."""
    values = {
        name: value
        for name, value in (os.environ if environ is None else environ).items()
        if value != ""
        and (name.startswith(OUR_PREFIXES) or name in _names())
        and name != CLIENTS_KEY
    }
    unknown = values.keys() - _names()
    if unknown:
        raise SettingsError(_unknown(min(unknown)))
    for name, value in values.items():
        _check_one(name, value)
    settings = msgspec.convert(values, Settings, strict=False)
    _check_together(settings)
    return settings


def _names() -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(Settings)}


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _names(), n=1)
    return f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else "")


def _check_one(name: str, value: str) -> None:
    # One by one, because msgspec's own message for the whole names no variable.
    try:
        msgspec.convert({name: value}, Settings, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error).split(" - at ")[0]
        raise SettingsError(f"{name} has a wrong value: {reason}") from None


def _check_together(settings: Settings) -> None:
    if settings.database_pool_min > settings.database_pool_max:
        raise SettingsError("DATABASE_POOL_MIN is larger than DATABASE_POOL_MAX")
    for name in ("database_url", "database_owner_url", "database_direct_url"):
        _check_dsn(name.upper(), getattr(settings, name))
    for url in settings.replica_urls:
        _check_dsn("DATABASE_REPLICA_URLS", url)
    for name in ("database_owner_url", "database_direct_url"):
        if settings.database_url is None and getattr(settings, name) is not None:
            raise SettingsError(f"{name.upper()} is set without DATABASE_URL")
    if (
        settings.metrics_secret_key is not None
        and len(settings.metrics_secret_key) < MIN_SECRET_LENGTH
    ):
        raise SettingsError(f"METRICS_SECRET_KEY is shorter than {MIN_SECRET_LENGTH} characters")
    try:
        _ = settings.trusted_proxies
    except ValueError as error:
        raise SettingsError(f"METRICS_TRUSTED_PROXIES has a wrong value: {error}") from None


def _check_dsn(name: str, dsn: str | None) -> None:
    if dsn is None:
        return
    parts = urlsplit(dsn)
    try:
        _ = parts.port
    except ValueError:
        # Its own message repeats what may be a piece of the password.
        raise SettingsError(f"{name} has a port that is not a number") from None
    if parts.scheme not in {"postgresql", "postgres"}:
        raise SettingsError(f"{name} must begin with postgresql://")
    if not parts.username:
        raise SettingsError(f"{name} names no user")


def _made_secret(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = secrets.token_urlsafe(48)
    try:
        # Linked into place whole: a second process starting now reads all of it or makes none.
        draft = path.with_name(f".{SECRET_FILE}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(made)
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    return path.read_text().encode()
