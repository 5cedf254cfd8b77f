"""Holds all SQL of the product to the rules that keep tenants apart and the schema portable.

The rules are those for Citus' schema-based sharding and a pooler in transaction mode: what breaks
them works on one machine, and is an outage or a leak on the cluster.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from metrics_service.ingest import call_tables
from metrics_service.rollups import rebuild
from metrics_service.rollups import statements as statements_of_rollups

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "metrics_service"
MIGRATIONS = ROOT / "alembic"

MAX_NAME = 50
HOLE = "hole__"

# Nobody sets the context by function: it would not travel to other nodes.
MAY_SET_CONFIG: set[str] = set()


class Sql(NamedTuple):
    """A piece of SQL in a file; what was put into an f-string stands as `hole__` in the text."""

    path: str
    line: int
    text: str
    holes: tuple[str, ...] = ()


# -- finding it -------------------------------------------------------------------------------------

STATEMENT = re.compile(
    r"""\s*(?:
        select\b.*(?:\bfrom\b|\w\() | with\s+\w+\s+as\s+ | insert\s+into\b | delete\s+from\b
      | update\s+\S+(\s+as)?(\s+\w+)?\s+set\b | merge\s+into\b | truncate\s | lock\s+table\b
      | (?:create|alter|drop)\s+(?:or\s+replace\s+)?(?:unique\s+|temp\s+|materialized\s+)?
        (?:table|index|schema|role|policy|function|view|type|domain|trigger|sequence|database
          |default|extension|rule)\b
      | grant\s.+\sto\s | revoke\s.+\sfrom\s | reset\s+\S+\s*$ | listen\s | copy\s
      | set\s+(?:local\s+|session\s+)?(?:role\b|search_path\b|[a-z_.]+\s*(?:=|to\b)|transaction\b
        |session\b|hole__)
      | do\s+\$ | begin(?:hole__)?\s*;
    )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
FRAGMENT = re.compile(
    r"\b(?:WHERE|ORDER BY|GROUP BY|LIMIT|RETURNING|JOIN|VALUES)\b|\w AS \w|\bAND \w+\.|IS NOT NULL"
)


def find_sql(source: str, path: str = "") -> Iterator[Sql]:
    """Every string of a module that looks like SQL, docstrings aside."""
    nodes = list(ast.walk(ast.parse(source)))
    aside = {
        id(node.value)
        for node in nodes
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    } | {
        id(part) for node in nodes if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node) if part is not node
    }  # fmt: skip
    for node in nodes:
        if id(node) in aside:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = Sql(path, node.lineno, node.value)
        elif isinstance(node, ast.JoinedStr):
            found = Sql(path, node.lineno, *_joined(node))
        else:
            continue
        if STATEMENT.match(_without_comments(found.text)) or (
            found.holes and FRAGMENT.search(found.text)
        ):
            yield found


def _joined(node: ast.JoinedStr) -> tuple[str, tuple[str, ...]]:
    parts, holes = [], []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        elif isinstance(part, ast.FormattedValue):
            parts.append(HOLE)
            holes.append(ast.unparse(part.value))
    return "".join(parts), tuple(holes)


def find_pasted(source: str) -> Iterator[tuple[int, str]]:
    """SQL that is put together by %, format or + with something that is not written there."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod() | ast.Add()) if (
                STATEMENT.match(text) and not isinstance(node.right, ast.Constant)
            ):
                yield node.lineno, text
            case ast.BinOp(left=ast.JoinedStr() as left, op=ast.Mod() | ast.Add()) if (
                STATEMENT.match(text := _joined(left)[0])
                and not isinstance(node.right, ast.Constant)
            ):
                yield node.lineno, text
            case ast.BinOp(left=left, op=ast.Add(), right=ast.Constant(value=str(text))) if (
                STATEMENT.match(text) and not isinstance(left, ast.Constant)
            ):
                yield node.lineno, text
            case ast.Call(
                func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format" | "join")
            ) if STATEMENT.match(text):
                yield node.lineno, text


# -- reading it -------------------------------------------------------------------------------------

TOKEN = re.compile(
    r"""
    (?P<body>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$) | (?P<text>'(?:[^']|'')*') | (?P<quoted>"[^"]*")
  | (?P<word>[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)*(?:\.\*)?) | (?P<other>::|[^\s])
    """,
    re.DOTALL | re.VERBOSE,
)


def _without_comments(text: str) -> str:
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    # Not within a text: none of ours has two dashes.
    return re.sub(r"--[^\n]*", " ", text)


def statements(text: str) -> Iterator[list[str]]:
    """The statements of a text as lists of upper-case words and signs, bodies of functions too."""
    words: list[str] = []
    for match in TOKEN.finditer(_without_comments(text)):
        kind, token = match.lastgroup, match[0]
        if match["body"]:
            tag = f"${match['tag']}$"
            yield from statements(token[len(tag) : -len(tag)])
            words.append("''")
        elif kind == "text":
            words.append("''")
        elif token == ";":
            yield words
            words = []
        else:
            words.append(token.upper() if kind == "word" else token)
    yield words


def _closing(words: list[str], start: int) -> int:
    """The place of the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(words)):
        depth += (words[place] == "(") - (words[place] == ")")
        if depth == 0:
            return place
    return len(words)


