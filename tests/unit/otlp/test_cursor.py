"""Cursor's Enterprise export, made after its Wire Reference."""

from __future__ import annotations

import pytest
from vectors import (
    MS,
    T0,
    at,
    events,
    logs,
    mapped,
    metrics,
    model_rows,
    points,
    record,
    said,
    span,
    spans,
    sum_metric,
)

from metrics_service.ingest.parts import RANK_SURE

CONVERSATION = "11111111-2222-3333-4444-555555555555"
RESOURCE = {
    "cursor.team.id": 4242,
    "cursor.user.id": 77,
    "cursor.surface": "cli",
    "cursor.entrypoint": "cli",
    "service.version": "1.16.5",
}


def cursor(*records):
    return "logs", logs("cursor", "cursor.telemetry", *records, resource=RESOURCE)


def request(*, event_id="customer-telemetry:v1:e1", name=None, body="api_request", **changes):
    attributes = {
        "cursor.event.id": event_id,
        "cursor.source_event.id": "src-1",
        "cursor.conversation.id": CONVERSATION,
        "cursor.usage_event.id": "ue-1",
        "cursor.request.id": "r-1",
        "cursor.model.name": "claude-4.5-sonnet",
        "cursor.api.billable": True,
        "cursor.api.request.input_tokens": 100,
        "cursor.api.request.output_tokens": 200,
        "cursor.api.request.cache_read_tokens": 50,
        "cursor.api.request.cache_creation_tokens": 10,
        **changes,
    }
    return record(name, attributes, body=body)


def test_a_request_has_tokens_and_the_conversation_is_the_session():
    out = mapped(cursor(request()))

    (row,) = model_rows(out)
    assert row == {
        "started_at": at(0),
        "ended_at": at(0),
        "status": "success",
        "request_id": "r-1",
        "client_request_id": "ue-1",
        "request_model": "claude-4.5-sonnet",
        "input_tokens": 160,
        "input_uncached_tokens": 100,
        "cache_read_tokens": 50,
        "cache_write_tokens": 10,
        "output_tokens": 200,
        "query_source": "cli",
        "extra": row["extra"],
        "session": CONVERSATION,
        "signal": "logs",
        "rank": RANK_SURE,
    }
    assert row["extra"]["cursor.api.billable"] is True


def test_the_resource_says_who_and_where():
    told = said(mapped(cursor(request())), CONVERSATION)

    assert (told["@cursor.user.id"], told["@cursor.team.id"]) == ("77", "4242")
    assert (told["surface"], told["entrypoint"], told["agent_version"]) == ("cli", "cli", "1.16.5")


def test_an_event_that_comes_again_is_the_same_whatever_else_changed():
    again = record(
        None,
        {"cursor.event.id": "customer-telemetry:v1:e1", "cursor.conversation.id": CONVERSATION},
        body="api_request",
        time_ns=T0 + MS,
    )

    out = mapped(cursor(request()), cursor(again))

    assert len(model_rows(out)) == 1


def test_several_requests_of_one_turn_are_several_calls():
    out = mapped(cursor(request(), request(event_id="customer-telemetry:v1:e2")))

    assert len(model_rows(out)) == 2


@pytest.mark.parametrize(
    ("name", "body"),
    [(None, "api_request"), ("cursor.api.request", "api_request"), ("api_request", None)],
)
def test_the_events_name_may_be_the_bodys_or_have_dots(name, body):
    assert len(model_rows(mapped(cursor(request(name=name, body=body))))) == 1


@pytest.mark.parametrize(
    ("told", "status"),
    [({}, "error"), ({"cursor.api.status": "errored"}, "error"),
     ({"cursor.api.status": "aborted"}, "cancelled"), ({"cursor.api.status": "new"}, "error")],
)  # fmt: skip
def test_an_error_is_a_call_that_failed(told, status):
    failed = record(
        None,
        {"cursor.event.id": "e", "cursor.conversation.id": CONVERSATION,
         "cursor.model.name": "gpt-5", **told},
        body="api_error",
    )  # fmt: skip

    (row,) = model_rows(mapped(cursor(failed)))

    assert (row["status"], row["request_model"]) == (status, "gpt-5")
    assert "input_tokens" not in row
    assert "http_status" not in row


def test_corrections_and_all_else_are_events():
    names = [
        "api_correction_not_billed_errored",
        "skill_activated",
        "hook_execution_complete",
        "plugin_installed",
        "cloud_agent_setup_started",
    ]
    told = [
        record(None, {"cursor.event.id": name, "cursor.conversation.id": CONVERSATION}, body=name)
        for name in names
    ]

    out = mapped(cursor(*told))

    assert [event["name"] for event in events(out)] == names
    assert {event["session"] for event in events(out)} == {CONVERSATION}
    assert model_rows(out) == []


def test_metrics_are_deltas_of_nobodys_session():
    used = {"cursor.model.name": "gpt-5", "cursor.api.status": "success"}
    read = {"cursor.tool.kind": "builtin", "cursor.tool.name": "read"}
    told = metrics(
        "cursor",
        "cursor.telemetry",
        sum_metric(
            "cursor.token.usage",
            "{token}",
            [
                ({**used, "cursor.token.type": "input"}, 100),
                ({**used, "cursor.token.type": "output"}, 20),
                ({**used, "cursor.token.type": "cache_read"}, 40),
                ({**used, "cursor.token.type": "cache_creation"}, 10),
            ],
        ),
        sum_metric(
            "cursor.tool.calls",
            "{call}",
            [
                ({**read, "cursor.tool.status": "success"}, 3),
                ({**read, "cursor.tool.status": "failure"}, 2),
                ({**read, "cursor.tool.status": "aborted"}, 1),
            ],
        ),
        sum_metric("cursor.cost.usage", "USD", [({"cursor.model.name": "gpt-5"}, 0.25)]),
        resource=RESOURCE,
    )

    found = points(mapped(("metrics", told)))

    assert [(it["metric"], it.get("kind"), it["value"], it.get("status")) for it in found] == [
        ("token.usage", "input_uncached", 100.0, "success"),
        ("token.usage", "output", 20.0, "success"),
        ("token.usage", "cache_read", 40.0, "success"),
        ("token.usage", "cache_write", 10.0, "success"),
        ("tool.calls", None, 3.0, "success"),
        ("tool.calls", None, 2.0, "error"),
        ("tool.calls", None, 1.0, "cancelled"),
        ("cost.usage", None, 250_000.0, None),
    ]
    assert {it["model"] for it in found if it["metric"] != "tool.calls"} == {"gpt-5"}
    assert {it["tool_name"] for it in found if it["metric"] == "tool.calls"} == {"read"}
    assert {(it["agent"], it["session"], it["is_cumulative"]) for it in found} == {
        ("cursor", None, False)
    }


def test_bridges_of_the_same_name_speak_by_the_conventions():
    told = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "read",
        "gen_ai.conversation.id": CONVERSATION,
    }

    out = mapped(("traces", spans("cursor", "cursorscope", span("execute_tool read", told))))

    assert [event["name"] for event in events(out)] == []
    assert [session.agent for session in out.sessions.values()] == ["cursor"]
