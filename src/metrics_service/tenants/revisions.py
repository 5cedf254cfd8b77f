"""The revisions of both histories: `registry` for schema public, `tenant` for each tenant schema."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from alembic.script import Script, ScriptDirectory

from metrics_service.errors import MigrationError, NotFoundError

REGISTRY = "public"
"""The registry's row in the ledger: it is a schema like the others."""

History = Literal["registry", "tenant"]


@cache
def scripts() -> ScriptDirectory:
    """The revisions, from the wheel or from the checkout."""
    here = Path(__file__).resolve()
    packaged = here.parents[1] / "alembic"
    root = packaged if packaged.is_dir() else here.parents[3] / "alembic"
    return ScriptDirectory(
        str(root), version_locations=[str(root / "registry"), str(root / "tenant")]
    )


@cache
def revisions(history: History) -> tuple[str, ...]:
    """Revision ids of one history, oldest first; the last one is its head."""
    walked = scripts().walk_revisions("base", f"{history}@head")
    return tuple(reversed([script.revision for script in walked]))


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


def steps_to(
    history: History, current: str | None, *, back: bool, to: str | None
) -> list[tuple[Script, str | None]]:
    """The scripts to run from `current`, each with the revision it leads to.

    Forward to head, or back one step, unless `to` says how far. Raises `NotFoundError` for a
    revision nobody knows, `MigrationError` for a step back from one that is newer than this release.
    """
    known = list(revisions(history))
    if current is not None and current not in known:
        if back:
            raise MigrationError(f"revision {current} is newer than this release")
        return []
    if to is not None and to not in known:
        raise NotFoundError("revision", to)
    at = known.index(current) + 1 if current is not None else 0
    scripts_of = [scripts().get_revision(revision) for revision in known]
    if back:
        stop = known.index(to) + 1 if to is not None else max(at - 1, 0)
        return [
            (scripts_of[index], known[index - 1] if index else None)
            for index in range(at - 1, stop - 1, -1)
        ]
    stop = known.index(to) + 1 if to is not None else len(known)
    return [(scripts_of[index], known[index]) for index in range(at, stop)]
