"""The dashboards that the product brings along, by name."""

from __future__ import annotations

from collections.abc import Mapping

from metrics_service.dashboards.templates.agents import AGENTS
from metrics_service.dashboards.templates.cost import COST
from metrics_service.dashboards.templates.overview import OVERVIEW
from metrics_service.dashboards.templates.people import PEOPLE
from metrics_service.dashboards.templates.reliability import RELIABILITY
from metrics_service.dashboards.templates.template import Template
from metrics_service.dashboards.templates.tools import TOOLS

TEMPLATES: Mapping[str, Template] = {
    template.name: template for template in (OVERVIEW, TOOLS, COST, RELIABILITY, PEOPLE, *AGENTS)
}
