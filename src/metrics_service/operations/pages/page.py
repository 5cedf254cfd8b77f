"""A page of the operators' as an answer: in the same frame as the tenants', with a menu of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from litestar import Response

from metrics_service.fields import now
from metrics_service.fleet.operators import Operator
from metrics_service.operations.dependencies import OperatorRequest
from metrics_service.operations.pages.environment import ENVIRONMENT
from metrics_service.web.page import Frame, Framing, Navigation, Who, framed
from metrics_service.web.viewer import Viewer

BRAND = "Operations"
STYLES = ("operator.css",)
REFRESH_S = 10

MENU = (
    Navigation("/", "Overview", "overview"),
    Navigation("/tenants", "Tenants", "tenants"),
    Navigation("/slow-queries", "Slow queries", "clock"),
    Navigation("/health-history", "Health", "pulse"),
    Navigation("/migrations", "Migrations", "steps"),
    Navigation("/jobs", "Jobs", "jobs"),
)


def page(
    request: OperatorRequest,
    template: str,
    *,
    values: Mapping[str, Any],
    operator: Operator | None,
    status: int = 200,
    **framing: Unpack[Framing],
) -> Response[bytes]:
    """Render the template in its frame; without an operator it stands alone."""
    main = ENVIRONMENT.get_template(template).render(
        {
            "viewer": Viewer.of(request),
            "now": now(),
            "path": request.scope["path"],
            **values,
        }
    )
    who = None if operator is None else Who(operator.id, operator.name, "operator")
    frame = Frame(BRAND, who, MENU, is_live=False)
    framing.setdefault("styles", STYLES)
    return framed(request, main, frame, status=status, **framing)
