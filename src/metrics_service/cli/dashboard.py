"""`metrics-service dashboard`: list, export and import the dashboards of a tenant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from uuid import UUID

import msgspec
import rich_click as click
from click.types import UUIDParameterType

from metrics_service.cli.connect import Opened, opened_database
from metrics_service.cli.output import json_option, print_many, print_one
from metrics_service.cli.signals import run_async
from metrics_service.dashboards.files import DashboardFile, FileKind, read_file, write_file
from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.schemas import (
    DashboardChange,
    DashboardQuery,
    DashboardView,
    Visibility,
)
from metrics_service.dashboards.write import create_dashboard, get_dashboard, replace_dashboard
from metrics_service.db.engine import runtime_engine
from metrics_service.db.pages import Position
from metrics_service.db.tenancy import TenantContext, tenant_session
from metrics_service.errors import (
    BodyTooLargeError,
    InvalidBodyError,
    InvalidNameError,
    MalformedRequestError,
)
from metrics_service.fields import Name
from metrics_service.tenants.authenticate import Principal

Result = TypeVar("Result")

PAGE = 500
# Who it is that changes dashboards from the command line: nobody's user, and nothing is hidden.
OPERATOR = Principal(
    kind="operator", id=UUID(int=0), name="command line", scopes=frozenset({"admin"})
)


class Listed(msgspec.Struct, frozen=True):
    """A dashboard in one line."""

    id: UUID
    name: str
    visibility: str
    owner: str | None
    version: int
    updated_at: datetime

    @classmethod
    def of(cls, view: DashboardView) -> Listed:
        owner = None if view.owner is None else view.owner.email or str(view.owner.id)
        return cls(view.id, view.name, view.visibility, owner, view.version, view.updated_at)


class DashboardId(UUIDParameterType):
    """An id; who has a name is told where ids are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(
                f"{value!r} is not an id; `metrics-service dashboard list TENANT` shows those of"
                " the dashboards",
                param,
                ctx,
            )


@click.group()
def dashboard() -> None:
    """List the dashboards of a tenant, write them to files, and read them back."""


@dashboard.command(name="list")
@click.argument("tenant")
@json_option
def list_(tenant: str, as_json: bool) -> None:
    """List all dashboards of TENANT, the latest changed first."""

    async def find(gallery: Gallery) -> list[Listed]:
        listed: list[Listed] = []
        after: Position | None = None
        while rows := await gallery.fetch(DashboardQuery(), after=after, limit=PAGE, offset=0):
            listed += map(Listed.of, await gallery.views(rows))
            after = Position(rows[-1].updated_at, rows[-1].id)
        return listed

    print_many(_with_gallery(tenant, find), as_json=as_json, none="the tenant has no dashboards")


@dashboard.command()
@click.argument("tenant")
@click.argument("dashboard_id", metavar="ID", type=DashboardId())
@click.option(
    "--format",
    "kind",
    type=click.Choice(["json", "yaml"]),
    default="json",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--to",
    "target",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="The file to write, instead of standard output.",
)
def export(tenant: str, dashboard_id: UUID, kind: str, target: Path | None) -> None:
    """Write the dashboard ID of TENANT to a file."""

    async def find(gallery: Gallery) -> bytes:
        file = DashboardFile.of(await get_dashboard(gallery, dashboard_id))
        return write_file(file, cast("FileKind", kind))

    content = _with_gallery(tenant, find)
    if target is None:
        click.echo(content.decode(), nl=False)
        return
    try:
        target.write_bytes(content)
    except OSError as error:
        raise click.ClickException(f"{target}: {error.strerror}") from None


@dashboard.command(name="import")
@click.argument("tenant")
@click.argument("source", metavar="FILE", type=click.File("rb"))
@click.option("--name", help="What to call it, instead of what the file says.")
@click.option(
    "--replace",
    "replaced",
    metavar="ID",
    type=DashboardId(),
    help="The dashboard to replace, as a new version of it, instead of making a new one.",
)
@json_option
def import_(
    tenant: str, source: BinaryIO, name: str | None, replaced: UUID | None, as_json: bool
) -> None:
    """Make a dashboard of TENANT of FILE, in JSON or YAML; - is standard input."""
    file = _read(source.read(), source.name)
    if name is not None:
        file = msgspec.structs.replace(file, name=_valid_name(name))

    async def work(gallery: Gallery) -> Listed:
        if replaced is None:
            row = await create_dashboard(gallery, file.dashboard(visibility="tenant"))
        else:
            old = await get_dashboard(gallery, replaced, lock=True)
            content = file.dashboard(visibility=cast("Visibility", old.visibility)).content()
            change = DashboardChange(**content, version=old.version, note="imported from a file")
            row = await replace_dashboard(gallery, replaced, change)
        return Listed.of(await gallery.view(row))

    try:
        made = _with_gallery(tenant, work)
    except InvalidBodyError as error:
        raise _mistaken(source.name, error) from None
    print_one(made, as_json=as_json)


def _read(content: bytes, name: str) -> DashboardFile:
    kind: FileKind = "json" if content.lstrip()[:1] == b"{" else "yaml"
    try:
        return read_file(content, kind)
    except InvalidBodyError as error:
        raise _mistaken(name, error) from None
    except (MalformedRequestError, BodyTooLargeError) as error:
        raise InvalidNameError(f"{name}: {error}") from None


def _mistaken(name: str, error: InvalidBodyError) -> InvalidNameError:
    mistakes = "; ".join(f"{one.field}: {one.reason}" for one in error.errors)
    return InvalidNameError(f"{name}: {mistakes}")


def _valid_name(name: str) -> str:
    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise InvalidNameError("name: must have 1 to 255 characters") from None


def _with_gallery(tenant: str, work: Callable[[Gallery], Awaitable[Result]]) -> Result:
    """Do the work in one transaction that sees the tenant, and all of its dashboards."""
    with opened_database() as opened:
        return run_async(_in_tenant(opened, opened.served_tenant(tenant).id, work))


async def _in_tenant(
    opened: Opened, tenant_id: UUID, work: Callable[[Gallery], Awaitable[Result]]
) -> Result:
    engine = runtime_engine(opened.addresses.runtime, pool_max=1)
    try:
        async with tenant_session(engine, TenantContext(tenant_id)) as tx:
            return await work(Gallery(tx, OPERATOR))
    finally:
        await engine.dispose()
