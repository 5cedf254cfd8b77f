"""What agents tell of a session beside its calls: prompts, turns, code, time, and why calls failed.

All of it follows from the calls, and is drawn apart from them: so the calls of a history stay what
they are. Nothing that anybody wrote is among it, only how long it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from metrics_service.ingest.parts import LOGS, METRICS, TRACES
from metrics_service.ingest.records import ModelCallRecord, ToolMetricRecord
from metrics_service.ingest.telemetry import EventRecord, Point, SessionPart, Telemetry, ns_of
from metrics_service.seeds.agents import AGENTS
from metrics_service.seeds.story import log_normal
from metrics_service.seeds.work import Work

Fact = ToolMetricRecord | ModelCallRecord

# What nobody did anything in for so long ended with a prompt.
PAUSE = timedelta(seconds=5)
TYPED_A_SECOND = 5
BYTES_A_LINE = 38
ALWAYS_SHARE = 0.14
MODIFIED_SHARE = 0.07
COMMIT_SHARE = 0.35
EDITS_A_COMMIT = 2
COMPACTED_SHARE = 0.6
GIVEN_UP_ATTEMPTS = 9
SEVERITY_ERROR = 17

TELL_OF_TURNS = frozenset({"claude-code"})
TERMINALS = ("vscode", "iTerm.app", "tmux", "WindowsTerminal", "ghostty")
MESSAGES = {
    "tool_error": "The tool ended with an error.",
    "timeout": "Stopped: it took longer than is allowed.",
    "exit_code": "Process exited with code 1",
    "command_not_found": "command not found",
    "permission_denied": "Permission denied",
    "file_not_found": "File does not exist.",
    "file_too_large": "File is larger than 256 KiB; read a part of it.",
    "text_not_found": "The text to replace was not found in the file.",
    "file_changed": "The file was changed since it was read.",
    "invalid_pattern": "regex parse error: unclosed group",
    "http_404": "Request failed with status code 404",
    "http_403": "Request failed with status code 403",
    "http_401": "Request failed with status code 401",
    "http_502": "Request failed with status code 502",
    "connection_reset": "read ECONNRESET",
    "subagent_failed": "The subagent ended without an answer.",
    "upstream_timeout": "MCP error -32001: Request timed out",
    "invalid_arguments": "MCP error -32602: Invalid arguments",
    "overloaded": "Overloaded",
    "rate_limited": "This request would exceed the rate limit of your organization.",
    "connection_error": "Connection error.",
    "invalid_request": "The prompt is longer than the model's context.",
}
EXIT_CODES = {"exit_code": 1, "command_not_found": 127, "permission_denied": 126}
HTTP_STATUS = {"overloaded": 529, "rate_limited": 429, "invalid_request": 400}


class ToolDetails(msgspec.Struct, kw_only=True):
    """Which tool call, and what the JSON API has no word for."""

    session_id: UUID
    started_at: datetime
    tool_name: str
    wait_ms: float | None
    team: str | None
    repository: str | None
    decision: str | None = None
    decision_mode: str | None = None
    error_message: str | None = None
    exit_code: int | None = None
    lines_added: int | None = None
    lines_removed: int | None = None
    git_commit_id: str | None = None

    @property
    def says_anything(self) -> bool:
        said = (self.decision, self.error_message, self.lines_added, self.git_commit_id)
        return any(one is not None for one in said)


class ModelDetails(msgspec.Struct, kw_only=True):
    """As `ToolDetails`, of a model call that failed."""

    session_id: UUID
    started_at: datetime
    error_message: str
    http_status: int | None


class Telling:
    """Everything that is told beside the calls of some sessions."""

    def __init__(self, tenant_id: UUID) -> None:
        self.telemetry = Telemetry(tenant_id)
        self.tools: list[ToolDetails] = []
        self.models: list[ModelDetails] = []

    def tell(self, work: Work) -> None:
        """Add one session."""
        stated = work.session
        rng = Random(f"{stated.external_id}/told")
        started_ns = ns_of(stated.started_at)
        session = self.telemetry.session(stated.agent, stated.external_id, started_ns, LOGS)
        session.see(ns_of(work.until), METRICS)
        said = {
            "agent_version": AGENTS[stated.agent].version,
            "os_type": (stated.metadata or {}).get("os"),
            "terminal_type": rng.choice(TERMINALS) if work.is_attended else None,
            "commit_sha": rng.randbytes(20).hex(),
            "parent_external_id": work.parent,
            "is_subagent": True if work.parent is not None else None,
        }
        for column, value in said.items():
            session.say(column, value, started_ns)
        typed_s = self._prompts(rng, work, session)
        self._marks(work, session)
        details = self._details(rng, work, session.id)
        self.tools += [one for one in details if one.says_anything]
        commits = sum(one.git_commit_id is not None for one in details)
        waited_s = sum(metric.wait_ms or 0 for metric in work.tool_metrics) / 1000
        ran_s = sum(fact.duration_ms or 0 for fact in _facts(work)) / 1000
        for metric, kind, value in (
            ("code.lines", "added", sum(one.lines_added or 0 for one in details)),
            ("code.lines", "removed", sum(one.lines_removed or 0 for one in details)),
            ("commit.count", None, commits),
            ("pull_request.count", None, int(commits > 0 and _has_pull_request(work))),
            ("active_time", "user", round(typed_s + waited_s, 1) if work.is_attended else 0),
            ("active_time", "cli", round(ran_s, 1)),
        ):
            if value:
                self.telemetry.points.append(_point(work, session, metric, kind, value))

    def _prompts(self, rng: Random, work: Work, session: SessionPart) -> float:
        """Add prompts, and the turns that followed; return for how many seconds was typed."""
        typed_s = 0.0
        for place, (paused_at, began_at, ended_at) in enumerate(_turns(work)):
            length = int(log_normal(rng, 190, 0.9, most=12_000)) + 4
            paused_s = (began_at - paused_at).total_seconds()
            # The first one may have been written before there was a session.
            typed_s += min(length / TYPED_A_SECOND, paused_s) if place else 0
            prompt = EventRecord(
                kind="prompt",
                name="user_prompt",
                occurred_at=began_at,
                turn_id=f"turn-{place + 1}",
                attributes={"prompt_length": length},
            )
            self.telemetry.event(session, session.agent, f"prompt-{place}", prompt)
            if session.agent in TELL_OF_TURNS:
                turn = EventRecord(
                    kind="turn",
                    name="interaction",
                    occurred_at=began_at,
                    duration_ms=(ended_at - began_at) / timedelta(milliseconds=1),
                    turn_id=prompt.turn_id,
                    signal=TRACES,
                )
                self.telemetry.event(session, session.agent, f"turn-{place}", turn)
        return typed_s

    def _marks(self, work: Work, session: SessionPart) -> None:
        """Add compactions, and errors after which the client gave up."""
        answered = [call for call in work.model_calls if call.input_tokens is not None]
        for before, call in pairwise(answered):
            held, kept = before.input_tokens or 0, call.input_tokens or 0
            if kept < held * COMPACTED_SHARE:
                sizes = {"trigger": "auto", "pre_tokens": held, "post_tokens": kept}
                self._mark(session, "compaction", "compaction", call.started_at, sizes)
        for call in work.model_calls:
            if call.status != "error" or call.error_type is None:
                continue
            details = ModelDetails(
                session_id=session.id,
                started_at=call.started_at,
                error_message=MESSAGES[call.error_type],
                http_status=HTTP_STATUS.get(call.error_type),
            )
            self.models.append(details)
            if call.attempts >= GIVEN_UP_ATTEMPTS:
                ended_at = call.started_at + timedelta(milliseconds=call.duration_ms or 0)
                attributes = {"error": call.error_type, "attempts": call.attempts}
                self._mark(session, "error", "api_retries_exhausted", ended_at, attributes)

    def _mark(
        self,
        session: SessionPart,
        kind: str,
        name: str,
        at: datetime,
        attributes: dict[str, Any],
    ) -> None:
        severity = SEVERITY_ERROR if kind == "error" else None
        record = EventRecord(
            kind=kind, name=name, occurred_at=at, severity=severity, attributes=attributes
        )
        self.telemetry.event(session, session.agent, f"{kind}-{ns_of(at)}", record)

    def _details(self, rng: Random, work: Work, session_id: UUID) -> list[ToolDetails]:
        edits = 0
        found = []
        for metric in work.tool_metrics:
            details = ToolDetails(
                session_id=session_id,
                started_at=metric.started_at,
                tool_name=metric.tool_name,
                wait_ms=metric.wait_ms,
                team=work.session.team,
                repository=work.session.repository,
            )
            found.append(details)
            if metric.wait_ms is not None:
                _decide(rng, metric, details)
            if metric.error_type is not None:
                details.error_message = MESSAGES[metric.error_type]
                details.exit_code = EXIT_CODES.get(metric.error_type)
            elif metric.status == "success" and metric.tool_category == "file_edit":
                edits += 1
                details.lines_added = 1 + (metric.input_bytes or 0) // BYTES_A_LINE
                details.lines_removed = int(details.lines_added * rng.uniform(0, 0.8))
            elif (
                metric.status == "success"
                and metric.tool_category == "shell"
                and edits >= EDITS_A_COMMIT
                and rng.random() < COMMIT_SHARE
            ):
                details.git_commit_id, edits = rng.randbytes(20).hex(), 0
        return found


def _decide(rng: Random, metric: ToolMetricRecord, details: ToolDetails) -> None:
    chance = rng.random()
    details.decision_mode = "user_once"
    if metric.status == "rejected":
        details.decision = "reject"
    elif metric.tool_category == "file_edit" and chance < MODIFIED_SHARE:
        details.decision = "modify"
    else:
        details.decision = "accept"
        if chance > 1 - ALWAYS_SHARE:
            details.decision_mode = "user_always"


def _facts(work: Work) -> list[Fact]:
    return [*work.tool_metrics, *work.model_calls]


def _turns(work: Work) -> Iterator[tuple[datetime, datetime, datetime]]:
    """When the last turn was over, when this one began, and when it was over."""
    spans = []
    for fact in _facts(work):
        waited_ms = (fact.wait_ms or 0) if isinstance(fact, ToolMetricRecord) else 0
        spans.append(
            (
                fact.started_at - timedelta(milliseconds=waited_ms),
                fact.started_at + timedelta(milliseconds=fact.duration_ms or 0),
            )
        )
    paused_at = began_at = ended_at = work.session.started_at
    for begin, end in sorted(spans):
        if begin - ended_at > PAUSE:
            yield paused_at, began_at, ended_at
            paused_at, began_at = ended_at, begin
        ended_at = max(ended_at, end)
    yield paused_at, began_at, ended_at


def _has_pull_request(work: Work) -> bool:
    return any(
        metric.status == "success" and metric.tool_name.endswith("create_pull_request")
        for metric in work.tool_metrics
    )


def _point(work: Work, session: SessionPart, metric: str, kind: str | None, value: float) -> Point:
    """All that a metric of the session grew by."""
    return Point(
        session=session,
        agent=session.agent,
        metric=metric,
        instrument="sum",
        is_monotonic=True,
        is_cumulative=False,
        stream=sha256(session.scope + f"{metric}\0{kind}".encode()).digest()[:16],
        start_ns=ns_of(work.session.started_at),
        time_ns=ns_of(work.until),
        value=value,
        kind=kind,
    )
