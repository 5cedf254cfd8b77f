"""Rollups: what happened by the hour and by the day, kept in step with the rows themselves."""

from collections.abc import Iterable

from alembic import op

revision = "tenant_0003"
down_revision = "tenant_0002"
branch_labels = None
depends_on = None

TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd_micros",
)
FIGURES = (
    "tool_call_count",
    "tool_error_count",
    "tool_reject_count",
    "model_call_count",
    "model_error_count",
    *TOKENS,
    "lines_added",
    "lines_removed",
    "commits",
    "pull_requests",
    "prompt_count",
    "turn_count",
    "compactions",
)
TOOL_STATUSES = ("success", "error", "rejected", "cancelled", "timeout", "unknown")
MODEL_STATUSES = ("success", "error", "cancelled")
DECISIONS = ("accept", "modify", "reject", "cancel")


def _each(column: str, values: Iterable[str]) -> dict[str, str]:
    return {f"{column}_{value}": f"(f.{column} = '{value}')::int" for value in values}


def _microseconds(column: str) -> str:
    return f"CASE WHEN f.{column} >= 0 THEN round(least(f.{column}, 1e13) * 1000)::bigint END"


def _timed(name: str) -> dict[str, str]:
    return {
        f"{name}_count": f"(f.{name}_ms IS NOT NULL)::int",
        f"{name}_us": _microseconds(f"{name}_ms"),
    }


def _plain(*columns: str) -> dict[str, str]:
    return {column: f"f.{column}" for column in columns}


# Of each table: its own dimensions, and what one row adds to the sums.
SOURCES = {
    "tool_metrics": (
        ("tool_name", "tool_category"),
        {
            "count": "1",
            **_each("status", TOOL_STATUSES),
            **_each("decision", DECISIONS),
            **_timed("duration"),
            **_timed("wait"),
            "cpu_us": _microseconds("cpu_ms"),
        },
    ),
    "model_calls": (
        ("provider", "request_model"),
        {
            "count": "1",
            **_each("status", MODEL_STATUSES),
            **_timed("duration"),
            **_timed("ttft"),
            **_plain(*TOKENS, "input_uncached_tokens"),
            "estimated_cost_usd_micros": (
                "CASE WHEN f.cost_source = 'estimated' THEN f.cost_usd_micros END"
            ),
        },
    ),
    "sessions": (
        ("session_type",),
        {
            "count": "1",
            **_plain(*FIGURES),
            "active_ms_user": "round(f.active_seconds_user * 1000)::bigint",
            "active_ms_agent": "round(f.active_seconds_agent * 1000)::bigint",
            "score_count": "(f.productivity_score IS NOT NULL)::int",
            "score_milli": "round(f.productivity_score * 1000)::bigint",
        },
    ),
}
WHO = ("agent", "user_id", "team", "repository")

BITS = "float8send(least(f.duration_ms, 2::float8 ^ 44))"
# One duration in the histogram: twelve digits a bucket, 32 buckets an octave.
DURATION = f"""
    ('1e' || 12 * (CASE WHEN f.duration_ms < 2::float8 ^ -20 THEN -641 WHEN f.duration_ms >= 0 THEN
        get_byte({BITS}, 0) * 512 + get_byte({BITS}, 1) * 2 + get_byte({BITS}, 2) / 128 - 32736
        END))::numeric
"""


# Tables of each source: the time of a row, and the cubes that are kept there. Of calls the one by all
# dimensions has ten times the rows of the others, which would lie scattered among them; sessions are
# few enough to be kept by all dimensions everywhere.
TABLES = {
    "hourly": ("hour", ("agent", "what", "who")),
    "daily": ("day", ("agent", "place", "user", "what", "who")),
    "daily_all": ("day", ("all",)),
}
TABLES_OF_SESSIONS = {
    "hourly": ("hour", ("agent", "who")),
    "daily": ("day", ("agent", "place", "user", "who")),
}


