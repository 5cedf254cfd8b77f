"""What handlers are given: who asks, and a door to the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from litestar.connection import Request
from litestar.di import NamedDependency
from litestar.openapi.spec import Operation
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from metrics_service.db.pages import CursorSigner
from metrics_service.db.tenancy import (
    ContextConnection,
    TenantContext,
    tenant_connection,
    tenant_session,
)
from metrics_service.errors import ForbiddenError, InvalidQueryError
from metrics_service.http.admission import Admission, Purpose
from metrics_service.http.changes import Changes
from metrics_service.http.links import LinkSigner
from metrics_service.http.rate import RateLimit
from metrics_service.http.replica_reads import LongRead, ReplicaReads
from metrics_service.http.sealing import Sealer
from metrics_service.http.throttle import PasswordThrottle
from metrics_service.ingest.diary import Diary
from metrics_service.ingest.known_people import PEOPLE_LOCK
from metrics_service.ingest.raw_requests import RawSweeper
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.rollups.version import read_version
from metrics_service.tenants.allowed import SettingsDirectory
from metrics_service.tenants.authenticate import Principal
from metrics_service.tenants.passwords import Passwords
from metrics_service.tenants.resolve import ServedTenant
from metrics_service.tenants.sign_ins import KIND as PERSON
from metrics_service.tenants.sign_ins import SignIns

AnyRequest: TypeAlias = Request[Principal, Any, Any]
DoorT = TypeVar("DoorT")
Door: TypeAlias = Callable[[AsyncEngine, TenantContext], AbstractAsyncContextManager[DoorT]]


class Database(msgspec.Struct, frozen=True):
    """What one process holds for all its requests."""

    engine: AsyncEngine
    replicas: ReplicaReads | None
    """For long reads; None where there are none."""
    signer: CursorSigner
    tool_names: ToolNames
    telemetry: TelemetryWriter
    admission: Admission
    """Who may take a connection; every door of a `Caller` asks it."""
    large_bodies: Admission
    """Whose large request may be parsed."""
    rate: RateLimit
    tenant_settings: SettingsDirectory
    sealer: Sealer
    links: LinkSigner
    sign_ins: SignIns
    passwords: Passwords
    password_throttle: PasswordThrottle
    diary: Diary
    changes: Changes
    """Told of what was committed."""
    raw_sweeper: RawSweeper
    query_timeout_ms: int


class Caller(msgspec.Struct, frozen=True):
    """Who asks; opens transactions that see this tenant's rows and no others."""

    tenant: ServedTenant
    principal: Principal
    database: Database

    @property
    def tenant_id(self) -> UUID:
        return self.tenant.id

    def context(self, *, read_only: bool) -> TenantContext:
        return TenantContext(
            tenant_id=self.tenant.id,
            user_id=self.principal.user_id,
            timeout_ms=self.database.query_timeout_ms,
            read_only=read_only,
        )

    async def sees_people(self) -> bool:
        """Whether individuals may be shown to who asks: to no one signed in whose tenant hides them.

        To be asked before a connection is taken, of which this may take one too.
        """
        if self.principal.kind != PERSON:
            return True
        return not (await self.database.tenant_settings.allowed(self.tenant_id)).hides_people

    def reading(self) -> AbstractAsyncContextManager[ContextConnection]:
        """The door for hot SQL, READ ONLY.

        This one and all others wait for the tenant's turn, and raise `UnavailableError` when it does
        not come; so none may be opened within another one.
        """
        return self._opened(tenant_connection, Purpose.READ, self.context(read_only=True))

    def looking(self) -> AbstractAsyncContextManager[AsyncSession]:
        """The door for the ORM, READ ONLY, for a short look at what is not telemetry."""
        return self._opened(tenant_session, Purpose.READ, self.context(read_only=True))

    def summarising(self) -> AbstractAsyncContextManager[ContextConnection]:
        """As `reading`, for what may take as long as a statement may; fewer of a tenant may.

        A replica may answer, which shows all that was stored before this was called. So only what
        changes with the version of the tenant's data may be read through it: the tenant's own tables,
        and nothing of the registry.
        """
        return self._long(tenant_connection, self.context(read_only=True))

    def snapshot(self, *, version: int | None = None) -> AbstractAsyncContextManager[AsyncSession]:
        """As `summarising`, for the ORM; all that is read through it is of one moment.

        A replica shows all that was stored before the `version` was read, where that is given.
        """
        context = msgspec.structs.replace(self.context(read_only=True), is_snapshot=True)
        return self._long(tenant_session, context, version=version)

    def writing(self) -> AbstractAsyncContextManager[ContextConnection]:
        """The door for hot SQL; commits when it closes."""
        return self._opened(tenant_connection, Purpose.WRITE, self.context(read_only=False))

    def ingesting(self) -> AbstractAsyncContextManager[ContextConnection]:
        """As `writing`, for telemetry: who changes who is who can wait for all of these."""
        context = msgspec.structs.replace(self.context(read_only=False), shared_lock=PEOPLE_LOCK)
        return self._opened(tenant_connection, Purpose.WRITE, context)

    def transaction(self, *, read_only: bool) -> AbstractAsyncContextManager[AsyncSession]:
        """The door for the ORM; commits when it closes."""
        purpose = Purpose.READ if read_only else Purpose.WRITE
        return self._opened(tenant_session, purpose, self.context(read_only=read_only))

    def _opened(
        self, door: Door[DoorT], purpose: Purpose, context: TenantContext
    ) -> AbstractAsyncContextManager[DoorT]:
        database = self.database
        return database.admission.turn(self.tenant.id, purpose, door(database.engine, context))

    def _long(
        self, door: Door[DoorT], context: TenantContext, *, version: int | None = None
    ) -> AbstractAsyncContextManager[DoorT]:
        primary = self._opened(door, Purpose.LONG_READ, context)
        replicas = self.database.replicas
        if replicas is None:
            return primary
        return LongRead(
            replicas,
            self.tenant.id,
            primary=primary,
            at=lambda engine: door(engine, context),
            look=self._look_at_version,
            version=version,
        )

    async def _look_at_version(self) -> int:
        async with self.reading() as connection:
            return await read_version(connection)


