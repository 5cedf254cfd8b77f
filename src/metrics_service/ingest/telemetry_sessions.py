"""Sessions as telemetry tells of them: what is written of those held, in one statement.

A column that no longer says what telemetry said was changed by somebody, and is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.claims import BY_KEY, best_claim
from metrics_service.ingest.held_sessions import SAID, Held
from metrics_service.ingest.records import session_id_of
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.session_state import COUNTED, FIGURES, MAX_FIGURE, figures_of
from metrics_service.ingest.telemetry import SessionPart, instant

# An end is the end unless something happens later; exporters flush for some seconds after it.
GRACE_NS = 30 * 10**9

CHANGE = """
UPDATE metrics_sessions s SET
    started_at = least(s.started_at, r.started_at),
    last_event_at = greatest(s.last_event_at, r.last_event_at),
    ended_at = r.ended_at, user_id = r.user_id, user_source = r.user_source,
    user_key = r.user_key, user_key_kind = r.user_key_kind, claims = r.claims, resource = r.resource,
    parent_session_id = r.parent_session_id, signals = r.signals, telemetry = r.telemetry,
    session_type = r.session_type, repository = r.repository, branch = r.branch, team = r.team,
    project = r.project, environment = r.environment, commit_sha = r.commit_sha,
    cost_center = r.cost_center, start_type = r.start_type, end_reason = r.end_reason,
    agent_version = r.agent_version, entrypoint = r.entrypoint, terminal_type = r.terminal_type,
    os_type = r.os_type, os_version = r.os_version, host_arch = r.host_arch, surface = r.surface,
    permission_mode = r.permission_mode, sandbox_policy = r.sandbox_policy,
    approval_policy = r.approval_policy, reasoning_effort = r.reasoning_effort,
    workspace_paths = r.workspace_paths, is_subagent = coalesce(r.is_subagent, false),
    prompt_count = s.prompt_count + coalesce(r.prompt_count, 0),
    turn_count = s.turn_count + coalesce(r.turn_count, 0),
    compactions = s.compactions + coalesce(r.compactions, 0),
    tool_call_count = s.tool_call_count + coalesce(r.tool_call_count, 0),
    tool_error_count = s.tool_error_count + coalesce(r.tool_error_count, 0),
    tool_reject_count = s.tool_reject_count + coalesce(r.tool_reject_count, 0),
    model_call_count = s.model_call_count + coalesce(r.model_call_count, 0),
    model_error_count = s.model_error_count + coalesce(r.model_error_count, 0),
    input_tokens = s.input_tokens + coalesce(r.input_tokens, 0),
    output_tokens = s.output_tokens + coalesce(r.output_tokens, 0),
    cache_read_tokens = s.cache_read_tokens + coalesce(r.cache_read_tokens, 0),
    cache_write_tokens = s.cache_write_tokens + coalesce(r.cache_write_tokens, 0),
    reasoning_tokens = s.reasoning_tokens + coalesce(r.reasoning_tokens, 0),
    cost_usd_micros = s.cost_usd_micros + coalesce(r.cost_usd_micros, 0),
    lines_added = s.lines_added + coalesce(r.lines_added, 0),
    lines_removed = s.lines_removed + coalesce(r.lines_removed, 0),
    commits = s.commits + coalesce(r.commits, 0),
    pull_requests = s.pull_requests + coalesce(r.pull_requests, 0),
    active_seconds_user = s.active_seconds_user + coalesce(r.active_seconds_user, 0),
    active_seconds_agent = s.active_seconds_agent + coalesce(r.active_seconds_agent, 0),
    updated_at = now()
