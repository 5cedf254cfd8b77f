"""Dashboards over HTTP: versions, optimistic locking, who may see which, requests sent twice."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from acceptance.talk import check_problem, dashboard, rows_of, stored_dashboard, walk

PATH = "/api/v1/dashboards"
FIELDS = {
    "id", "name", "description", "layout", "widgets", "visibility", "tags", "owner", "version",
    "created_at", "updated_at",
}  # fmt: skip


async def put(client, who, one, **changes):
    body = dashboard(version=one["version"], **changes)
    return await client.put(f"{PATH}/{one['id']}", json=body, headers=who.headers)


async def test_a_dashboard_is_created_with_201_and_read_as_it_was_sent(client, new_tenant):
    tenant = await new_tenant()
    body = {
        "name": "Tools",
        "description": "what is slow",
        "layout": {"a": {"x": 0, "y": [1, 2.5, None]}},
        "widgets": [{"id": "a", "title": "é"}],
        "visibility": "tenant",
        "tags": ["tools", "week"],
    }

    response = await client.post(PATH, json=body, headers=tenant.headers)

    assert response.status_code == 201
    created = response.json()
    assert created.keys() == FIELDS
    assert {name: created[name] for name in body} == body
    assert (created["version"], created["owner"]) == (1, None)
    UUID(created["id"])
    read = await client.get(f"{PATH}/{created['id']}", headers=tenant.headers)
    assert (read.status_code, read.json()) == (200, created)


async def test_a_name_is_enough(client, new_tenant):
    tenant = await new_tenant()

    response = await client.post(PATH, json={"name": "x"}, headers=tenant.headers)

    created = response.json()
    assert (created["description"], created["layout"], created["widgets"]) == ("", {}, [])
    assert (created["visibility"], created["tags"]) == ("tenant", [])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "x" * 256}),
        ("name", {"name": "a\0b"}),
        ("description", {"description": "x" * 8193}),
        ("layout", {"layout": []}),
        ("layout", {"layout": {"a": "x" * 300_000}}),
        ("layout", {"layout": {"a\0": 1}}),
        ("widgets", {"widgets": {}}),
        ("widgets", {"widgets": [1]}),
        ("widgets", {"widgets": [{}] * 101}),
        ("visibility", {"visibility": "public"}),
        ("visibility", {"visibility": "private"}),
        ("visibility", {"visibility": "team"}),
        ("tags", {"tags": ["x" * 256]}),
        ("version", {"version": 1}),
        ("owner", {"owner": None}),
        ("id", {"id": str(uuid4())}),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_stored(
    client, tenant_once, count_rows, field, change
):
    before = await count_rows(tenant_once)

    response = await client.post(PATH, json=dashboard(**change), headers=tenant_once.headers)

    (error,) = check_problem(response, 422)["errors"]
    assert error["field"].split("[")[0] == field
    assert await count_rows(tenant_once) == before


@pytest.mark.parametrize("number", ["1e20", "1e308", "-1e308", "1e-320", "18446744073709551616"])
async def test_a_number_of_any_size_can_be_read_again_or_is_refused(client, new_tenant, number):
    tenant = await new_tenant()
    body = f'{{"name": "n", "layout": {{"x": {number}}}, "widgets": [{{"y": {number}}}]}}'
    headers = {**tenant.headers, "Content-Type": "application/json"}

    response = await client.post(PATH, content=body, headers=headers)

    if response.status_code == 201:
        read = await client.get(f"{PATH}/{response.json()['id']}", headers=tenant.headers)
        assert float(read.json()["layout"]["x"]) == float(number)
        assert (await client.get(PATH, headers=tenant.headers)).status_code == 200
    else:
        check_problem(response, 422)


async def test_replacing_takes_the_version_that_was_read_and_makes_the_next(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant, tags=["a"], description="old")

    response = await put(client, tenant, one, name="New")

    assert response.status_code == 200
    two = response.json()
    assert (two["name"], two["version"], two["tags"], two["description"]) == ("New", 2, [], "")
    assert two["created_at"] == one["created_at"]
    assert two["updated_at"] > one["updated_at"]


async def test_a_stale_version_is_a_conflict_and_changes_nothing(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)
    two = (await put(client, tenant, one, name="Two")).json()

    for stale in (one, {**one, "version": 3}, {**one, "version": 2**31 - 1}):
        check_problem(await put(client, tenant, stale, name="Three"), 409)

    read = await client.get(f"{PATH}/{one['id']}", headers=tenant.headers)
    assert read.json() == two


@pytest.mark.parametrize("version", [None, 0, -1, "1", 1.5, 2**31, 10**30])
async def test_a_version_that_is_none_is_refused(client, new_tenant, version):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)

    response = await put(client, tenant, {**one, "version": version})

    check_problem(response, 422)


async def test_of_two_who_replace_at_the_same_time_one_wins(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)

    responses = await asyncio.gather(
        *(put(client, tenant, one, name=f"by {who}") for who in range(2))
    )

    assert sorted(response.status_code for response in responses) == [200, 409]
    read = (await client.get(f"{PATH}/{one['id']}", headers=tenant.headers)).json()
    (won,) = (response.json() for response in responses if response.status_code == 200)
    assert read == won
    assert read["version"] == 2


async def test_every_version_is_kept_and_listed_newest_first(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant, name="v1")
    for number in range(2, 8):
        one = (await put(client, tenant, one, name=f"v{number}")).json()
    path = f"{PATH}/{one['id']}/versions"

    walked = [row async for row in walk(client, path, tenant, limit=2)]
    page = await client.get(path, params={"page": 2, "limit": 5}, headers=tenant.headers)

    assert [row["version"] for row in walked] == [7, 6, 5, 4, 3, 2, 1]
    assert [row["name"] for row in walked] == [f"v{number}" for number in range(7, 0, -1)]
    assert page.json()["meta"] == {"limit": 5, "page": 2, "total": 7, "pages": 2}
    assert [row["version"] for row in page.json()["data"]] == [2, 1]


async def test_restoring_makes_an_old_version_the_newest(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant, name="first", tags=["a"], layout={"old": 1})
    two = (await put(client, tenant, one, name="second")).json()

    response = await client.post(f"{PATH}/{one['id']}/versions/1/restore", headers=tenant.headers)

    assert response.status_code == 200
    three = response.json()
    assert (three["name"], three["tags"], three["layout"]) == ("first", ["a"], {"old": 1})
    assert three["version"] == 3
    versions = await rows_of(client, f"{PATH}/{one['id']}/versions", tenant)
    assert [row["name"] for row in versions] == ["first", "second", "first"]
    check_problem(await put(client, tenant, two), 409)


@pytest.mark.parametrize(
    "version", ["3", "0", "-1", str(2**31), str(10**30), "9" * 5000, "x", "1.0"]
)
async def test_a_version_that_never_was_cannot_be_restored(client, new_tenant, version):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)

    response = await client.post(
        f"{PATH}/{one['id']}/versions/{version}/restore", headers=tenant.headers
    )

    check_problem(response, 404)


async def test_deleting_deletes_the_versions_too(client, new_tenant, count_rows):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)
    await put(client, tenant, one)
    where = f"{PATH}/{one['id']}"

    response = await client.delete(where, headers=tenant.headers)

    assert (response.status_code, response.content) == (204, b"")
    for method, path in [
        ("GET", where),
        ("DELETE", where),
        ("GET", f"{where}/versions"),
        ("POST", f"{where}/versions/1/restore"),
    ]:
        check_problem(await client.request(method, path, headers=tenant.headers), 404)
    check_problem(await put(client, tenant, one), 404)
    left = await count_rows(tenant)
    assert (left["dashboard_configs"], left["dashboard_versions"]) == (0, 0)


@pytest.mark.parametrize("sort", ["updated_at", "-updated_at", "created_at", "-created_at"])
async def test_pages_show_every_dashboard_once(client, new_tenant, sort):
    tenant = await new_tenant()
    made = [await stored_dashboard(client, tenant, name=str(number)) for number in range(9)]
    await put(client, tenant, made[4])

    walked = [row async for row in walk(client, PATH, tenant, limit=2, sort=sort)]
    page = await client.get(
        PATH, params={"page": 1, "limit": 500, "sort": sort}, headers=tenant.headers
    )

    keys = [(row[sort.lstrip("-")], row["id"]) for row in walked]
    assert keys == sorted(set(keys), reverse=sort.startswith("-"))
    assert len(keys) == 9
    assert page.json()["data"] == walked
    assert page.json()["meta"]["total"] == 9


async def test_dashboards_can_be_asked_for_by_tag(client, new_tenant):
    tenant = await new_tenant()
    await stored_dashboard(client, tenant, name="a", tags=["x", "y"])
    await stored_dashboard(client, tenant, name="b", tags=["y"])
    await stored_dashboard(client, tenant, name="c")

    by_tag = {
        tag: sorted(row["name"] for row in await rows_of(client, PATH, tenant, tag=tag))
        for tag in ("x", "y", "z")
    }

    assert by_tag == {"x": ["a"], "y": ["a", "b"], "z": []}


# -- who may see what -------------------------------------------------------------------------------


async def test_private_is_for_the_owner_team_for_the_team_and_tenant_for_all(
    client, new_tenant, new_person
):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com", team="web")
    mate = await new_person(tenant, "mate@example.com", team="web")
    other = await new_person(tenant, "other@example.com", team="ops")
    loner = await new_person(tenant, "loner@example.com")
    made = {
        visibility: await stored_dashboard(client, ada, name=visibility, visibility=visibility)
        for visibility in ("private", "team", "tenant")
    }
    sees = {
        "ada": (ada, {"private", "team", "tenant"}),
        "mate": (mate, {"team", "tenant"}),
        "other": (other, {"tenant"}),
        "loner": (loner, {"tenant"}),
        "admin": (tenant, {"private", "team", "tenant"}),
    }

    for who, visible in sees.values():
        listed = {row["name"] for row in await rows_of(client, PATH, who)}
        page = await client.get(PATH, params={"page": 1}, headers=who.headers)
        assert listed == visible
        assert page.json()["meta"]["total"] == len(visible)
        for name, one in made.items():
            where = f"{PATH}/{one['id']}"
            for path in (where, f"{where}/versions"):
                response = await client.get(path, headers=who.headers)
                assert response.status_code == (200 if name in visible else 404)
            if name not in visible:
                check_problem(await put(client, who, one), 404)
                check_problem(await client.delete(where, headers=who.headers), 404)
                restore = f"{where}/versions/1/restore"
                check_problem(await client.post(restore, headers=who.headers), 404)


async def test_two_without_a_team_are_not_one_team(client, new_tenant, new_person):
    tenant = await new_tenant()
    one = await new_person(tenant, "one@example.com")
    other = await new_person(tenant, "other@example.com")
    await stored_dashboard(client, one, visibility="team")

    assert await rows_of(client, PATH, other) == []


async def test_the_owner_is_the_user_of_the_key(client, new_tenant, new_person):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com")

    one = await stored_dashboard(client, ada, visibility="private")

    assert one["owner"] == {"id": str(ada.id), "email": "ada@example.com", "name": None}
    (version,) = await rows_of(client, f"{PATH}/{one['id']}/versions", ada)
    assert version["author_id"] == str(ada.id)


async def test_a_key_of_nobody_sees_what_is_the_tenants_alone(
    client, new_tenant, new_person, new_key
):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com")
    await stored_dashboard(client, ada, name="hers", visibility="private")
    await stored_dashboard(client, ada, name="ours", visibility="tenant")
    issued = await new_key(tenant, scopes=("read",))
    headers = {"Host": tenant.headers["Host"], "Authorization": f"Bearer {issued.key}"}

    response = await client.get(PATH, headers=headers)

    assert [row["name"] for row in response.json()["data"]] == ["ours"]


# -- the same request twice -------------------------------------------------------------------------


def with_key(who, key):
    return {**who.headers, "Idempotency-Key": key}


async def test_a_request_sent_again_gets_its_first_answer_and_nothing_happens_twice(
    client, new_tenant
):
    tenant = await new_tenant()
    body, headers = dashboard(), with_key(tenant, "k-1")

    first = await client.post(PATH, json=body, headers=headers)
    again = await client.post(PATH, json=body, headers=headers)

    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert len(await rows_of(client, PATH, tenant)) == 1


async def test_a_key_with_another_request_is_refused(client, new_tenant):
    tenant = await new_tenant()
    headers = with_key(tenant, "k-1")
    await client.post(PATH, json=dashboard(), headers=headers)

    other_body = await client.post(PATH, json=dashboard(name="other"), headers=headers)
    other_route = await client.post(
        "/api/v1/keys", json={"name": "x", "scopes": ["read"]}, headers=headers
    )

    check_problem(other_body, 422)
    check_problem(other_route, 422)
    assert len(await rows_of(client, PATH, tenant)) == 1


async def test_twenty_at_once_under_one_key_make_one(client, new_tenant):
    tenant = await new_tenant()
    body, headers = dashboard(), with_key(tenant, "k-1")

    responses = await asyncio.gather(
        *(client.post(PATH, json=body, headers=headers) for _ in range(20))
    )

    assert {response.status_code for response in responses} <= {201, 409}
    created = {response.content for response in responses if response.status_code == 201}
    assert len(created) == 1
    assert len(await rows_of(client, PATH, tenant)) == 1


async def test_another_principals_same_key_is_another_request(client, new_tenant, new_person):
    tenant, stranger = await new_tenant(), await new_tenant()
    ada = await new_person(tenant, "ada@example.com")

    answers = [
        await client.post(PATH, json=dashboard(name=name), headers=with_key(who, "same"))
        for who, name in [(tenant, "one"), (ada, "two"), (stranger, "three")]
    ]

    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert [answer.json()["name"] for answer in answers] == ["one", "two", "three"]


async def test_a_refused_request_does_not_use_up_its_key(client, new_tenant):
    tenant = await new_tenant()
    headers = with_key(tenant, "k-1")

    refused = await client.post(PATH, json=dashboard(visibility="private"), headers=headers)
    corrected = await client.post(PATH, json=dashboard(), headers=headers)

    check_problem(refused, 422)
    assert corrected.status_code == 201


@pytest.mark.parametrize(
    "keys", [[""], ["x" * 129], ["a\tb"], ["a", "b"], ["a", "a"], [b"\xff\x00"], [b"\x80"]]
)
async def test_a_key_that_is_none_is_refused(client, tenant_once, count_rows, keys):
    headers = [*tenant_once.headers.items(), *(("Idempotency-Key", key) for key in keys)]
    before = await count_rows(tenant_once)

    response = await client.post(PATH, json=dashboard(), headers=headers)

    check_problem(response, 400)
    assert await count_rows(tenant_once) == before


async def test_a_key_of_128_characters_is_taken(client, new_tenant):
    tenant = await new_tenant()

    response = await client.post(PATH, json=dashboard(), headers=with_key(tenant, "x" * 128))

    assert response.status_code == 201


async def test_a_restore_sent_again_restores_once(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)
    path = f"{PATH}/{one['id']}/versions/1/restore"

    first = await client.post(path, headers=with_key(tenant, "k"))
    again = await client.post(path, headers=with_key(tenant, "k"))

    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert first.json()["version"] == 2
    assert len(await rows_of(client, f"{PATH}/{one['id']}/versions", tenant)) == 2
