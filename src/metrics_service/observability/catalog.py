"""Every instrument of the product on one page: what this service counts and times about itself.

Names are those of OpenTelemetry's semantic conventions (1.40) where there is one; ours begin with
`metrics_service.`. No attribute's value ever comes from a client: there are fixed words and route
templates only, so that neither tenants nor tools nor hosts nor methods can make more series.
"""

from __future__ import annotations

from typing import Final

from metrics_service.observability.meters import (
    Counter,
    Gauge,
    Histogram,
    Instrument,
    UpDownCounter,
)

# As the conventions advise for each.
REQUEST_BUCKETS_S: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
STATEMENT_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)

# Each with what a few statuses make of it; a hundred and twenty routes do not fit into fewer.
_SERIES_OF_REQUESTS: Final = 500

OTHER_METHOD: Final = "_OTHER"
"""As the conventions name any method that HTTP does not define."""
METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}
)

# -- requests -----------------------------------------------------------------------------------------

HTTP_REQUEST_DURATION = Histogram(
    "http.server.request.duration",
    "s",
    "How long HTTP requests took.",
    ("http.request.method", "http.route", "http.response.status_code"),
    buckets=REQUEST_BUCKETS_S,
    max_series=_SERIES_OF_REQUESTS,
)
HTTP_ACTIVE_REQUESTS = UpDownCounter(
    "http.server.active_requests", "{request}", "HTTP requests under way, open streams included."
)
RPC_DURATION = Histogram(
    "rpc.server.call.duration",
    "s",
    "How long gRPC calls took.",
    ("rpc.method", "rpc.response.status_code"),
    buckets=REQUEST_BUCKETS_S,
)
REFUSALS = Counter(
    "metrics_service.refusals",
    "{request}",
    "Requests refused because somebody took too much, by the rule that refused them.",
    ("rule",),
)
TURNS_WAITING = UpDownCounter(
    "metrics_service.turns.waiting",
    "{request}",
    "Requests that wait for their turn, before they take a connection.",
)
TURN_WAIT_TIME = Histogram(
    "metrics_service.turns.wait_time",
    "s",
    "How long requests waited for their turn; those that did not wait are not counted.",
    buckets=STATEMENT_BUCKETS_S,
)
STREAMS_OPEN = UpDownCounter(
    "metrics_service.streams.open", "{stream}", "Pages that wait for news."
)

# -- the database -------------------------------------------------------------------------------------

DB_OPERATION_DURATION = Histogram(
    "db.client.operation.duration",
    "s",
    "How long statements took, without the wait for a connection.",
    ("db.operation.name",),
    buckets=STATEMENT_BUCKETS_S,
)
DB_CONNECTION_COUNT = UpDownCounter(
    "db.client.connection.count",
    "{connection}",
    "Connections of a pool, idle or used.",
    ("db.client.connection.pool.name", "db.client.connection.state"),
)
DB_CONNECTION_MAX = UpDownCounter(
    "db.client.connection.max",
    "{connection}",
    "How many connections a pool may have.",
    ("db.client.connection.pool.name",),
)
DB_PENDING_REQUESTS = UpDownCounter(
    "db.client.connection.pending_requests",
    "{request}",
    "Who waits for a connection of a pool.",
    ("db.client.connection.pool.name",),
)
DB_CONNECTION_TIMEOUTS = Counter(
    "db.client.connection.timeouts",
    "{timeout}",
    "Who waited for a connection of a pool and got none in time.",
    ("db.client.connection.pool.name",),
)
DB_CONNECTION_WAIT_TIME = Histogram(
    "db.client.connection.wait_time",
    "s",
    "How long it took to get a connection of a pool.",
    ("db.client.connection.pool.name",),
    buckets=STATEMENT_BUCKETS_S,
)
DB_BREAKER_STATE = Gauge(
    "metrics_service.db.breaker.state",
    "1",
    "Whether the database is known to be away: 0 closed, 1 half-open, 2 open (requests are refused).",
    ("db.client.connection.pool.name",),
)
DB_BREAKER_OPENINGS = Counter(
    "metrics_service.db.breaker.openings",
    "{opening}",
    "How often the database was found to be away.",
    ("db.client.connection.pool.name",),
)
DB_BREAKER_LOOKS = Counter(
    "metrics_service.db.breaker.looks",
    "{look}",
    "Looks whether the database is away: it answered, or the look failed.",
    ("db.client.connection.pool.name", "outcome"),
)
SLOW_STATEMENTS = Counter(
    "metrics_service.slow_statements",
    "{statement}",
    "Statements that took longer than SLOW_QUERY_THRESHOLD_MS.",
    ("db.operation.name",),
)

REQUEST_RETRIES = Counter(
    "metrics_service.request.retries",
    "{retry}",
    "Further attempts at requests that the database undid: before anything was stored (interrupted),"
    " or while it was (commit_unknown).",
    ("cause",),
)

