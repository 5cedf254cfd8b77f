"""What a widget may be, for the description of the API: its structs, with the lists of what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from metrics_service.dashboards.widgets import LONGEST_LAST, Widget
from metrics_service.rollups.measures import MEASURES
from metrics_service.rollups.ranges import TIMES
from metrics_service.rollups.sources import SOURCES

EXAMPLE_ENCODING = {
    "x": {"field": "day", "type": "temporal"},
    "y": {"field": "p95_ms", "type": "quantitative"},
    "color": {"field": "tool_name", "type": "nominal"},
}


def _by_source(allowed: dict[str, Iterable[str]]) -> str:
    return "; ".join(f"of {source}: {', '.join(names)}" for source, names in allowed.items())


DIMENSIONS = _by_source({name: source.dimensions for name, source in SOURCES.items()})
FIELDS: dict[str, dict[str, dict[str, Any]]] = {
    "WidgetQuery": {
        "source": {"enum": list(SOURCES)},
        "measures": {
            "description": "Measures "
            + _by_source({name: MEASURES[name] for name in SOURCES})
            + "."
        },
        "group_by": {
            "description": f"One of {', '.join(TIMES)}, in the viewer's zone; and dimensions "
            f"{DIMENSIONS}. A number has none, or a time alone."
        },
        "filters": {
            "description": f"Of a dimension the value, or values, that count. Dimensions {DIMENSIONS}."
        },
        "range": {"description": "Without one it is that of the dashboard."},
        "order_by": {
            "description": "A column of the answer, - before it for the greatest first. By default"
            " in the order of time, else by the first measure, the greatest first."
        },
        "limit": {"description": "So many rows at most."},
    },
    "Range": {
        "last": {
            "description": f"Hours, days or weeks: 12h, 30d, 8w; {LONGEST_LAST.days} days at most."
        }
    },
    "Widget": {
        "mark": {"description": "For charts; by default line over time, else bar."},
        "encoding": {"description": "For charts; by default it follows from the query."},
    },
    "Channel": {"field": {"description": "A column of the answer: of group_by or measures."}},
}
EXAMPLES = {"Encoding": [EXAMPLE_ENCODING]}


def widget_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schemas of a widget and its parts, by the name under which they are referred to."""
    _, schemas = msgspec.json.schema_components(
        [Widget], ref_template="#/components/schemas/{name}"
    )
    for name, fields in FIELDS.items():
        for field, told in fields.items():
            schemas[name]["properties"][field] |= told
    for name, examples in EXAMPLES.items():
        schemas[name]["examples"] = examples
    return schemas
