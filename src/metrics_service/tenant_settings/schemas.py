"""A tenant's own settings as its administrators see them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

KEEP_CONTENT = Meta(
    description="Store prompts, arguments and outputs that telemetry brings, not only their sizes."
)
RAW_HOURS = Meta(
    ge=0,
    le=168,
    description=(
        "For how many hours requests of telemetry are kept as they came, so that they can be mapped"
        " again after a mapper was mended; 0: not at all. They hold the prompts, arguments and"
        " outputs that clients send, even while `keep_content` is off. Nothing shows them, and"
        " lowering the number deletes what is older at once; 0 deletes all of them."
    ),
)

HIDE_PEOPLE = Meta(
    description=(
        "Show no individuals to those who have signed in, whatever their role: teams, repositories"
        " and agents only. Keys and shared links are as before."
    )
)


class TenantSettings(msgspec.Struct, frozen=True):
    """Every setting, with what holds where the tenant set nothing."""

    keep_content: Annotated[bool, KEEP_CONTENT] = False
    raw_hours: Annotated[int, RAW_HOURS] = 0
    hide_people: Annotated[bool, HIDE_PEOPLE] = False


class TenantSettingsPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to change; a setting left out stays."""

    keep_content: Annotated[bool, KEEP_CONTENT] | UnsetType = UNSET
    raw_hours: Annotated[int, RAW_HOURS] | UnsetType = UNSET
    hide_people: Annotated[bool, HIDE_PEOPLE] | UnsetType = UNSET

    def given(self) -> dict[str, bool | int]:
        """The settings that were sent."""
        return {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not UNSET
        }
