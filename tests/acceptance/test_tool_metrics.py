"""Tool metrics over HTTP: batches that can be repeated, lists, exact summaries."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import random
from collections import defaultdict
from datetime import datetime
from uuid import uuid4

import pytest

from acceptance.talk import (
    at,
    check_problem,
    post_batch,
    rows_of,
    stored_batch,
    stored_session,
    tool_metric,
    walk,
)

PATH = "/api/v1/tool-metrics"
BATCH = "/api/v1/tool-metrics/batch"
SUMMARY = "/api/v1/tool-metrics/summary"
IN_S = {"agent": "claude-code", "external_session_id": "s"}

FIELDS = {
    "id", "session_id", "agent", "user_id", "user_email", "tool_name", "tool_category", "started_at",
    "duration_ms", "wait_ms", "status", "error_type", "cpu_ms", "memory_bytes", "input_bytes",
    "output_bytes", "metadata", "received_at", "external_session_id",
    "signal",
}  # fmt: skip


async def test_a_batch_is_stored_with_all_that_it_says(client, new_tenant):
    tenant = await new_tenant()
    item = {
        "id": str(uuid4()),
        "tool_name": "Bash",
        "started_at": "2026-03-02T12:00:00.123456+02:00",
        "duration_ms": 412.5,
        "wait_ms": 7,
        "agent": "claude-code",
        "external_session_id": "s",
        "user_email": "Ada@example.com",
        "tool_category": "shell",
        "status": "error",
        "error_type": "exit 1",
        "cpu_ms": 300.25,
        "memory_bytes": 2**40,
        "input_bytes": 10,
        "output_bytes": 2**63 - 1,
        "metadata": {"nested": {"list": [1, None, "ü"]}},
    }

    response = await post_batch(client, tenant, [item])

    assert response.status_code == 200
    assert response.json() == {"inserted": 1, "duplicates": 0}
    (stored,) = await rows_of(client, PATH, tenant)
    assert stored.keys() == FIELDS
    for name in FIELDS & item.keys() - {"started_at", "user_email"}:
        assert stored[name] == item[name]
    assert stored["started_at"] == "2026-03-02T10:00:00.123456Z"
    assert stored["user_email"] == "ada@example.com"
    (session,) = await rows_of(client, "/api/v1/sessions", tenant)
    assert stored["session_id"] == session["id"]
    assert stored["user_id"] == session["user_id"]


async def test_name_and_start_are_enough(client, new_tenant):
    tenant = await new_tenant()

    receipt = await stored_batch(client, tenant, [{"tool_name": "Read", "started_at": at()}])

    assert receipt == {"inserted": 1, "duplicates": 0}
    (stored,) = await rows_of(client, PATH, tenant)
    assert stored["status"] == "success"
    assert stored["metadata"] == {}
    for name in FIELDS - {
        "id",
        "tool_name",
        "started_at",
        "status",
        "metadata",
        "received_at",
        "signal",
    }:
        assert stored[name] is None
    assert await rows_of(client, "/api/v1/sessions", tenant) == []


async def test_array_envelope_and_lines_are_the_same_batch(client, new_tenant):
    tenant = await new_tenant()
    items = [tool_metric(tool_name=f"t{number}", metadata={"\n": "a\nb"}) for number in range(3)]
    lines = b"\r\n".join(json.dumps(item).encode() for item in items) + b"\n\n"
    bodies = [
        (json.dumps(items).encode(), "application/json"),
        (b' {"items" : ' + json.dumps(items).encode() + b"} ", "application/json; charset=utf-8"),
        (lines, "application/x-ndjson"),
        (lines, "application/jsonl"),
    ]

    receipts = []
    for body, media_type in bodies:
        response = await client.post(
            BATCH, content=body, headers={**tenant.headers, "Content-Type": media_type}
        )
        receipts.append(response.json())

    assert receipts == [{"inserted": 3, "duplicates": 0}] + [{"inserted": 0, "duplicates": 3}] * 3


@pytest.mark.parametrize("body", [b"[]", b'{"items": []}', b'{"items":[]}\n'])
async def test_nothing_can_be_stored_too(client, new_tenant, body):
    tenant = await new_tenant()

    response = await client.post(
        BATCH, content=body, headers={**tenant.headers, "Content-Type": "application/json"}
    )

    assert response.status_code == 200
    assert response.json() == {"inserted": 0, "duplicates": 0}


async def test_ten_thousand_items_are_one_batch_and_one_more_is_too_many(
    client, new_tenant, count_rows
):
    tenant = await new_tenant()
    items = [
        tool_metric(started_at=at(number / 1000), **IN_S, tool_name=f"t{number % 7}")
        for number in range(10_000)
    ]

    too_many = await post_batch(client, tenant, [*items, tool_metric()])
    before = await count_rows(tenant)
    stored = await stored_batch(client, tenant, items)

    check_problem(too_many, 413)
    assert set(before.values()) == {0}
    assert stored == {"inserted": 10_000, "duplicates": 0}
    (session,) = await rows_of(client, "/api/v1/sessions", tenant)
    assert session["tool_call_count"] == 10_000


# -- identity ---------------------------------------------------------------------------------------


def many_items():
    rng = random.Random(7)
    return [
        tool_metric(
            tool_name=rng.choice(["Bash", "Read", "Edit"]),
            started_at=at(number // 3),
            duration_ms=float(number),
            metadata={"a": 1, "b": {"x": [1, 2], "y": None}, "c": "é"},
            user_email=f"u{number % 3}@example.com",
            status=rng.choice(["success", "error", "timeout", "rejected"]),
            agent="claude-code",
            external_session_id=f"s{number % 4}",
        )
        for number in range(40)
    ]


def reordered(value):
    """The same value with the keys of every object the other way round."""
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(one) for one in value] if isinstance(value, list) else value


def as_seen_from(item, zone):
    moved = datetime.fromisoformat(item["started_at"]).astimezone(zone)
    return {**item, "started_at": moved.isoformat(timespec="microseconds")}


async def test_the_same_items_are_duplicates_however_they_are_sent_again(client, new_tenant):
    tenant = await new_tenant()
    items = many_items()
    await stored_batch(client, tenant, items)
    sessions = {
        row["external_id"]: row["id"] for row in await rows_of(client, "/api/v1/sessions", tenant)
    }
    by_id = [
        {
            **{name: value for name, value in item.items() if name not in IN_S},
            "session_id": sessions[item["external_session_id"]],
        }
        for item in items
    ]
    zone = datetime.fromisoformat("2026-01-01T00:00:00-09:30").tzinfo
    again = {
        "whole": [items],
        "split": [items[:1], items[1:17], items[17:]],
        "reordered": [random.Random(1).sample(items, len(items))],
        "other key order": [reordered(items)],
        "other offset": [[as_seen_from(item, zone) for item in items]],
        "by session id": [by_id],
        "other case": [[{**item, "user_email": item["user_email"].upper()} for item in items]],
        "nulls": [[{**item, "wait_ms": None, "error_type": None} for item in items]],
        "twice": [[*items, *items]],
    }

    receipts = {
        name: [await stored_batch(client, tenant, batch) for batch in batches]
        for name, batches in again.items()
    }

    assert {name: sum(one["inserted"] for one in found) for name, found in receipts.items()} == (
        dict.fromkeys(again, 0)
    )
    assert sum(one["duplicates"] for one in receipts["split"]) == 40
    assert receipts["twice"][0]["duplicates"] == 80
    await check_totals(client, tenant)


@pytest.mark.parametrize(
    "change",
    [
        {"tool_name": "Other"},
        {"duration_ms": 12.6},
        {"duration_ms": None},
        {"started_at": "2026-03-02T10:00:00.000001Z"},
        {"status": "error"},
        {"metadata": {"a": 2}},
        {"external_session_id": "other"},
        {"user_email": "other@example.com"},
        {"input_bytes": 1},
        {"id": str(uuid4())},
    ],
)
async def test_an_item_that_differs_in_anything_is_another(client, shared_tenant, change):
    # Nobody else's here is equal to either.
    item = tool_metric(metadata={"a": 1, "of": str(uuid4())}, **IN_S)
    changed = {**item, **change}
    if "metadata" in change:
        changed["metadata"] = {**item["metadata"], **change["metadata"]}
    await stored_batch(client, shared_tenant, [item])

    receipt = await stored_batch(client, shared_tenant, [changed])

    assert receipt == {"inserted": 1, "duplicates": 0}


async def test_who_means_two_equal_items_sends_ids(client, new_tenant):
    tenant = await new_tenant()
    equal = [tool_metric(id=str(uuid4())) for _ in range(2)]

    first = await stored_batch(client, tenant, equal)
    second = await stored_batch(client, tenant, equal)

    assert first == {"inserted": 2, "duplicates": 0}
    assert second == {"inserted": 0, "duplicates": 2}


async def test_equal_items_in_one_batch_are_one_row(client, new_tenant):
    tenant = await new_tenant()

    receipt = await stored_batch(client, tenant, [tool_metric(), tool_metric()])

    assert receipt == {"inserted": 1, "duplicates": 1}


async def test_fifty_at_once_whole_or_split_leave_one_row_each(client, new_tenant):
    tenant = await new_tenant()
    items = many_items()
    batches = []
    for turn in range(50):
        shuffled = random.Random(turn).sample(items, len(items))
        cut = turn % 40
        batches += [shuffled[:cut], shuffled[cut:]]

    receipts = await asyncio.gather(*(stored_retrying(client, tenant, one) for one in batches))

    assert sum(receipt["inserted"] for receipt in receipts) == 40
    assert sum(receipt["duplicates"] for receipt in receipts) == 49 * 40
    assert len(await rows_of(client, PATH, tenant)) == 40
    await check_totals(client, tenant)


async def stored_retrying(client, tenant, batch):
    """A client that was told to come again does so."""
    while (response := await post_batch(client, tenant, batch)).status_code in (429, 503):
        await asyncio.sleep(0.05)
    assert response.status_code == 200, response.text
    return response.json()


async def check_totals(client, tenant):
    """Hold every session's running totals against a recount of what is stored."""
    counted = defaultdict(list)
    for row in await rows_of(client, PATH, tenant):
        counted[row["session_id"]].append(row)
    for session in await rows_of(client, "/api/v1/sessions", tenant):
        rows = counted[session["id"]]
        assert session["tool_call_count"] == len(rows)
        errors = sum(row["status"] in ("error", "timeout") for row in rows)
        assert session["tool_error_count"] == errors
        assert session["started_at"] == min(row["started_at"] for row in rows)


