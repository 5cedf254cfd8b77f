"""`metrics-service dashboard`: from one tenant to another by a file."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest
from command_line import CommandLine, on_database

from metrics_service.dashboards.file_controller import FILE
from metrics_service.db.addresses import Addresses


@pytest.fixture(scope="session")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


@pytest.fixture
def slug(line: CommandLine) -> str:
    made = f"t{uuid4().hex[:16]}"
    assert line.here("tenant", "create", made).code == 0
    return made


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(FILE), encoding="utf-8")
    return path


def test_a_dashboard_goes_from_one_tenant_to_another(line, slug, written, tmp_path):
    other = f"t{uuid4().hex[:16]}"
    assert line.here("tenant", "create", other).code == 0
    made = line.here("dashboard", "import", slug, str(written), "--json").json()
    target = tmp_path / "out.yaml"

    exported = line.here(
        "dashboard", "export", slug, made["id"], "--format", "yaml", "--to", str(target)
    )
    assert (exported.code, exported.out) == (0, "")
    theirs = line.here(
        "dashboard", "import", other, str(target), "--name", "Theirs", "--json"
    ).json()

    (listed,) = line.here("dashboard", "list", other, "--json").json()
    assert listed == theirs
    assert (listed["name"], listed["visibility"], listed["version"]) == ("Theirs", "tenant", 1)
    assert [row["id"] for row in line.here("dashboard", "list", slug, "--json").json()] == [
        made["id"]
    ]
    shown = json.loads(line.here("dashboard", "export", other, theirs["id"]).out)
    assert shown == {**FILE, "description": "", "name": "Theirs"}


def test_a_file_replaces_a_dashboard_as_its_next_version(line, slug, written):
    made = line.here("dashboard", "import", slug, str(written), "--json").json()

    changed = line.here(
        "dashboard",
        "import",
        slug,
        str(written),
        "--replace",
        made["id"],
        "--name",
        "Next",
        "--json",
    ).json()

    assert (changed["id"], changed["version"], changed["name"]) == (made["id"], 2, "Next")
    assert len(line.here("dashboard", "list", slug, "--json").json()) == 1


def test_all_are_listed(line, slug, written):
    assert line.here("dashboard", "list", slug, "--json").json() == []
    names = [f"d{number}" for number in range(3)]
    for name in names:
        line.here("dashboard", "import", slug, str(written), "--name", name)

    assert [row["name"] for row in line.here("dashboard", "list", slug, "--json").json()] == names[
        ::-1
    ]
    table = line.here("dashboard", "list", slug).out.splitlines()
    assert table[0].split()[:3] == ["id", "name", "visibility"]
    assert len(table) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ("a: [", "not YAML"),
        ("a: &x 1", "anchors"),
        ("{}", "format: is required"),
        (json.dumps({**FILE, "owner": "x"}), "owner: is not a field"),
        (
            json.dumps({**FILE, "widgets": [{**FILE["widgets"][0], "kind": "map"}]}),
            "widgets[0].kind",
        ),
        (json.dumps({**FILE, "name": "\0"}), "U+0000"),
    ],
)
def test_a_wrong_file_exits_with_2_and_says_why(line, slug, tmp_path, content, said):
    path = tmp_path / "wrong"
    path.write_text(content, encoding="utf-8")

    ended = line.here("dashboard", "import", slug, str(path))

    assert (ended.code, said in ended.err) == (2, True), ended.err
    assert len(ended.err.splitlines()) == 1
    assert line.here("dashboard", "list", slug, "--json").json() == []


def test_who_gives_a_name_for_an_id_is_told_where_ids_are(line, slug, written):
    for arguments in (
        ("export", slug, "Overview"),
        ("import", slug, str(written), "--replace", "x"),
    ):
        ended = line.here("dashboard", *arguments)
        assert (ended.code, "dashboard list TENANT" in ended.err) == (2, True), ended.err


def test_what_is_not_there_exits_with_3_and_wrong_usage_with_2(line, slug, written, tmp_path):
    other = f"t{uuid4().hex[:16]}"
    line.here("tenant", "create", other)
    theirs = line.here("dashboard", "import", other, str(written), "--json").json()["id"]

    for arguments, code in [
        (("list", "nobody"), 3),
        (("export", "nobody", str(uuid4())), 3),
        (("export", slug, str(uuid4())), 3),
        (("export", slug, theirs), 3),
        (("import", slug, str(written), "--replace", theirs), 3),
        (("import", "nobody", str(written)), 3),
        (("export", slug, "x"), 2),
        (("export", slug, theirs, "--format", "xml"), 2),
        (("import", slug, str(tmp_path / "nothing")), 2),
        (("import", slug, str(written), "--name", ""), 2),
        (("import", slug, str(written), "--name", "x" * 256), 2),
        (("export", other, theirs, "--to", str(tmp_path / "no" / "where")), 1),
    ]:
        ended = line.here("dashboard", *arguments)
        assert ended.code == code, (arguments, ended.err)
        assert len(ended.err.splitlines()) == 1
    assert line.here("dashboard", "list", slug, "--json").json() == []
