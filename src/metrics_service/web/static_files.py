"""`/static/{version}/...`: stylesheets, scripts, and the charts' library."""

from __future__ import annotations

from litestar import Response, get
from litestar.params import FromPath

from metrics_service.errors import NotFoundError
from metrics_service.http.dependencies import AnyRequest
from metrics_service.web.assets import MEDIA_TYPES, Asset, Assets
from metrics_service.web.vega import VegaBundle

VEGA = "vega.js"
FOR_EVER = "public, max-age=31536000, immutable"


@get("/static/{version:str}/{path:path}", include_in_schema=False)
async def get_static(
    request: AnyRequest, version: FromPath[str], path: FromPath[str]
) -> Response[bytes]:
    """A file, kept by browsers for ever under the version that it is of."""
    assets: Assets = request.app.state.assets
    found = await _find(request, str(path).lstrip("/"))
    if found is None:
        raise NotFoundError("such file")
    # Of an older version: a page that was open while the service was replaced.
    caching = FOR_EVER if version == assets.version else "no-cache"
    return Response(
        found.body,
        media_type=found.media_type,
        headers={
            "content-encoding": "gzip",
            "cache-control": caching,
            "cross-origin-resource-policy": "same-origin",
        },
    )


async def _find(request: AnyRequest, path: str) -> Asset | None:
    if path != VEGA:
        assets: Assets = request.app.state.assets
        return assets.find(path)
    vega: VegaBundle = request.app.state.vega
    return Asset(await vega.body(), MEDIA_TYPES[".js"])
