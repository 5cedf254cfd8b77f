"""The SQL of rolling up; every name in it is a constant of `sources`.

A contribution is what the facts of one session, one hour and one set of dimensions add. It travels as
JSON, because a session's team and repository are known only once the session is locked, which comes
after its facts are stored.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import msgspec

from metrics_service.rollups.histogram import one_of
from metrics_service.rollups.sources import SOURCES, UNIT, Grain, Rollup, Source


def contributions(source: Source, relation: str) -> str:
    """The SQL of what the facts of a relation add; one row a session, `rows` its contributions.

    `relation` is a table, a CTE or a query in brackets that has the columns `source.needs`. Of
    sessions themselves each is a row, with its id and where it stands.
    """
    # Sums as one text: PostgreSQL reads an array far faster than as many fields of JSON.
    if source.is_of_sessions:
        return f"""
            SELECT b.id, b.team, b.repository, row_to_json(b)::text AS rows
            FROM (
                SELECT f.id, {_binned("hourly", source.moment)},
                    {", ".join(f"f.{name}" for name in source.dimensions)},
                    ARRAY[{", ".join(source.sums.values())}]::numeric[]::text AS sums
                FROM {relation} f
            ) b
        """
    kept = (*source.own, "agent", "user_id")
    sums = ", ".join(f"sum({what})" for what in source.sums.values())
    places = ", ".join(str(place) for place in range(1, len(kept) + 3))
    return f"""
        SELECT b.session_id, json_agg(b)::text AS rows
        FROM (
            SELECT f.session_id, {_binned("hourly", source.moment)},
                {", ".join(f"f.{name}" for name in kept)},
                ARRAY[{sums}]::numeric[]::text AS sums,
                array_agg({source.duration_bucket}) FILTER (WHERE f.duration_ms >= 0)::text
                    AS durations
            FROM {relation} f WHERE f.is_counted GROUP BY {places}
        ) b GROUP BY b.session_id
    """


def _binned(grain: Grain, moment: str) -> str:
    # From an origin at midnight UTC this is date_trunc, and six times as fast.
    return f"date_bin('1 {UNIT[grain]}', {moment}, '2001-01-01T00:00:00Z') AS bucket"


def _of_stored(source: Source, key: str) -> str:
    """What the stored facts with these keys ($1: ids as JSON) add."""
    return contributions(
        source,
        f"""(SELECT {source.needed("t")} FROM {source.table} t WHERE t.{key} IN (
            SELECT value::uuid FROM json_array_elements_text($1::json)))""",
    )


def _roll_up(source: Source) -> str:
    typed = {name: "uuid" if name == "user_id" else "text" for name in source.dimensions}
    placed = () if source.is_of_sessions else ("team", "repository")
    record = ", ".join(
        [
            "bucket timestamptz",
            *(f"{name} {type_}" for name, type_ in typed.items() if name not in placed),
            "sums numeric[]",
            *(["durations int[]"] if source.has_durations else []),
        ]
    )
    columns = ", ".join(
        f"e.{name}" if name in placed else f"r.{name}" for name in source.dimensions
    )
    sums = ", ".join(
        f"e.sign * r.sums[{place}] AS {name}" for place, name in enumerate(source.sums, start=1)
    )
    if source.has_durations:
        sums += f""", e.sign * (
            SELECT sum({one_of("d.bucket")}) FROM unnest(r.durations) AS d(bucket)) AS durations"""
    return f"""
        WITH fact AS MATERIALIZED (
            SELECT r.bucket, {columns}, {sums}
            FROM json_to_recordset($1::json)
                AS e(sign int, team text, repository text, rows json),
                LATERAL json_to_recordset(e.rows) AS r({record})
        ),
        {", ".join(f"{one.table} AS ({_added(source, one)})" for one in source.rollups)}
        SELECT 1
    """


def _added(source: Source, rollup: Rollup) -> str:
    return _upsert(source, rollup, f"({_summed(source, rollup, 'fact')})")


def _rebuild(source: Source, rollup: Rollup, where: str) -> str:
    columns = ", ".join(source.placed(name) for name in source.dimensions)
    sums = ", ".join(f"{source.added(name)} AS {name}" for name in source.columns)
    if not source.is_of_sessions:
        where += " AND f.is_counted"
    facts = f"""
        SELECT {source.moment} AS bucket, {columns}, {sums}
        FROM {source.table} f {source.session_join} WHERE {where}
    """
    return f"""
        WITH computed AS MATERIALIZED ({_summed(source, rollup, f"({facts})")})
        {_upsert(source, rollup, "computed")}
    """


def _summed(source: Source, rollup: Rollup, facts: str) -> str:
    """The rows of a table's cubes, out of rows that have a bucket, dimensions and sums each."""
    dimensions = ", ".join(source.dimensions)
    sums = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in source.columns)
    sets = ", ".join(f"(bucket, {', '.join(kept)})" for kept in rollup.cubes.values())
    return f"""
        SELECT {_cube(source, rollup)} AS cube, bucket, {dimensions}, {sums}
        FROM (
            SELECT {_binned(rollup.grain, "bucket")}, {dimensions}, {", ".join(source.columns)}
            FROM {facts} fact
        ) f
        GROUP BY GROUPING SETS ({sets})
    """


