"""What happened to health, told once where several processes noticed it together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import msgspec

from metrics_service.fleet.views import HealthEventView
from metrics_service.operations.pages.reports import Process
from metrics_service.operations.pages.words import kind_name

# They all look within the interval at which they look after themselves.
TOGETHER = timedelta(minutes=1)
NAMED = 2
GONE = "a process that is gone"


class Happening(msgspec.Struct, frozen=True):
    """An event, and who noted it; the newest one speaks for all."""

    event: HealthEventView
    where: str


def happenings(events: Sequence[HealthEventView], processes: Sequence[Process]) -> list[Happening]:
    """The newest first, as the events come."""
    names = {
        one.view.id: f"{one.view.host} ({kind_name(one.view.kind)}, {one.view.pid})"
        for one in processes
    }
    groups: list[list[HealthEventView]] = []
    latest: dict[tuple[str | None, ...], list[HealthEventView]] = {}
    for event in events:
        key = (event.kind, event.check_name, event.status_before, event.status)
        group = latest.get(key)
        if group is not None and group[0].at - event.at <= TOGETHER:
            group.append(event)
            continue
        latest[key] = [event]
        groups.append(latest[key])
    return [Happening(group[0], _where(group, names)) for group in groups]


def _where(group: Sequence[HealthEventView], names: dict[UUID, str]) -> str:
    found = [
        names.get(one.process_id, GONE) if one.process_id is not None else GONE for one in group
    ]
    # The same words for those that are gone, and a process that changed its mind within the minute.
    different = list(dict.fromkeys(found))
    if len(group) == 1 or len(different) == 1:
        return different[0] if len(group) == 1 else f"{different[0]}, {len(group)} times"
    more = len(different) - NAMED
    return ", ".join(different[:NAMED]) + (f" and {more} more" if more > 0 else "")
