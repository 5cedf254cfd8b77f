"""Dashboards over HTTP: versions, optimistic locking, who may see which, requests sent twice."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID, uuid4

import pytest

from acceptance.talk import check_problem, dashboard, rows_of, stored_dashboard, walk, widget
from metrics_service.db.tenancy import TenantContext, tenant_connection

PATH = "/api/v1/dashboards"
FIELDS = {
    "id", "name", "description", "layout", "widgets", "visibility", "tags", "owner", "version",
    "created_at", "updated_at",
}  # fmt: skip


async def put(client, who, one, **changes):
    body = dashboard(version=one["version"], **changes)
    return await client.put(f"{PATH}/{one['id']}", json=body, headers=who.headers)


@pytest.fixture(scope="module")
async def kept_tenant(new_tenant):
    """One for those to whom it does not matter what else is there."""
    return await new_tenant()


async def test_a_dashboard_is_created_with_201_and_read_as_it_was_sent(client, new_tenant):
    tenant = await new_tenant()
    body = {
        "name": "Tools",
        "description": "what is slow",
        "layout": {"a": {"x": 0, "y": 1, "w": 12, "h": 40}},
        "widgets": [widget(title="é", description="", encoding={"y": {"field": "count"}})],
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
async def test_a_number_of_any_size_can_be_read_again_or_is_refused(client, kept_tenant, number):
    domain = {"scale": {"domain": [0, "NUMBER"]}, "field": "count"}
    body = json.dumps(dashboard(widgets=[widget(encoding={"y": domain})]))
    body = body.replace('"NUMBER"', number)
    headers = {**kept_tenant.headers, "Content-Type": "application/json"}

    response = await client.post(PATH, content=body, headers=headers)

    if response.status_code == 201:
        read = await client.get(f"{PATH}/{response.json()['id']}", headers=kept_tenant.headers)
        (kept,) = read.json()["widgets"]
        assert float(kept["encoding"]["y"]["scale"]["domain"][1]) == float(number)
        assert (await client.get(PATH, headers=kept_tenant.headers)).status_code == 200
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


@pytest.mark.parametrize("visibility", ["private", "team", "tenant"])
async def test_replacing_without_a_word_on_who_sees_it_leaves_that_as_it_is(
    client, new_tenant, new_person, visibility
):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com", team="web")
    one = await stored_dashboard(client, ada, visibility=visibility)

    two = (await put(client, ada, one, name="Two")).json()
    three = (await put(client, ada, two, name="Three", visibility="team")).json()
    null = await put(client, ada, three, visibility=None)

    assert (two["version"], two["visibility"]) == (2, visibility)
    assert (three["version"], three["visibility"]) == (3, "team")
    (error,) = check_problem(null, 422)["errors"]
    assert error["field"] == "visibility"


async def test_a_value_that_is_none_of_a_list_is_answered_with_the_list(client, tenant_once):
    one = await client.post(PATH, json=dashboard(visibility="all"), headers=tenant_once.headers)
    listed = await client.get(PATH, params={"visibility": "all"}, headers=tenant_once.headers)

    reason = "must be one of private, team, tenant"
    assert check_problem(one, 422)["errors"] == [{"field": "visibility", "reason": reason}]
    assert check_problem(listed, 400)["detail"] == f"parameter visibility: {reason}"


async def test_a_stale_version_is_a_conflict_and_changes_nothing(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)
    two = (await put(client, tenant, one, name="Two")).json()

    for stale in (one, {**one, "version": 3}, {**one, "version": 2**31 - 1}):
        check_problem(await put(client, tenant, stale, name="Three"), 409)

    read = await client.get(f"{PATH}/{one['id']}", headers=tenant.headers)
    assert read.json() == two


@pytest.mark.parametrize("version", [None, 0, -1, "1", 1.5, 2**31, 10**30])
async def test_a_version_that_is_none_is_refused(client, kept_tenant, version):
    one = await stored_dashboard(client, kept_tenant)

    response = await put(client, kept_tenant, {**one, "version": version})

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
    one = await stored_dashboard(client, tenant, name="first", tags=["a"])
    two = (await put(client, tenant, one, name="second", layout={}, widgets=[])).json()

    response = await client.post(f"{PATH}/{one['id']}/versions/1/restore", headers=tenant.headers)

    assert response.status_code == 200
    three = response.json()
    assert (three["name"], three["tags"], three["layout"]) == ("first", ["a"], one["layout"])
    assert three["widgets"] == one["widgets"]
    assert three["version"] == 3
    versions = await rows_of(client, f"{PATH}/{one['id']}/versions", tenant)
    assert [row["name"] for row in versions] == ["first", "second", "first"]
    assert [row["note"] for row in versions] == ["version 1 restored", "", ""]
    check_problem(await put(client, tenant, two), 409)


@pytest.mark.parametrize(
    "version", ["3", "0", "-1", str(2**31), str(10**30), "9" * 5000, "x", "1.0"]
)
async def test_a_version_that_never_was_cannot_be_restored(client, kept_tenant, version):
    one = await stored_dashboard(client, kept_tenant)

    response = await client.post(
        f"{PATH}/{one['id']}/versions/{version}/restore", headers=kept_tenant.headers
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


# -- widgets ----------------------------------------------------------------------------------------


async def test_what_is_wrong_with_widgets_and_places_is_named_by_its_path(
    client, tenant_once, count_rows
):
    before = await count_rows(tenant_once)
    query = {"source": "tool_metrics", "measures": ["p100_ms"], "limit": 0}
    widgets = [
        widget(id="ok"),
        widget(id="measure", query={**query, "limit": 1}),
        widget(id="limit", query=query),
        widget(id="ok"),
    ]
    layout = {
        "ok": {"x": 0, "y": 0, "w": 6, "h": 4},
        "measure": {"x": 5, "y": 3, "w": 6, "h": 4},
        "nobody": {"x": 0, "y": 9, "w": 6, "h": 4},
    }

    response = await client.post(
        PATH, json=dashboard(widgets=widgets, layout=layout), headers=tenant_once.headers
    )

    errors = {error["field"]: error["reason"] for error in check_problem(response, 422)["errors"]}
    assert list(errors) == [
        "widgets[1].query.measures[0]",
        "widgets[2].query.limit",
        "widgets[3].id",
        "layout.measure",
        "layout.nobody",
    ]
    assert errors["widgets[1].query.measures[0]"].startswith("is not one of count, ")
    assert errors["layout.measure"] == "overlaps ok"
    assert await count_rows(tenant_once) == before


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"encoding": {"x": {"field": "day", "title": "x" * 1_000_000}}}, (413, 422)),
        ({"encoding": {"x" * 900_000: {"field": "day"}}}, (413, 422)),
        ({"encoding": {str(number): {} for number in range(60_000)}}, (413, 422)),
        ({"title": "a\0b"}, (422,)),
        ({"encoding": {"x": {"field": "day", "title": "\0"}}}, (422,)),
        ({"title": "🧪 \u202e é\u0301 \U0010ffff"}, (201,)),
    ],
)
async def test_a_widget_of_any_size_and_any_letters(client, kept_tenant, change, status):
    response = await client.post(
        PATH, json=dashboard(widgets=[widget(**change)]), headers=kept_tenant.headers
    )

    assert response.status_code in status
    assert len(response.content) < 10_000
    if response.status_code == 201:
        assert response.json()["widgets"] == [widget(**change)]
    else:
        check_problem(response)


def by_users(*ids):
    return widget(
        query={"source": "sessions", "measures": ["count"], "filters": {"user_id": list(ids)}}
    )


async def test_a_filter_names_users_of_this_tenant_and_no_others(client, new_tenant, new_person):
    tenant, stranger = await new_tenant(), await new_tenant()
    ada = await new_person(tenant, "ada@example.com")
    theirs = await new_person(stranger, "ada@example.com")
    one = await stored_dashboard(client, tenant, widgets=[by_users(str(ada.id))])

    for nobody in (str(theirs.id), str(uuid4())):
        wrong = {"widgets": [by_users(str(ada.id)), {**by_users(nobody), "id": "b"}], "layout": {}}
        posted = await client.post(PATH, json=dashboard(**wrong), headers=tenant.headers)
        replaced = await put(client, tenant, one, **wrong)
        for response in (posted, replaced):
            assert check_problem(response, 422)["errors"] == [
                {"reason": "there is no such user", "field": "widgets[1].query.filters.user_id"}
            ]


async def as_before_widgets_were_checked(engine, tenant, one, widgets, layout):
    """Write over what is stored, as it was written when anything was taken."""
    context = TenantContext(tenant.id)
    async with tenant_connection(engine, context) as connection:
        for table, key in (("dashboard_configs", "id"), ("dashboard_versions", "dashboard_id")):
            await connection.execute(
                f"UPDATE {table} SET widgets = $1, layout = $2 WHERE {key} = $3",
                json.dumps(widgets),
                json.dumps(layout),
                UUID(one["id"]),
            )


async def test_what_was_stored_before_is_read_but_not_restored(client, new_tenant, engine):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)
    old = [{"id": "a", "title": "x", "source": "tool_metrics"}, 1, {"id": ["b"]}]
    await as_before_widgets_were_checked(engine, tenant, one, old, {"a": {"x": 0}})
    where = f"{PATH}/{one['id']}"

    read = (await client.get(where, headers=tenant.headers)).json()
    two = (await put(client, tenant, one, name="New")).json()
    restored = await client.post(f"{where}/versions/1/restore", headers=tenant.headers)
    diff = await client.get(f"{where}/versions/1/diff", headers=tenant.headers)

    assert read["widgets"] == old
    assert [error["field"] for error in check_problem(restored, 422)["errors"]] == [
        "widgets[0].source",
        "widgets[1]",
        "widgets[2].id",
        "layout.a",
    ]
    changes = {change["path"]: change for change in diff.json()["changes"]}
    assert changes["widgets"] == {"path": "widgets", "before": old, "after": two["widgets"]}
    assert (await client.get(where, headers=tenant.headers)).json() == two


# -- versions ---------------------------------------------------------------------------------------


async def test_a_version_says_who_made_it_and_what_for(client, new_tenant, new_person):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com")
    one = await stored_dashboard(client, ada, note="the first")
    await put(client, tenant, one, name="Two", note="é" * 1000)
    where = f"{PATH}/{one['id']}/versions"
    body = {"note": "as it was"}
    await client.post(f"{where}/1/restore", json=body, headers=ada.headers)

    listed = await rows_of(client, where, ada)
    read = [(await client.get(f"{where}/{n}", headers=ada.headers)).json() for n in (3, 2, 1)]

    assert listed == read
    assert [row["note"] for row in listed] == ["as it was", "é" * 1000, "the first"]
    her = {"id": str(ada.id), "email": "ada@example.com", "name": None}
    assert [row["author"] for row in listed] == [her, None, her]


@pytest.mark.parametrize("note", ["x" * 1001, 1, None, "a\0b"])
async def test_a_note_that_is_none_is_refused(client, tenant_once, note):
    response = await client.post(PATH, json=dashboard(note=note), headers=tenant_once.headers)

    (error,) = check_problem(response, 422)["errors"]
    assert error["field"] == "note"


@pytest.mark.parametrize("version", ["2", "0", "-1", str(2**31), "9" * 5000, "x"])
async def test_a_version_that_never_was_is_not_found(client, kept_tenant, version):
    one = await stored_dashboard(client, kept_tenant)

    for path in (version, f"{version}/diff"):
        where = f"{PATH}/{one['id']}/versions/{path}"
        check_problem(await client.get(where, headers=kept_tenant.headers), 404)


async def test_a_diff_says_what_changed_and_nothing_else(client, new_tenant):
    tenant = await new_tenant()
    place = {"x": 0, "y": 0, "w": 6, "h": 4}
    first = {
        "widgets": [widget(), widget(id="gone"), widget(id="moved", title="Moved")],
        "layout": {"a": place, "gone": {**place, "x": 6}},
        "tags": ["a"],
    }
    query = {**widget()["query"], "measures": ["count", "p95_ms"], "limit": 5}
    second = {
        "widgets": [widget(id="moved", title="Moved"), widget(query=query), widget(id="new")],
        "layout": {"a": {**place, "w": 12}},
        "tags": ["a", "b"],
        "description": "more",
    }
    one = await stored_dashboard(client, tenant, **first)
    two = (await put(client, tenant, one, **second)).json()
    await put(client, tenant, two, **second, name="Three")
    where = f"{PATH}/{one['id']}/versions"

    async def diff(path):
        return (await client.get(f"{where}/{path}", headers=tenant.headers)).json()

    forth = await diff("1/diff?to=2")
    assert (forth["from_version"], forth["to_version"]) == (1, 2)
    assert forth["changes"] == [
        {"path": "description", "before": "", "after": "more"},
        {"path": "layout.a.w", "before": 6, "after": 12},
        {"path": "layout.gone", "before": {**place, "x": 6}, "after": None},
        {"path": "widgets.a.query.measures", "before": ["count"], "after": ["count", "p95_ms"]},
        {"path": "widgets.a.query.limit", "before": None, "after": 5},
        {"path": "widgets.gone", "before": widget(id="gone"), "after": None},
        {"path": "widgets.new", "before": None, "after": widget(id="new")},
        {"path": "widgets", "before": ["a", "moved"], "after": ["moved", "a"]},
        {"path": "tags", "before": ["a"], "after": ["a", "b"]},
    ]
    back = {change["path"]: change for change in (await diff("2/diff?to=1"))["changes"]}
    assert back == {
        change["path"]: {**change, "before": change["after"], "after": change["before"]}
        for change in forth["changes"]
    }
    newest = await diff("2/diff")
    assert newest["changes"] == [{"path": "name", "before": "Tools", "after": "Three"}]
    assert (await diff("3/diff"))["changes"] == []
    for bad in ("1/diff?to=0", "1/diff?to=x", "1/diff?from=1"):
        check_problem(await client.get(f"{where}/{bad}", headers=tenant.headers), 400)
    check_problem(await client.get(f"{where}/1/diff?to=4", headers=tenant.headers), 404)


async def test_a_restore_of_what_was_read_is_a_conflict_when_it_is_stale(client, new_tenant):
    tenant = await new_tenant()
    one = await stored_dashboard(client, tenant)
    await put(client, tenant, one)
    where = f"{PATH}/{one['id']}/versions/1/restore"

    stale = await client.post(where, json={"version": 1}, headers=tenant.headers)
    fresh = await client.post(where, json={"version": 2}, headers=tenant.headers)
    unknown = await client.post(where, json={"name": "x"}, headers=tenant.headers)

    check_problem(stale, 409)
    assert (fresh.status_code, fresh.json()["version"]) == (200, 3)
    check_problem(unknown, 422)


# -- copies -----------------------------------------------------------------------------------------


async def test_a_copy_is_the_callers_own_and_begins_anew(client, new_tenant, new_person):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com")
    one = await stored_dashboard(client, tenant, name="Ours", tags=["x"], description="d")
    two = (await put(client, tenant, one, name="Ours", tags=["x"], description="d")).json()
    where = f"{PATH}/{one['id']}/copy"

    plain = (await client.post(where, headers=ada.headers)).json()
    named = await client.post(
        where, json={"name": "Hers", "visibility": "team"}, headers=ada.headers
    )
    nobodys = (await client.post(where, headers=tenant.headers)).json()

    same = ("name", "description", "layout", "widgets", "tags")
    assert {name: plain[name] for name in same} == {name: two[name] for name in same}
    assert (plain["version"], plain["visibility"]) == (1, "private")
    assert plain["owner"]["id"] == str(ada.id)
    assert (named.status_code, named.json()["name"]) == (201, "Hers")
    assert named.json()["visibility"] == "team"
    assert (nobodys["owner"], nobodys["visibility"]) == (None, "tenant")
    assert (await client.get(f"{PATH}/{one['id']}", headers=ada.headers)).json() == two


async def test_a_copy_sent_again_is_made_once_and_a_wrong_one_not_at_all(
    client, new_tenant, new_person
):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com")
    eve = await new_person(tenant, "eve@example.com")
    one = await stored_dashboard(client, ada, visibility="private")
    where = f"{PATH}/{one['id']}/copy"

    first = await client.post(where, headers=with_key(ada, "k"))
    again = await client.post(where, headers=with_key(ada, "k"))
    other = await client.post(where, json={"name": "x"}, headers=with_key(ada, "k"))

    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    check_problem(other, 422)
    check_problem(await client.post(where, headers=eve.headers), 404)
    for body in ({"name": ""}, {"visibility": "all"}, {"owner": "x"}, []):
        check_problem(await client.post(where, json=body, headers=ada.headers), 422)
    check_problem(
        await client.post(where, json={"visibility": "team"}, headers=tenant.headers), 422
    )
    assert len(await rows_of(client, PATH, tenant)) == 2


# -- the gallery ------------------------------------------------------------------------------------


async def test_the_gallery_is_asked_for_words_owners_and_who_sees_it(
    client, new_tenant, new_person
):
    tenant, stranger = await new_tenant(), await new_tenant()
    ada = await new_person(tenant, "ada@example.com", team="web")
    bob = await new_person(tenant, "bob@example.com", team="web")
    theirs = await new_person(stranger, "ada@example.com")
    await stored_dashboard(client, ada, name="100% of Tools", visibility="private")
    await stored_dashboard(client, ada, name="Cost", description="of TOOLS", visibility="team")
    await stored_dashboard(client, bob, name="über_alles\\x", visibility="tenant")

    async def found(who=ada, **query):
        names = sorted(row["name"] for row in await rows_of(client, PATH, who, **query))
        page = await client.get(PATH, params={"page": 1, **query}, headers=who.headers)
        assert page.json()["meta"]["total"] == len(names)
        return names

    cost, tools, uber = "Cost", "100% of Tools", "über_alles\\x"
    assert await found(q="tools") == [tools, cost]
    assert await found(q="tools", who=bob) == [cost]
    assert await found(q="%") == await found(q="100%") == [tools]
    assert await found(q="_") == await found(q="über_") == await found(q="s\\x") == [uber]
    assert await found(q="/") == await found(q="'") == await found(q="nothing") == []
    assert await found(owner_id=str(ada.id)) == [tools, cost]
    assert await found(owner_id=str(ada.id), who=bob, visibility="private") == []
    assert await found(owner_id=str(theirs.id), who=tenant) == []
    assert await found(visibility="team") == [cost]
    assert await found(visibility="tenant", owner_id=str(bob.id), q="ALLES") == [uber]
    for bad in ({"q": ""}, {"owner_id": "x"}, {"visibility": "all"}, {"shared": "x"}):
        check_problem(await client.get(PATH, params=bad, headers=ada.headers), 400)


async def test_a_cursor_is_good_for_its_own_filters_alone(client, new_tenant):
    tenant = await new_tenant()
    for number in range(3):
        await stored_dashboard(client, tenant, name=f"n{number}")
    page = await client.get(PATH, params={"limit": 1, "q": "n"}, headers=tenant.headers)
    cursor = page.json()["meta"]["next_cursor"]

    other = {"limit": 1, "q": "m", "cursor": cursor}
    check_problem(await client.get(PATH, params=other, headers=tenant.headers), 400)


async def test_the_owner_is_never_locked_out(client, new_tenant, new_person):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com", team="web")
    mate = await new_person(tenant, "mate@example.com", team="web")
    one = await stored_dashboard(client, ada, visibility="team")

    two = (await put(client, mate, one, visibility="private")).json()

    where = f"{PATH}/{one['id']}"
    assert two["owner"]["id"] == str(ada.id)
    check_problem(await client.get(where, headers=mate.headers), 404)
    assert (await client.get(where, headers=ada.headers)).json() == two
    assert (await put(client, ada, two, visibility="team")).status_code == 200
