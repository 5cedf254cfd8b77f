"""Answers of dashboards, kept for as long as the tenant's data is what they were read of.

An answer is kept as the JSON that is sent, without the moment at which it holds: that is when the
version of the data was looked at, however long ago it was made.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias, cast

import msgspec
from litestar import MediaType, Response

from metrics_service.cache.two_levels import TwoLevels
from metrics_service.dashboards.data import DashboardData, answer, is_cut_off, known_widgets
from metrics_service.dashboards.data_request import Asked
from metrics_service.dashboards.seen import Seen
from metrics_service.db.tenancy import hot_door
from metrics_service.fields import now
from metrics_service.http.dependencies import Caller
from metrics_service.rollups.version import key_of, read_version

KIND = "dashboard"

# The last field of the last part: after it are its value, and the ends of both.
_MOMENT = b'"answered_at":'
_ENDS = b"}}"

Disguise: TypeAlias = Callable[[DashboardData], DashboardData]


class Answered(msgspec.Struct, frozen=True):
    """What `DashboardData` says, as it is sent."""

    lasting: bytes
    """All but the moment."""
    at: datetime

    @property
    def body(self) -> bytes:
        return b"".join((self.lasting, _MOMENT, msgspec.json.encode(self.at), _ENDS))

    def response(self) -> Response[DashboardData]:
        return cast("Response[DashboardData]", Response(self.body, media_type=MediaType.JSON))


class _PassingError(Exception):
    """Carries an answer that is given once, past where it would be kept."""

    def __init__(self, lasting: bytes) -> None:
        super().__init__()
        self.lasting = lasting


class DashboardAnswers:
    """What widgets were answered, by all that the answer depends on."""

    def __init__(self, kept: TwoLevels) -> None:
        self._kept = kept

    async def get(
        self,
        caller: Caller,
        seen: Seen,
        asked: Asked,
        *,
        sees_people: bool = True,
        disguise: Disguise | None = None,
    ) -> Answered:
        """As `answer`, of the data that was seen or of later data.

        A `disguise` is that of the link by which the caller came: each has its own.
        """
        at = now()
        key = key_of(
            seen.version,
            seen.widgets,
            sees_people,
            None if disguise is None else caller.principal.id,
            asked.zone,
            asked.period,
            # Widgets have latest hours and days of their own.
            asked.hour_and_day,
            tuple(asked.filters.items()),
        )

        async def make() -> bytes:
            async with caller.snapshot(version=seen.version) as tx:
                connection = await hot_door(tx)
                found = await read_version(connection)
                widgets = known_widgets(msgspec.json.decode(seen.widgets))
                data = await answer(connection, widgets, asked, sees_people=sees_people)
            lasting = _lasting(data if disguise is None else disguise(data))
            if found != seen.version or is_cut_off(data):
                # Of other data than the key says, or for want of time: not what to answer again.
                raise _PassingError(lasting)
            return lasting

        try:
            return Answered(await self._kept.get(caller.tenant_id, KIND, key, make), at)
        except _PassingError as passing:
            return Answered(passing.lasting, now())


def _lasting(data: DashboardData) -> bytes:
    whole = msgspec.json.encode(data)
    return whole[: whole.rindex(_MOMENT)]