async def test_a_session_is_created_and_extended_by_what_happens_in_it(client, new_tenant):
    tenant = await new_tenant()
    await stored_batch(
        client, tenant, [tool_metric(started_at=at(60), user_email="ada@example.com", **IN_S)]
    )
    (created,) = await rows_of(client, "/api/v1/sessions", tenant)

    await stored_batch(
        client,
        tenant,
        [tool_metric(started_at=at(0), **IN_S),
         tool_metric(started_at=at(100), duration_ms=5000, status="error", **IN_S)],
    )  # fmt: skip

    (extended,) = await rows_of(client, "/api/v1/sessions", tenant)
    assert created["user"]["email"] == "ada@example.com"
    assert (created["agent"], created["external_id"]) == ("claude-code", "s")
    assert extended["id"] == created["id"]
    assert extended["started_at"] == at(0)
    assert extended["duration_ms"] == 105_000
    assert (extended["tool_call_count"], extended["tool_error_count"]) == (3, 1)
    assert extended["user"]["email"] == "ada@example.com"


# -- refusals ---------------------------------------------------------------------------------------

BAD_ITEMS = [
    ("tool_name", {"tool_name": ""}),
    ("tool_name", {"tool_name": "x" * 256}),
    ("tool_name", {"tool_name": None}),
    ("tool_name", {"tool_name": "a\0b"}),
    ("started_at", {"started_at": "2026-03-02T10:00:00"}),
    ("started_at", {"started_at": "2014-12-31T23:59:59.999999Z"}),
    ("started_at", {"started_at": "0001-01-01T00:00:00Z"}),
    ("started_at", {"started_at": "0001-01-01T00:00:00+14:00"}),
    ("started_at", {"started_at": "9999-12-31T23:59:59-14:00"}),
    ("started_at", {"started_at": "2026-02-30T00:00:00Z"}),
    ("duration_ms", {"duration_ms": -0.001}),
    ("duration_ms", {"duration_ms": 1e300}),
    ("duration_ms", {"duration_ms": 10**30}),
    ("duration_ms", {"duration_ms": "5"}),
    ("duration_ms", {"duration_ms": True}),
    ("memory_bytes", {"memory_bytes": 2**63}),
    ("memory_bytes", {"memory_bytes": 1.5}),
    ("input_bytes", {"input_bytes": -1}),
    ("status", {"status": "Success"}),
    ("status", {"status": None}),
    ("id", {"id": "x"}),
    ("session_id", {"session_id": str(uuid4())}),
    ("session_id", {"session_id": str(uuid4()), **IN_S}),
    ("agent", {"external_session_id": "s"}),
    ("user_email", {"user_email": "x"}),
    ("metadata", {"metadata": {"a": {"b\0": 1}}}),
    ("metadata", {"metadata": {"a": "x" * 16 * 1024}}),
    ("metadata", {"metadata": {"1": {"2": {"3": {"4": {"5": {"6": {"7": {"8": {}}}}}}}}}}),
    ("metadata", {"metadata": {"a": [[[[[[[[1]]]]]]]]}}),
    ("metadata", {"metadata": 5}),
    ("user_id", {"user_id": str(uuid4())}),
    ("tenant_id", {"tenant_id": str(uuid4())}),
]


