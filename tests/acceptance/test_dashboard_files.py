"""Dashboards as files over HTTP: written exactly, read strictly, in JSON and YAML."""

from __future__ import annotations

import copy
import json
import time
from uuid import uuid4

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from acceptance.talk import check_problem, dashboard, rows_of, stored_dashboard, widget
from metrics_service.dashboards.files import DashboardFile, read_file, read_yaml, write_file
from metrics_service.dashboards.schemas import MAX_CONFIG_BYTES
from metrics_service.errors import InvalidBodyError, MalformedRequestError

PATH = "/api/v1/dashboards"
IMPORT = f"{PATH}/import"
TYPES = {"json": "application/json", "yaml": "application/yaml"}
HOSTILE = "🧪 é\u0301 \u202e \u2028 \x85 \x7f \ufeff no: [*x] &y !!z # 'q' \"d\" \\ \t\r\n - %"


def file(**changes):
    body = {name: value for name, value in dashboard().items() if name != "visibility"}
    return {"format": "metrics-service.dashboard", "format_version": 1, **body, **changes}


async def export(client, who, one, **query):
    return await client.get(f"{PATH}/{one['id']}/export", params=query, headers=who.headers)


async def post(client, who, content, media_type="application/yaml", **headers):
    content = content if isinstance(content, bytes) else content.encode()
    headers = {**who.headers, "Content-Type": media_type, **headers}
    return await client.post(IMPORT, content=content, headers=headers)


# -- there and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "yaml"])
async def test_what_is_exported_is_imported_exactly(client, new_tenant, kind):
    tenant, other = await new_tenant(), await new_tenant()
    domain = {"domain": [0, -1, 1.5, 1e308, 5e-324, HOSTILE, "1e3", "0x1f", "no", "~", "1:30"]}
    made = await stored_dashboard(
        client,
        tenant,
        name="null",
        description=HOSTILE,
        tags=["yes", "1", "2026-01-01", "<<", "=", " x ", "a: b", "é"],
        widgets=[
            widget(title=HOSTILE, encoding={"y": {"field": "count", "scale": domain}}),
            widget(id="on", kind="table", description="a\n\n  b \n"),
        ],
    )

    exported = await export(client, tenant, made, format=kind)
    imported = await post(client, other, exported.content, TYPES[kind])

    assert exported.status_code == 200
    assert exported.headers["content-type"].partition(";")[0] == TYPES[kind]
    assert imported.status_code == 201, imported.text
    same = ("name", "description", "tags", "layout", "widgets")
    assert {name: imported.json()[name] for name in same} == {name: made[name] for name in same}
    assert (imported.json()["version"], imported.json()["id"] == made["id"]) == (1, False)
    again = await export(client, other, imported.json(), format=kind)
    assert again.content == exported.content


async def test_a_file_has_what_a_dashboard_is_and_nothing_of_its_tenant(client, new_tenant):
    tenant = await new_tenant()
    made = await stored_dashboard(client, tenant, name='Überblick / Q1 "x"')

    as_json = await export(client, tenant, made)
    as_yaml = await export(client, tenant, made, format="yaml")

    expected = file(name=made["name"], description="", tags=[])
    assert as_json.json() == yaml.safe_load(as_yaml.text) == expected
    assert list(as_json.json()) == [
        "format", "format_version", "name", "description", "tags", "layout", "widgets",
    ]  # fmt: skip
    disposition = 'attachment; filename="berblick-q1-x.dashboard.{}"'
    assert as_json.headers["content-disposition"] == disposition.format("json")
    assert as_yaml.headers["content-disposition"] == disposition.format("yaml")
    check_problem(await export(client, tenant, made, format="xml"), 400)


async def test_the_name_of_a_file_cannot_leave_its_header(client, new_tenant):
    tenant = await new_tenant()
    for name in ("x\r\nSet-Cookie: a=b", '"; filename="/etc/passwd', "../../x", "🧪", "." * 255):
        made = await stored_dashboard(client, tenant, name=name)

        response = await export(client, tenant, made)

        disposition = response.headers["content-disposition"]
        assert disposition.startswith('attachment; filename="')
        named = disposition.split('"')[1]
        assert named.removesuffix(".dashboard.json").replace("-", "").isalnum()
        assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    "media_type",
    ["application/yaml", "application/x-yaml", "text/yaml", "Application/YAML; charset=utf-8"],
)
async def test_an_import_is_the_callers_own_and_always_new(
    client, new_tenant, new_person, media_type
):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com")
    content = yaml.safe_dump(file(name="From a file"))

    hers = [await post(client, ada, content, media_type) for _ in range(2)]
    nobodys = await post(client, tenant, content, media_type)

    for response in hers:
        made = response.json()
        assert (response.status_code, made["name"]) == (201, "From a file")
        assert (made["owner"]["id"], made["visibility"]) == (str(ada.id), "private")
    assert hers[0].json()["id"] != hers[1].json()["id"]
    assert (nobodys.json()["owner"], nobodys.json()["visibility"]) == (None, "tenant")


