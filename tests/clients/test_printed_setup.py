"""What `metrics-service setup` prints is put into agents as it stands; a session of theirs appears."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from command_line import on_database
from fake_model import Wish, fake_model

HERE = Path(__file__).resolve().parent
AGENTS = HERE / "agents" / "node_modules"
MACHINE = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
TEAM, REPOSITORY = "web & mobile", "acme/shop"
COMMAND = {"command": "echo hi"}
# What an agent says when it ends may still be on its way.
ARRIVES_WITHIN_S = 10.0
# Nobody is asked for updates, and nobody else is told anything.
ONLY_LOOPBACK = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}


class Client(msgspec.Struct, frozen=True):
    """How an agent is started once, without a person; and how it is told where its model is."""

    program: tuple[str, ...]
    """The first word is a file below the installed packages."""
    wish: Wish
    model: Callable[[str], dict[str, str]]
    """Variables that lead to the model at an address."""
    files: dict[str, str] = {}
    """What else lies in its home."""
    is_node: bool = False
    packages: Path = AGENTS


def codex(address: str) -> tuple[str, ...]:
    told = {
        "model": "gpt-5",
        "model_provider": "fake",
        "model_providers.fake.name": "Fake",
        "model_providers.fake.base_url": f"{address}/v1",
        "model_providers.fake.wire_api": "responses",
        "model_providers.fake.env_key": "FAKE_KEY",
        "approval_policy": "never",
        "sandbox_mode": "danger-full-access",
    }
    return tuple(word for key, value in told.items() for word in ("-c", f'{key}="{value}"'))


OPENCODE_MODEL = """
{"autoupdate": false, "share": "disabled", "model": "fake/m", "small_model": "fake/m",
 "provider": {"fake": {"npm": "@ai-sdk/openai-compatible", "name": "Fake",
   "options": {"baseURL": "{env:FAKE_URL}/v1", "apiKey": "none"},
   "models": {"m": {"name": "m", "tool_call": true, "limit": {"context": 100000, "output": 10000}}}}},
 "permission": {"bash": "allow"}}