@pytest.mark.parametrize(("field", "change"), BAD_ITEMS)
async def test_one_bad_item_refuses_the_batch_and_is_named(
    client, tenant_once, count_rows, field, change
):
    before = await count_rows(tenant_once)
    items = [tool_metric(**IN_S, user_email="a@b"), {**tool_metric(), **change}, tool_metric()]

    response = await post_batch(client, tenant_once, items)

    (error,) = check_problem(response, 422)["errors"]
    assert error.keys() == {"index", "field", "reason"}
    assert (error["index"], error["field"].split("[")[0]) == (1, field)
    assert await count_rows(tenant_once) == before


async def test_skipping_stores_the_good_and_lists_every_bad_one(client, new_tenant):
    tenant = await new_tenant()
    items = []
    for number, (_, change) in enumerate(BAD_ITEMS):
        items += [tool_metric(tool_name=f"good{number}"), {**tool_metric(), **change}]

    response = await post_batch(client, tenant, items, on_error="skip")

    assert response.status_code == 200
    receipt = response.json()
    assert receipt.keys() == {"inserted", "duplicates", "rejected"}
    assert (receipt["inserted"], receipt["duplicates"]) == (len(BAD_ITEMS), 0)
    assert [(one["index"], one["field"].split("[")[0]) for one in receipt["rejected"]] == [
        (number * 2 + 1, field) for number, (field, _) in enumerate(BAD_ITEMS)
    ]
    again = (await post_batch(client, tenant, items, on_error="skip")).json()
    assert (again["inserted"], again["duplicates"]) == (0, len(BAD_ITEMS))


