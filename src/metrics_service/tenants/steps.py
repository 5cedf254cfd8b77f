"""What revisions do, step by step; Alembic, which takes long to be imported, is wanted for this alone."""

from __future__ import annotations

from functools import cache

from alembic.script import Script, ScriptDirectory

from metrics_service.errors import MigrationError, NotFoundError
from metrics_service.tenants.revisions import History, directory, revisions


@cache
def scripts() -> ScriptDirectory:
    root = directory()
    return ScriptDirectory(
        str(root), version_locations=[str(root / "registry"), str(root / "tenant")]
    )


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