"""

CLIENTS = {
    "claude-code": Client(
        program=(
            f"@anthropic-ai/claude-code-linux-{MACHINE}/claude",
            *("-p", "Say hi.", "--allowedTools", "Bash", "--model", "claude-sonnet-4-5"),
        ),
        wish=Wish("Bash", COMMAND),
        model=lambda address: {
            "ANTHROPIC_BASE_URL": address,
            "ANTHROPIC_API_KEY": "none",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
        },
    ),
    "codex": Client(
        program=(
            f"@openai/codex-linux-{MACHINE}/vendor/{platform.machine()}-unknown-linux-musl/bin/codex",
            "exec",
            *("--skip-git-repo-check", "Say hi."),
        ),
        wish=Wish("exec_command", {"cmd": "echo hi"}),
        model=lambda _: {"FAKE_KEY": "none"},
    ),
    "gemini-cli": Client(
        program=(
            "@google/gemini-cli/bundle/gemini.js",
            *("--yolo", "--skip-trust", "--model", "gemini-2.5-flash", "--prompt", "Say hi."),
        ),
        wish=Wish("run_shell_command", COMMAND),
        model=lambda address: {"GEMINI_API_KEY": "none", "GOOGLE_GEMINI_BASE_URL": address},
        files={
            ".gemini/settings.json": '{"security": {"auth": {"selectedType": "gemini-api-key"}},'
            ' "privacy": {"usageStatisticsEnabled": false}, "general": {"enableAutoUpdate": false}}'
        },
        is_node=True,
        packages=HERE / "node_modules",
    ),
    "qwen-code": Client(
        program=(
            "@qwen-code/qwen-code/cli.js",
            *("--auth-type", "openai", "--yolo", "-p", "Say hi."),
        ),
        wish=Wish("run_shell_command", COMMAND | {"is_background": False}),
        model=lambda address: {
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": f"{address}/v1",
            "OPENAI_MODEL": "m",
        },
        files={
            ".qwen/settings.json": '{"privacy": {"usageStatisticsEnabled": false},'
            ' "general": {"enableAutoUpdate": false}}'
        },
        is_node=True,
    ),
    "copilot-cli": Client(
        program=(
            f"@github/copilot-linux-{MACHINE}/copilot",
            *("-p", "Say hi.", "--allow-all-tools"),
        ),
        wish=Wish("bash", COMMAND | {"description": "Say hi"}),
        model=lambda address: {
            "COPILOT_OFFLINE": "true",
            "COPILOT_PROVIDER_BASE_URL": f"{address}/v1",
            "COPILOT_PROVIDER_TYPE": "openai",
            "COPILOT_PROVIDER_API_KEY": "none",
            "COPILOT_MODEL": "gpt-5",
            "COPILOT_AUTO_UPDATE": "false",
        },
    ),
    "opencode": Client(
        program=(f"opencode-linux-{MACHINE}/bin/opencode", "run", "Say hi."),
        wish=Wish("bash", COMMAND | {"description": "Say hi"}),
        model=lambda address: {
            "FAKE_URL": address,
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
        },
        files={"work/opencode.json": OPENCODE_MODEL},
    ),
}


@pytest.fixture
def printed(addresses, service) -> Callable[..., list[dict[str, Any]]]:
    """The parts that the command prints for a tenant of the server that is running, with a fresh key."""

    def ask(tenant, agent: str, *options: str) -> list[dict[str, Any]]:
        line = on_database(addresses)
        host = tenant.headers["Host"]
        told = line(
            *("setup", agent, "--tenant", tenant.slug, "--new-key", "--json"),
            *("--team", TEAM, "--repository", REPOSITORY),
            *("--endpoint", f"http://{host}:{service.port}"),
            *("--grpc-endpoint", f"http://{host}:{service.grpc_port}"),
            *options,
        )
        return told.json()["parts"]

    return ask


def run(
    client: Client, parts: list[dict[str, Any]], home: Path, *, environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Write down what was printed, and start the agent from a shell that has read it."""
    (home / "work").mkdir()
    files = {part["path"].removeprefix("~/"): part["content"] for part in parts if part["path"]}
    for path, content in (client.files | files).items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(content)
    exports = "".join(part["content"] for part in parts if part["kind"] == "environment")
    program = str(client.packages / client.program[0])
    command = ["node", program] if client.is_node else [program]
    return subprocess.run(
        ["sh", "-c", f"{exports}\nexec {shlex.join([*command, *client.program[1:]])}"],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8"}
        | ONLY_LOOPBACK
        | environ,
        cwd=home / "work",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def arrived(service, tenant) -> list[dict[str, Any]]:
    """The tenant's sessions, once one has its tool call and the model's two turns."""
    give_up_at = time.monotonic() + ARRIVES_WITHIN_S
    while True:
        sessions = service.read("sessions", tenant.headers)
        is_whole = any(row["tool_call_count"] and row["model_call_count"] > 1 for row in sessions)
        if is_whole or time.monotonic() > give_up_at:
            return sessions
        time.sleep(0.2)


@pytest.mark.parametrize("agent", sorted(CLIENTS))
async def test_an_agent_set_up_as_printed_shows_up(new_tenant, service, printed, tmp_path, agent):
    client = CLIENTS[agent]
    if not (client.packages / client.program[0]).exists():
        pytest.skip(f"{agent} is not installed: npm install --prefix tests/clients/agents")
    if client.is_node and shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    tenant, other = await new_tenant(), await new_tenant()
    parts = printed(tenant, agent)

    with fake_model([client.wish]) as model:
        if agent == "codex":
            program, verb, *words = client.program
            client = msgspec.structs.replace(client, program=(program, verb, *codex(model), *words))
        ran = run(client, parts, tmp_path, environ=client.model(model))

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "All done." in ran.stdout
    (session,) = arrived(service, tenant)
    assert session["agent"] == agent
    assert (session["team"], session["repository"]) == (TEAM, REPOSITORY)
    assert session["tool_call_count"] == 1
    assert session["model_call_count"] >= 2
    assert service.read("sessions", other.headers) == []


async def test_the_server_names_the_port_at_which_it_takes_grpc(new_tenant, service):
    tenant = await new_tenant()

    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(
            f"http://127.0.0.1:{service.port}/api/v1/setup/claude-code",
            params={"protocol": "grpc"},
            headers=tenant.headers,
        )

    assert answer.status_code == 200, answer.text
    assert answer.json()["endpoint"] == f"http://{tenant.headers['Host']}:{service.grpc_port}"