async def test_a_bad_line_is_named_by_its_place_among_the_lines(client, new_tenant):
    tenant = await new_tenant()
    lines = [json.dumps(tool_metric()), "{not json", json.dumps({"tool_name": "x"}), "[]"]

    response = await client.post(
        f"{BATCH}?on_error=skip",
        content="\n".join(lines).encode(),
        headers={**tenant.headers, "Content-Type": "application/x-ndjson"},
    )

    assert response.status_code == 200
    assert response.json()["inserted"] == 1
    assert [error["index"] for error in response.json()["rejected"]] == [1, 2, 3]


async def test_metadata_of_eight_levels_and_sixteen_kib_is_taken(client, new_tenant):
    tenant = await new_tenant()
    deep = {"1": {"2": {"3": {"4": {"5": {"6": {"7": {"8": "end"}}}}}}}}
    wide = {"a": "x" * (16 * 1024 - len('{"a":""}'))}

    receipt = await stored_batch(
        client, tenant, [tool_metric(metadata=deep), tool_metric(metadata=wide)]
    )

    assert receipt["inserted"] == 2
    stored = await rows_of(client, PATH, tenant)
    assert deep in [row["metadata"] for row in stored]
    assert wide in [row["metadata"] for row in stored]


async def test_a_tenant_has_five_thousand_tool_names_and_not_one_more(client, new_tenant):
    tenant = await new_tenant()
    names = [f"tool{number:05}" for number in range(5_000)]
    await stored_batch(client, tenant, [tool_metric(tool_name=name) for name in names])

    known = await stored_batch(client, tenant, [tool_metric(tool_name=names[0], duration_ms=1)])
    new = await post_batch(client, tenant, [tool_metric(tool_name="one more")])
    skipped = await post_batch(
        client,
        tenant,
        [tool_metric(tool_name=names[1], duration_ms=2), tool_metric(tool_name="one more")],
        on_error="skip",
    )

    assert known["inserted"] == 1
    (error,) = check_problem(new, 422)["errors"]
    assert (error["index"], error["field"]) == (0, "tool_name")
    assert skipped.json()["inserted"] == 1
    assert [error["index"] for error in skipped.json()["rejected"]] == [1]


