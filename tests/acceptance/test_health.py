"""The probes: they answer on any host, and say nothing that could help a stranger."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from acceptance.talk import check_problem

PATHS = ["/health", "/health/live", "/health/ready"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8000",
        "nobody.example.com",
        "[::1]:80",
        "a..b",
        "*.localhost",
        "x:99999",
        "",
        "a b",
    ],
)
async def test_probes_answer_on_any_host_without_a_credential(client, path, host):
    response = await client.get(path, headers={"Host": host})

    assert response.status_code == 200
    # Nothing but the word; other tests may leave schemas behind, which is told by it.
    expected = ["healthy", "degraded"] if path == "/health" else ["healthy"]
    assert response.json() in [{"status": status} for status in expected]


@pytest.mark.parametrize("path", PATHS)
async def test_probes_answer_without_a_host_and_with_two(wire, path):
    for hosts in (b"", b"Host: a.localhost\r\nHost: b.localhost\r\n"):
        heard = await wire.say(
            b"GET %s HTTP/1.1\r\n%sConnection: close\r\n\r\n" % (path.encode(), hosts)
        )
        assert heard.startswith(b"HTTP/1.1 200"), heard


async def test_a_suspended_tenants_host_is_no_obstacle_to_a_probe(client, new_tenant, as_owner):
    tenant = await new_tenant()
    await as_owner("UPDATE public.tenants SET status = 'suspended' WHERE id = :id", id=tenant.id)

    for path in PATHS:
        assert (await client.get(path, headers=tenant.headers)).status_code == 200


async def test_without_a_database_the_process_lives_but_is_not_ready(open_app):
    nowhere = "postgresql://app_runtime:x@127.0.0.1:1/none"

    async with open_app(nowhere, database_pool_min=0) as client:
        live = await client.get("/health/live")
        ready = await client.get("/health/ready")
        health = await client.get("/health")

    assert (live.status_code, live.json()) == (200, {"status": "healthy"})
    for answer in (ready, health):
        assert (answer.status_code, answer.json()) == (503, {"status": "unhealthy"})


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_probes_can_only_be_read(client, method):
    response = await client.request(method, "/health/live", headers={"Host": "x"})

    assert response.status_code == 405


async def test_a_path_beside_the_probes_is_not_one(client, tenant_once):
    for path in ("/health/secret", "/healthy", "/health/live/x"):
        assert (await client.get(path, headers={"Host": "nobody.example"})).status_code == 404
        check_problem(await client.get(path, headers=tenant_once.headers), 404)


async def test_many_probes_at_once_are_all_answered(client):
    answers: list[httpx.Response] = await asyncio.gather(
        *(client.get("/health/ready") for _ in range(100))
    )

    assert {answer.status_code for answer in answers} == {200}
