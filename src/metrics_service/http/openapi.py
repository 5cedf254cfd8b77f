"""The API described for programs (`/schema/openapi.json`) and for people (`/schema`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Reference,
    Schema,
    SecurityScheme,
)
from litestar.routes import HTTPRoute

from metrics_service.http import limits
from metrics_service.http.auth import PROTECTED
from metrics_service.http.otlp_errors import JSON, PROTOBUF
from metrics_service.http.problems import MEDIA_TYPE, TITLES, Problem

OPERATORS_PREFIX = "/operator/"

# What any operation under /api may answer; those with a body or an id may answer more.
EVERYWHERE = (400, 401, 403, 429, 503, 504)
WITH_BODY = (413, 415, 422)
OTLP = (400, 401, 403, 413, 415, 429, 503, 504)

PROBLEM_CONTENT = {
    MEDIA_TYPE: OpenAPIMediaType(schema=Reference(ref="#/components/schemas/Problem"))
}
# Theirs is a google.rpc.Status, which `code` and `message` are all of.
OTLP_CONTENT = {
    JSON: OpenAPIMediaType(
        schema=Schema(
            type=OpenAPIType.OBJECT,
            properties={
                "code": Schema(type=OpenAPIType.INTEGER),
                "message": Schema(type=OpenAPIType.STRING),
            },
        )
    ),
    PROTOBUF: OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)),
}

STYLE = """
:root { color-scheme: light dark; --line: #8884; --mark: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; text-transform: capitalize; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
h3 { font: 600 15px/1.5 ui-monospace, monospace; margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top; }
td:nth-child(2) { overflow-wrap: anywhere; min-width: 8rem; }
pre { background: var(--mark); padding: .75rem; border-radius: 6px; overflow-x: auto; }
"""


class ReferencePage(OpenAPIRenderPlugin):
    """One page without scripts: every operation, its parameters, and a command to paste."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        origin = f"{request.url.scheme}://{request.url.netloc}"
        return "".join(_page(openapi_schema, origin)).encode()


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Metrics Service API",
        version="1",
        description="What coding agents and developer tools do: sessions, tool and model calls.",
        path="/schema",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "key": SecurityScheme(
                    type="http", scheme="bearer", description="An API key of the tenant."
                )
            },
        ),
        security=[{"key": []}],
        render_plugins=[JsonRenderPlugin(path="/openapi.json"), ReferencePage(path="/")],
    )


def refers_to(schemas: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """For the `opt` of a controller whose bodies refer to schemas that no type of it leads to."""
    return {"schemas": schemas}


def complete_openapi(
    app: Litestar, *items: type[msgspec.Struct], api: str = limits.JSON_PREFIX
) -> None:
    """Add what the framework does not see: problems of every operation, items of batches."""
    components = app.openapi_schema.components
    if components is not None:
        components.schemas = {
            **(components.schemas or {}),
            **_schemas(Problem, *items),
            **_referred_to(app),
        }
    for path, item in (app.openapi_schema.paths or {}).items():
        for operation in (item.get, item.post, item.put, item.patch, item.delete):
            if operation is not None and path.startswith(api):
                _add_problems(operation, path)
            elif operation is not None and limits.is_otlp(path):
                _add_errors(operation, OTLP, OTLP_CONTENT)


def _add_problems(operation: Operation, path: str) -> None:
    statuses = [*EVERYWHERE, *(WITH_BODY if operation.request_body else ())]
    if "{" in path:
        statuses.append(404)
    _add_errors(operation, sorted(statuses), PROBLEM_CONTENT)


def _add_errors(
    operation: Operation, statuses: Iterable[int], content: dict[str, OpenAPIMediaType]
) -> None:
    responses = operation.responses = operation.responses or {}
    for status in statuses:
        responses[str(status)] = OpenAPIResponse(description=TITLES[status], content=content)


def _referred_to(app: Litestar) -> dict[str, Any]:
    return {
        name: _Verbatim(schema)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for name, schema in handler.opt.get("schemas", {}).items()
    }


def _schemas(*kinds: type[msgspec.Struct]) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return {name: _Verbatim(schema) for name, schema in schemas.items()}


class _Verbatim(Schema):
    """A schema that is written as msgspec made it."""

    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__()
        self._schema = schema

    def to_schema(self) -> dict[str, Any]:
        return self._schema


# -- the page ---------------------------------------------------------------------------------------


def _page(document: dict[str, Any], origin: str) -> Iterator[str]:
    title = escape(document["info"]["title"])
    key = document["components"]["securitySchemes"]["key"]["description"]
    yield (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<p>{escape(document['info']['description'])} The same for programs: "
        '<a href="/schema/openapi.json">openapi.json</a>. The commands expect a key in the '
        f"variable <code>KEY</code>: {escape(key[:1].lower() + key[1:])}</p>"
    )
    for tag, operations in _by_tag(document).items():
        yield f"<h2>{escape(tag)}</h2>"
        for method, path, operation in operations:
            yield from _article(method, path, operation, origin)


def _by_tag(document: dict[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    tags: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, item in sorted(document["paths"].items()):
        for method, operation in item.items():
            tag = next(iter(operation.get("tags", [])), "other")
            tags.setdefault(tag, []).append((method.upper(), path, operation))
    return tags


def _article(method: str, path: str, operation: dict[str, Any], origin: str) -> Iterator[str]:
    yield f"<article><h3>{method} {escape(path)}</h3>"
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    parameters = [row for row in operation.get("parameters", []) if row["in"] == "query"]
    if parameters:
        yield "<table><tr><th>parameter<th>type<th>meaning"
        for row in parameters:
            yield (
                f"<tr><td><code>{escape(row['name'])}</code>{' *' if row.get('required') else ''}"
                f"<td>{escape(_type_of(row['schema']))}<td>{escape(row.get('description') or '')}"
            )
        yield "</table>"
    yield f"<pre>{escape(_command(method, path, operation, origin))}</pre></article>"


def _type_of(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    return str(schema.get("format") or schema.get("type") or "")


def _command(method: str, path: str, operation: dict[str, Any], origin: str) -> str:
    query = "&".join(
        f"{row['name']}={row['example']}"
        for row in operation.get("parameters", [])
        if row.get("required") and row["in"] == "query" and row.get("example")
    )
    parts = ["curl -sS"]
    if method != "GET":
        parts.append(f"-X {method}")
    parts.append(f'"{origin}{path}{"?" + query if query else ""}"')
    if path.startswith((*PROTECTED, OPERATORS_PREFIX)) and {} not in operation.get("security", []):
        parts.append('-H "Authorization: Bearer $KEY"')
    example = _example(operation)
    if example is not None:
        parts.append("-H 'Content-Type: application/json'")
        parts.append(f"-d '{json.dumps(example)}'")
    answered = operation.get("responses", {}).get("200", {}).get("content", {})
    if "image/png" in answered:
        parts.append("-o dashboard.png")
    return " \\\n  ".join(parts)


def _example(operation: dict[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if "example" in content:
        return content["example"]
    return next(iter(content.get("schema", {}).get("examples", [])), None)
