"""The operators' domain and the tenants' never meet, whatever the host, the path or a header says."""

from __future__ import annotations

import itertools
from uuid import uuid4

import pytest

from acceptance.operators import API, DOMAIN, HOST, opened_site
from acceptance.talk import check_problem, same_but_for_ids

OPERATORS_PATHS = (
    *(
        f"{API}/{name}"
        for name in ("me", "tenants", "jobs", "migrations", "processes", "slow-queries")
    ),
    "/metrics",
    "/tenants",
    "/health-history",
    "/migrations",
    "/jobs",
)
TENANTS_PATHS = (
    "/api/v1/me",
    "/api/v1/sessions",
    "/api/v1/keys",
    "/sessions",
    "/tools",
    "/models",
    "/people",
    "/dashboards",
    "/settings",
    "/live",
)


@pytest.fixture(scope="module")
async def site(open_app, addresses):
    async with opened_site(open_app, addresses) as opened:
        yield opened


@pytest.fixture(scope="module")
async def tenant(new_together):
    return await new_together()


@pytest.fixture(scope="module")
async def plain(open_app):
    """The same service without an operators' domain."""
    async with open_app() as opened:
        yield opened


@pytest.mark.parametrize("path", OPERATORS_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
async def test_on_a_tenants_domain_no_path_of_the_operators_exists(
    plain, site, tenant, path, method
):
    """It is answered as by a service that has no operators, and as what nobody ever served."""
    headers = [
        {"Host": tenant.headers["Host"]},
        tenant.headers,
        {"Host": tenant.headers["Host"], "Authorization": f"Bearer {site.key.key}"},
        {"Host": tenant.headers["Host"], "X-API-Key": site.key.key},
    ]
    for given in headers:
        options = {"headers": {**given, "X-Request-Id": "same"}}
        if method == "POST":
            options["json"] = {"slug": "acme"}
        with_operators = await site.client.request(method, path, **options)
        without = await plain.request(method, path, **options)
        assert with_operators.status_code in (401, 404), (given, with_operators.text)
        assert same_but_for_ids(with_operators) == same_but_for_ids(without)


@pytest.mark.parametrize(
    "trick",
    [
        {"X-Forwarded-Host": HOST},
        {"X-Forwarded-Server": HOST},
        {"X-Host": HOST},
        {"X-Original-Host": HOST},
        {"X-HTTP-Host-Override": HOST},
        {"Forwarded": f"host={HOST};proto=https"},
        {"X-Original-URL": f"{API}/tenants"},
        {"X-Rewrite-URL": f"{API}/tenants"},
        {"Origin": f"https://{HOST}", "Referer": f"https://{HOST}/"},
    ],
)
async def test_no_header_leads_from_a_tenants_domain_to_the_operators(site, tenant, trick):
    headers = {
        "Host": tenant.headers["Host"],
        "Authorization": f"Bearer {site.key.key}",
        **trick,
    }
    for path in (f"{API}/tenants", "/tenants", "/metrics", "/"):
        response = await site.client.get(path, headers=headers)
        assert response.status_code in (303, 401, 404), response.text
        assert str(tenant.id) not in response.text


@pytest.mark.parametrize(
    "host",
    [
        f"{HOST}.{{}}",
        f"{{}}/{HOST}",
        f"{{}}@{HOST}",
        f"{{}}#{HOST}",
        f"{{}}:80@{HOST}",
        f"x.{HOST}",
        f"{HOST}x",
        f"{DOMAIN}.{{}}",
        f"{DOMAIN}.example",
    ],
)
async def test_a_host_that_is_nearly_the_operators_is_not(site, tenant, host):
    headers = {**site.headers, "Host": host.format(tenant.headers["Host"])}

    response = await site.client.get(f"{API}/me", headers=headers)

    assert response.status_code in (400, 404), (headers["Host"], response.text)


@pytest.mark.parametrize(
    "host", [HOST, f"{HOST}:8443", "OPERATOR.localhost", f"{HOST}.", DOMAIN, f"{DOMAIN}:80"]
)
async def test_the_operators_domain_is_found_however_its_name_is_spelt(site, host):
    response = await site.client.get(f"{API}/me", headers={**site.headers, "Host": host})

    assert response.status_code == 200, response.text


async def test_two_hosts_are_nobodys(site, tenant):
    for hosts in itertools.permutations([HOST, tenant.headers["Host"]]):
        headers = [*(("Host", host) for host in hosts), ("X-API-Key", site.key.key)]
        check_problem(await site.client.get(f"{API}/me", headers=headers), 400)


@pytest.mark.parametrize(
    "path",
    [
        "//operator/api/v1/tenants",
        "/operator//api/v1/tenants/",
        "/api/v1/../../operator/api/v1/tenants",
        "/static/../operator/api/v1/tenants",
        "/%6fperator/api/v1/tenants",
        "/i/x/operator/api/v1/tenants",
        "/health/../operator/api/v1/tenants",
        "/OPERATOR/api/v1/tenants",
        "/operator/api/v1/tenants;x",
        "/operator%2Fapi%2Fv1%2Ftenants",
    ],
)
async def test_no_spelling_of_a_path_gets_past_either_gate(site, tenant, path):
    strangers = await site.client.get(path, headers={"Host": HOST})
    on_tenants = await site.client.get(
        path, headers={"Host": tenant.headers["Host"], "Authorization": f"Bearer {site.key.key}"}
    )

    for response in (strangers, on_tenants):
        assert response.status_code in (400, 401, 404), response.text
        assert str(tenant.id) not in response.text


@pytest.mark.parametrize("path", TENANTS_PATHS)
async def test_on_the_operators_domain_no_path_of_the_tenants_exists(site, tenant, path):
    for key in (site.key.key, tenant.key):
        headers = {"Host": HOST, "Authorization": f"Bearer {key}"}
        response = await site.client.get(path, headers=headers)
        assert response.status_code == (404 if key == site.key.key else 401), response.text
    stranger = await site.client.get(path, headers={"Host": HOST})
    assert stranger.status_code == 404, stranger.text


@pytest.mark.parametrize("path", ["/v1/logs", "/v1/traces", "/v1/metrics"])
async def test_the_operators_domain_takes_no_telemetry(site, tenant, path):
    headers = {"Host": HOST, "Content-Type": "application/json"}
    client = site.client
    for key in (tenant.key, site.key.key):
        client.event_hooks = {}
        response = await client.post(
            path, content=b"{}", headers={**headers, "Authorization": f"Bearer {key}"}
        )
        assert response.status_code in (401, 404), response.text


async def test_a_tenants_key_is_nothing_to_the_operators_and_theirs_nothing_to_a_tenant(
    site, tenant
):
    with_tenants = await site.client.get(
        f"{API}/me", headers={"Host": HOST, "Authorization": f"Bearer {tenant.key}"}
    )
    with_operators = await site.client.get(
        "/api/v1/me",
        headers={"Host": tenant.headers["Host"], "Authorization": f"Bearer {site.key.key}"},
    )

    check_problem(with_tenants, 401)
    check_problem(with_operators, 401)


async def test_a_tenants_sign_in_is_nothing_to_the_operators(site, tenant, sign_in):
    headers = await sign_in(tenant)
    cookie = headers["Cookie"].partition("=")[2]
    for name in ("__Host-metrics", "__Host-metrics-operator"):
        response = await site.client.get(
            f"{API}/me", headers={"Host": HOST, "Cookie": f"{name}={cookie}"}
        )
        check_problem(response, 401)


async def test_an_operators_sign_in_is_nothing_to_a_tenant(site, tenant):
    response = await site.client.post(
        "/sign-in",
        data={"key": site.key.key},
        headers={"Host": HOST, "Sec-Fetch-Site": "same-origin"},
    )
    cookie = response.headers["set-cookie"].partition("=")[2].partition(";")[0]

    for name in ("__Host-metrics", "__Host-metrics-operator"):
        answer = await site.client.get(
            "/api/v1/me",
            headers={"Host": tenant.headers["Host"], "Cookie": f"{name}={cookie}"},
        )
        check_problem(answer, 401)


async def test_without_an_operators_domain_its_host_is_nobodys(plain, site):
    for path in (f"{API}/me", "/", "/metrics", "/sign-in"):
        response = await plain.get(path, headers={**site.headers, "X-Request-Id": uuid4().hex})
        check_problem(response, 404)
