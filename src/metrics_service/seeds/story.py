"""Tells one session: a clock that goes on with every model call, tool call and pause."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import ceil, exp
from random import Random
from typing import TypeVar

import msgspec

from metrics_service.ingest.records import ModelCallRecord, ToolMetricRecord, ToolStatus
from metrics_service.seeds.agents import Agent, Model, Tool

T = TypeVar("T")

CACHE_LIVES_S = 300
CONTEXT_LIMIT = 160_000
CONTEXT_AFTER_COMPACTION = 24_000
BYTES_A_TOKEN = 4
CACHE_BLOCK_TOKENS = 128

TOOL_LIMIT_MS = 120_000
SUBAGENT_LIMIT_MS = 900_000
SLOW_SHARE = 0.025
REJECTED_SHARE = 0.06
CANCELLED_SHARE = 0.004
PAUSE_SHARE = 0.22
PAUSE_MS = 95_000

MODEL_ERRORS = ("overloaded", "rate_limited", "connection_error", "invalid_request")
MODEL_ERROR_RATE = 0.012
MODEL_ERROR_RATE_ON_A_BAD_DAY = 0.14
REMOTE_ERROR_RATE_ON_A_BAD_DAY = 0.3


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What a session happens in."""

    agent: Agent
    tools: tuple[Tool, ...]
    external_id: str
    email: str
    is_attended: bool
    """Somebody is there to be asked, to think and to interrupt."""
    is_bad_day: bool


