"""Sessions over HTTP: stated, read, listed, changed, deleted."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from acceptance.talk import (
    at,
    check_problem,
    post_batch,
    rows_of,
    session,
    stored_batch,
    stored_session,
    tool_metric,
    walk,
)

PATH = "/api/v1/sessions"
BATCH = "/api/v1/sessions/batch"

# Not a new one each time: tests that run in parallel must agree on their names.
NOBODY = "01890000-0000-7000-8000-000000000000"

FIELDS = {
    "id", "agent", "external_id", "session_type", "started_at", "ended_at", "user_id", "user_email",
    "user", "repository", "branch", "team", "tags", "productivity_score", "metadata", "status",
    "duration_ms", "tool_call_count", "tool_error_count", "model_call_count", "input_tokens",
    "output_tokens", "cost_usd_micros", "lines_added", "lines_removed", "created_at", "updated_at",
    "tool_reject_count", "model_error_count", "cache_read_tokens", "cache_write_tokens",
    "reasoning_tokens", "prompt_count", "turn_count", "compactions", "commits", "pull_requests",
    "active_seconds_user", "active_seconds_agent", "signals",
}  # fmt: skip


async def test_a_new_session_is_answered_with_201_and_all_of_its_fields(client, new_tenant):
    tenant = await new_tenant()
    body = {
        "agent": "claude-code",
        "external_id": "s-1",
        "session_type": "review",
        "started_at": "2026-03-02T11:00:00+01:00",
        "ended_at": "2026-03-02T10:30:00Z",
        "user_email": "Ada@Example.com",
        "repository": "acme/shop",
        "branch": "main",
        "team": "web",
        "tags": ["b", "a", "b"],
        "productivity_score": 87.5,
        "metadata": {"ticket": "T-1", "deep": {"list": [1, 2.5, None, True]}},
    }

    response = await client.post(PATH, json=body, headers=tenant.headers)

    assert response.status_code == 201
    view = response.json()
    assert view.keys() == FIELDS | {"user_source"}
    UUID(view["id"])
    user = view["user"]
    assert user.keys() == {"id", "email", "name"}
    assert user["email"] == view["user_email"] == "ada@example.com"
    assert user["id"] == view["user_id"]
    assert view["started_at"] == at(0)
    assert view["ended_at"] == at(1800)
    assert view["duration_ms"] == 1_800_000
    assert view["status"] == "closed"
    assert view["tags"] == ["a", "b"]
    assert view["metadata"] == body["metadata"]
    for name in ("session_type", "repository", "branch", "team", "productivity_score"):
        assert view[name] == body[name]
    for name in FIELDS:
        if name.endswith(("_count", "_tokens", "_micros")) or name.startswith("lines_"):
            assert view[name] == 0


async def test_the_three_required_fields_are_enough(client, new_tenant):
    tenant = await new_tenant()

    view = await stored_session(client, tenant, external_id="s")

    assert view.keys() == FIELDS
    assert view["status"] == "open"
    assert view["duration_ms"] == 0
    assert view["tags"] == []
    assert view["metadata"] == {}
    for name in ("session_type", "ended_at", "user_id", "user_email", "user", "repository", "branch",
                 "team", "productivity_score"):  # fmt: skip
        assert view[name] is None


async def test_null_is_as_good_as_nothing_for_a_nullable_field(client, new_tenant):
    tenant = await new_tenant()
    nullable = dict.fromkeys(
        ("ended_at", "session_type", "user_id", "user_email", "repository", "branch", "team", "tags",
         "productivity_score", "metadata")
    )  # fmt: skip

    response = await client.post(PATH, json=session(**nullable), headers=tenant.headers)

    assert response.status_code == 201


@pytest.fixture(scope="module")
async def empty_tenant(new_tenant):
    """One to whom nothing is stored."""
    return await new_tenant()


@pytest.mark.parametrize("name", ["agent", "external_id", "started_at"])
async def test_a_required_field_that_is_missing_is_named(client, empty_tenant, name):
    body = session()
    del body[name]

    problem = check_problem(await client.post(PATH, json=body, headers=empty_tenant.headers), 422)

    assert problem["errors"] == [{"field": name, "reason": "is required"}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agent", ""),
        ("agent", "a" * 256),
        ("agent", 5),
        ("external_id", "x" * 256),
        ("started_at", "2026-03-02T10:00:00"),
        ("started_at", "2026-03-02"),
        ("started_at", 1_700_000_000),
        ("started_at", "2014-12-31T23:59:59Z"),
        ("started_at", "0001-01-01T00:00:00+14:00"),
        ("started_at", "9999-12-31T23:59:59Z"),
        ("ended_at", at(-1)),
        ("ended_at", "9999-12-31T23:59:59.999999Z"),
        ("user_id", "not a uuid"),
        ("user_id", NOBODY),
        ("user_email", "nobody"),
        ("user_email", "a@b\n"),
        ("user_email", "a@" + "b" * 253),
        ("tags", ["x"] * 51),
        ("tags", [""]),
        ("tags", "x"),
        ("productivity_score", -0.1),
        ("productivity_score", 100.1),
        ("productivity_score", "50"),
        ("metadata", []),
        ("metadata", {"x": "y" * 17 * 1024}),
        ("nonsense", 1),
        ("id", NOBODY),
        ("tenant_id", NOBODY),
    ],
)
async def test_a_field_with_a_bad_value_is_named_and_nothing_is_stored(
    client, empty_tenant, count_rows, name, value
):
    response = await client.post(PATH, json=session(**{name: value}), headers=empty_tenant.headers)

    (error,) = check_problem(response, 422)["errors"]
    assert error["field"].startswith(name)
    assert error["reason"]
    assert set((await count_rows(empty_tenant)).values()) == {0}


async def test_posting_the_same_session_again_updates_it_with_200(client, new_tenant):
    tenant = await new_tenant()
    first = await stored_session(client, tenant, external_id="s", branch="main", tags=["a", "b"])

    response = await client.post(
        PATH,
        json=session(external_id="s", ended_at=at(60), team="web", tags=["b", "c"]),
        headers=tenant.headers,
    )

    assert response.status_code == 200
    second = response.json()
    assert second["id"] == first["id"]
    assert second["created_at"] == first["created_at"]
    assert second["updated_at"] > first["updated_at"]
    assert (second["branch"], second["team"], second["tags"]) == ("main", "web", ["b", "c"])
    assert second["status"] == "closed"
    assert len(await rows_of(client, PATH, tenant)) == 1


async def test_the_same_external_id_of_another_agent_is_another_session(client, new_tenant):
    tenant = await new_tenant()

    one = await stored_session(client, tenant, external_id="s", agent="codex")
    other = await stored_session(client, tenant, external_id="s", agent="cursor")

    assert one["id"] != other["id"]


async def test_fifty_who_post_the_same_session_at_once_make_one(client, new_tenant):
    tenant = await new_tenant()
    body = session(user_email="ada@example.com", tags=["a"])

    responses = await asyncio.gather(
        *(client.post(PATH, json=body, headers=tenant.headers) for _ in range(50))
    )

    assert sorted(response.status_code for response in responses) == [200] * 49 + [201]
    assert len({response.json()["id"] for response in responses}) == 1


async def test_a_session_never_ends_before_it_began(client, new_tenant):
    tenant = await new_tenant()
    await stored_session(client, tenant, external_id="s", ended_at=at(60))

    restated = await stored_session(client, tenant, external_id="s", started_at=at(3600))

    assert restated["duration_ms"] >= 0
    assert restated["ended_at"] >= restated["started_at"]


async def test_a_user_is_created_on_first_sight_and_found_on_the_second(
    client, new_tenant, count_rows
):
    tenant = await new_tenant()

    one = await stored_session(client, tenant, user_email="ada@example.com")
    other = await stored_session(client, tenant, user_email="ADA@EXAMPLE.COM")
    by_id = await stored_session(client, tenant, user_id=one["user_id"])

    assert one["user"] == other["user"] == by_id["user"]
    assert (await count_rows(tenant))["users"] == 1


async def test_a_session_takes_a_user_by_id_or_by_email_not_both(client, new_tenant):
    tenant = await new_tenant()
    known = await stored_session(client, tenant, user_email="ada@example.com")

    response = await client.post(
        PATH,
        json=session(user_id=known["user_id"], user_email="ada@example.com"),
        headers=tenant.headers,
    )

    check_problem(response, 422)


# -- one session ------------------------------------------------------------------------------------


async def test_what_was_stored_is_what_is_read(client, new_tenant):
    tenant = await new_tenant()
    stored = await stored_session(client, tenant, tags=["a"], metadata={"k": "v"})

    response = await client.get(f"{PATH}/{stored['id']}", headers=tenant.headers)

    assert response.status_code == 200
    assert response.json() == stored


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_session_that_does_not_exist_is_not_found(client, new_tenant, method):
    tenant = await new_tenant()
    body = {} if method == "PATCH" else None

    response = await client.request(method, f"{PATH}/{uuid4()}", json=body, headers=tenant.headers)

    check_problem(response, 404)


async def test_patch_changes_what_is_given_and_leaves_the_rest(client, new_tenant):
    tenant = await new_tenant()
    stored = await stored_session(client, tenant, branch="main", team="web", tags=["a"])

    response = await client.patch(
        f"{PATH}/{stored['id']}",
        json={
            "branch": None,
            "tags": ["y", "x", "y"],
            "productivity_score": 50,
            "metadata": {"a": 1},
            "ended_at": at(10),
        },
        headers=tenant.headers,
    )

    assert response.status_code == 200
    view = response.json()
    assert view.keys() == FIELDS
    assert view["branch"] is None
    assert view["team"] == "web"
    assert view["tags"] == ["x", "y"]
    assert view["productivity_score"] == 50
    assert view["metadata"] == {"a": 1}
    assert (view["status"], view["duration_ms"]) == ("closed", 10_000)
    assert (await client.get(f"{PATH}/{stored['id']}", headers=tenant.headers)).json() == view


async def test_patch_moves_the_beginning_without_a_negative_duration(client, new_tenant):
    tenant = await new_tenant()
    stored = await stored_session(client, tenant)

    response = await client.patch(
        f"{PATH}/{stored['id']}", json={"started_at": at(3600)}, headers=tenant.headers
    )

    assert response.json()["started_at"] == at(3600)
    assert response.json()["duration_ms"] == 0


@pytest.fixture(scope="module")
async def kept_tenant(new_tenant):
    """One for those to whom it does not matter what else is there."""
    return await new_tenant()


@pytest.mark.parametrize(
    "change",
    [
        {"ended_at": at(-1)},
        {"started_at": None},
        {"started_at": "2014-01-01T00:00:00Z"},
        {"agent": "codex"},
        {"id": str(uuid4())},
        {"user_id": str(uuid4())},
        {"productivity_score": 101},
        {"metadata": None},
        {"tags": ["a\0b"]},
        {"tool_call_count": 5},
    ],
)
async def test_patch_refuses_what_may_not_be_and_changes_nothing(client, kept_tenant, change):
    stored = await stored_session(client, kept_tenant, tags=["a"])
    where = f"{PATH}/{stored['id']}"

    response = await client.patch(
        where, json={"branch": "x", **change}, headers=kept_tenant.headers
    )

    check_problem(response, 422)
    assert (await client.get(where, headers=kept_tenant.headers)).json() == stored


async def test_deleting_a_session_deletes_what_belongs_to_it_and_nothing_else(
    client, new_tenant, count_rows
):
    tenant = await new_tenant()
    stored = await stored_session(client, tenant, external_id="s", tags=["a", "b"])
    await stored_session(client, tenant, external_id="other", tags=["a"])
    of_session = {"agent": "claude-code", "external_session_id": "s"}
    await stored_batch(
        client,
        tenant,
        [tool_metric(tool_name="a", **of_session), tool_metric(tool_name="b", **of_session),
         tool_metric(tool_name="c")],
    )  # fmt: skip
    where = f"{PATH}/{stored['id']}"

    response = await client.delete(where, headers=tenant.headers)

    assert (response.status_code, response.content) == (204, b"")
    check_problem(await client.get(where, headers=tenant.headers), 404)
    check_problem(await client.delete(where, headers=tenant.headers), 404)
    left = await count_rows(tenant)
    assert (left["metrics_sessions"], left["tool_metrics"], left["session_tags"]) == (1, 1, 1)


async def test_a_deleted_session_can_come_again_and_counts_from_nothing(client, new_tenant):
    tenant = await new_tenant()
    of_session = {"agent": "claude-code", "external_session_id": "s"}
    await stored_batch(client, tenant, [tool_metric(**of_session)])
    (stored,) = await rows_of(client, PATH, tenant)
    await client.delete(f"{PATH}/{stored['id']}", headers=tenant.headers)

    receipt = await stored_batch(client, tenant, [tool_metric(**of_session)])

    assert receipt == {"inserted": 1, "duplicates": 0}
    (again,) = await rows_of(client, PATH, tenant)
    assert (again["id"], again["tool_call_count"]) == (stored["id"], 1)


# -- batches ----------------------------------------------------------------------------------------


async def test_a_batch_creates_and_updates_and_says_how_many_of_each(client, new_tenant):
    tenant = await new_tenant()
    await stored_session(client, tenant, external_id="0")
    items = [session(external_id=str(number), tags=["t"]) for number in range(5)]

    response = await post_batch(client, tenant, [*items, items[0]], path=BATCH)

    assert response.status_code == 200
    assert response.json() == {"inserted": 4, "duplicates": 2}
    stored = await rows_of(client, PATH, tenant)
    assert sorted(row["external_id"] for row in stored) == list("01234")
    assert all(row["tags"] == ["t"] for row in stored)


async def test_the_last_of_several_about_one_session_wins(client, new_tenant):
    tenant = await new_tenant()

    await post_batch(
        client,
        tenant,
        [session(external_id="s", branch="one"), session(external_id="s", branch="two")],
        path=BATCH,
    )

    (stored,) = await rows_of(client, PATH, tenant)
    assert stored["branch"] == "two"


async def test_one_bad_session_refuses_the_batch_and_is_named(client, new_tenant, count_rows):
    tenant = await new_tenant()
    items = [session(), session(user_id=str(uuid4())), session(user_email="a@example.com")]

    problem = check_problem(await post_batch(client, tenant, items, path=BATCH), 422)

    assert [(error["index"], error["field"]) for error in problem["errors"]] == [(1, "user_id")]
    assert set((await count_rows(tenant)).values()) == {0}


async def test_bad_sessions_can_be_skipped(client, new_tenant):
    tenant = await new_tenant()
    items = [
        session(),
        session(user_id=str(uuid4())),
        session(started_at="yesterday"),
        session(),
    ]

    response = await post_batch(client, tenant, items, path=BATCH, on_error="skip")

    assert response.status_code == 200
    receipt = response.json()
    assert (receipt["inserted"], receipt["duplicates"]) == (2, 0)
    assert [(error["index"], error["field"]) for error in receipt["rejected"]] == [
        (1, "user_id"),
        (2, "started_at"),
    ]


async def test_batches_in_opposite_order_at_the_same_time_do_not_block_each_other(
    client, new_tenant
):
    tenant = await new_tenant()
    items = [session(external_id=str(number), tags=["a"]) for number in range(50)]

    responses = await asyncio.gather(
        *(
            post_batch(client, tenant, items if turn % 2 else items[::-1], path=BATCH)
            for turn in range(10)
        )
    )

    assert {response.status_code for response in responses} == {200}
    assert sum(response.json()["inserted"] for response in responses) == 50


async def test_sessions_that_are_stated_and_extended_at_once_are_one_each_and_nobody_fails(
    client, new_tenant
):
    tenant = await new_tenant()

    for turn in range(40):
        names = [f"{turn}-{number}" for number in range(20)]
        stated = [session(external_id=name) for name in names]
        extending = [
            tool_metric(agent="claude-code", external_session_id=name, duration_ms=turn)
            for name in names
        ]
        responses = await asyncio.gather(
            *(post_batch(client, tenant, stated[::step], path=BATCH) for step in (1, -1, 1, -1)),
            *(post_batch(client, tenant, extending[::step]) for step in (1, -1, 1, -1)),
        )
        assert {response.status_code for response in responses} == {200}

    rows = await rows_of(client, PATH, tenant)
    assert len(rows) == 40 * 20
    assert {row["tool_call_count"] for row in rows} == {1}


# -- lists ------------------------------------------------------------------------------------------


async def make_many(client, tenant):
    """Thirty sessions, ten at each of three moments, so that ties are common."""
    items = [
        session(
            agent=("codex", "cursor")[number % 2],
            external_id=f"{number:02}",
            started_at=at(number // 10 * 60),
            ended_at=at(3600) if number % 3 == 0 else None,
            session_type="review" if number % 5 == 0 else None,
            tags=["even"] if number % 2 == 0 else ["odd", "strange"],
            user_email=f"u{number % 3}@example.com",
        )
        for number in range(30)
    ]
    response = await post_batch(client, tenant, items, path=BATCH)
    assert response.json()["inserted"] == 30


@pytest.fixture(scope="module")
async def filled_tenant(client, new_tenant):
    """One that has them, for those that only look."""
    made = await new_tenant()
    await make_many(client, made)
    return made


@pytest.mark.parametrize("limit", [1, 7, 10, 30, 31])
@pytest.mark.parametrize(
    "sort", ["started_at", "-started_at", "updated_at", "-cost_usd_micros", "tool_call_count"]
)
async def test_keyset_pages_show_every_row_once_and_in_order(client, filled_tenant, limit, sort):
    rows = [row async for row in walk(client, PATH, filled_tenant, limit=limit, sort=sort)]

    assert len({row["id"] for row in rows}) == len(rows) == 30
    column, is_down = sort.lstrip("-"), sort.startswith("-")
    keys = [(row[column], row["id"]) for row in rows]
    assert keys == sorted(keys, reverse=is_down)


async def test_keyset_pages_neither_repeat_nor_skip_when_rows_arrive_meanwhile(client, new_tenant):
    tenant = await new_tenant()
    await make_many(client, tenant)
    seen = []

    async for row in walk(client, PATH, tenant, limit=4):
        seen.append(row["external_id"])
        if len(seen) in (3, 9, 20):
            await stored_session(client, tenant, external_id=f"new{len(seen)}", started_at=at(9000))

    assert sorted(one for one in seen if not one.startswith("new")) == [
        f"{n:02}" for n in range(30)
    ]


async def test_numbered_pages_have_totals_and_show_every_row_once(client, filled_tenant):
    seen = []

    for number in range(1, 6):
        response = await client.get(
            PATH, params={"page": number, "limit": 7}, headers=filled_tenant.headers
        )
        page = response.json()
        assert page["meta"] == {"limit": 7, "page": number, "total": 30, "pages": 5}
        seen += [row["id"] for row in page["data"]]

    assert len(seen) == len(set(seen)) == 30
    beyond = await client.get(PATH, params={"page": 6, "limit": 7}, headers=filled_tenant.headers)
    assert beyond.json()["data"] == []


async def test_pages_have_fifty_rows_unless_asked_otherwise_and_the_newest_first(
    client, new_tenant
):
    tenant = await new_tenant()
    items = [session(started_at=at(number)) for number in range(60)]
    await post_batch(client, tenant, items, path=BATCH)

    page = (await client.get(PATH, headers=tenant.headers)).json()

    assert page["meta"]["limit"] == len(page["data"]) == 50
    starts = [row["started_at"] for row in page["data"]]
    assert starts == sorted(starts, reverse=True)
    assert starts[0] == at(59)


async def test_an_empty_list_is_an_empty_page(client, new_tenant):
    tenant = await new_tenant()

    by_cursor = await client.get(PATH, headers=tenant.headers)
    by_number = await client.get(PATH, params={"page": 1}, headers=tenant.headers)

    assert by_cursor.json() == {"data": [], "meta": {"limit": 50, "next_cursor": None}}
    assert by_number.json() == {
        "data": [],
        "meta": {"limit": 50, "page": 1, "total": 0, "pages": 0},
    }


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"agent": "codex"}, lambda n: n % 2 == 0),
        ({"session_type": "review"}, lambda n: n % 5 == 0),
        ({"tag": "strange"}, lambda n: n % 2 == 1),
        ({"tag": "nobody"}, lambda _: False),
        ({"status": "closed"}, lambda n: n % 3 == 0),
        ({"status": "open"}, lambda n: n % 3 != 0),
        ({"started_after": at(60)}, lambda n: n >= 10),
        ({"started_before": at(60)}, lambda n: n < 10),
        ({"started_after": at(60), "started_before": at(120)}, lambda n: 10 <= n < 20),
        ({"started_after": "2026-03-02T11:01:00+01:00"}, lambda n: n >= 10),
        ({"agent": "codex", "status": "closed", "tag": "even"}, lambda n: n % 6 == 0),
        ({"agent": "' OR true --"}, lambda _: False),
    ],
)
async def test_filters_choose_rows_and_totals_alike(client, filled_tenant, query, wanted):
    expected = [f"{number:02}" for number in range(30) if wanted(number)]

    walked = [row async for row in walk(client, PATH, filled_tenant, limit=4, **query)]
    paged = await client.get(
        PATH, params={**query, "page": 1, "limit": 500}, headers=filled_tenant.headers
    )

    assert sorted(row["external_id"] for row in walked) == expected
    assert sorted(row["external_id"] for row in paged.json()["data"]) == expected
    assert paged.json()["meta"]["total"] == len(expected)


async def test_sessions_can_be_asked_for_by_user(client, filled_tenant):
    (one,) = {
        row["user_id"]
        for row in await rows_of(client, PATH, filled_tenant)
        if row["user_email"] == "u1@example.com"
    }

    rows = await rows_of(client, PATH, filled_tenant, user_id=one)

    assert len(rows) == 10
    assert {row["user"]["email"] for row in rows} == {"u1@example.com"}


async def test_cursor_and_page_together_are_refused(client, filled_tenant):
    first = (await client.get(PATH, params={"limit": 5}, headers=filled_tenant.headers)).json()

    for cursor in (first["meta"]["next_cursor"], ""):
        response = await client.get(
            PATH, params={"limit": 5, "page": 1, "cursor": cursor}, headers=filled_tenant.headers
        )
        check_problem(response, 400)


async def test_a_cursor_is_good_for_its_own_list_only(client, filled_tenant):
    first = (await client.get(PATH, params={"limit": 5}, headers=filled_tenant.headers)).json()
    cursor = first["meta"]["next_cursor"]

    same = await client.get(
        PATH, params={"limit": 9, "cursor": cursor}, headers=filled_tenant.headers
    )
    others = [
        await client.get(path, params={"cursor": cursor, **query}, headers=filled_tenant.headers)
        for path, query in [
            (PATH, {"sort": "started_at"}),
            (PATH, {"sort": "-updated_at"}),
            (PATH, {"agent": "codex"}),
            (PATH, {"started_after": at(0)}),
            ("/api/v1/tool-metrics", {}),
            ("/api/v1/model-calls", {}),
            ("/api/v1/dashboards", {}),
            ("/api/v1/keys", {}),
        ]
    ]

    assert same.status_code == 200
    assert {response.status_code for response in others} == {400}
