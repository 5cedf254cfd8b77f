"""The dashboards of the demonstration: the product's templates, as a team has made them its own."""

from __future__ import annotations

import msgspec

from metrics_service.dashboards.templates import TEMPLATES
from metrics_service.dashboards.templates.template import Template
from metrics_service.seeds.companies import Role
from metrics_service.tenants.provision import Plan


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """One dashboard; `key` is what its id is derived from."""

    key: str
    visibility: str
    owner_role: Role

    @property
    def template(self) -> Template:
        return TEMPLATES[self.key]


OVERVIEW = Dashboard(key="overview", visibility="tenant", owner_role="owner")
RELIABILITY = Dashboard(key="reliability", visibility="tenant", owner_role="admin")
COST = Dashboard(key="cost", visibility="team", owner_role="editor")

BY_PLAN: dict[Plan, tuple[Dashboard, ...]] = {
    "basic": (OVERVIEW, RELIABILITY),
    "pro": (OVERVIEW, RELIABILITY, COST),
    "enterprise": (OVERVIEW, RELIABILITY, COST),
}