async def test_on_error_is_skip_or_refuse_and_nothing_else(client, tenant_once):
    for value in ("Skip", "", "null", "ignore"):
        response = await post_batch(client, tenant_once, [], on_error=value)
        check_problem(response, 400)
    assert (await post_batch(client, tenant_once, [], on_error="refuse")).status_code == 200


async def test_a_batch_may_come_compressed(client, new_tenant):
    tenant = await new_tenant()
    body = gzip.compress(json.dumps([tool_metric()]).encode())
    headers = {
        **tenant.headers,
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
    }

    response = await client.post(BATCH, content=body, headers=headers)

    assert response.json() == {"inserted": 1, "duplicates": 0}


# -- lists ------------------------------------------------------------------------------------------


async def make_many(client, tenant):
    session = await stored_session(
        client, tenant, external_id="s", session_type="review", tags=["red"]
    )
    items = [
        tool_metric(
            id=str(uuid4()),
            tool_name=("Bash", "Read", "Edit")[number % 3],
            started_at=at(number // 10),
            status=("success", "error")[number % 2],
            metadata={"n": number},
            user_email=f"u{number % 2}@example.com",
            **(IN_S if number < 15 else {"agent": "codex"}),
        )
        for number in range(30)
    ]
    assert (await stored_batch(client, tenant, items))["inserted"] == 30
    return session


@pytest.fixture(scope="module")
async def filled_tenant(client, new_tenant):
    """One that has them, for those that only look."""
    made = await new_tenant()
    await make_many(client, made)
    return made


@pytest.mark.parametrize("sort", ["started_at", "-started_at", None])
async def test_pages_show_every_row_once_although_times_are_equal(client, filled_tenant, sort):
    query = {"limit": 4} if sort is None else {"limit": 4, "sort": sort}

    walked = [row async for row in walk(client, PATH, filled_tenant, **query)]
    paged = []
    for number in range(1, 9):
        page = (
            await client.get(PATH, params={**query, "page": number}, headers=filled_tenant.headers)
        ).json()
        assert page["meta"] == {"limit": 4, "page": number, "total": 30, "pages": 8}
        paged += page["data"]

    keys = [(row["started_at"], row["id"]) for row in walked]
    assert keys == sorted(set(keys), reverse=sort != "started_at")
    assert len(keys) == 30
    assert paged == walked


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"tool_name": "Bash"}, lambda n: n % 3 == 0),
        ({"status": "error"}, lambda n: n % 2 == 1),
        ({"agent": "claude-code"}, lambda n: n < 15),
        ({"agent": "codex"}, lambda n: n >= 15),
        ({"session_type": "review"}, lambda n: n < 15),
        ({"tag": "red"}, lambda n: n < 15),
        ({"tag": "blue"}, lambda _: False),
        ({"started_after": at(1), "started_before": at(2)}, lambda n: 10 <= n < 20),
        ({"tool_name": "Read", "status": "error", "tag": "red"}, lambda n: n % 6 == 1 and n < 15),
    ],
)
async def test_filters_choose_rows_and_totals_alike(client, filled_tenant, query, wanted):
    expected = [number for number in range(30) if wanted(number)]

    rows = await rows_of(client, PATH, filled_tenant, **query, limit=3)
    page = (
        await client.get(
            PATH, params={**query, "page": 1, "limit": 1}, headers=filled_tenant.headers
        )
    ).json()

    assert sorted(row["metadata"]["n"] for row in rows) == expected
    assert page["meta"]["total"] == len(expected)