async def provide_caller(request: AnyRequest) -> Caller:
    return Caller(
        tenant=request.scope["state"]["tenant"],
        principal=request.user,
        database=request.app.state.database,
    )


async def provide_tx(
    request: AnyRequest, caller: NamedDependency[Caller]
) -> AsyncIterator[AsyncSession]:
    """One ORM transaction per request, committed before the answer is sent."""
    # The only generator dependency: two would end together and wrap a failed commit in a group.
    async with caller.transaction(read_only=request.method in {"GET", "HEAD"}) as tx:
        yield tx


def requires(scope: str | None) -> dict[str, str | None]:
    """For a handler's `opt`: only principals with the scope get through; None is any principal."""
    return {"scope": scope}


async def authorize(request: AnyRequest) -> None:
    """Refuse a principal without the scope that the handler requires.

    Not a guard: the framework runs a plain one in a thread and copies the handler for each.
    """
    if "user" not in request.scope or request.method == "OPTIONS":
        # Outside of /api nobody was asked who he is; and OPTIONS only lists methods.
        return
    # A handler that forgot to say what it requires is open to nobody.
    scope = request.route_handler.opt["scope"]
    if scope is not None and not request.user.allows(scope):
        whose = "this key" if request.user.user_role is None else f"the role {request.user.role}"
        raise ForbiddenError(f"{whose} lacks the scope {scope}")
    if request.scope["query_string"] and request.route_handler.operation_class is Operation:
        # Those that take parameters are described by a class of their own, and name the wrong one.
        raise InvalidQueryError("there are no parameters here")