def _rest_of(words: list[str], start: int) -> list[str]:
    """From `start` to the end of the statement, or of the brackets that it stands in."""
    depth = 0
    for place in range(start, len(words)):
        depth += (words[place] == "(") - (words[place] == ")")
        if depth < 0:
            return words[start:place]
    return words[start:]


def _follows(words: list[str], place: int, *expected: str) -> bool:
    return words[place : place + len(expected)] == list(expected)


# -- the rules --------------------------------------------------------------------------------------

TENANT_TABLES: set[str] = set()


def faults(text: str, *, is_tenant_ddl: bool = False, may_set_config: bool = False) -> list[str]:
    """What breaks a rule in a text of SQL."""
    found: list[str] = []
    for words in statements(text):
        found += _of_inserts(words)
        found += _of_settings(words)
        found += _of_names(words)
        found += _of_policies(words)
        found += _of_stars(words)
        if "MERGE" in words and "INTO" in words:
            found.append("MERGE")
        if not may_set_config and {"SET_CONFIG", "PG_CATALOG.SET_CONFIG"} & set(words):
            found.append("set_config")
        if is_tenant_ddl:
            found += _of_tenant_ddl(words)
    return found


def _of_inserts(words: list[str]) -> Iterator[str]:
    materialized = {
        words[place - 2]
        for place, word in enumerate(words)
        if word == "MATERIALIZED" and words[place - 1] == "AS"
    }
    named = {
        words[place - 1]
        for place, word in enumerate(words)
        if word == "AS" and words[place + 1 : place + 2] in (["("], ["MATERIALIZED"], ["NOT"])
    }
    for place, word in enumerate(words):
        if word != "INSERT" or not _follows(words, place + 1, "INTO"):
            continue
        rest = _rest_of(words, place + 2)
        brackets = rest.index("(") if "(" in rest else 0
        after_columns = rest
        if brackets in (1, 3) and not {"SELECT", "WITH"} & set(rest[brackets + 1 : brackets + 2]):
            after_columns = rest[_closing(rest, brackets) + 1 :]
        if "VALUES" in after_columns[:1]:
            tuples = after_columns[1 : _end_of_values(after_columns)]
            if "SELECT" in tuples:
                yield "a query inside VALUES"
            continue
        if "DEFAULT" in after_columns[:1] or "SELECT" not in after_columns:
            continue
        if not ("RETURNING" in after_columns or _has(after_columns, "ON", "CONFLICT")):
            yield "INSERT .. SELECT without ON CONFLICT or RETURNING"
        for table in _read(after_columns):
            if table in materialized:
                continue
            if table in named:
                yield f"INSERT .. SELECT from {table.lower()}, which is not MATERIALIZED"
            elif table.rpartition(".")[2] in TENANT_TABLES and "." not in table:
                yield f"INSERT .. SELECT from the tenant table {table.lower()}"
            elif HOLE.upper() in table:
                yield "INSERT .. SELECT from a table that is not written there"


def _end_of_values(words: list[str]) -> int:
    for stop in ("ON", "RETURNING"):
        if stop in words:
            return words.index(stop)
    return len(words)


def _has(words: list[str], *expected: str) -> bool:
    return any(_follows(words, place, *expected) for place in range(len(words)))


def _read(words: list[str]) -> Iterator[str]:
    """The tables that a query reads, functions aside."""
    for place, word in enumerate(words):
        if word not in {"FROM", "JOIN"} or place + 1 >= len(words):
            continue
        if words[place - 1] == "DISTINCT":
            continue
        at = place + 1
        while at < len(words):
            if words[at] in {"LATERAL", "ONLY"}:
                at += 1
                continue
            if words[at] == "(":
                at = _closing(words, at) + 1
            elif _follows(words, at + 1, "("):
                at = _closing(words, at + 1) + 1
            else:
                yield words[at]
                at += 1
            # An alias, its columns, then perhaps a comma and one more.
            while at < len(words) and (words[at] == "AS" or _is_alias(words[at])):
                at += 1
            if _follows(words, at, "("):
                at = _closing(words, at) + 1
            if word == "FROM" and _follows(words, at, ","):
                at += 1
                continue
            break


