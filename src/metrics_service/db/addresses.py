"""Where the database is: the DSNs of the environment, or those of the embedded server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from metrics_service.db.embedded import EmbeddedServer, embedded_server
from metrics_service.db.roles import Login
from metrics_service.errors import SettingsError
from metrics_service.settings import Settings

RUNTIME_LOGIN = "app_runtime"
MIGRATOR_LOGIN = "app_migrator"
SUPERUSER = "postgres"


class Addresses(msgspec.Struct, frozen=True):
    """The DSN for each purpose; `embedded` is the server behind them, if it is ours."""

    runtime: str
    direct: str
    owner: str | None
    embedded: EmbeddedServer | None = None

    @property
    def runtime_role(self) -> str:
        return Login.of(self.runtime).name

    def require_owner(self) -> str:
        """Raises `SettingsError` when the owner's DSN was not given."""
        if self.owner is None:
            raise SettingsError("DATABASE_OWNER_URL is required for this command")
        return self.owner


@contextmanager
def database_addresses(settings: Settings) -> Iterator[Addresses]:
    """Say where the database is; the embedded server runs for as long as this is open."""
    if settings.database_url is not None:
        yield Addresses(
            runtime=settings.database_url,
            direct=settings.database_direct_url or settings.database_url,
            owner=settings.database_owner_url,
        )
        return
    with embedded_server(settings.data_dir) as server:
        runtime = server.dsn(RUNTIME_LOGIN)
        yield Addresses(
            runtime=runtime, direct=runtime, owner=server.dsn(MIGRATOR_LOGIN), embedded=server
        )
