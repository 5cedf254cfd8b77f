"""What changed between two versions of a dashboard, as people say it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from metrics_service.dashboards.pictures.figures import words
from metrics_service.dashboards.versions import Difference

LONGEST = 160

_PARTS = {
    "name": "name", "description": "description", "visibility": "who sees it", "tags": "tags",
    "title": "title", "kind": "kind", "mark": "drawn as", "encoding": "drawing",
    "query.source": "source", "query.measures": "measures", "query.group_by": "grouped by",
    "query.filters": "filters", "query.range": "time", "query.compare": "compared with",
    "query.order_by": "order", "query.limit": "rows",
}  # fmt: skip
_VALUES = {
    "private": "its owner alone", "team": "its owner's team", "tenant": "everybody",
    "previous_period": "the period before", "tool_metrics": "tool calls",
    "model_calls": "model calls",
}  # fmt: skip
# Written by people: nothing in it is a word of ours.
_FREE = {"name", "description", "title", "tags"}


class Change(msgspec.Struct, frozen=True):
    """One thing that is another now; without `before` and `after` it is all said in `what`."""

    subject: str
    """The title of the widget; empty for the dashboard itself."""
    what: str
    before: str | None = None
    after: str | None = None


def in_words(found: Iterable[Difference], before: Any, after: Any) -> list[Change]:
    """The differences of two versions; what happened to one widget stands together."""
    titles = {**_titles(before.widgets), **_titles(after.widgets)}
    return sorted(
        _merged(_changes(found, titles)), key=lambda change: (change.subject != "", change.subject)
    )


def _titles(widgets: Iterable[Any]) -> dict[str, str]:
    known = [one for one in widgets if isinstance(one, dict) and isinstance(one.get("id"), str)]
    return {one["id"]: str(one.get("title") or one["id"]) for one in known}


def _changes(found: Iterable[Difference], titles: Mapping[str, str]) -> Iterator[Change]:
    for one in found:
        kind, _, rest = one.path.partition(".")
        id_, _, part = rest.partition(".")
        subject = titles.get(id_, id_)
        if kind == "layout":
            # What came or went with its widget is said there.
            if part:
                yield Change(subject, "moved" if part in {"x", "y"} else "resized")
        elif kind != "widgets":
            yield _change("", _PARTS[kind], one)
        elif not rest:
            yield Change("", "the order of the widgets")
        elif part:
            yield _change(subject, _part(part), one)
        else:
            yield Change(subject, "added" if one.before is None else "removed")


def _part(path: str) -> str:
    """The longest part of the path that has a name; of what is within it, its own."""
    for name, said in _PARTS.items():
        if path == name:
            return said
        if path.startswith(f"{name}."):
            return f"{said}, {words(path.removeprefix(f'{name}.'))}"
    return path


def _change(subject: str, what: str, one: Difference) -> Change:
    is_free = what in _FREE
    return Change(subject, what, _told(one.before, is_free), _told(one.after, is_free))


def _told(value: Any, is_free: bool) -> str:
    if value is None or value in ("", [], {}):
        return "nothing"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        text = ", ".join(one if is_free else _named(one) for one in value)
    elif isinstance(value, str):
        text = value if is_free else _named(value)
    elif isinstance(value, dict) and set(value) == {"last"}:
        text = f"the latest {value['last']}"
    else:
        text = msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _named(value: str) -> str:
    if value.startswith("-"):
        return f"{words(value[1:])}, the greatest first"
    return _VALUES.get(value) or words(value)


def _merged(changes: Iterable[Change]) -> Iterator[Change]:
    seen: set[Change] = set()
    for change in changes:
        if change not in seen:
            seen.add(change)
            yield change
