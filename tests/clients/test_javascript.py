"""The exporters of opentelemetry-js, as Gemini CLI and its kin have them, meet the real server."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PROTOCOLS = ["http/json", "http/protobuf", "grpc"]


@pytest.fixture
def send(node, service):
    """Tell the server of the session, as any client is told where to: by its environment."""

    def tell(
        tenant, session: str, began_ms: int, protocol: str, *, key="", compression="gzip"
    ) -> subprocess.CompletedProcess[str]:
        port = service.grpc_port if protocol == "grpc" else service.port
        return node(
            str(HERE / "gemini_session.mjs"),
            session,
            str(began_ms),
            cwd=HERE,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{tenant.headers['Host']}:{port}",
            OTEL_EXPORTER_OTLP_HEADERS=f"x-api-key={key or tenant.key}",
            OTEL_EXPORTER_OTLP_COMPRESSION=compression,
        )

    return tell


@pytest.fixture
def began_ms() -> int:
    return int(time.time() * 1000) - 60_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_session_is_stored_as_it_was_told(new_tenant, send, service, began_ms, protocol):
    tenant = await new_tenant()

    sent = send(tenant, "s-1", began_ms, protocol)

    assert (sent.returncode, sent.stderr) == (0, "")
    assert_it_is_there_once(service, tenant)


@pytest.mark.parametrize(("first", "second"), list(pairwise([*PROTOCOLS, PROTOCOLS[0]])))
async def test_all_of_it_again_over_another_protocol_changes_nothing(
    new_tenant, send, service, began_ms, first, second
):
    tenant = await new_tenant()
    assert send(tenant, "s-1", began_ms, first).returncode == 0

    again = send(tenant, "s-1", began_ms, second, compression="none")

    assert (again.returncode, again.stderr) == (0, "")
    assert_it_is_there_once(service, tenant)


async def test_two_sessions_of_one_client_stay_two(new_tenant, send, service, began_ms):
    tenant = await new_tenant()

    for session in ("s-1", "s-2"):
        assert send(tenant, session, began_ms, "http/json").returncode == 0

    stored = service.read("sessions", tenant.headers)
    assert Counter(row["external_id"] for row in stored) == {"s-1": 1, "s-2": 1}
    assert [row["tool_call_count"] for row in stored] == [4, 4]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_wrong_key_is_a_failed_export(new_tenant, send, service, began_ms, protocol):
    tenant = await new_tenant()

    sent = send(tenant, "s-1", began_ms, protocol, key="msk_no_such")

    assert sent.returncode == 1
    assert service.read("sessions", tenant.headers) == []


def assert_it_is_there_once(service, tenant) -> None:
    (session,) = service.read("sessions", tenant.headers)
    tools = service.read("tool-metrics", tenant.headers, sort="started_at")
    calls = service.read("model-calls", tenant.headers, sort="started_at")

    assert (session["agent"], session["external_id"]) == ("gemini-cli", "s-1")
    assert session["user_email"] == "ada@example.com"
    assert (session["tool_call_count"], session["tool_error_count"]) == (4, 1)
    assert session["model_call_count"] == 4
    assert (session["lines_added"], session["lines_removed"]) == (7, 2)
    assert [(row["tool_name"], row["status"], row["duration_ms"]) for row in tools] == [
        ("read_file", "success", 12),
        ("read_file", "error", 8),
        ("run_shell_command", "success", 950),
        ("replace", "success", 30),
    ]
    assert [(row["status"], row["duration_ms"], row["input_tokens"]) for row in calls] == [
        ("success", 900, 1200),
        ("error", 300, None),
        ("success", 1100, 1500),
        ("success", 700, 1900),
    ]
    # What is cached is part of what went in; what was thought is added to what came out.
    assert [row["cache_read_tokens"] for row in calls] == [0, None, 1100, 1400]
    assert [row["output_tokens"] for row in calls] == [65, None, 60, 35]
    assert {row["request_model"] for row in calls} == {"gemini-2.5-flash"}
    assert {row["session_id"] for row in tools + calls} == {session["id"]}