async def test_an_import_sent_again_is_made_once(client, new_tenant):
    tenant = await new_tenant()
    content = yaml.safe_dump(file())

    first = await post(client, tenant, content, **{"Idempotency-Key": "k"})
    again = await post(client, tenant, content, **{"Idempotency-Key": "k"})
    other = await post(client, tenant, content + "\n", **{"Idempotency-Key": "k"})

    assert first.content == again.content
    check_problem(other, 422)
    assert len(await rows_of(client, PATH, tenant)) == 1


# -- what is no file --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "yaml"])
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("format", {"format": "grafana"}),
        ("format", {"format": None}),
        ("format_version", {"format_version": 2}),
        ("format_version", {"format_version": "1"}),
        ("format_version", {"format_version": True}),
        ("name", {"name": ""}),
        ("name", {"name": 1}),
        ("id", {"id": str(uuid4())}),
        ("owner", {"owner": None}),
        ("visibility", {"visibility": "tenant"}),
        ("tenant_id", {"tenant_id": str(uuid4())}),
        ("widgets[0].tenant_id", {"widgets": [widget(tenant_id="x")]}),
        ("widgets[0].query.filters.tenant_id", {"widgets": [widget(query={
            "source": "sessions", "measures": ["count"], "filters": {"tenant_id": "x"}})]}),
        ("widgets", {"widgets": {}}),
        ("widgets[0]", {"widgets": [1], "layout": {}}),
        ("layout.a", {"layout": {"a": {"x": 0}}}),
        ("layout.b", {"layout": {"b": {"x": 0, "y": 0, "w": 1, "h": 1}}}),
        ("description", {"description": "a\0b"}),
        ("widgets", {"widgets": [widget(title="\0")]}),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named(client, tenant_once, count_rows, kind, field, change):
    before = await count_rows(tenant_once)
    content = json.dumps(file(**change)) if kind == "json" else yaml.safe_dump(file(**change))

    response = await post(client, tenant_once, content, TYPES[kind])

    (error,) = check_problem(response, 422)["errors"]
    assert error["field"] == field
    assert await count_rows(tenant_once) == before


@pytest.mark.parametrize("missing", ["format", "format_version", "name"])
async def test_a_missing_field_is_named(client, tenant_once, missing):
    content = {name: value for name, value in file().items() if name != missing}

    response = await post(client, tenant_once, json.dumps(content), TYPES["json"])

    assert check_problem(response, 422)["errors"] == [{"reason": "is required", "field": missing}]


async def test_another_tenants_user_is_no_user(client, new_tenant, new_person):
    tenant, stranger = await new_tenant(), await new_tenant()
    theirs = await new_person(stranger, "eve@example.com")
    query = {
        "source": "sessions",
        "measures": ["count"],
        "filters": {"user_id": [str(theirs.id)]},
    }
    made = await stored_dashboard(client, stranger, widgets=[widget(query=query)])
    exported = await export(client, stranger, made, format="yaml")

    response = await post(client, tenant, exported.content)

    assert check_problem(response, 422)["errors"] == [
        {"reason": "there is no such user", "field": "widgets[0].query.filters.user_id"}
    ]


PLAIN = yaml.safe_dump(file(), sort_keys=False)
BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "body"),
        ("# nothing", "empty"),
        ("---\n---\n", "more than one document"),
        (f"{PLAIN}---\n{PLAIN}", "more than one document"),
        (BOMB, "anchors"),
        (PLAIN.replace("Tools", "&a Tools"), "anchors"),
        (f"{PLAIN}x: *a", ""),
        ("*a", ""),
        (PLAIN.replace("Tools", "!!python/object/apply:os.system [x]"), "tags"),
        (PLAIN.replace("Tools", "!!str Tools"), "tags"),
        (PLAIN.replace("Tools", "!x Tools"), "tags"),
        (f"!!map\n{PLAIN}", "tags"),
        (f"{PLAIN}name: again\n", "twice"),
        ("{a: 1, a: 1}", "twice"),
        ("? [a]\n: 1", "not text"),
        ("1: 2", "not text"),
        ("null: 2", "not text"),
        ("[" * 65 + "]" * 65, "nested"),
        ("[" * 200_000, "nested"),
        ("- " * 100_000, "nested"),
        ("a: .inf", "finite"),
        ("a: -.INF", "finite"),
        ("a: .nan", "finite"),
        ("a: 1e999", "too large"),
        ("a: " + "9" * 5000, "too large"),
        ("a: [", "not YAML"),
        ("a: 'x", "not YAML"),
        ("a:\tb: c", "not YAML"),
        ("%YAML 3.0\n---\na: 1", ""),
        ("a: \x00", ""),
        ("a: \x07", ""),
        (b"a: \xff\xfe", "UTF-8"),
        (b"\xff\xfea\x00", "UTF-8"),
    ],
)
async def test_what_is_no_plain_yaml_is_refused(client, tenant_once, count_rows, content, said):
    before = await count_rows(tenant_once)
    begun = time.perf_counter()

    response = await post(client, tenant_once, content)

    assert time.perf_counter() - begun < 2
    detail = check_problem(response, 400)["detail"]
    assert said in detail or not content
    assert len(detail) < 200
    assert await count_rows(tenant_once) == before