def _tables(name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    return TABLES_OF_SESSIONS if name == "sessions" else TABLES


def _create(table: str, own: tuple[str, ...], sums: dict[str, str]) -> None:
    dimensions = (*own, *WHO)
    counts = [column for column in sums if column == "count" or _is_count(column)]
    # First what is always there and has a length: it is read without looking at what follows.
    columns = [
        "tenant_id uuid NOT NULL DEFAULT shared.current_tenant()",
        "bucket timestamptz NOT NULL",
        "updated_at timestamptz NOT NULL DEFAULT now()",
        *(f"{column} bigint NOT NULL" for column in counts),
        'cube text COLLATE "C" NOT NULL',
        *(
            f"{column} uuid" if column == "user_id" else f'{column} text COLLATE "C"'
            for column in dimensions
        ),
        *(f"{column} numeric NOT NULL" for column in sums if column not in counts),
        *([] if table.startswith("sessions") else ["durations numeric NOT NULL"]),
    ]
    # Rows are changed far more often than made.
    op.execute(
        f"""
        CREATE TABLE {table} (
            {", ".join(columns)},
            CONSTRAINT {table}_key UNIQUE NULLS NOT DISTINCT
                (tenant_id, cube, bucket, {", ".join(dimensions)}),
            CONSTRAINT {table}_cube CHECK
                (cube IN ('agent', 'place', 'user', 'what', 'who', 'all'))
        ) WITH (fillfactor = 70)
        """
    )
    if not table.startswith("sessions"):
        op.execute(f"ALTER TABLE {table} ALTER COLUMN durations SET STORAGE MAIN")


def _is_count(column: str) -> bool:
    return column.startswith(("status_", "decision_")) or column.endswith("_count")


def _where_there_are(table: str, statement: str) -> None:
    """Execute it unless the table is empty: a new tenant's is, and to plan it takes long."""
    op.execute(f"DO $$ BEGIN IF EXISTS (SELECT FROM {table}) THEN {statement}; END IF; END $$")


def _fill(name: str, grain: str, own: tuple[str, ...], sums: dict[str, str]) -> None:
    """Roll up what is there already."""
    dimensions = (*own, *WHO)
    unit, kept_here = _tables(name)[grain]
    if name == "sessions":
        relation, place, arrived = "metrics_sessions f", "f", "created_at"
    else:
        relation = f"""{name} f LEFT JOIN metrics_sessions s
            ON s.tenant_id = f.tenant_id AND s.id = f.session_id WHERE f.is_counted"""
        place, arrived = "s", "received_at"
        sums = {**sums, "durations": DURATION}
    row = ", ".join(
        [
            f"""date_bin('1 {unit}', least(greatest(f.started_at,
                '2015-01-01T00:00:00Z'::timestamptz), f.{arrived} + interval '1 day'),
                '2001-01-01T00:00:00Z') AS bucket""",
            *(
                f"{place if column in ('team', 'repository') else 'f'}.{column}"
                for column in dimensions
            ),
            *(f"{what} AS {column}" for column, what in sums.items()),
        ]
    )
    cubes = {
        "agent": ("agent",),
        "place": ("team", "repository"),
        "user": ("user_id",),
        "what": (*own, "agent"),
        "who": dimensions if name == "sessions" else WHO,
        "all": dimensions,
    }
    sets = ", ".join(f"(bucket, {', '.join(cubes[cube])})" for cube in kept_here)
    # A bit for each dimension, set where a cube leaves it out.
    bits = {
        cube: int("".join("0" if column in cubes[cube] else "1" for column in dimensions), base=2)
        for cube in kept_here
    }
    named = " ".join(f"WHEN {number} THEN '{cube}'" for cube, number in bits.items())
    summed = ", ".join(f"coalesce(sum({column}), 0) AS {column}" for column in sums)
    columns = ", ".join((*dimensions, *sums))
    _where_there_are(
        "metrics_sessions" if name == "sessions" else name,
        f"""
        WITH summed AS MATERIALIZED (
            SELECT CASE GROUPING({", ".join(dimensions)}) {named} END AS cube, bucket,
                {", ".join(dimensions)}, {summed}
            FROM (SELECT {row} FROM {relation}) fact GROUP BY GROUPING SETS ({sets})
        )
        INSERT INTO {name}_{grain} (cube, bucket, {columns})
        SELECT cube, bucket, {columns} FROM summed ORDER BY bucket
        ON CONFLICT DO NOTHING
        """,
    )


def _count_native(sign: str) -> None:
    """Figures of sessions that calls of the JSON API did not add to until now."""
    _where_there_are(
        "tool_metrics",
        f"""
        UPDATE metrics_sessions s SET tool_reject_count = s.tool_reject_count {sign} t.rejected
        FROM (
            SELECT session_id, count(*) AS rejected FROM tool_metrics
            WHERE part IS NULL AND status = 'rejected' GROUP BY session_id
        ) t WHERE s.id = t.session_id
        """,
    )
    _where_there_are(
        "model_calls",
        f"""
        UPDATE metrics_sessions s SET
            model_error_count = s.model_error_count {sign} m.errors,
            cache_read_tokens = s.cache_read_tokens {sign} m.cache_read,
            cache_write_tokens = s.cache_write_tokens {sign} m.cache_write,
            reasoning_tokens = s.reasoning_tokens {sign} m.reasoning
        FROM (
            SELECT session_id, count(*) FILTER (WHERE status = 'error') AS errors,
                coalesce(sum(cache_read_tokens), 0) AS cache_read,
                coalesce(sum(cache_write_tokens), 0) AS cache_write,
                coalesce(sum(reasoning_tokens), 0) AS reasoning
            FROM model_calls WHERE part IS NULL GROUP BY session_id
        ) m WHERE s.id = m.session_id
        """,
    )


def upgrade() -> None:
    _count_native("+")
    for name, (own, sums) in SOURCES.items():
        for grain in _tables(name):
            _create(f"{name}_{grain}", own, sums)
            op.protect_tenant_table(f"{name}_{grain}")
            _fill(name, grain, own, sums)


def downgrade() -> None:
    for name in SOURCES:
        for grain in _tables(name):
            op.execute(f"DROP TABLE {name}_{grain}")
    _count_native("-")