def _is_alias(word: str) -> bool:
    keywords = {
        "WHERE", "ORDER", "GROUP", "LIMIT", "ON", "JOIN", "LEFT", "RIGHT", "INNER", "CROSS", "FULL",
        "UNION", "EXCEPT", "INTERSECT", "RETURNING", "HAVING", "WINDOW", "FOR", "OFFSET", "USING",
        "SET", "WHEN", "THEN", "END", "AND", "OR",
    }  # fmt: skip
    return word.isidentifier() and word not in keywords


def _of_settings(words: list[str]) -> Iterator[str]:
    for place, word in enumerate(words):
        if word != "SET":
            continue
        # Elsewhere it belongs to UPDATE, ALTER or CREATE FUNCTION.
        begins = place == 0 or words[place - 1] in {"BEGIN", "THEN", "ELSE", "LOOP", "DO"}
        if words[:1] == ["DECLARE"] and words[place - 1] == "BEGIN":
            begins = True
        if (
            begins
            and not _follows(words, place + 1, "LOCAL")
            and not _follows(words, place + 1, "TRANSACTION")
        ):
            yield "SET without LOCAL"
    if _follows(words, 0, "DISCARD") or _follows(words, 0, "RESET", "ALL"):
        yield "a setting of the session"


def _of_names(words: list[str]) -> Iterator[str]:
    for place, word in enumerate(words):
        name = None
        if word == "CONSTRAINT" and place + 1 < len(words):
            name = words[place + 1]
        elif word in {"TABLE", "INDEX", "POLICY"} and "CREATE" in words[max(0, place - 2) : place]:
            at = place + 1
            while words[at : at + 1] and words[at] in {"IF", "NOT", "EXISTS", "CONCURRENTLY"}:
                at += 1
            name = words[at] if at < len(words) else None
        if name is not None and len(name.rpartition(".")[2]) > MAX_NAME:
            yield f"the name {name.lower()} is longer than {MAX_NAME} characters"


def _of_policies(words: list[str]) -> Iterator[str]:
    for place in range(len(words)):
        for start in (("USING",), ("WITH", "CHECK")):
            if _follows(words, place, *start, "("):
                opening = place + len(start)
                condition = [
                    word for word in words[opening : _closing(words, opening)] if word not in "()"
                ]
                if "TRUE" in condition or condition in (["1", "=", "1"], ["NOT", "FALSE"]):
                    yield "a policy that is true for all"


def _of_stars(words: list[str]) -> Iterator[str]:
    for place, word in enumerate(words):
        if word.endswith(".*"):
            yield "SELECT *"
        if word != "*" or words[place - 1] not in {"SELECT", "DISTINCT", "RETURNING"}:
            continue
        after = words[place + 1 :]
        while after and after[0] == "INTO":
            after = after[2:]
        # A function's columns are written beside it.
        if not (_follows(after, 0, "FROM") and _follows(after, 2, "(")):
            yield "SELECT *"


TENANT_DDL_TYPES = {"SERIAL", "BIGSERIAL", "SMALLSERIAL", "SERIAL4", "SERIAL8"}
TENANT_DDL_OBJECTS = {"TYPE", "DOMAIN", "TRIGGER", "SEQUENCE", "RULE", "EXTENSION"}
UNNAMED = {"PRIMARY", "UNIQUE", "CHECK", "REFERENCES", "EXCLUDE", "FOREIGN"}


def _of_tenant_ddl(words: list[str]) -> Iterator[str]:
    for place, word in enumerate(words):
        if word in TENANT_DDL_TYPES or (word == "IDENTITY" and words[place - 1] == "AS"):
            yield f"{word.lower()} in a tenant's table"
        if word in TENANT_DDL_OBJECTS and words[place - 1] in {"CREATE", "REPLACE", "CONSTRAINT"}:
            yield f"CREATE {word} in a tenant's schema"
        if word == "INHERITS":
            yield "inheritance between tenant tables"
        if word == "REFERENCES" and "." in words[place + 1]:
            yield "a foreign key out of the tenant's schema"
        if word in UNNAMED and _is_unnamed(words, place):
            yield f"{word} without a name"
        if word == "INDEX" and words[0] == "CREATE" and _follows(words, place + 1, "ON"):
            yield "INDEX without a name"