@pytest.mark.parametrize("text", ["x", "[]", "1", "null", '"x"', "true"])
async def test_yaml_that_is_no_dashboard_is_refused(client, tenant_once, text):
    check_problem(await post(client, tenant_once, text), 422)


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("text/plain", 415),
        ("application/x-ndjson", 415),
        ("application/yaml; charset=utf-16", 415),
        ("multipart/form-data", 415),
        ("application/json", 400),
    ],
)
async def test_other_types_are_not_taken(client, tenant_once, media_type, status):
    check_problem(await post(client, tenant_once, PLAIN, media_type), status)


async def test_yaml_is_taken_by_the_import_alone(client, tenant_once):
    headers = {**tenant_once.headers, "Content-Type": "application/yaml"}
    for path in (PATH, "/api/v1/sessions", "/api/v1/tool-metrics/batch"):
        check_problem(await client.post(path, content=b"name: x", headers=headers), 415)


async def test_a_file_that_is_too_large_is_refused_soon(client, tenant_once):
    for content, status in [
        (f"{PLAIN}description: {'x' * 900_000}", 413),
        (PLAIN + "# " + "x" * 2_000_000, 413),
        (yaml.safe_dump(file(layout={"a": "x" * MAX_CONFIG_BYTES})), 422),
        ("[" + "[],1," * 140_000 + "]", 413),
        ("{" + ",".join(f"k{number}: 1" for number in range(60_000)) + "}", 413),
        (json.dumps({f"k{number}": 1 for number in range(9_000)}), 422),
    ]:
        begun = time.perf_counter()
        check_problem(await post(client, tenant_once, content), status)
        assert time.perf_counter() - begun < 2


# -- the core schema --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("'null'", "null"),
        ("2026-01-01", "2026-01-01"),
        ("12:30:45", "12:30:45"),
        ("0o17", "0o17"),
        ("0x1f", "0x1f"),
        ("017", 17),
        ("1_000", "1_000"),
        ("-7", -7),
        ("+7", 7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-1.", -1.0),
        ("1.5.0", "1.5.0"),
        ("! 5", "5"),
        ("<<", "<<"),
        ("=", "="),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">-\n  a\n  b\n", "a b"),
        ("{a: {}, b: []}", {"a": {}, "b": []}),
    ],
)
def test_a_scalar_is_what_json_would_have(text, value):
    read = read_yaml(f"x: {text}".encode())["x"]

    assert (read, type(read)) == (value, type(value))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS | st.sampled_from(["1e5", "1.", ".5e1", "-", "?", "|", "0x1", "y", "~", "", " ", "\n"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(TEXTS.filter(lambda text: 0 < len(text) <= 255), st.dictionaries(TEXTS, VALUES, max_size=3))
def test_any_values_go_there_and_back(name, layout):
    made = DashboardFile(
        kind="metrics-service.dashboard", format_version=1, name=name, layout=layout
    )
    for kind in ("json", "yaml"):
        written = write_file(made, kind)
        if b"\\u0000" in msgspec.json.encode(made):
            with pytest.raises(InvalidBodyError):
                read_file(written, kind)
        else:
            read = read_file(written, kind)
            assert read == made
            assert msgspec.json.encode(read) == msgspec.json.encode(made)


@given(st.binary(max_size=60) | st.text("[]{}&*!|>-?:,#'\"\\ \n\tax1.%@`~", max_size=60))
def test_any_bytes_are_read_or_refused(content):
    content = content if isinstance(content, bytes) else content.encode()
    try:
        value = read_yaml(content)
    except MalformedRequestError as error:
        assert str(error)
    else:
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        assert copy.deepcopy(value) == value
