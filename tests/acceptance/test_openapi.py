"""The API's own description: complete, and its examples work as they stand."""

from __future__ import annotations


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
        ("post", "/api/v1/keys"): 201,
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


async def test_an_unknown_host_sees_no_description(client):
    answer = await client.get("/schema/openapi.json", headers={"Host": "nobody.localhost"})

    assert answer.status_code == 404