async def test_tool_metrics_can_be_asked_for_by_user(client, new_tenant):
    tenant = await new_tenant()
    await make_many(client, tenant)
    user_id = next(
        row["user_id"]
        for row in await rows_of(client, PATH, tenant)
        if row["user_email"] == "u1@example.com"
    )

    rows = await rows_of(client, PATH, tenant, user_id=user_id)

    assert sorted(row["metadata"]["n"] for row in rows) == list(range(1, 30, 2))


async def test_what_happened_in_one_session_is_listed_in_order(client, new_tenant):
    tenant = await new_tenant()
    session = await make_many(client, tenant)
    path = f"/api/v1/sessions/{session['id']}/tool-metrics"

    rows = await rows_of(client, path, tenant, limit=4)

    keys = [(row["started_at"], row["id"]) for row in rows]
    assert keys == sorted(keys)
    assert sorted(row["metadata"]["n"] for row in rows) == list(range(15))
    errors = await rows_of(client, path, tenant, status="error", tool_name="Bash")
    assert sorted(row["metadata"]["n"] for row in errors) == [3, 9]
    nowhere = f"/api/v1/sessions/{uuid4()}/tool-metrics"
    check_problem(await client.get(nowhere, headers=tenant.headers), 404)


async def test_a_cursor_of_one_session_is_none_of_another(client, new_tenant):
    tenant = await new_tenant()
    one = await make_many(client, tenant)
    other = await stored_session(client, tenant, external_id="other")
    path = "/api/v1/sessions/{}/tool-metrics"
    page = await client.get(path.format(one["id"]), params={"limit": 3}, headers=tenant.headers)
    cursor = page.json()["meta"]["next_cursor"]

    for elsewhere in (path.format(other["id"]), PATH):
        response = await client.get(elsewhere, params={"cursor": cursor}, headers=tenant.headers)
        check_problem(response, 400)


# -- summary ----------------------------------------------------------------------------------------


def nearest_rank(values, share):
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else None


def summarised(items, names):
    groups = defaultdict(list)
    for item in items:
        groups[tuple(key_of(item, name) for name in names)].append(item)
    if not names:
        groups.setdefault((), [])
    return {
        key: {
            "count": len(found),
            "error_count": sum(one["status"] in ("error", "timeout") for one in found),
            "durations": [one["duration_ms"] for one in found if one["duration_ms"] is not None],
        }
        for key, found in groups.items()
    }


def key_of(item, name):
    if name in ("hour", "day"):
        started = datetime.fromisoformat(item["started_at"])
        cut = {"minute": 0, "second": 0, "microsecond": 0}
        cut |= {"hour": 0} if name == "day" else {}
        return started.replace(**cut).isoformat().replace("+00:00", "Z")
    return item.get(name)


def random_items():
    rng = random.Random(3)
    return [
        {
            "id": str(uuid4()),
            "tool_name": rng.choice(["Bash", "Read", "Edit"]),
            "tool_category": rng.choice(["shell", None]),
            "agent": rng.choice(["codex", "cursor", None]),
            "started_at": at(rng.randrange(-40 * 3600, 40 * 3600)),
            "duration_ms": rng.choice([None, round(rng.lognormvariate(5, 2), 3)]),
            "status": rng.choice(
                ["success", "error", "rejected", "cancelled", "timeout", "unknown"]
            ),
        }
        for _ in range(400)
    ]


