"""A tenant's way in for telemetry without HTTP, and what it has stored since."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from rolled import check_rollups
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.fields import Signal
from metrics_service.ingest.prices import load_prices
from metrics_service.ingest.records import ModelCallRecord, ToolMetricRecord, session_id_of
from metrics_service.ingest.telemetry import Telemetry, instant
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write import write_facts
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.otlp.decode import read_request
from metrics_service.sessions.repository import find_session
from metrics_service.sessions.schemas import SessionView

# Where requests are built, as the mappers' own tests do.
sys.path.append(str(Path(__file__).parents[1] / "unit" / "otlp"))

from vectors import MS, RECEIVED, T0, Json, logs, metrics, record, span, spans, sum_metric

CLAUDE = "claude-code"
SECOND = 1000 * MS
Request = tuple[Signal, bytes]


class Stored:
    """What is stored of a tenant."""

    def __init__(self, engine: AsyncEngine, tenant_id: UUID) -> None:
        self.engine = engine
        self.tenant_id = tenant_id

    async def fetch(self, query: str, *values: object) -> list[dict[str, Any]]:
        async with tenant_connection(self.engine, TenantContext(self.tenant_id)) as connection:
            return [dict(row) for row in await connection.fetch(query, *values)]

    async def execute(self, query: str, *values: object) -> None:
        async with tenant_connection(self.engine, TenantContext(self.tenant_id)) as connection:
            await connection.execute(query, *values)


class Inbox(Stored):
    """Takes requests in as the service does: each is read, then stored in one transaction."""

    def __init__(self, engine: AsyncEngine, tenant_id: UUID, *, is_alone: bool = True) -> None:
        super().__init__(engine, tenant_id)
        self._is_alone = is_alone
        self.writer = TelemetryWriter(ToolNames(), load_prices())

    async def clear(self) -> None:
        """Take away all that came in: a tenth of the time that another tenant takes."""
        async with tenant_connection(self.engine, TenantContext(self.tenant_id)) as connection:
            tables = await connection.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
            )
            await connection.execute("; ".join(f"DELETE FROM {row[0]}" for row in tables))
        self.writer = TelemetryWriter(ToolNames(), load_prices())

    async def send(self, *requests: Request, **how: Any) -> None:
        """Take the requests in, one after the other."""
        for request in requests:
            await self.send_together(request, **how)

    async def send_together(
        self,
        *requests: Request,
        owner: UUID | None = None,
        key_id: UUID | None = None,
        keeps_content: bool = False,
    ) -> None:
        """Take all of them in as if they had been one request."""
        out = Telemetry(self.tenant_id, keeps_content=keeps_content)
        for signal, body in requests:
            reading = read_request(signal, body, is_json=True, received_ns=RECEIVED, out=out)
            assert not reading.reasons
        async with tenant_connection(self.engine, TenantContext(self.tenant_id)) as connection:
            names = await self.writer.write(connection, out, owner=owner, key_id=key_id)
            if self._is_alone:
                # After each: no order of arrival may lead the rollups away from the rows.
                await check_rollups(connection)
        self.writer.remember(self.tenant_id, names)

    def session_id(self, external_id: str, agent: str = CLAUDE) -> UUID:
        return session_id_of(self.tenant_id, agent, external_id)

    async def session(self, external_id: str, agent: str = CLAUDE) -> SessionView:
        """The session as its readers get it."""
        async with tenant_connection(self.engine, TenantContext(self.tenant_id)) as connection:
            found = await find_session(connection, self.session_id(external_id, agent))
        assert found is not None
        return found

    async def add_user(self, email: str) -> UUID:
        (row,) = await self.fetch("INSERT INTO users (email) VALUES ($1) RETURNING id", email)
        user_id: UUID = row["id"]
        return user_id

    async def record_calls(self, **more: Any) -> None:
        """Record a tool call and a model call of session `s`, as the JSON API does."""
        at = instant(ns(1))
        named: dict[str, Any] = {"agent": CLAUDE, "external_session_id": "s", "started_at": at}
        tool = ToolMetricRecord(tool_name="Native", status="error", **named, **more)
        model = ModelCallRecord(
            input_tokens=1000, output_tokens=100, cost_usd_micros=9, **named, **more
        )
        async with tenant_connection(self.engine, TenantContext(self.tenant_id)) as connection:
            await write_facts(connection, self.tenant_id, [tool])
            await write_facts(connection, self.tenant_id, [model])

    async def tools(self) -> list[dict[str, Any]]:
        return await self.fetch("SELECT * FROM tool_metrics ORDER BY started_at, id")

    async def models(self) -> list[dict[str, Any]]:
        return await self.fetch("SELECT * FROM model_calls ORDER BY started_at, id")

    async def session_names(self) -> list[str]:
        rows = await self.fetch("SELECT external_id FROM metrics_sessions ORDER BY external_id")
        return [row["external_id"] for row in rows]

    async def stored(self) -> dict[str, list[dict[str, Any]]]:
        """Everything that is stored, but for the moments at which it was and ids by chance."""
        return {
            table: [
                {name: value for name, value in row.items() if name not in BY_CHANCE}
                for row in await self.fetch(f"SELECT * FROM {table} ORDER BY {order}")
            ]
            for table, order in TABLES.items()
        }


TABLES = {
    "metrics_sessions": "agent, external_id",
    "tool_metrics": "started_at, id",
    "model_calls": "started_at, id",
    "session_events": "occurred_at, id",
    "counter_deltas": "window_end, id",
    "users": "email, name",
    "user_identities": "kind, value",
    "tool_names": "name",
    "trace_sessions": "trace_id",
    "tool_spans": "id",
    "metric_streams": "id",
    "session_tags": "session_id, tag",
}
BY_CHANCE = frozenset({"created_at", "updated_at", "received_at", "seen_at"})


def figures(session: SessionView, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(session, name) for name in names)


def claude_logs(*records: Json, **resource: str) -> Request:
    given = {name.replace("__", "."): value for name, value in resource.items()}
    scope = "com.anthropic.claude_code.events"
    return "logs", logs(CLAUDE, scope, *records, resource=given)


def claude_spans(*given: Json, **resource: str) -> Request:
    attributes = {name.replace("__", "."): value for name, value in resource.items()}
    return "traces", spans(CLAUDE, "com.anthropic.claude_code.tracing", *given, resource=attributes)


def claude_metrics(*given: Json, service: str = CLAUDE) -> Request:
    return "metrics", metrics(service, "com.anthropic.claude_code", *given)


def log(name: str, session: str | None, at_s: float = 0, **attributes: Any) -> Json:
    """A log record; `__` in a name stands for a dot."""
    named = {} if session is None else {"session.id": session}
    given = {key.replace("__", "."): value for key, value in attributes.items()}
    return record(name, {**named, **given}, time_ns=ns(at_s))


def spanned(
    name: str,
    session: str | None,
    span_id: int,
    *,
    trace: int = 1,
    parent: int | None = None,
    at_s: float = 0,
    lasts_s: float = 1,
    kind: int = 1,
    **attributes: Any,
) -> Json:
    """A span whose trace and whose own id are small numbers."""
    named = {} if session is None else {"session.id": session}
    given = {key.replace("__", "."): value for key, value in attributes.items()}
    return span(
        name,
        {**named, **given},
        start_ns=ns(at_s),
        end_ns=ns(at_s + lasts_s),
        trace_id=trace_id(trace),
        span_id=f"{span_id:016x}",
        parent=None if parent is None else f"{parent:016x}",
        kind=kind,
    )


def trace_id(number: int) -> str:
    return f"{number:032x}"


def ns(at_s: float) -> int:
    return T0 + int(at_s * 1000) * MS


def gen_ai_spans(*given: Json, service: str = "some-agent") -> Request:
    return "traces", spans(service, "some.library", *given)


def gen_ai_logs(*given: Json, service: str = "some-agent") -> Request:
    return "logs", logs(service, "some.library", *given)


def prompt(session: str = "s", at_s: float = 1, **said: Any) -> Request:
    return claude_logs(log("user_prompt", session, at_s, event__sequence=int(at_s), **said))


def everything(session: str = "s", **said: Any) -> list[Request]:
    """An event, a tool call, a model call and a data point of one session."""
    return [
        prompt(session, 1, **said),
        claude_logs(
            log("tool_result", session, 2, tool_name="Bash", tool_use_id="t-1", success="true",
                duration_ms=100, **said),
            log("api_request", session, 3, request_id="r-1", model="some-model", input_tokens=10,
                output_tokens=5, cost_usd_micros=77, **said),
        ),
        claude_metrics(
            sum_metric(
                "claude_code.commit.count",
                "1",
                [({"session.id": session, **{k.replace("__", "."): v for k, v in said.items()}}, 2)],
            )
        ),
    ]  # fmt: skip
