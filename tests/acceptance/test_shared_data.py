"""What a dashboard shows to whoever has its link: its figures, and nobody by name."""

from __future__ import annotations

import pytest

from acceptance.talk import at, check_problem, stored_batch, stored_dashboard, tool_metric, widget

PATH = "/api/v1/dashboards"
LINK = "/api/v1/shared"
DAY = {"from": "2026-03-02T00:00:00Z", "to": "2026-03-03T00:00:00Z"}


def table(name="people", **query):
    asked = {"source": "tool_metrics", "measures": ["count"], "group_by": ["user_id"], **query}
    return widget(id=name, kind="table", query=asked)


@pytest.fixture
async def story(client, new_tenant, new_person):
    """A tenant, the owner of a dashboard by people and by agent, the dashboard and its link."""
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com", team="web")
    people = ("ada@example.com", "bob@example.com")
    calls = [
        tool_metric(started_at=at(number), user_email=people[number % 3 % 2])
        for number in range(30)
    ]
    await stored_batch(client, tenant, calls)
    widgets = [
        table(),
        table("before", compare="previous_period"),
        table("hers", filters={"user_id": str(ada.id)}),
        table("agents", group_by=["agent"]),
    ]
    one = await stored_dashboard(client, ada, name="Ours", layout={}, widgets=widgets)
    body = {"kind": "link"}
    made = await client.post(f"{PATH}/{one['id']}/shares", json=body, headers=ada.headers)
    return tenant, ada, one, made.json()["token"]


async def asked(client, tenant, token, **body):
    host = {"Host": tenant.headers["Host"]}
    return await client.post(f"{LINK}/{token}/data", json=body, headers=host)


async def test_a_link_shows_the_same_figures_with_labels_in_place_of_people(client, story):
    tenant, ada, one, token = story
    inside = await client.post(f"{PATH}/{one['id']}/data", json=DAY, headers=ada.headers)

    response = await asked(client, tenant, token, **DAY)

    assert response.status_code == 200, response.text
    shown, own = response.json(), inside.json()
    assert shown["names"] == {}
    assert set(own["names"]) == {row["user_id"] for row in own["data"][0]["rows"]}
    for seen, known in zip(shown["data"], own["data"], strict=True):
        assert [row["count"] for row in seen["rows"]] == [row["count"] for row in known["rows"]]
    labels = {row["user_id"] for one in shown["data"][:3] for row in one["rows"]}
    assert len(labels) == 2
    assert all(label.startswith("user ") for label in labels)
    assert shown["data"][3]["rows"] == own["data"][3]["rows"]
    for secret in (str(ada.id), "example.com", one["id"], str(tenant.id)):
        assert secret not in response.text


async def test_a_link_is_a_picture_without_people_too(client, story):
    tenant, _, _, token = story
    host = {"Host": tenant.headers["Host"]}

    response = await client.get(
        f"{LINK}/{token}/image", params={"format": "svg", **DAY}, headers=host
    )

    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/svg+xml"
    assert "user " in response.text
    assert "example.com" not in response.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"filters": {"agent": "codex"}}, 422),
        ({"tz": "Nowhere/Land"}, 422),
        ({"from": "2026-03-03T00:00:00Z", "to": "2026-03-02T00:00:00Z"}, 422),
    ],
)
async def test_what_a_stranger_may_not_ask_is_refused(client, story, body, status):
    tenant, _, _, token = story

    check_problem(await asked(client, tenant, token, **body), status)


async def test_a_link_that_was_taken_back_shows_nothing(client, story):
    tenant, ada, one, token = story
    host = {"Host": tenant.headers["Host"]}
    (share,) = (await client.get(f"{PATH}/{one['id']}/shares", headers=ada.headers)).json()["data"]
    await client.delete(f"{PATH}/{one['id']}/shares/{share['id']}", headers=ada.headers)

    check_problem(await asked(client, tenant, token, **DAY), 404)
    check_problem(await client.get(f"{LINK}/{token}/image", headers=host), 404)


async def test_a_link_shows_nothing_on_another_tenants_domain(client, story, new_tenant):
    _, _, _, token = story
    other = await new_tenant()

    check_problem(await asked(client, other, token, **DAY), 404)