def _is_unnamed(words: list[str], place: int) -> bool:
    if words[:1] != ["CREATE"] and words[:1] != ["ALTER"]:
        return False
    if "TABLE" not in words[:3]:
        return False
    if words[place] == "REFERENCES" and words[place - 1] == ")":
        return False  # Part of a FOREIGN KEY, which is looked at itself.
    return words[place - 2 : place - 1] != ["CONSTRAINT"]


# -- the product's SQL ------------------------------------------------------------------------------


@cache
def product_sql() -> list[Sql]:
    found = []
    for root in (SOURCE, MIGRATIONS):
        for file in sorted(root.rglob("*.py")):
            path = str(file.relative_to(ROOT))
            found += find_sql(file.read_text(), path)
    return found


def tenant_tables() -> set[str]:
    names = set()
    for file in (MIGRATIONS / "tenant").glob("*.py"):
        for sql in find_sql(file.read_text()):
            found = re.match(r"\s*CREATE TABLE (\w+)", sql.text)
            if found:
                names.add(found[1].upper())
    return names


TENANT_TABLES |= {table for table in tenant_tables() if HOLE.upper() not in table}
TENANT_TABLES |= {table.upper() for table in rebuild.TABLES}

# Everything that is put into SQL text, file by file: constants, names from allow-lists, names that
# the database has quoted, and values of a type that cannot carry a quote. Values are bound.
INTERPOLATED: dict[str, set[str]] = {
    "src/metrics_service/cli/demo.py": {"OWNER"},
    "src/metrics_service/cli/key.py": {"OWNER"},
    "src/metrics_service/cli/user.py": {"OWNER"},
    # Our own process's number at the server, an integer.
    "src/metrics_service/db/connect.py": {"pid"},
    "src/metrics_service/db/embedded/cluster.py": {"DATABASE"},
    # Of two tables, which are constants of their features.
    "src/metrics_service/db/facts.py": {
        "column", "order", "self.columns", "self.joins", "self.name", "where", "where.bind(limit)",
        "where.bind(offset)",
    },
    "src/metrics_service/db/listing.py": {"alias", "column", "direction"},
    "src/metrics_service/db/roles.py": {
        "BACKUP", "OWNER", "TENANTS", "as_migrator", "as_runtime", "database", "name", "value",
    },
    "src/metrics_service/db/statements.py": {"' AND '.join(self._conditions)"},
    # A uuid's digits and an integer: anything else has no such attribute, or is no number.
    "src/metrics_service/db/tenancy.py": {
        "begun", "int(self.timeout_ms)", "key", "mode", "self.tenant_id.hex", "user",
    },
    # A column and a name in the catalog, quoted by the server.
    "src/metrics_service/fleet/advice/indexes.py": {
        "after", "before", "schema", "self.name", "self.table",
    },
    "src/metrics_service/fleet/operator_keys.py": {"OWNER"},
    # A statement of ours, as it was sent, to be explained and never run.
    "src/metrics_service/fleet/plans.py": {"NAME", "text"},
    # Names of the columns of structs, and orders from an allow-list.
    "src/metrics_service/fleet/reading.py": {
        "', '.join((f'coalesce(sum({name}), 0)::bigint' for name in sums))",
        "', '.join((f't.{name}' for name in TenantView.__struct_fields__))",
        "', '.join(TenantView.__struct_fields__)", "_JOB", "_STATE", "column", "direction", "name",
        "statement", "where", "where.bind(query.limit)", "where.bind(query.offset)",
    },
    "src/metrics_service/fleet/slow_queries.py": {
        "_SUMMARY", "_columns_of(kind)", "_listed('i', columns)", "_listed('q', columns)", "item",
        "order", "sort.lstrip('-')", "tenants", "where", "where.bind(limit)", "where.bind(offset)",
    },
    "src/metrics_service/http/idempotency.py": {"KEPT"},
    "src/metrics_service/maintenance/measure.py": {"COUNTED_UP_TO"},
    "src/metrics_service/maintenance/place.py": {"OWNER", "setting"},
    "src/metrics_service/maintenance/prune.py": {"MAX_ROWS", "is_over", "table"},
    "src/metrics_service/maintenance/queue.py": {"IS_OURS"},
    # Names from the allow-lists of sources and measures, and their constant expressions.
    "src/metrics_service/rollups/reading.py": {
        "', '.join(plan.query.group_by)", "', '.join(plan.sql_order)", "' AND '.join(conditions)",
        "columns[name]", "figures", "grouping", "groups",
        "measure.sql", "name", "order", "parts", "relation", "sums", "updated_at", "value",
        "where.bind(limit + 1)",
    },
    "src/metrics_service/rollups/behind.py": {
        "' AND '.join(conditions)", "' UNION ALL '.join(parts)", "', '.join(dimensions)",
        "MAX_FOUND", "MAX_SCANNED", "MOST", "SHOWN", "UNIT[grain]", "columns", "counted", "end",
        "figures", "grain", "kept", "name", "plan.source.table_of(grain, plan.cubes[grain])", "session",
        "sessions_of(plan)", "signals", "source.table", "start",
    },
    "src/metrics_service/identities/repository.py": {
        "COLUMNS", "FROM", "RULES", "order", "where", "where.bind(limit)", "where.bind(offset)",
    },
    "src/metrics_service/ingest/past_sessions.py": {"CALLS_A_STEP", "SESSIONS_A_STEP"},
    "src/metrics_service/rollups/series.py": {"first", "last", "source.table_of(grain, 'agent')"},
    "src/metrics_service/ingest_log/repository.py": {
        "COLUMNS", "order", "where", "where.bind(limit)", "where.bind(offset)",
    },
    "src/metrics_service/ingest/sessions.py": {
        "SESSIONS.needed('s')", "contributions(SESSIONS, 'changed')",
        "contributions(SESSIONS, 'held')", "returned", "shown",
    },
    "src/metrics_service/ingest/write.py": {
        "MODEL_CALLS.needed('t')", "TOOL_METRICS.needed('t')",
        "contributions(MODEL_CALLS, 'stored')", "contributions(TOOL_METRICS, 'stored')",
    },
    "src/metrics_service/ingest/write_telemetry.py": {
        "MODEL_CALLS_SOURCE.needed('t')", "contributions(MODEL_CALLS_SOURCE, 'changed')",
    },
    "src/metrics_service/seeds/rows.py": {
        "TOOL_METRICS.needed('t')", "_DECIDED", "_TOLD", "_UNDECIDED", "key", "table",
        "contributions(TOOL_METRICS, 'decided')", "contributions(TOOL_METRICS, 'undecided')",
    },
    "src/metrics_service/seeds/seed.py": {"OWNER"},
    "src/metrics_service/session_events/repository.py": {
        "COLUMNS", "order", "where", "where.bind(limit)", "where.bind(offset)",
    },
    "src/metrics_service/sessions/choices.py": {"column"},
    "src/metrics_service/sessions/strip.py": {"LONGEST_CALL", "MAX_STRETCHES"},
    # Of three tables, whose columns are constants.
    "src/metrics_service/sessions/timeline.py": {
        "' AND '.join(filter(None, conditions))", "' UNION ALL '.join(branches)",
        "', '.join(Moment.__struct_fields__)", "', '.join(columns)",
        "_branch(where, timeline, rank, session=session, pattern=pattern, after=after)", "kind",
        "most", "name", "rank", "source.at", "source.columns.get(name, 'NULL')", "source.failed",
        "source.table",
    },
    "src/metrics_service/sessions/repository.py": {
        "', '.join(changes)", "COLUMNS", "IS_IDLE", "TABLES", "order", "table", "where",
        "where.bind(limit)", "where.bind(offset)",
    },
    "src/metrics_service/tenants/keys.py": {"OWNER"},
    "src/metrics_service/tenants/lifecycle.py": {"COLUMNS", "OWNER", "schema", "table"},
    "src/metrics_service/tenants/migrate.py": {
        "LOCK_TIMEOUT_MS", "OWNER", "options['tenant_ids'][0]", "path", "sql.getvalue()", "tenant_id",
    },
    "src/metrics_service/tenants/provision.py": {
        "BACKUP", "COLUMNS", "OWNER", "TENANTS", "options", "runtime", "schema",
    },
    "src/metrics_service/tenants/registry.py": {"COLUMNS"},
    "src/metrics_service/tenants/reset.py": {"LOCK_TIMEOUT_MS", "OWNER", "schema"},
    "src/metrics_service/tenants/wall.py": {
        "BACKUP", "expression", "ids", "role", "statements", "table",
    },
    "src/metrics_service/tool_metrics/failures.py": {
        "COLUMNS[name]", "MAX_FAILURES", "MAX_SCANNED", "sessions", "where",
    },
    "src/metrics_service/tool_metrics/repository.py": {"CLOCK"},
    "src/metrics_service/users/repository.py": {"ROWS"},
    "alembic/registry/0001_registry.py": {"function", "runtime", "table"},
    "alembic/registry/0002_ended_keys.py": {"runtime"},
    "alembic/registry/0003_operating.py": {"function", "runtime", "table"},
    "alembic/tenant/0001_tenant.py": {"table"},
    "alembic/tenant/0005_connecting.py": {"table"},
    "alembic/tenant/0006_signing_in.py": {"table"},
    "alembic/tenant/0002_telemetry.py": {
        "additions", "index", "removals", "table",
    },
    "src/metrics_service/db/look.py": {"WHICH"},
    "src/metrics_service/db/probe.py": {"WHICH"},
    "src/metrics_service/http/replica_reads.py": {"READ_VERSION"},
    "src/metrics_service/tenants/authenticate.py": {"MOMENT"},
    "src/metrics_service/tenants/resolve.py": {"MOMENT"},
    "src/metrics_service/tenants/sign_ins.py": {"MOMENT"},
}  # fmt: skip


