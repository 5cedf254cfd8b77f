"""Every page, behind one door."""

from __future__ import annotations

from litestar import Router
from litestar.types import ControllerRouterHandler

from metrics_service.web.admission import admit
from metrics_service.web.dashboards.dashboard import get_dashboard_page
from metrics_service.web.dashboards.editor import get_dashboard_editor, post_preview
from metrics_service.web.dashboards.listing import get_dashboards, get_new_dashboard
from metrics_service.web.dashboards.shared import SHARED
from metrics_service.web.dashboards.versions import get_version_page, get_versions
from metrics_service.web.models import get_models
from metrics_service.web.overview import get_overview
from metrics_service.web.people.page import get_people
from metrics_service.web.sessions.listing import get_sessions
from metrics_service.web.sessions.session import get_session_page
from metrics_service.web.sessions.timeline import get_timeline
from metrics_service.web.set_up import get_set_up
from metrics_service.web.settings import get_settings
from metrics_service.web.sign_in import SIGNING_IN
from metrics_service.web.static_files import get_static
from metrics_service.web.tools import get_tools

PAGES = Router(
    "/",
    route_handlers=[
        get_overview,
        get_tools,
        get_models,
        get_people,
        get_sessions,
        get_session_page,
        get_timeline,
        get_set_up,
        get_settings,
        get_dashboards,
        get_new_dashboard,
        get_dashboard_page,
        get_dashboard_editor,
        post_preview,
        get_versions,
        get_version_page,
    ],
    before_request=admit,
    include_in_schema=False,
)
WEB: list[ControllerRouterHandler] = [PAGES, *SIGNING_IN, SHARED, get_static]
"""What the application serves to browsers."""
