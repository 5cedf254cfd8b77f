"""`/api/v1/settings`."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get, patch
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body

from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import Caller, requires
from metrics_service.tenant_settings.repository import change_settings, read_settings
from metrics_service.tenant_settings.schemas import TenantSettings, TenantSettingsPatch

EXAMPLE = {"keep_content": False, "raw_hours": 24, "hide_people": False}


class TenantSettingsController(Controller):
    path = "/api/v1/settings"
    tags = ["settings"]
    opt = requires("admin")

    @get()
    async def get_settings(self, caller: NamedDependency[Caller]) -> TenantSettings:
        """Get the tenant's settings."""
        async with caller.reading() as connection:
            return await read_settings(connection)

    @patch(dto=JsonBody[TenantSettingsPatch], return_dto=None)
    async def patch_settings(
        self,
        caller: NamedDependency[Caller],
        data: Annotated[TenantSettingsPatch, Body(examples=[Example(value=EXAMPLE)])],
    ) -> TenantSettings:
        """Change settings; that holds everywhere within two seconds.

        A lower `raw_hours` deletes at once what was kept for longer, 0 all of it.
        """
        async with caller.writing() as connection:
            await change_settings(connection, data)
            return await read_settings(connection)
