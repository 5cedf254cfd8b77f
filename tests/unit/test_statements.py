"""A statement's shape: never a value, and the same fingerprint as the database's own statistics have."""

from __future__ import annotations

import re
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.observability import statements
from metrics_service.observability.statements import describe, operation_of

CANARY = "canary4711"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("SELECT  1,\n 'a'  -- why\n FROM t", "SELECT ?, ? FROM t"),
        ("SELECT /* a /* b */ 'c' */ x FROM t;", "SELECT x FROM t"),
        ("SELECT $1, $22::int", "SELECT $1, $22::int"),
        ("SELECT 'it''s', E'it\\'s', $$a$$, $q$a $$ b$q$, U&'\\0041'", "SELECT ?, ?, ?, ?, ?"),
        ("SELECT 1.5e-3, .5, 0x1F, 1_000, a1, t2.c3", "SELECT ?, ?, ?, ?, a1, t2.c3"),
        ("SELECT -1, a - 1, a-1, (-1), x = -1", "SELECT ?, a - ?, a-?, (?), x = ?"),
        ('SELECT a[1:2] FROM "o\'r"', 'SELECT a[?:?] FROM "o\'r"'),
        ("SELECT 'never ends", "SELECT ?"),
        ("SELECT 'one'\n  'string', 'another'", "SELECT ? , ?"),
        ("SELECT 1 /* never ends", "SELECT ?"),
        ("  ", ""),
    ],
)
def test_a_shape_has_no_comment_and_no_literal(text: str, shape: str) -> None:
    assert describe(text).normalised == shape


LITERALS = st.one_of(
    st.builds(lambda tail: "'" + f"{CANARY}{tail}".replace("'", "''") + "'", st.text(max_size=8)),
    st.builds(
        lambda tail: "E'" + f"{CANARY}{tail}".replace("\\", "\\\\").replace("'", "\\'") + "'",
        st.text(max_size=8),
    ),
    st.just(f"$tag${CANARY} $$ '$tag$"),
    st.just(f"-- {CANARY} '\n"),
    st.just(f"/* {CANARY} ' /* \" */ */"),
    st.integers(min_value=0).map(lambda number: f"4711{number}"),
)
BETWEEN = st.sampled_from(["=", " , ", "(", ") ", "||", "::text ", " AND x IN (", "-", "\n"])


@given(st.lists(st.tuples(BETWEEN, LITERALS), max_size=12))
def test_whatever_literals_are_made_of_nothing_of_them_is_left(
    parts: list[tuple[str, str]],
) -> None:
    text = "SELECT a FROM t WHERE b" + "".join(
        f" {between} {literal}" for between, literal in parts
    )

    found = describe(text)

    assert "4711" not in found.normalised
    assert CANARY not in repr(found)
    assert re.fullmatch("[0-9a-f]{16}", found.fingerprint)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("SELECT a FROM t WHERE b = 5", "SELECT a FROM t WHERE b = $1"),
        ("SELECT a FROM t WHERE b = -5", "SELECT a FROM t WHERE b = $1"),
        ("SELECT a FROM t WHERE b = 'x'::text", "SELECT a FROM t WHERE b = $1::text"),
        ("select A\n from T where B=$1", "SELECT a FROM t WHERE b = $1"),
        ("SELECT a FROM t WHERE b IN (1, 2, 3)", "SELECT a FROM t WHERE b IN ($1, $2, $3)"),
        ("SELECT a FROM t WHERE b IN (1, 2)", "SELECT a FROM t WHERE b IN ($1 /*, ... */)"),
        ("INSERT INTO t VALUES (1, 2), (3, 4)", "INSERT INTO t VALUES ($1, $2), ($3, $4)"),
        ("INSERT INTO t VALUES (1, 2)", "INSERT INTO t VALUES ($1, $2), ($3, $4)"),
        ("SELECT NULL, true, a IS NULL FROM t", "SELECT $1, $2, a IS NULL FROM t"),
        ("SELECT interval '1 hour' -- why", "SELECT interval $1"),
        ("COMMIT", "COMMIT;"),
    ],
)
def test_the_databases_own_statistics_have_the_same_fingerprint(ours: str, theirs: str) -> None:
    assert describe(ours).fingerprint == describe(theirs).fingerprint