FROM json_to_recordset($1::json) AS r(
    id uuid, started_at timestamptz, last_event_at timestamptz, ended_at timestamptz,
    user_id uuid, user_source text, user_key text, user_key_kind text, claims jsonb,
    resource jsonb, parent_session_id uuid, signals text[], telemetry jsonb, session_type text,
    repository text, branch text, team text, project text, environment text, commit_sha text,
    cost_center text, start_type text, end_reason text, agent_version text, entrypoint text,
    terminal_type text, os_type text, os_version text, host_arch text, surface text,
    permission_mode text, sandbox_policy text, approval_policy text, reasoning_effort text,
    workspace_paths text[], is_subagent boolean, prompt_count bigint, turn_count bigint,
    compactions bigint, tool_call_count bigint, tool_error_count bigint, tool_reject_count bigint,
    model_call_count bigint, model_error_count bigint, input_tokens bigint, output_tokens bigint,
    cache_read_tokens bigint, cache_write_tokens bigint, reasoning_tokens bigint,
    cost_usd_micros bigint, lines_added bigint, lines_removed bigint, commits bigint,
    pull_requests bigint, active_seconds_user double precision,
    active_seconds_agent double precision)
WHERE s.id = r.id
"""

DROP = """
DELETE FROM metrics_sessions
WHERE id IN (SELECT value::uuid FROM json_array_elements_text($1::json))
"""


async def change_sessions(
    connection: ContextConnection,
    tenant_id: UUID,
    sessions: Iterable[Held],
    parts: Mapping[UUID, SessionPart],
) -> None:
    """Write what the sessions are now."""
    rows = [_changed(held, parts.get(held.id), tenant_id) for held in sessions]
    if rows:
        await connection.execute(CHANGE, as_json(rows))


async def drop_sessions(connection: ContextConnection, session_ids: list[UUID]) -> None:
    """Remove sessions that others adopted."""
    if session_ids:
        await connection.execute(DROP, as_json([str(session_id) for session_id in session_ids]))


def _changed(held: Held, part: SessionPart | None, tenant_id: UUID) -> dict[str, Any]:
    state = held.state
    said = state.said
    claim = best_claim(said)
    state.shown = {
        name: min(value, MAX_FIGURE)
        for name, value in figures_of(state, held.native).items()
        if value
    }
    for figures in (state.calls, state.named, state.recorded):
        # What came and gave way is what never came.
        for name in [name for name, value in figures.items() if not value]:
            del figures[name]
    changed: dict[str, Any] = {name: held.kept(name) for name in SAID}
    signals = held.signals | (part.signals if part is not None else set())
    changed |= {
        "id": held.id,
        "started_at": held.started_at,
        "last_event_at": held.last_event_at,
        "ended_at": _ended_at(held),
        "user_id": held.user_id,
        "user_source": held.user_source,
        "user_key": claim.value if claim is not None else None,
        "user_key_kind": claim.kind if claim is not None else None,
        "claims": _named(said, "@") or None,
        "resource": _named(said, "#") or None,
        "parent_session_id": _parent(held, tenant_id),
        "signals": sorted(signals),
        "telemetry": state,
        **{name: held.tallies[name] for name in COUNTED if name in held.tallies},
    }
    for name in FIGURES:
        if difference := state.shown.get(name, 0) - held.before.shown.get(name, 0):
            changed[name] = difference if name.startswith("active_") else round(difference)
    return changed


def _ended_at(held: Held) -> datetime | None:
    current: datetime | None = held.row["ended_at"]
    told, now = held.before.said.get("ended_at"), held.state.said.get("ended_at")
    if current is not None and (told is None or current != instant(told[1])):
        return current
    if now is None:
        return current
    last_ns = held.last_event_at.timestamp() * 1e9
    if last_ns > now[1] + GRACE_NS:
        # Something happened after the end: it goes on.
        return None
    if current is None and told is not None and last_ns <= told[1] + GRACE_NS:
        # It was told, nothing happened since, and yet it is not there: somebody emptied it.
        return None
    return instant(now[1])


def _parent(held: Held, tenant_id: UUID) -> UUID | None:
    found = held.state.said.get("parent_external_id")
    if found is None:
        return held.row["parent_session_id"]  # type: ignore[no-any-return]  # a uuid or None
    return session_id_of(tenant_id, held.row["agent"], str(found[1]))


def _named(said: Mapping[str, tuple[int, Any]], mark: str) -> dict[str, Any]:
    return {
        name[1:]: value
        for name, (_, value) in sorted(said.items())
        if name.startswith(mark) and name[1:] not in BY_KEY
    }
