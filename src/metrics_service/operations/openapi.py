"""The operators' API described, apart from the tenants': neither names a path of the other."""

from __future__ import annotations

from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from metrics_service.http.openapi import ReferencePage


def operators_openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Metrics Service: operators' API",
        version="1",
        description=(
            "What whoever runs the service sees and does: tenants, migrations, processes, slow"
            " statements. The key is one of `metrics-service key create --operator`."
        ),
        path="/schema",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "key": SecurityScheme(
                    type="http", scheme="bearer", description="An operator's key."
                )
            },
        ),
        security=[{"key": []}],
        render_plugins=[JsonRenderPlugin(path="/openapi.json"), ReferencePage(path="/")],
    )