class Story:
    """One session, told call by call; what happened is in `tool_metrics` and `model_calls`."""

    def __init__(self, rng: Random, around: Circumstances, started_at: datetime) -> None:
        self.tool_metrics: list[ToolMetricRecord] = []
        self.model_calls: list[ModelCallRecord] = []
        self.clock = started_at
        self._rng = rng
        self._around = around
        self._model = pick(
            rng, around.agent.models, [model.weight for model in around.agent.models]
        )
        self._tool_weights = [tool.weight for tool in around.tools]
        self._context = rng.randint(12_000, 20_000)
        self._cached = 0
        self._called_at = started_at

    def tell(self, tool_calls: int) -> None:
        """Let the agent work until it has used this many tools, then sum up."""
        while len(self.tool_metrics) < tool_calls:
            self._ask_model()
            # Several tools in one answer are usual.
            for _ in range(self._rng.choices((1, 2, 3), (6, 3, 1))[0]):
                if len(self.tool_metrics) < tool_calls:
                    self._use_tool()
            if self._around.is_attended and self._rng.random() < PAUSE_SHARE:
                self._pass(log_normal(self._rng, PAUSE_MS, 1.0, most=1_800_000))
        self._ask_model()

    # -- tools ------------------------------------------------------------------------------------

    def _use_tool(self) -> None:
        rng = self._rng
        tool = pick(rng, self._around.tools, self._tool_weights)
        metric = ToolMetricRecord(
            tool_name=tool.name,
            started_at=self.clock,
            agent=self._around.agent.code,
            external_session_id=self._around.external_id,
            user_email=self._around.email,
            tool_category=tool.category,
            input_bytes=int(log_normal(rng, 900 if tool.category == "file_edit" else 180, 0.8)),
        )
        self.tool_metrics.append(metric)
        if self._around.is_attended and rng.random() < tool.asks:
            metric.wait_ms = log_normal(rng, 4_500, 1.1, most=1_800_000)
            self._pass(metric.wait_ms)
            # Durations are of the run alone, so the run begins when the waiting ends.
            metric.started_at = self.clock
            if rng.random() < REJECTED_SHARE:
                metric.status = "rejected"
                return
        self._run(tool, metric)

    def _run(self, tool: Tool, metric: ToolMetricRecord) -> None:
        rng = self._rng
        metric.status, metric.error_type = self._outcome(tool)
        limit = SUBAGENT_LIMIT_MS if tool.category == "subagent" else TOOL_LIMIT_MS
        duration = self._duration(tool)
        if duration >= limit:
            metric.status, metric.error_type, duration = "timeout", "timeout", limit
        metric.duration_ms = duration
        if metric.status != "timeout":
            metric.output_bytes = int(log_normal(rng, tool.output_bytes, 1.0, most=400_000))
            self._context += metric.output_bytes // BYTES_A_TOKEN
        if tool.is_process:
            metric.cpu_ms = round(duration * rng.uniform(0.15, 1.9), 1)
            metric.memory_bytes = int(log_normal(rng, 90e6, 0.9, most=6e9))
        self._pass(duration)

    def _outcome(self, tool: Tool) -> tuple[ToolStatus, str | None]:
        rng = self._rng
        rate = tool.error_rate
        if tool.is_remote and self._around.is_bad_day:
            rate = max(rate, REMOTE_ERROR_RATE_ON_A_BAD_DAY)
        chance = rng.random()
        if chance < rate:
            return "error", first_mostly(rng, tool.errors)
        if self._around.is_attended and chance > 1 - CANCELLED_SHARE:
            return "cancelled", None
        return "success", None

    def _duration(self, tool: Tool) -> float:
        rng = self._rng
        duration = log_normal(rng, tool.median_ms, tool.spread)
        if rng.random() < SLOW_SHARE:
            duration *= rng.uniform(4, 25)
        if tool.is_remote and self._around.is_bad_day:
            duration *= rng.uniform(2, 8)
        return round(duration, 1)

    # -- models -----------------------------------------------------------------------------------

    def _ask_model(self) -> None:
        rng = self._rng
        bad = self._around.is_bad_day
        # A client gives up on its own after some attempts; nobody waits for ever.
        for _ in range(3):
            if rng.random() >= (MODEL_ERROR_RATE_ON_A_BAD_DAY if bad else MODEL_ERROR_RATE):
                break
            self._fail()
        if self._around.is_attended and rng.random() < CANCELLED_SHARE:
            call = self._call(log_normal(rng, 5_000, 0.8))
            call.status = "cancelled"
            return
        self._answer()

    def _call(self, duration_ms: float) -> ModelCallRecord:
        call = ModelCallRecord(
            started_at=self.clock,
            agent=self._around.agent.code,
            external_session_id=self._around.external_id,
            user_email=self._around.email,
            duration_ms=duration_ms,
            provider=self._model.provider,
            request_model=self._model.request,
        )
        self.model_calls.append(call)
        self._pass(duration_ms)
        return call

    def _fail(self) -> None:
        rng = self._rng
        call = self._call(log_normal(rng, 9_000, 1.0, most=300_000))
        call.status = "error"
        call.error_type = first_mostly(rng, MODEL_ERRORS)
        call.attempts = rng.randint(1, 10)

    def _answer(self) -> None:
        rng, model = self._rng, self._model
        output = int(log_normal(rng, 320, 1.0, most=16_000)) + 1
        ttft = log_normal(rng, 1_100, 0.6) * (rng.uniform(1.5, 5) if self._around.is_bad_day else 1)
        input_tokens, read, written = self._input_tokens()
        call = self._call(round(ttft + output / model.tokens_a_second * 1_000, 1))
        call.ttft_ms = round(ttft, 1)
        call.response_model = model.response
        call.input_tokens = input_tokens
        call.cache_read_tokens, call.cache_write_tokens = read, written
        call.input_uncached_tokens = input_tokens - read - written
        call.output_tokens = output
        call.reasoning_tokens = int(output * min(0.95, model.reasoning * rng.uniform(0.4, 1.5)))
        if self._around.agent.cost_source != "none":
            call.cost_source = self._around.agent.cost_source
            call.cost_usd_micros = cost_of(model, call)
        self._context += output - call.reasoning_tokens

    def _input_tokens(self) -> tuple[int, int, int]:
        """The input of the next call: all of it, what the cache gives, what goes into the cache."""
        rng = self._rng
        if self._context > CONTEXT_LIMIT:
            self._context, self._cached = CONTEXT_AFTER_COMPACTION, 0
        if self.clock - self._called_at > timedelta(seconds=CACHE_LIVES_S):
            self._cached = 0
        total, read, written = self._context, self._cached, 0
        self._called_at, self._cached = self.clock, total
        if self._around.agent.caching == "explicit":
            written = total - read
            return total + rng.randint(3, 40), read, written
        hit = rng.random() < 0.92
        return total, read // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS if hit else 0, written

    def _pass(self, milliseconds: float) -> None:
        # Up, so that a session never ends before what happened in it.
        self.clock += timedelta(milliseconds=ceil(milliseconds))


def cost_of(model: Model, call: ModelCallRecord) -> int:
    """What a call that succeeded costs, in micro-USD."""
    return round(
        (call.input_uncached_tokens or 0) * model.price
        + (call.cache_read_tokens or 0) * model.cache_read_price
        + (call.cache_write_tokens or 0) * model.cache_write_price
        + (call.output_tokens or 0) * model.output_price
    )


def log_normal(rng: Random, median: float, spread: float, *, most: float = float("inf")) -> float:
    """Draw around a median: most values near it, a few far above."""
    return round(min(most, median * exp(rng.gauss(0, spread))), 1)


def pick(rng: Random, things: Sequence[T], weights: Sequence[float]) -> T:
    return rng.choices(things, weights)[0]


def first_mostly(rng: Random, things: Sequence[T]) -> T:
    return pick(rng, things, [1 / 3**place for place in range(len(things))])
