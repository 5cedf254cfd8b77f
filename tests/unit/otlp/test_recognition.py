"""Which client an item is of: its scope says it first, then its name, then its service."""

from __future__ import annotations

import pytest
from vectors import logs, mapped, metrics, record, span, spans, sum_metric

from metrics_service.otlp.agents import AGENTS


@pytest.mark.parametrize(
    ("scope", "name", "service", "code"),
    [
        ("com.anthropic.claude_code.events", "tool_result", "", "claude-code"),
        ("com.anthropic.claude_code", "claude_code.session.count", "", "claude-code"),
        ("", "claude_code.tool_result", "", "claude-code"),
        ("", "tool_result", "claude-code-desktop", "claude-code"),
        ("copilot-chat", "chat gpt-5", "", "copilot-vscode"),
        ("", "copilot_chat.tool.call", "", "copilot-vscode"),
        ("", "chat gpt-5", "copilot-chat", "copilot-vscode"),
        ("github.copilot", "chat gpt-5", "", "copilot-cli"),
        ("", "github.copilot.tool.call.count", "", "copilot-cli"),
        ("", "execute_tool bash", "github-copilot", "copilot-cli"),
        ("pydantic-ai", "chat gpt-5", "my-agent", ""),
        ("", "log", "", ""),
    ],
)
def test_a_client_is_known_by_scope_name_or_service(scope, name, service, code):
    assert AGENTS.of(scope, name, service).code == code


@pytest.mark.parametrize(
    ("scope", "name", "service", "code"),
    [
        # The user's own OTEL_SERVICE_NAME.
        ("com.anthropic.claude_code.events", "tool_result", "team-a", "claude-code"),
        ("", "copilot_chat.session.count", "team-a", "copilot-vscode"),
        # A client started in another's shell has inherited its name.
        ("github.copilot", "chat gpt-5", "claude-code", "copilot-cli"),
        ("", "github.copilot.tool.call.count", "claude-code", "copilot-cli"),
        # What says most of all is who wrote the item.
        ("copilot-chat", "github.copilot.tool.call.count", "github-copilot", "copilot-vscode"),
        ("github.copilot", "claude_code.tool_result", "claude-code", "copilot-cli"),
    ],
)
def test_scope_goes_before_name_and_name_before_service(scope, name, service, code):
    assert AGENTS.of(scope, name, service).code == code


@pytest.mark.parametrize(
    ("service", "code"), [("my-agent", "my-agent"), (None, "unknown"), ("", "unknown")]
)
def test_who_is_not_known_goes_by_the_service(service, code):
    call = span("execute_tool x", {"gen_ai.tool.name": "x"})

    (row,) = mapped(("traces", spans(service, "any", call))).tools.values()

    assert row.agent == code


def test_the_three_signals_of_a_renamed_client_are_of_one_agent():
    scope = "copilot-chat"
    attributes = {"gen_ai.conversation.id": "c-1", "gen_ai.operation.name": "chat"}

    out = mapped(
        ("logs", logs("team-a", scope, record("copilot_chat.session.start", attributes))),
        ("traces", spans("team-a", scope, span("chat m", attributes))),
        (
            "metrics",
            metrics("team-a", scope, sum_metric("copilot_chat.session.count", "", [({}, 1)])),
        ),
    )

    assert list(out.sessions) == [("copilot-vscode", "c-1")]
    assert {point.agent for point in out.points} == {"copilot-vscode"}