def test_what_is_not_the_same_has_another_fingerprint() -> None:
    texts = [
        "SELECT a FROM t WHERE b = 5",
        "SELECT a FROM t WHERE b > 5",
        "SELECT a FROM u WHERE b = 5",
        "SELECT a FROM t WHERE b = 5 AND c = 6",
        "SELECT a FROM t WHERE b - 5 = 6",
    ]
    assert len({describe(text).fingerprint for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "operation", "table"),
    [
        ("SELECT a FROM t WHERE b", "SELECT", "t"),
        ("select extract(epoch FROM x), y FROM only s.t", "SELECT", "s.t"),
        ("SELECT a IS DISTINCT FROM b FROM t", "SELECT", "t"),
        ("SELECT * FROM public.find_key($1)", "SELECT", None),
        ("SELECT * FROM (SELECT 1) x", "SELECT", None),
        ("SELECT a, (SELECT b FROM u) FROM t", "SELECT", "t"),
        ("SELECT (SELECT b FROM u)", "SELECT", "u"),
        ("SELECT a FROM t FOR UPDATE", "SELECT", "t"),
        ("SELECT a FROM t FOR NO KEY UPDATE", "SELECT", "t"),
        ("WITH x AS (SELECT a FROM t) SELECT * FROM x", "SELECT", "t"),
        ("WITH x AS (SELECT 1), y AS (SELECT 2) SELECT * FROM y, t", "SELECT", None),
        ("INSERT INTO t (a) SELECT b FROM u ON CONFLICT (a) DO UPDATE SET a = 1", "INSERT", "t"),
        (
            "WITH n AS (INSERT INTO t AS x (a) VALUES (1) RETURNING a) SELECT * FROM n",
            "INSERT",
            "t",
        ),
        ('UPDATE "t" SET a = 1', "UPDATE", "t"),
        ("DELETE FROM ONLY t", "DELETE", "t"),
        ("MERGE INTO t USING u ON TRUE WHEN MATCHED THEN UPDATE SET a = 1", "MERGE", "t"),
        ("BEGIN; SELECT shared.enter_tenant($1, $2, $3)", "BEGIN", None),
        ("COMMIT", "COMMIT", None),
        ("-- SELECT\nROLLBACK", "ROLLBACK", None),
        ("anything 'of a client'", "OTHER", None),
        ("(", "OTHER", None),
        ("", "OTHER", None),
    ],
)
def test_what_it_does_and_to_which_table(text: str, operation: str, table: str | None) -> None:
    found = describe(text)

    assert (found.operation, found.table) == (operation, table)
    assert operation_of(text) == operation


@given(st.text(max_size=60))
def test_any_text_has_a_shape(text: str) -> None:
    assert describe(text).operation == operation_of(text)


def test_a_statement_of_a_megabyte_is_cut_quickly_and_not_remembered() -> None:
    rows = ", ".join(f"({number}, '{CANARY}')" for number in range(80_000))
    text = f"INSERT INTO t (a, b) VALUES {rows}"
    assert len(text) > 1_000_000
    before = len(statements.REMEMBERED)

    started = perf_counter()
    found = describe(text)
    took_s = perf_counter() - started

    assert (found.operation, found.table) == ("INSERT", "t")
    assert operation_of(text) == "INSERT"
    assert len(found.normalised) <= statements.MAX_SHAPE_LENGTH
    assert CANARY not in found.normalised
    assert len(statements.REMEMBERED) == before
    assert took_s < 1


def test_a_literal_that_is_cut_is_still_one() -> None:
    text = "SELECT " + "a, " * 10_900 + f"'{CANARY * 10_000}' FROM t"

    assert CANARY[:3] not in describe(text).normalised


def test_no_more_texts_are_remembered_than_there_is_room_for() -> None:
    for number in range(statements.MAX_REMEMBERED + 50):
        describe(f"SELECT a{number} FROM t")

    assert len(statements.REMEMBERED) == statements.MAX_REMEMBERED
    assert describe("SELECT a5 FROM t").normalised == "SELECT a5 FROM t"