# Put together out of constants of theirs: what comes out is read instead of what goes in.
GENERATED = {
    "alembic/tenant/0003_rollups.py",
    "src/metrics_service/ingest/call_tables.py",
    "src/metrics_service/rollups/rebuild.py",
    "src/metrics_service/rollups/sources.py",
    "src/metrics_service/rollups/statements.py",
}


def generated_sql() -> Iterator[Sql]:
    """The statements that come out of `GENERATED`."""
    for name, kept in statements_of_rollups.STATEMENTS.items():
        for place, text in enumerate(
            (kept.of_sessions, kept.of_rows, kept.roll_up, *kept.rebuild, *kept.rebuild_astray)
        ):
            yield Sql(f"rollups of {name}", place, text)
    for table in (call_tables.TOOL_METRICS, call_tables.MODEL_CALLS):
        for place, name in enumerate(
            ("insert", "find", "change", "outdone", "demote", "adopt", "attribute")
        ):
            yield Sql(f"{table.source.name} of telemetry", place, getattr(table, name))
    for place, text in enumerate(
        (rebuild.LOCK, *rebuild.NEXT_DAYS, *rebuild.ASTRAY, *rebuild.CLEAR, *rebuild.DIGESTS)
    ):
        yield Sql("rebuild", place, text)


