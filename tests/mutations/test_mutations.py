"""Takes one brick out of the wall at a time: the suite must notice each.

A copy of the product loses one line, and the tests that guard it run on the copy, in a process of
their own. They must fail, and pass on a copy that lost nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
# What would keep the copies from writing their bytecode, or from being tests of their own.
PYTHONS = ("PYTEST_", "PYTHON")

TENANCY = "tests/integration/test_tenancy.py"
GATE = "tests/integration/test_coverage_gate.py"
EDGE = "tests/mutations/edge.py"
CODEX = "tests/unit/otlp/test_codex.py"
RULES = "tests/integration/test_telemetry_rules.py"
ROLLUPS = "tests/integration/test_rollups.py"

# Without the gate no tenant could be made, and nothing but the gate would be tested.
GATE_IS_OFF = ("holes = await coverage.tenant_holes(connection, schema)", "holes: list[str] = []")


class Mutation(msgspec.Struct, frozen=True):
    """Which text is replaced by what, and the tests that must notice."""

    changes: tuple[tuple[str, str], ...]
    noticed_by: tuple[str, ...]


WITHOUT_FORCE = (", FORCE ROW LEVEL SECURITY", "")
# What is not restrictive guards nothing: it is one more way in.
WITHOUT_GUARD = ("AS RESTRICTIVE", "AS PERMISSIVE")
WITHOUT_CHECK = ("CHECK (tenant_id IN ({ids}))", "CHECK (tenant_id IS NOT NULL)")

MUTATIONS = {
    "FORCE is gone": Mutation((WITHOUT_FORCE,), (f"{GATE}::test_a_clean_schema_has_no_hole",)),
    "FORCE is gone, and the gate is blind": Mutation(
        (WITHOUT_FORCE, GATE_IS_OFF),
        (f"{TENANCY}::test_the_owner_of_the_tables_sees_only_the_tenant_of_the_context",),
    ),
    "the guard is gone, and the gate is blind": Mutation(
        (WITHOUT_GUARD, GATE_IS_OFF), (f"{TENANCY}::test_one_policy_too_many_opens_nothing",)
    ),
    "the CHECK is gone, and the gate is blind": Mutation(
        (WITHOUT_CHECK, GATE_IS_OFF),
        (f"{TENANCY}::test_the_check_holds_where_row_security_does_not",),
    ),
    "the tenant does not lead a key": Mutation(
        (
            (
                "CONSTRAINT users_email_key UNIQUE (tenant_id, email)",
                "CONSTRAINT users_email_key UNIQUE (email, tenant_id)",
            ),
        ),
        (f"{GATE}::test_a_clean_schema_has_no_hole",),
    ),
    "BEGIN does not enter the tenant": Mutation(
        (("self._tell(begun, shape, timeout)", "self._tell(query, shape, timeout)"),),
        (f"{TENANCY}::test_both_doors_have_the_same_context",),
    ),
    "BEGIN without a context is let through": Mutation(
        (
            (
                'raise MissingContextError("BEGIN without a tenant")',
                "return 'BEGIN'",
            ),
        ),
        (f"{TENANCY}::test_a_begin_without_a_context_sends_nothing",),
    ),
    "the role outlives its transaction": Mutation(
        (("'SET LOCAL role = %I'", "'SET role = %I'"),),
        (f"{TENANCY}::test_a_pooled_connection_carries_nothing_to_its_next_user",),
    ),
    "a refused BEGIN is taken for begun": Mutation(
        (("self._top_xact = None", "pass"),),
        (f"{TENANCY}::test_an_unknown_tenant_is_refused",),
    ),
    "a suspended tenant is let in": Mutation(
        (("WHERE t.id = p_tenant AND t.is_active", "WHERE t.id = p_tenant"),),
        (f"{TENANCY}::test_only_an_active_tenant_is_let_in",),
    ),
    "a key is found without its tenant": Mutation(
        (
            (
                "WHERE k.tenant_id = p_tenant AND k.prefix = p_prefix\n          AND (k.expires_at IS NULL",
                "WHERE k.prefix = p_prefix\n          AND (k.expires_at IS NULL",
            ),
        ),
        (f"{TENANCY}::test_a_key_is_found_by_its_own_tenant_only",),
    ),
    "a definer function believes the variable alone": Mutation(
        ((" AND t.schema_name = current_setting('role')", ""),),
        (f"{TENANCY}::test_a_definer_function_acts_on_role_and_variable_together_only",),
    ),
    "the tenant is not in the keys of the cache": Mutation(
        (
            (
                "known = self._remembered.get(place)",
                "known = next((k for p, k in self._remembered.items() if p[1] == key), None)",
            ),
        ),
        (f"{EDGE}::test_a_remembered_key_is_no_key_of_another_tenant",),
    ),
    "a cursor is not bound to its tenant": Mutation(
        (("message = tenant_id.bytes + hashlib", "message = hashlib"),),
        (f"{EDGE}::test_a_cursor_of_another_tenant_is_refused",),
    ),
    "of two parts of one name the one that came later wins": Mutation(
        (
            (
                "if known is None or (known != part and _outdoes(name, part, known)):",
                "if known != part:",
            ),
        ),
        (f"{CODEX}::test_of_two_decisions_on_a_call_the_later_one_holds",),
    ),
    "spans count on when log records tell of the same calls": Mutation(
        (
            (
                "await self._demote(connection, held, places,"
                " {one.new_id for one in adoptions}, ledger)",
                "pass",
            ),
        ),
        (f"{RULES}::test_log_records_of_the_same_calls_count_instead_whatever_comes_first",),
    ),
    "what a deleted session's calls added stays in the rollups": Mutation(
        (("await ledger.enter_facts(connection, [session_id], sign=-1)", "pass"),),
        (f"{ROLLUPS}::test_what_was_deleted_is_in_no_rollup",),
    ),
    "calls do not follow their session to another team": Mutation(
        (('if self._taken.get(found["id"], place) != place:', "if False:"),),
        (f"{ROLLUPS}::test_facts_follow_their_session_to_another_team",),
    ),
    "what a joined call added before stays in the rollups": Mutation(
        (("await ledger.enter_rows(connection, source, changed_ids, sign=-1)", "pass"),),
        (f"{RULES}::test_a_call_that_turns_out_to_have_failed_is_counted_as_failed",),
    ),
    "a link is not bound to its tenant": Mutation(
        (("message = tenant_id.bytes + payload", "message = payload"),),
        (f"{EDGE}::test_a_link_of_another_tenant_opens_nothing",),
    ),
}

NOTHING = Mutation(
    (),
    tuple(dict.fromkeys(test for mutation in MUTATIONS.values() for test in mutation.noticed_by)),
)


def copied(
    origin: Path,
    target: Path,
    mutation: Mutation,
    copy: Callable[[str, str], object] = shutil.copy2,
) -> Path:
    """A copy of the product and its tests that differs by the mutation."""
    ignored = shutil.ignore_patterns(".*", "node_modules")
    for name in ("src", "alembic", "tests"):
        shutil.copytree(origin / name, target / name, ignore=ignored, copy_function=copy)
    shutil.copy(origin / "pyproject.toml", target)
    for old, new in mutation.changes:
        files = [
            file
            for name in ("src", "alembic")
            for file in (target / name).rglob("*.py")
            for _ in range(file.read_text().count(old))
        ]
        # Else the mutation is no mutation any more, or another one than it says.
        assert len(files) == 1, f"{old!r} is there {len(files)} times"
        text = files[0].read_text()
        # It may be a link to the origin's.
        files[0].unlink()
        files[0].write_text(text.replace(old, new))
    return target


def run(directory: Path, tests: tuple[str, ...], admin_dsn: str, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
            f"--admin-url={admin_dsn}", *options, *tests,
        ],
        cwd=directory,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(PYTHONS)},
            "PYTHONPATH": str(directory / "src"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def admin_dsn(admin_url: Callable[[str], str]) -> str:
    return admin_url("postgres")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, admin_dsn: str) -> Path:
    """A copy that lost nothing, and its bytecode: of the others only what they lost is compiled."""
    made = copied(ROOT, tmp_path_factory.mktemp("whole"), NOTHING)
    code, output = run(made, NOTHING.noticed_by, admin_dsn, "--collect-only")
    assert code == 0, output
    return made


def test_the_same_tests_pass_where_nothing_was_changed(whole, admin_dsn):
    code, output = run(whole, NOTHING.noticed_by, admin_dsn)

    assert code == 0, output


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_suite_notices_that(name, whole, admin_dsn, tmp_path):
    mutation = MUTATIONS[name]

    code, output = run(copied(whole, tmp_path, mutation, os.link), mutation.noticed_by, admin_dsn)

    # 1: tests failed. Anything else means that none of them ran.
    assert code == 1, output
    assert re.search(r"^(FAILED|ERROR) tests/", output, re.MULTILINE), output
    assert "ERROR collecting" not in output
