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
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
AT_A_TIME = 2

TENANCY = "tests/integration/test_tenancy.py"
GATE = "tests/integration/test_coverage_gate.py"
MIGRATIONS = "tests/integration/test_migrations.py"
EDGE = "tests/mutations/edge.py"
MATRIX = f"{TENANCY}::test_every_context_shows_exactly_what_its_weakest_layer_allows"

MIGRATE = "src/metrics_service/tenants/migrate.py"
CONTEXT = "src/metrics_service/db/tenancy.py"
REGISTRY = "alembic/registry/0001_registry.py"
TABLES = "alembic/tenant/0001_tenant.py"

# Without the gate no tenant could be made, and nothing but the gate would be tested.
GATE_IS_OFF = (
    MIGRATE,
    "        holes = await coverage.tenant_holes(connection, schema)\n",
    "        holes: list[str] = []\n",
)


class Mutation(msgspec.Struct, frozen=True):
    """What is replaced by what in which file, and the tests that must notice."""

    changes: tuple[tuple[str, str, str], ...]
    noticed_by: tuple[str, ...]


WITHOUT_FORCE = (
    MIGRATE,
    '    yield f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"\n',
    "",
)
WITHOUT_GUARD = (
    MIGRATE,
    "    yield (\n"
    '        f"CREATE POLICY guard ON {table} AS RESTRICTIVE"\n'
    '        f" USING ({expression}) WITH CHECK ({expression})"\n'
    "    )\n",
    "",
)
WITHOUT_CHECK = (
    MIGRATE,
    '    yield f"ALTER TABLE {table} ADD CONSTRAINT {table}_tenant CHECK (tenant_id IN ({ids}))"\n',
    "",
)

MUTATIONS = {
    "FORCE is gone": Mutation((WITHOUT_FORCE,), (f"{GATE}::test_a_clean_schema_has_no_hole",)),
    "FORCE is gone, and the gate is blind": Mutation(
        (WITHOUT_FORCE, GATE_IS_OFF),
        (f"{TENANCY}::test_the_owner_of_the_tables_sees_only_the_tenant_of_the_context",),
    ),
    "the guard is gone, and the gate is blind": Mutation(
        (WITHOUT_GUARD, GATE_IS_OFF),
        (f"{TENANCY}::test_one_policy_too_many_opens_nothing",),
    ),
    "the CHECK is gone, and the gate is blind": Mutation(
        (WITHOUT_CHECK, GATE_IS_OFF),
        (MATRIX, f"{TENANCY}::test_the_check_holds_where_row_security_does_not"),
    ),
    "the tenant is not in a key": Mutation(
        (
            (
                TABLES,
                "CONSTRAINT users_email_key UNIQUE (tenant_id, email)",
                "CONSTRAINT users_email_key UNIQUE (email, tenant_id)",
            ),
        ),
        (f"{GATE}::test_a_clean_schema_has_no_hole",),
    ),
    "BEGIN does not enter the tenant": Mutation(
        (
            (
                CONTEXT,
                "super().execute(self.context.begin(), timeout=timeout)",
                "super().execute(query, timeout=timeout)",
            ),
        ),
        (f"{TENANCY}::test_both_doors_have_the_same_context",),
    ),
    "BEGIN without a context is let through": Mutation(
        (
            (
                CONTEXT,
                '                raise MissingContextError("BEGIN without a tenant")\n',
                "                return cast(str, await super().execute(query, timeout=timeout))\n",
            ),
        ),
        (f"{TENANCY}::test_a_begin_without_a_context_sends_nothing",),
    ),
    "the context outlives its transaction": Mutation(
        (
            (
                REGISTRY,
                "        EXECUTE format('SET LOCAL role = %I', c.role);\n",
                "        EXECUTE format('SET role = %I', c.role);\n",
            ),
        ),
        (f"{TENANCY}::test_a_pooled_connection_carries_nothing_to_its_next_user",),
    ),
    "a refused BEGIN is taken for begun": Mutation(
        ((CONTEXT, "            self._top_xact = None\n", ""),),
        (f"{TENANCY}::test_an_unknown_tenant_is_refused",
         f"{TENANCY}::test_a_suspended_tenant_is_refused_at_its_next_transaction"),
    ),
    "a suspended tenant is let in": Mutation(
        (
            (
                REGISTRY,
                "        WHERE t.id = p_tenant AND t.is_active\n",
                "        WHERE t.id = p_tenant\n",
            ),
        ),
        (f"{TENANCY}::test_only_an_active_tenant_is_let_in",),
    ),
    "a key is found without its tenant": Mutation(
        (
            (
                REGISTRY,
                "WHERE k.tenant_id = p_tenant AND k.prefix = p_prefix",
                "WHERE k.prefix = p_prefix",
            ),
        ),
        (f"{TENANCY}::test_a_key_is_found_by_its_own_tenant_only",),
    ),
    "a definer function believes the variable alone": Mutation(
        (
            (
                REGISTRY,
                "        WHERE t.id = shared.current_tenant() AND t.schema_name ="
                " current_setting('role')\n          AND t.is_active;\n",
                "        WHERE t.id = shared.current_tenant() AND t.is_active;\n",
            ),
        ),
        (f"{TENANCY}::test_a_definer_function_acts_on_role_and_variable_together_only",),
    ),
    "the tenant is not in the keys of the cache": Mutation(
        (
            (
                "src/metrics_service/cache.py",
                "entry = self._entries.get((tenant_id, key))",
                "entry = next((e for k, e in self._entries.items() if k[1] == key), None)",
            ),
        ),
        (f"{EDGE}::test_a_remembered_key_is_no_key_of_another_tenant",),
    ),
    "a cursor is not bound to its tenant": Mutation(
        (
            (
                "src/metrics_service/db/pages.py",
                "message = tenant_id.bytes + hashlib",
                "message = hashlib",
            ),
        ),
        (f"{EDGE}::test_a_cursor_of_another_tenant_is_refused",),
    ),
}

NOTHING = Mutation(
    (), tuple(dict.fromkeys(test for mutation in MUTATIONS.values() for test in mutation.noticed_by))
)


def copied(target: Path, mutation: Mutation) -> Path:
    """A copy of the product and its tests that differs by the mutation."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("src", "alembic", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", target)
    for path, old, new in mutation.changes:
        text = (target / path).read_text()
        assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
        (target / path).write_text(text.replace(old, new))
    return target


def run(directory: Path, tests: tuple[str, ...], admin_dsn: str) -> tuple[int, str]:
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
            "--override-ini=python_files=*.py", f"--admin-url={admin_dsn}", *tests,
        ],
        cwd=directory,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "PYTHONPATH": str(directory / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, admin_url: Callable[[str], str]
) -> dict[str, Future[tuple[int, str]]]:
    """All of them on one server, as many at a time as there are processors."""
    admin_dsn = admin_url("postgres")

    def prove(name: str, mutation: Mutation) -> tuple[int, str]:
        directory = copied(tmp_path_factory.mktemp("copy"), mutation)
        return run(directory, mutation.noticed_by, admin_dsn)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {
            name: pool.submit(prove, name, mutation)
            for name, mutation in {"nothing": NOTHING, **MUTATIONS}.items()
        }


def test_the_same_tests_pass_where_nothing_was_changed(runs):
    code, output = runs["nothing"].result()

    assert code == 0, output


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_suite_notices_that(name, runs):
    code, output = runs[name].result()

    # 1: tests failed. Anything else means that none of them ran.
    assert code == 1, output
    assert re.search(r"^(FAILED|ERROR) tests/", output, re.MULTILINE), output
    assert "ERROR collecting" not in output