LONG_READS = Counter(
    "metrics_service.db.long_reads",
    "{read}",
    "Summaries and dashboards, by the server that they were read of; counted where there are replicas.",
    ("server",),
)
REPLICA_FALLBACKS = Counter(
    "metrics_service.db.replica.fallbacks",
    "{read}",
    "Long reads that no replica answered, by why: none was tried (unhealthy, away, busy, resting), or it"
    " showed another version of the data (differs), followed nobody (promoted), failed, or was lost in the middle.",
    ("reason",),
)

# -- taking in ----------------------------------------------------------------------------------------

INGEST_REQUESTS = Counter(
    "metrics_service.ingest.requests",
    "{request}",
    "Requests that were to bring something in: accepted, or refused whole.",
    ("source", "outcome"),
)
INGEST_RECORDS = Counter(
    "metrics_service.ingest.records",
    "{record}",
    "Records of accepted requests: stored (inserted), there already (duplicate), or refused.",
    ("source", "outcome"),
)
INGEST_ROWS = Counter(
    "metrics_service.ingest.rows",
    "{row}",
    "Rows that telemetry told of: new (inserted), told more of (changed), or as they were (unchanged).",
    ("table", "outcome"),
)
INGEST_BYTES = Counter(
    "metrics_service.ingest.bytes",
    "By",
    "Bytes of accepted requests, inflated.",
    ("source",),
)

# -- what is remembered -------------------------------------------------------------------------------

CACHE_LOOKUPS = Counter(
    "metrics_service.cache.lookups",
    "{lookup}",
    "Questions to what is remembered: answered by it (hit) or not (miss); by Redis also failed, or unasked"
    " while it is away.",
    ("cache", "outcome"),
)
CACHE_ENTRIES = UpDownCounter(
    "metrics_service.cache.entries", "{entry}", "How much is remembered.", ("cache",)
)

# -- passwords ----------------------------------------------------------------------------------------

PASSWORDS_WAITING = UpDownCounter(
    "metrics_service.passwords.waiting", "{password}", "Passwords that are hashed or wait for it."
)

# -- what looks after the service ----------------------------------------------------------------------

HEALTH_STATUS = Gauge(
    "metrics_service.health.status",
    "{status}",
    "How a check stands: 0 healthy, 1 degraded, 2 unhealthy.",
    ("check",),
)
HEALTH_TRANSITIONS = Counter(
    "metrics_service.health.transitions",
    "{transition}",
    "How often a check went over to another status.",
    ("check", "status"),
)
EXPORTED = Counter(
    "metrics_service.export.items",
    "{item}",
    "Spans, points and log records for the collector: sent, refused by it, or dropped.",
    ("signal", "outcome"),
)
JOBS = Counter(
    "metrics_service.maintenance.jobs",
    "{job}",
    "Jobs that maintenance has done.",
    ("kind", "outcome"),
)
ACTIVITY_LOST = Counter(
    "metrics_service.activity.lost",
    "{request}",
    "Requests that tenants' activity does not know of, because too much was to be remembered.",
)

# -- the process ---------------------------------------------------------------------------------------

PROCESS_MEMORY = UpDownCounter(
    "process.memory.usage", "By", "Memory in use, what is shared with other processes included."
)
PROCESS_MEMORY_UNIQUE = UpDownCounter(
    "metrics_service.process.memory.unique", "By", "Memory that no other process shares."
)
PROCESS_CPU_TIME = Counter("process.cpu.time", "s", "Processor time.", ("cpu.mode",))
PROCESS_UPTIME = Gauge("process.uptime", "s", "For how long the process has been running.")
PROCESS_FILES = UpDownCounter(
    "process.unix.file_descriptor.count", "{file_descriptor}", "Files and sockets that are open."
)
PROCESS_THREADS = UpDownCounter("process.thread.count", "{thread}", "Threads.")

INSTRUMENTS: Final[tuple[Instrument, ...]] = tuple(
    thing for thing in list(globals().values()) if isinstance(thing, Instrument)
)


def known_method(method: str) -> str:
    """The method where HTTP defines it: anything else is a client's own word."""
    return method if method in METHODS else OTHER_METHOD


def note_rows(table: str, *, inserted: int = 0, changed: int = 0, unchanged: int = 0) -> None:
    """Count what became of telemetry in a table; what is unchanged was mostly sent twice."""
    for count, outcome in (
        (inserted, "inserted"),
        (changed, "changed"),
        (unchanged, "unchanged"),
    ):
        if count:
            INGEST_ROWS.add(count, table, outcome)


def note_lookup(cache: str, *, is_hit: bool) -> None:
    """Count a question to what is remembered."""
    CACHE_LOOKUPS.add(1, cache, "hit" if is_hit else "miss")
