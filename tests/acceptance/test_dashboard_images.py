"""Dashboards as pictures over HTTP: of the right figures, for the right people, in nobody's way."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import httpx
import pytest
from PIL import Image

from acceptance.talk import check_problem, stored_batch, stored_dashboard, tool_metric, widget
from metrics_service.dashboards.pictures.theme import LIGHT
from metrics_service.dashboards.templates import TEMPLATES
from metrics_service.db.engine import owner_connection
from metrics_service.seeds.seed import seed
from metrics_service.tenants.initialise import initialise
from metrics_service.tenants.keys import SCOPES, create_key
from metrics_service.tenants.registry import find_tenant

PATH = "/api/v1/dashboards"
RANGE = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-08T00:00:00Z"}


def image_path(one) -> str:
    return f"{PATH}/{one['id']}/image"


def texts(svg: bytes) -> list[str]:
    found = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(one.itertext()) for one in found]


def failures(svg: bytes) -> list[str]:
    """What stands in the middle of a card in the colour of what is wrong."""
    found = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    wrong = {"fill": LIGHT.bad, "text-anchor": "middle"}
    return [one.text or "" for one in found if wrong.items() <= one.attrib.items()]


async def get_image(client, who, one, **query):
    return await client.get(image_path(one), params={**RANGE, **query}, headers=who.headers)


async def calls_of(client, tenant, *names):
    await stored_batch(
        client,
        tenant,
        [tool_metric(tool_name=name, duration_ms=number) for number, name in enumerate(names)],
    )


def by_tool(**changes):
    query = {"source": "tool_metrics", "measures": ["count"], "group_by": ["tool_name"]}
    return widget(query=query, **changes)


@pytest.mark.parametrize(
    ("kind", "media_type", "begins"),
    [
        ("png", "image/png", b"\x89PNG"),
        ("svg", "image/svg+xml", b"<svg "),
        ("pdf", "application/pdf", b"%PDF"),
    ],
)
async def test_each_format_has_its_type_and_is_shown_and_not_run(
    client, new_tenant, kind, media_type, begins
):
    tenant = await new_tenant()
    await calls_of(client, tenant, "Bash")
    one = await stored_dashboard(client, tenant, name="Tools / Größe")

    response = await get_image(client, tenant, one, format=kind)

    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == media_type
    assert response.content.startswith(begins)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert response.headers["cache-control"] == "private, no-cache"
    disposition = response.headers["content-disposition"]
    assert disposition.startswith('inline; filename="tools-gr-e-20')
    assert "filename*=UTF-8''Tools%20%2F%20Gr%C3%B6%C3%9Fe" in disposition


async def test_a_picture_shows_the_figures_of_its_tenant_and_of_no_other(client, new_tenant):
    tenant, stranger = await new_tenant(), await new_tenant()
    await calls_of(client, tenant, "Ours", "Ours", "Ours")
    await calls_of(client, stranger, "Theirs")
    one = await stored_dashboard(client, tenant, widgets=[by_tool()])

    response = await get_image(client, tenant, one, format="svg")

    said = texts(response.content)
    assert "Ours" in said
    assert "3" in said
    assert "Theirs" not in said
    assert "1 Mar 2026 to 7 Mar 2026" in said
    check_problem(await get_image(client, stranger, one), 404)
    nobody = {"Host": tenant.headers["Host"]}
    check_problem(await client.get(image_path(one), headers=nobody), 401)


async def test_a_private_dashboard_is_drawn_for_its_owner_alone(client, new_tenant, new_person):
    tenant = await new_tenant()
    owner = await new_person(tenant, "owner@example.com")
    other = await new_person(tenant, "other@example.com")
    one = await stored_dashboard(client, owner, visibility="private")

    assert (await get_image(client, owner, one, format="svg")).status_code == 200
    check_problem(await get_image(client, other, one), 404)


async def test_the_days_are_those_of_the_zone(client, new_tenant):
    tenant = await new_tenant()
    # A Monday evening in Europe, and a Tuesday in Asia.
    await stored_batch(client, tenant, [tool_metric(started_at="2026-03-02T19:00:00Z")])
    query = {"source": "tool_metrics", "measures": ["count"], "group_by": ["day"]}
    one = await stored_dashboard(client, tenant, widgets=[widget(kind="table", query=query)])

    here = await get_image(client, tenant, one, format="svg", tz="Europe/Berlin")
    there = await get_image(client, tenant, one, format="svg", tz="Asia/Kolkata")

    assert "Mon 2 Mar" in texts(here.content)
    assert "Tue 3 Mar" in texts(there.content)
    assert "times in Asia/Kolkata" in texts(there.content)


async def test_width_and_theme_are_as_they_were_asked_for(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)

    light = await get_image(client, tenant, one, width=600)
    dark = await get_image(client, tenant, one, width=1800, theme="dark")

    assert Image.open(io.BytesIO(light.content)).size[0] == 600
    shown = Image.open(io.BytesIO(dark.content)).convert("L")
    assert shown.size[0] == 1800
    assert (
        shown.getpixel((2, 2))
        < 60
        < Image.open(io.BytesIO(light.content)).convert("L").getpixel((2, 2))
    )


async def test_who_has_the_picture_already_is_told_so(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant, widgets=[by_tool()])
    first = await get_image(client, tenant, one)
    seen = {"If-None-Match": first.headers["etag"]}

    again = await client.get(image_path(one), params=RANGE, headers={**tenant.headers, **seen})
    await calls_of(client, tenant, "Bash")
    changed = await client.get(image_path(one), params=RANGE, headers={**tenant.headers, **seen})
    other = await client.get(
        image_path(one), params={**RANGE, "theme": "dark"}, headers={**tenant.headers, **seen}
    )

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert changed.status_code == other.status_code == 200


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"format": "gif"}, "format"),
        ({"theme": "blue"}, "theme"),
        ({"width": "599"}, "width"),
        ({"width": "2401"}, "width"),
        ({"width": "wide"}, "width"),
        ({"tz": "Mars/Base"}, "tz"),
        ({"from": "2026-03-01"}, "from"),
        ({"from": "2026-03-08T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "to"),
        ({"from": "1926-03-08T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, ""),
        ({"scale": "2"}, "scale"),
    ],
)
async def test_a_bad_parameter_is_named(client, shared_tenant, query, named):
    one = await stored_dashboard(client, shared_tenant)

    response = await client.get(image_path(one), params=query, headers=shared_tenant.headers)

    assert named in check_problem(response, 400)["detail"]


async def test_what_anybody_wrote_is_text_and_nothing_else(client, new_tenant):
    tenant = await new_tenant()
    evil = "<script>alert(1)</script>&\u202e"
    await calls_of(client, tenant, evil, "'\"><image href=x>", "x" * 255)
    tiles = [by_tool(title=evil, description=evil), by_tool(id="b", kind="table")]
    one = await stored_dashboard(
        client, tenant, name=evil, description="x" * 8000, layout={}, widgets=tiles
    )

    response = await get_image(client, tenant, one, format="svg")

    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(response.content).iter()}
    assert tags <= {"svg", "g", "rect", "path", "line", "text", "defs", "clipPath"}
    assert texts(response.content).count("<script>alert(1)</script>&") >= 3
    assert (await get_image(client, tenant, one)).content.startswith(b"\x89PNG")


def many_widgets(number):
    query = {"source": "tool_metrics", "measures": ["count"], "group_by": ["day", "tool_name"]}
    return [widget(id=f"w{n}", query=query, mark="bar") for n in range(number)]


async def test_others_are_answered_while_a_large_picture_is_drawn(client, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    await calls_of(client, tenant, *(f"tool {n}" for n in range(20)))
    one = await stored_dashboard(client, tenant, layout={}, widgets=many_widgets(12))
    await get_image(client, tenant, one, format="pdf")

    drawing = asyncio.create_task(get_image(client, tenant, one, format="pdf", theme="dark"))
    answered = 0
    while not drawing.done():
        response = await client.get("/api/v1/me", headers=other.headers)
        assert response.status_code == 200
        answered += 1
        # As fast as it can would be more a second than a tenant may.
        await asyncio.sleep(0.005)

    assert drawing.result().status_code == 200
    assert answered >= 10


async def test_too_many_pictures_of_one_tenant_are_to_be_asked_for_later(client, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    await calls_of(client, tenant, "Bash")
    one = await stored_dashboard(client, tenant, layout={}, widgets=many_widgets(12))
    theirs = await stored_dashboard(client, other)

    answers = await asyncio.gather(
        *(get_image(client, tenant, one, width=600 + n) for n in range(8)),
        get_image(client, other, theirs),
    )

    statuses = [answer.status_code for answer in answers[:8]]
    assert statuses.count(200) >= 2
    assert statuses.count(503) >= 1
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert check_problem(refused, 503)["detail"] == "too many pictures are being drawn"
    assert answers[8].status_code == 200


async def test_the_server_that_the_product_ships_draws_too(client, wire, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)

    async with wire.client() as server:
        response = await get_image(server, tenant, one)

    assert response.content.startswith(b"\x89PNG")


# -- the templates, with the demonstration's history ------------------------------------------------


class Demo:
    """A seeded tenant behind an application of its own."""

    def __init__(self, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.client = client
        self.headers = headers


@pytest.fixture(scope="module")
async def demo(new_database, admin_url, open_app) -> AsyncIterator[Demo]:
    addresses = await asyncio.to_thread(new_database)
    await initialise(addresses, admin_url(urlsplit(addresses.runtime).path.removeprefix("/")))
    await seed(
        addresses,
        "test",
        force=False,
        clear=False,
        on_progress=lambda *_: None,
        base_domain="localhost",
        now=datetime.now(UTC),
    )
    async with owner_connection(addresses.require_owner()) as owner, owner.begin():
        tenant = await find_tenant(owner, "fortium-test")
        issued = await create_key(owner, tenant.id, scopes=list(SCOPES), name="test")
    headers = {"Host": f"{tenant.domain}.localhost", "Authorization": f"Bearer {issued.key}"}
    async with open_app(addresses.runtime) as client:
        yield Demo(client, headers)


@pytest.mark.parametrize("name", TEMPLATES)
async def test_each_template_is_copied_answered_and_drawn(demo, name):
    copied = await demo.client.post(
        f"/api/v1/dashboard-templates/{name}/copy", headers=demo.headers
    )
    one = copied.json()

    drawn = await demo.client.get(image_path(one), headers=demo.headers)
    svg = await demo.client.get(image_path(one), params={"format": "svg"}, headers=demo.headers)

    assert copied.status_code == 201
    shown = Image.open(io.BytesIO(drawn.content)).convert("RGB")
    assert shown.size[0] == 1200
    assert len(shown.getcolors(2**24)) > 100
    said = " ".join(texts(svg.content))
    assert one["name"] in said
    assert "cannot be drawn" not in said
    assert "There is no answer" not in said
    assert not failures(svg.content)
