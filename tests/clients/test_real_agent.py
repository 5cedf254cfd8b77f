"""Gemini CLI itself, with a model that is none, tells the real server what it did."""

from __future__ import annotations

import json

import pytest
from fake_model import Wish, fake_model

WISHES = [
    Wish("run_shell_command", {"command": "echo hello; exit 3"}),
    Wish("no_such_tool", {"question": "why?"}),
    Wish("write_file", {"file_path": "hello.txt", "content": "one\ntwo\nthree\n"}),
]


@pytest.fixture
def gemini(node, package, service, tmp_path):
    """Run it once, without a terminal and with all permissions, in a home of its own."""
    program = package("@google/gemini-cli") / "bundle" / "gemini.js"

    def run(tenant, protocol: str, model: str):
        port = service.grpc_port if protocol == "grpc" else service.port
        settings = {
            "telemetry": {
                "enabled": True,
                "target": "local",
                "otlpEndpoint": f"http://{tenant.headers['Host']}:{port}",
                "otlpProtocol": protocol,
                "traces": True,
            },
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"enableAutoUpdate": False},
        }
        (tmp_path / ".gemini").mkdir()
        (tmp_path / ".gemini" / "settings.json").write_text(json.dumps(settings))
        return node(
            str(program),
            *("--yolo", "--skip-trust", "--model", "gemini-2.5-flash"),
            *("--prompt", "Say hello."),
            cwd=tmp_path,
            GEMINI_API_KEY="none",
            GOOGLE_GEMINI_BASE_URL=model,
            OTEL_EXPORTER_OTLP_HEADERS=f"x-api-key={tenant.key}",
        )

    return run


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_a_run_of_gemini_cli_is_stored_once(new_tenant, gemini, service, tmp_path, protocol):
    tenant = await new_tenant()

    with fake_model(WISHES) as model:
        ran = gemini(tenant, protocol, model)

    assert (ran.returncode, ran.stdout.strip()) == (0, "All done."), ran.stderr
    assert (tmp_path / "hello.txt").read_text() == "one\ntwo\nthree\n"
    (session,) = service.read("sessions", tenant.headers)
    tools = service.read("tool-metrics", tenant.headers, sort="started_at")
    calls = service.read("model-calls", tenant.headers, sort="started_at")
    assert session["agent"] == "gemini-cli"
    assert (session["tool_call_count"], session["tool_error_count"]) == (3, 1)
    assert (session["model_call_count"], session["lines_added"]) == (4, 3)
    assert (session["input_tokens"], session["output_tokens"]) == (400, 100)
    # A command that ends with 3 is a success in the eyes of this client.
    assert [(row["tool_name"], row["status"], row["error_type"]) for row in tools] == [
        ("run_shell_command", "success", None),
        ("no_such_tool", "error", "tool_not_registered"),
        ("write_file", "success", None),
    ]
    assert [row["session_id"] for row in tools + calls] == [session["id"]] * 7
    assert {(row["status"], row["request_model"]) for row in calls} == {
        ("success", "gemini-2.5-flash")
    }
    assert {(row["input_uncached_tokens"], row["reasoning_tokens"]) for row in calls} == {(60, 5)}
    assert all(row["duration_ms"] >= 0 for row in tools + calls)
