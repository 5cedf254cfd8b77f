"""The API's own description: complete, and its examples work as they stand."""

from __future__ import annotations

import re
from html import unescape

from metrics_service.dashboards.widgets import Widget
from metrics_service.rollups.measures import MEASURES
from metrics_service.rollups.sources import SOURCES


def examples_of(document):
    """Each operation that has an example for its body and needs no id in its path."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None or "{" in path:
                continue
            given = content.get("example") or content["schema"]["examples"][0]
            yield method, path, given


async def test_every_example_is_accepted_as_it_stands(client, new_tenant):
    tenant = await new_tenant()
    document = (await client.get("/schema/openapi.json", headers=tenant.headers)).json()
    answers = {
        (method, path): (
            await client.request(method, path, json=given, headers=tenant.headers)
        ).status_code
        for method, path, given in examples_of(document)
    }

    assert answers == {
        ("patch", "/api/v1/settings"): 200,
        ("post", "/api/v1/dashboards"): 201,
        ("post", "/api/v1/dashboards/import"): 201,
        ("post", "/api/v1/identity-rules"): 201,
        ("post", "/api/v1/keys"): 201,
        # For people who signed in alone.
        ("post", "/api/v1/me/password"): 403,
        ("post", "/api/v1/sessions"): 201,
        ("post", "/api/v1/sessions/batch"): 200,
        ("post", "/api/v1/tool-metrics/batch"): 200,
        ("post", "/v1/logs"): 200,
        ("post", "/v1/metrics"): 200,
        ("post", "/v1/traces"): 200,
    }


async def test_the_page_shows_every_operation_and_needs_no_key(client, new_tenant):
    tenant = await new_tenant()
    headers = {"Host": tenant.headers["Host"]}
    document = (await client.get("/schema/openapi.json", headers=headers)).json()

    page = await client.get("/schema", headers=headers)

    assert page.status_code == 200
    assert "<script" not in page.text
    for path, item in document["paths"].items():
        for method in item:
            assert f"{method.upper()} {path}<" in page.text


async def test_the_errors_of_otlp_are_described_as_what_they_are(client, tenant_once):
    document = (await client.get("/schema/openapi.json", headers=tenant_once.headers)).json()

    for signal in ("logs", "metrics", "traces"):
        responses = document["paths"][f"/v1/{signal}"]["post"]["responses"]
        assert responses.keys() == {
            "200", "400", "401", "403", "413", "415", "429", "503", "504",
        }  # fmt: skip
        for response in responses.values():
            assert response["content"].keys() == {"application/json", "application/x-protobuf"}


def refs_in(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from refs_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs_in(inner)


async def test_a_widget_is_described_with_all_that_it_may_ask_for(client, tenant_once):
    document = (await client.get("/schema/openapi.json", headers=tenant_once.headers)).json()
    schemas = document["components"]["schemas"]

    assert set(refs_in(document)) <= {f"#/components/schemas/{name}" for name in schemas}
    for body in ("DashboardIn", "DashboardChange"):
        items = schemas[body]["properties"]["widgets"]["items"]
        assert items == {"$ref": "#/components/schemas/Widget"}
    assert schemas["Widget"]["properties"].keys() == set(Widget.__struct_encode_fields__)
    query = schemas["WidgetQuery"]["properties"]
    assert query["source"]["enum"] == list(SOURCES)
    for source, measures in MEASURES.items():
        assert f"of {source}: {', '.join(measures)}" in query["measures"]["description"]
        dimensions = ", ".join(SOURCES[source].dimensions)
        for field in ("group_by", "filters"):
            assert f"of {source}: {dimensions}" in query[field]["description"]


async def test_the_encoding_that_is_shown_as_an_example_is_accepted(client, new_tenant):
    tenant = await new_tenant()
    document = (await client.get("/schema/openapi.json", headers=tenant.headers)).json()
    (encoding,) = document["components"]["schemas"]["Encoding"]["examples"]
    posted = document["paths"]["/api/v1/dashboards"]["post"]["requestBody"]["content"]
    body = posted["application/json"]["schema"]["examples"][0]
    (widget,) = body["widgets"]

    answer = await client.post(
        "/api/v1/dashboards",
        json={**body, "widgets": [{**widget, "encoding": encoding}]},
        headers=tenant.headers,
    )

    assert answer.status_code == 201, answer.text


async def test_all_media_types_of_files_and_pictures_are_described(client, tenant_once):
    document = (await client.get("/schema/openapi.json", headers=tenant_once.headers)).json()
    paths = document["paths"]
    files = {"application/json", "application/yaml"}

    def answered(path):
        return paths[path]["get"]["responses"]["200"]["content"].keys()

    one = "/api/v1/dashboards/{dashboard_id}"
    assert answered(f"{one}/image") == {"image/png", "image/svg+xml", "application/pdf"}
    assert answered(f"{one}/export") == files
    imported = paths["/api/v1/dashboards/import"]["post"]["requestBody"]["content"]
    assert imported.keys() == files


async def test_commands_carry_a_key_where_one_is_needed_and_save_pictures(client, tenant_once):
    page = (await client.get("/schema", headers=tenant_once.headers)).text
    commands = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)

    shared = [one for one in commands if "/api/v1/shared/" in one]
    others = [one for one in commands if "/api/" in one and one not in shared]
    pictures = [one for one in commands if '/image"' in unescape(one)]
    assert len(shared) == 3
    assert not any("Authorization" in one for one in shared)
    assert all("Authorization: Bearer $KEY" in one for one in others)
    assert len(pictures) == 2
    assert all("-o dashboard.png" in one for one in pictures)
    assert sum("-o " in one for one in commands) == 2


async def test_an_unknown_host_sees_no_description(client):
    answer = await client.get("/schema/openapi.json", headers={"Host": "nobody.localhost"})

    assert answer.status_code == 404
