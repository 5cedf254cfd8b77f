"""A tenant's own settings as its administrators see them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

KEEP_CONTENT = Meta(
    description="Store prompts, arguments and outputs that telemetry brings, not only their sizes."
)


class TenantSettings(msgspec.Struct, frozen=True):
    """Every setting, with what holds where the tenant set nothing."""

    keep_content: Annotated[bool, KEEP_CONTENT] = False


class TenantSettingsPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to change; a setting left out stays."""

    keep_content: Annotated[bool, KEEP_CONTENT] | UnsetType = UNSET

    def given(self) -> dict[str, bool]:
        """The settings that were sent."""
        return {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not UNSET
        }
