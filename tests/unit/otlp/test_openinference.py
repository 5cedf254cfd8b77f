"""OpenInference spans, as its instrumentations of model and agent libraries send them."""

from __future__ import annotations

from vectors import (
    TRACE,
    at,
    events,
    mapped,
    model_rows,
    said,
    span,
    spans,
    tool_rows,
)

from metrics_service.ingest.parts import RANK_SPAN

SCOPE = "openinference.instrumentation.openai"


def test_an_llm_span_is_a_model_call_without_what_was_said():
    call = span(
        "ChatCompletion",
        {
            "openinference.span.kind": "LLM",
            "session.id": "s-1",
            "user.id": "u-1",
            "llm.provider": "openai",
            "llm.model_name": "gpt-5",
            "llm.token_count.prompt": 100,
            "llm.token_count.prompt_details.cache_read": 40,
            "llm.token_count.completion": 20,
            "llm.token_count.completion_details.reasoning": 5,
            "llm.token_count.total": 120,
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "secret",
            "llm.invocation_parameters": '{"temperature":0}',
            "input.value": "secret",
            "input.mime_type": "text/plain",
        },
    )

    out = mapped(("traces", spans("app", SCOPE, call)))

    assert model_rows(out) == [
        {
            "session": "s-1",
            "signal": "traces",
            "rank": RANK_SPAN,
            "started_at": at(),
            "ended_at": at(1000),
            "duration_ms": 1000.0,
            "status": "success",
            "trace_id": TRACE,
            "span_id": "00f067aa0ba902b7",
            "provider": "openai",
            "request_model": "gpt-5",
            "operation": "chat",
            "input_tokens": 100,
            "input_uncached_tokens": 60,
            "cache_read_tokens": 40,
            "output_tokens": 20,
            "reasoning_tokens": 5,
            "total_tokens_reported": 120,
            "extra": {"llm.invocation_parameters_bytes": 17, "input.value_bytes": 6},
        }
    ]
    assert said(out, "s-1") == {"@user.id": "u-1"}


def test_a_tool_span_needs_no_call_id():
    call = span(
        "get weather",
        {
            "openinference.span.kind": "TOOL",
            "session.id": "s-1",
            "tool.name": "get_weather",
            "tool.parameters": '{"city":"string"}',
            "input.value": '{"city":"Bern"}',
            "output.value": "cool",
        },
        status=2,
    )

    assert tool_rows(mapped(("traces", spans("app", SCOPE, call)))) == [
        {
            "session": "s-1",
            "signal": "traces",
            "rank": RANK_SPAN,
            "tool_name": "get_weather",
            "started_at": at(),
            "ended_at": at(1000),
            "duration_ms": 1000.0,
            "status": "error",
            "trace_id": TRACE,
            "span_id": "00f067aa0ba902b7",
            "input_bytes": 15,
            "output_bytes": 4,
            "extra": {"tool.parameters_bytes": 17},
        }
    ]


def test_a_tool_without_a_name_has_its_spans():
    call = span("get weather", {"openinference.span.kind": "tool"})

    (row,) = tool_rows(mapped(("traces", spans("app", SCOPE, call))))

    assert row["tool_name"] == "get weather"


def test_an_embedding_is_a_model_call():
    call = span(
        "CreateEmbeddings",
        {"openinference.span.kind": "EMBEDDING", "embedding.model_name": "small"},
    )

    (row,) = model_rows(mapped(("traces", spans("app", SCOPE, call))))

    assert (row["operation"], row["request_model"]) == ("embeddings", "small")


def test_an_agents_span_is_a_turn_and_its_other_steps_are_events_without_documents():
    agent = span("Runner", {"openinference.span.kind": "AGENT"}, span_id="a" * 16)
    chain = span("chain", {"openinference.span.kind": "CHAIN"}, span_id="b" * 16)
    retriever = span(
        "search",
        {
            "openinference.span.kind": "RETRIEVER",
            "retrieval.documents.0.document.content": "secret",
            "top_k": 3,
        },
        span_id="c" * 16,
    )

    out = mapped(("traces", spans("app", SCOPE, agent, chain, retriever)))

    assert [(event["kind"], event["name"], event.get("counts")) for event in events(out)] == [
        ("turn", "Runner", "turn_count"),
        ("span", "chain", None),
        ("span", "search", None),
    ]
    assert {event["session"] for event in events(out)} == {f"trace:{TRACE}"}
    assert events(out)[2]["attributes"] == {"openinference.span.kind": "RETRIEVER", "top_k": 3}