def _upsert(source: Source, rollup: Rollup, summed: str) -> str:
    """Add rows of cubes to their table, in the order of their keys."""
    columns = ", ".join(source.columns)
    dimensions = ", ".join(source.dimensions)
    is_nothing = " AND ".join(f"{name} = 0" for name in source.columns)
    changes = ", ".join(f"{name} = t.{name} + excluded.{name}" for name in source.columns)
    return f"""
        INSERT INTO {rollup.table} AS t (cube, bucket, {dimensions}, {columns})
        SELECT cube, bucket, {dimensions}, {columns} FROM {summed} summed
        WHERE NOT ({is_nothing})
        ORDER BY cube, bucket, {dimensions}
        ON CONFLICT (tenant_id, cube, bucket, {dimensions}) DO UPDATE
            SET {changes}, updated_at = now()
        RETURNING 1
    """


def _cube(source: Source, rollup: Rollup) -> str:
    """Which cube a group is of: GROUPING has a bit for each column, set where it is left out."""
    whens = " ".join(
        f"WHEN {_left_out(source, kept)} THEN '{cube}'" for cube, kept in rollup.cubes.items()
    )
    return f"CASE GROUPING({', '.join(source.dimensions)}) {whens} END"


def _left_out(source: Source, kept: Container[str]) -> int:
    return int("".join("0" if name in kept else "1" for name in source.dimensions), base=2)


class Statements(msgspec.Struct, frozen=True):
    """What is executed for one source."""

    of_sessions: str
    """$1: ids of sessions as JSON; returns what their stored facts add, a row a session."""
    of_rows: str
    """$1: ids of facts as JSON; returns what they add, a row a session."""
    roll_up: str
    """$1: entries as JSON, each a sign, a team, a repository and contributions. Adds them to the
    cubes: each time the tables in one order, and their rows in the order of their keys."""
    rebuild: Sequence[str]
    """$1, $2: from and to; rolls up the facts that happened then, into rows that are not there."""
    rebuild_astray: Sequence[str]
    """The same by where the facts stand, with those whose clock was wrong: reads the whole table."""


def _statements(source: Source) -> Statements:
    then = f"f.started_at >= $1 AND f.started_at < $2 AND {source.moment} = f.started_at"
    astray = f"{source.moment} >= $1 AND {source.moment} < $2"
    return Statements(
        _of_stored(source, "id" if source.is_of_sessions else "session_id"),
        _of_stored(source, "id"),
        _roll_up(source),
        [_rebuild(source, rollup, then) for rollup in source.rollups],
        [_rebuild(source, rollup, astray) for rollup in source.rollups],
    )


STATEMENTS: Mapping[str, Statements] = {
    name: _statements(source) for name, source in SOURCES.items()
}
