"""The revisions of both histories: `registry` for schema public, `tenant` for each tenant schema.

Their names alone, which a server compares; what they do is in `tenants/steps.py`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from metrics_service.errors import MigrationError

REGISTRY = "public"
"""The registry's row in the ledger: it is a schema like the others."""

History = Literal["registry", "tenant"]


def directory() -> Path:
    """Where the revisions are: in the wheel or in the checkout."""
    here = Path(__file__).resolve()
    packaged = here.parents[1] / "alembic"
    return packaged if packaged.is_dir() else here.parents[3] / "alembic"


@cache
def revisions(history: History) -> tuple[str, ...]:
    """Revision ids of one history, oldest first; the last one is its head."""
    return tuple(_named(path) for path in sorted((directory() / history).glob("*.py")))


def _named(path: Path) -> str:
    named = re.search(r"""^revision = ["'](\w+)["']$""", path.read_text("utf-8"), re.MULTILINE)
    if named is None:
        raise MigrationError(f"{path} names no revision")
    return named[1]


def head(history: History) -> str:
    return revisions(history)[-1]


def is_behind(history: History, revision: str | None) -> bool:
    """True for a revision this code has left behind; one it does not know is ahead, and accepted."""
    if revision is None:
        return True
    known = revisions(history)
    return revision in known and revision != known[-1]


def history_of(schema: str) -> History:
    return "registry" if schema == REGISTRY else "tenant"