def migrated_sql(path: str) -> Iterator[Sql]:
    """What a revision executes, without a database."""
    spec = importlib.util.spec_from_file_location("revision", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    revision = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(revision)
    executed: list[str] = []
    revision.op = SimpleNamespace(execute=executed.append, protect_tenant_table=executed.append)
    revision.upgrade()
    for place, text in enumerate(executed):
        yield Sql(path, place, text)


def test_the_sql_that_is_generated_breaks_no_rule():
    found = [*generated_sql(), *migrated_sql("alembic/tenant/0003_rollups.py")]

    broken = [
        f"{sql.path} {sql.line}: {fault}"
        for sql in found
        for fault in faults(sql.text, is_tenant_ddl=sql.path.startswith("alembic/tenant/"))
    ]

    assert len(found) > 60
    assert broken == []


def test_the_lint_sees_the_products_sql():
    found = product_sql()

    assert len(found) > 120
    assert {"USERS", "METRICS_SESSIONS", "TOOL_METRICS", "TOOL_NAMES"} <= TENANT_TABLES
    assert {sql.path.split("/")[0] for sql in found} == {"src", "alembic"}
    inserts = [sql for sql in found if "INSERT INTO tool_metrics" in sql.text]
    assert inserts


def test_the_products_sql_breaks_no_rule():
    broken = [
        f"{sql.path}:{sql.line}: {fault}"
        for sql in product_sql()
        if sql.path not in GENERATED
        for fault in faults(
            sql.text,
            is_tenant_ddl=sql.path.startswith("alembic/tenant/"),
            may_set_config=sql.path in MAY_SET_CONFIG,
        )
    ]

    assert broken == []


def test_nothing_unknown_is_put_into_sql_text():
    unknown = sorted(
        {
            (sql.path, hole)
            for sql in product_sql()
            for hole in sql.holes
            if hole not in INTERPOLATED.get(sql.path, set()) and sql.path not in GENERATED
        }
    )

    assert unknown == []


def test_no_sql_is_pasted_together():
    pasted = [
        f"{file.relative_to(ROOT)}:{line}"
        for root in (SOURCE, MIGRATIONS)
        for file in sorted(root.rglob("*.py"))
        for line, _ in find_pasted(file.read_text())
    ]

    assert pasted == []


def test_no_statement_of_the_context_is_made_anywhere_else():
    files = {
        sql.path for sql in product_sql() if re.search(r"enter_tenant|app\.tenant_id", sql.text)
    }

    assert files == {
        "alembic/registry/0001_registry.py",
        "src/metrics_service/db/tenancy.py",
        "src/metrics_service/tenants/migrate.py",
    }


# -- the lint itself --------------------------------------------------------------------------------

BAD = [
    (
        "INSERT INTO users (email) SELECT email FROM users ON CONFLICT DO NOTHING",
        "tenant table users",
    ),
    (
        "INSERT INTO users (email) SELECT agent FROM json_to_recordset($1) AS r(agent text)"
        " JOIN metrics_sessions s ON true ON CONFLICT DO NOTHING",
        "tenant table metrics_sessions",
    ),
    (
        "INSERT INTO users (email) SELECT x FROM (SELECT agent AS x FROM metrics_sessions) q"
        " RETURNING id",
        "tenant table metrics_sessions",
    ),
    (
        "INSERT INTO users (email) SELECT value FROM json_array_elements_text($1), tool_names"
        " ON CONFLICT DO NOTHING",
        "tenant table tool_names",
    ),
    (
        "INSERT INTO users SELECT email FROM unnest($1::text[]) AS email"
        " WHERE email NOT IN (SELECT email FROM users) RETURNING id",
        "tenant table users",
    ),
    (
        "WITH x AS (SELECT agent FROM metrics_sessions) INSERT INTO users (email)"
        " SELECT agent FROM x ON CONFLICT DO NOTHING",
        "from x, which is not MATERIALIZED",
    ),
    (
        "WITH x AS NOT MATERIALIZED (SELECT agent FROM metrics_sessions) INSERT INTO users (email)"
        " SELECT agent FROM x ON CONFLICT DO NOTHING",
        "from x, which is not MATERIALIZED",
    ),
    ("INSERT INTO users (email) SELECT unnest($1::text[])", "without ON CONFLICT or RETURNING"),
    (
        "WITH x AS MATERIALIZED (SELECT 1 AS a), y AS (INSERT INTO users (email) SELECT a FROM x)"
        " SELECT a FROM x RETURNING a",
        "without ON CONFLICT or RETURNING",
    ),
    ("INSERT INTO users (email) VALUES ((SELECT name FROM tool_names))", "a query inside VALUES"),
    ("MERGE INTO users u USING x ON u.id = x.id WHEN MATCHED THEN DO NOTHING", "MERGE"),
    ("SELECT set_config('app.tenant_id', $1, true)", "set_config"),
    ("SELECT pg_catalog.set_config('role', $1, true)", "set_config"),
    ("SELECT * FROM users", "SELECT *"),
    ("SELECT u.* FROM users u", "SELECT *"),
    ("DELETE FROM users WHERE id = $1 RETURNING *", "SELECT *"),
    ("SELECT count(*) FROM (SELECT DISTINCT * FROM users) x", "SELECT *"),
    ("SET search_path = t_a", "SET without LOCAL"),
    ("SET SESSION app.tenant_id = 'x'", "SET without LOCAL"),
    ("SET ROLE t_a", "SET without LOCAL"),
    ("BEGIN; SET ROLE t_a", "SET without LOCAL"),
    (
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET ROLE t_a; END $$",
        "SET without LOCAL",
    ),
    ("DO $x$ BEGIN PERFORM 1; SET app.tenant_id = ''; END $x$", "SET without LOCAL"),
    ("DISCARD ALL", "a setting of the session"),
    ("RESET ALL", "a setting of the session"),
    ("CREATE POLICY p ON users USING (true)", "a policy that is true for all"),
    ("CREATE POLICY p ON users USING (tenant_id = x OR TRUE)", "a policy that is true for all"),
    ("ALTER POLICY p ON users WITH CHECK (1 = 1)", "a policy that is true for all"),
    (f"CREATE INDEX {'x' * 51} ON users (tenant_id)", "longer than 50"),
    (f"CREATE UNIQUE INDEX IF NOT EXISTS {'x' * 51} ON users (tenant_id)", "longer than 50"),
    (f"ALTER TABLE users ADD CONSTRAINT {'x' * 51} CHECK (true)", "longer than 50"),
    (f"CREATE TABLE {'x' * 51} (id uuid)", "longer than 50"),
]


@pytest.mark.parametrize(("text", "fault"), BAD)
def test_what_breaks_a_rule_is_found(text, fault):
    assert any(fault in found for found in faults(text)), faults(text)


BAD_DDL = [
    ("CREATE TABLE x (id serial NOT NULL)", "serial in a tenant's table"),
    ("CREATE TABLE x (id bigint GENERATED ALWAYS AS IDENTITY)", "identity in a tenant's table"),
    ("CREATE TYPE mood AS ENUM ('a')", "CREATE TYPE"),
    ("CREATE DOMAIN mood AS text", "CREATE DOMAIN"),
    ("CREATE OR REPLACE TRIGGER t AFTER INSERT ON users EXECUTE FUNCTION f()", "CREATE TRIGGER"),
    ("CREATE CONSTRAINT TRIGGER t AFTER INSERT ON users EXECUTE FUNCTION f()", "CREATE TRIGGER"),
    ("CREATE SEQUENCE s", "CREATE SEQUENCE"),
    ("CREATE TABLE x (id uuid) INHERITS (users)", "inheritance"),
    (
        "CREATE TABLE x (t uuid, CONSTRAINT x_fk FOREIGN KEY (t) REFERENCES public.tenants (id))",
        "a foreign key out of the tenant's schema",
    ),
    ("CREATE TABLE x (id uuid PRIMARY KEY)", "PRIMARY without a name"),
    ("CREATE TABLE x (id uuid, UNIQUE (tenant_id, id))", "UNIQUE without a name"),
    ("ALTER TABLE x ADD COLUMN y int CHECK (y > 0)", "CHECK without a name"),
    (
        "ALTER TABLE x ADD FOREIGN KEY (tenant_id, y) REFERENCES z (tenant_id, id)",
        "FOREIGN without",
    ),
    ("CREATE TABLE x (y uuid REFERENCES z (id))", "REFERENCES without a name"),
    ("CREATE INDEX ON users (tenant_id)", "INDEX without a name"),
]


@pytest.mark.parametrize(("text", "fault"), BAD_DDL)
def test_what_does_not_belong_in_a_tenants_schema_is_found(text, fault):
    assert any(fault in found for found in faults(text, is_tenant_ddl=True))


GOOD = [
    "SELECT id, email FROM users WHERE email LIKE 'SET %'",
    "SELECT count(*) FROM users",
    "WITH x AS MATERIALIZED (SELECT agent FROM metrics_sessions) INSERT INTO users (email)"
    " SELECT agent FROM x ORDER BY agent ON CONFLICT (tenant_id, email) DO UPDATE SET name = 'x'",
    "WITH x AS MATERIALIZED (SELECT * FROM json_to_recordset($1::json) AS r(a text)) INSERT INTO"
    " users (email) SELECT a FROM x RETURNING id",
    "INSERT INTO users (email) SELECT value FROM json_array_elements_text($1::json) ORDER BY value"
    " ON CONFLICT (tenant_id, email) DO NOTHING",
    "INSERT INTO users (email) VALUES ($1), ($2)",
    "UPDATE users SET name = $1 WHERE id = $2",
    "SET LOCAL search_path = t_a, shared, pg_temp",
    "SET TRANSACTION READ ONLY",
    "ALTER ROLE x SET search_path = ''",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = pg_catalog AS $$ SELECT 1 $$",
    "CREATE TABLE x (a uuid NOT NULL, CONSTRAINT x_pk PRIMARY KEY (tenant_id, a),"
    " CONSTRAINT x_fk FOREIGN KEY (tenant_id, a) REFERENCES y (tenant_id, id) ON DELETE CASCADE)",
    "CREATE POLICY p ON users USING (tenant_id = (SELECT shared.current_tenant()))",
    "SELECT a FROM x -- SET ROLE t_a",
    "SELECT date_trunc('day', at) FROM x WHERE at IS DISTINCT FROM $1",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_breaks_no_rule_is_let_through(text):
    assert faults(text, is_tenant_ddl=True) == []


SCATTERED = '''
"""SELECT the docstring of a module FROM nowhere."""
A = "SELECT id FROM users"
def f(table, value):
    """Delete from a docstring."""
    g(f"delete from {table} where x = 1", "Select one of these", "update your settings")
    return [f"WHERE x = {value}", {"k": ("SET ROLE x",)}]
class C:
    B = (
        "INSERT INTO users (id) "
        f"VALUES ({A})"
    )
'''


def test_sql_is_found_wherever_it_is_written():
    found = {(sql.line, sql.holes) for sql in find_sql(SCATTERED)}

    assert found == {(3, ()), (6, ("table",)), (7, ("value",)), (7, ()), (10, ("A",))}


@pytest.mark.parametrize(
    "source",
    [
        "'SELECT id FROM users WHERE id = %s' % name",
        "'SELECT id FROM users WHERE id = {}'.format(name)",
        "'SELECT id FROM users WHERE id = ' + name",
        "f'ALTER TABLE {table} ' + ', '.join(changes)",
        "name + 'SELECT id FROM users'",
    ],
)
def test_sql_pasted_together_is_found(source):
    assert list(find_pasted(source))


def test_a_hole_in_the_name_of_a_table_that_is_read_is_found():
    (sql,) = find_sql('f"INSERT INTO users (id) SELECT id FROM {table} RETURNING id"')

    assert faults(sql.text) == ["INSERT .. SELECT from a table that is not written there"]