@pytest.mark.parametrize(
    "group_by",
    ["", "tool_name", "tool_category", "agent", "hour", "day", "day,tool_name",
     "agent,tool_name,tool_category,hour"],
)  # fmt: skip
async def test_a_summary_is_what_one_would_compute_by_hand(client, new_tenant, group_by):
    tenant = await new_tenant()
    items = random_items()
    await stored_batch(client, tenant, items)
    names = [name for name in group_by.split(",") if name]
    expected = summarised(
        [item for item in items if at(-86400) <= item["started_at"] < at(86400)], names
    )

    response = await client.get(
        SUMMARY,
        params={"from": at(-86400), "to": at(86400), "group_by": group_by},
        headers=tenant.headers,
    )

    assert response.status_code == 200
    answer = response.json()
    assert datetime.fromisoformat(answer["meta"].pop("updated_at"))
    assert answer["meta"] == {
        "from": at(-86400), "to": at(86400), "group_by": names, "tz": "UTC", "notes": [],
    }  # fmt: skip
    assert len(answer["data"]) == len(expected)
    measures = {
        "count", "error_count", "error_rate", "avg_ms", "p50_ms", "p95_ms", "p99_ms",
    }  # fmt: skip
    for row in answer["data"]:
        assert row.keys() == measures | set(names)
        one = expected[tuple(row[name] for name in names)]
        assert (row["count"], row["error_count"]) == (one["count"], one["error_count"])
        assert row["error_rate"] == pytest.approx(one["error_count"] / one["count"])
        durations = one["durations"]
        for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
            exact = nearest_rank(durations, share)
            assert row[name] == (exact and pytest.approx(exact, rel=0.02))
        if durations:
            assert row["avg_ms"] == pytest.approx(math.fsum(durations) / len(durations))
        else:
            assert row["avg_ms"] is None


async def test_a_summary_by_user_names_users_by_id(client, new_tenant):
    tenant = await new_tenant()
    await make_many(client, tenant)
    users = {row["user_id"] for row in await rows_of(client, PATH, tenant)}

    response = await client.get(
        SUMMARY,
        params={"from": at(-1), "to": at(60), "group_by": "user_id"},
        headers=tenant.headers,
    )

    assert {row["user_id"] for row in response.json()["data"]} == users
    assert {row["count"] for row in response.json()["data"]} == {15}


async def test_a_summary_begins_with_from_and_ends_before_to(client, new_tenant):
    tenant = await new_tenant()
    await stored_batch(
        client, tenant, [tool_metric(started_at=at(0)), tool_metric(started_at=at(60))]
    )

    response = await client.get(
        SUMMARY, params={"from": at(0), "to": at(60)}, headers=tenant.headers
    )

    assert [row["count"] for row in response.json()["data"]] == [1]


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"from": at()},
        {"to": at()},
        {"from": at(1), "to": at(0)},
        {"from": at(0), "to": at(0)},
        {"from": at(0), "to": "2026-03-02T10:00:00"},
        {"from": "0", "to": at(0)},
        {"from": "0001-01-01T00:00:00+14:00", "to": at(0)},
        {"from": at(0), "to": "9999-12-31T23:59:59-14:00"},
        {"from": at(0), "to": at(1), "group_by": "tenant_id"},
        {"from": at(0), "to": at(1), "group_by": "tool_name,tool_name"},
        {"from": at(0), "to": at(1), "group_by": "tool_name;DROP TABLE x"},
        {"from": at(0), "to": at(1), "group_by": "request_model"},
        {"from": at(0), "to": at(1), "group_by": "x" * 300},
        {"from": at(0), "to": at(1), "page": "1"},
        {"from": at(0), "to": at(1), "status": "error"},
    ],
)
async def test_a_summary_refuses_what_it_cannot_answer(client, tenant_once, query):
    response = await client.get(SUMMARY, params=query, headers=tenant_once.headers)

    check_problem(response, 400)


async def test_a_summary_of_nothing_says_so(client, tenant_once):
    query = {"from": "2016-01-01T00:00:00Z", "to": "2016-01-02T00:00:00Z"}

    grouped = await client.get(
        SUMMARY, params={**query, "group_by": "tool_name"}, headers=tenant_once.headers
    )
    whole = await client.get(SUMMARY, params=query, headers=tenant_once.headers)

    assert grouped.json()["data"] == []
    (row,) = whole.json()["data"]
    assert (row["count"], row["error_count"], row["error_rate"]) == (0, 0, 0)
    assert row["p50_ms"] is row["p95_ms"] is row["p99_ms"] is row["avg_ms"] is None
