"""`metrics-service setup`: blocks to paste for a tenant; README shows what it prints."""

from __future__ import annotations

import re
import shlex
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from command_line import CommandLine, on_database

from metrics_service.cli.demo import DemoTenant, agent_command
from metrics_service.cli.serve import binding_of
from metrics_service.cli.server import Binding
from metrics_service.cli.setup import PROTOCOLS
from metrics_service.settings import Settings
from metrics_service.setup.agents import AGENTS
from metrics_service.tenants.registry import Tenant

README = Path(__file__).parents[2] / "README.md"
SHOWN = ("claude-code", "codex", "gemini-cli")


@pytest.fixture(scope="module")
def line(addresses) -> CommandLine:
    return on_database(addresses)


@pytest.fixture
def new_slug(line) -> Callable[[], str]:
    """Make a tenant as operators do, and name it."""

    def make() -> str:
        slug = f"t{uuid4().hex[:16]}"
        assert line.here("tenant", "create", slug, "--name", "Some tenant").code == 0
        return slug

    return make


def keys_of(line, tenant):
    return {row["name"]: row for row in line.here("key", "list", tenant, "--json").json()}


def test_without_an_agent_those_there_are_are_listed(line):
    listed = line.here("setup", "--json").json()

    assert [one["agent"] for one in listed] == [*AGENTS]
    assert line.here("setup").out.count("\n") == len(AGENTS) + 1
    assert {word for one in listed for word in one["protocols"]} == set(PROTOCOLS)


def test_it_prints_blocks_for_the_tenants_own_address(line, new_slug):
    tenant = new_slug()
    host = f"{tenant}.localhost"

    done = line.here("setup", "codex", "--tenant", tenant, "--team", "web", METRICS_PORT="8123")

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("# Codex, over http/protobuf to http://127.0.0.1:8123\n")
    block = done.out.partition("# -- into ~/.codex/config.toml\n")[2].partition("\n\n")[0]
    exporter = tomllib.loads(block)["otel"]["exporter"]["otlp-http"]
    assert exporter["endpoint"] == "http://127.0.0.1:8123/v1/logs"
    assert exporter["headers"] == {"x-api-key": "msk_...", "host": host}
    assert "export OTEL_RESOURCE_ATTRIBUTES=team=web\n" in done.out
    assert keys_of(line, tenant) == {}


def test_a_fresh_key_may_ingest_and_no_more(line, new_slug):
    tenant = new_slug()
    whole = ("--key-name", "laptops", "--user", "Ada@Example.com", "--expires-in", "90d")

    named = line.here(
        "setup", "claude-code", "--tenant", tenant, "--new-key", *whole, "--json"
    ).json()
    plain = line.here("setup", "gemini-cli", "--tenant", tenant, "--new-key")

    assert named["key"]["key"] in named["parts"][0]["content"]
    assert named["key"]["scopes"] == ["ingest"]
    keys = keys_of(line, tenant)
    assert keys.keys() == {"laptops", "gemini-cli"}
    assert keys["laptops"]["user_id"] is not None
    assert keys["laptops"]["expires_at"] is not None
    assert keys["gemini-cli"]["scopes"] == ["ingest"]
    assert plain.out.count(keys["gemini-cli"]["prefix"]) == 1
    assert keys["gemini-cli"]["id"] in plain.out


def test_addresses_are_given_or_worked_out(line, new_slug):
    tenant = new_slug()
    domain = f"metrics.{tenant}.example"
    assert line.here("tenant", "domain", "add", tenant, domain).code == 0

    def endpoint(*options, **environ):
        done = line.here("setup", "claude-code", "--tenant", tenant, "--json", *options, **environ)
        return done.json()["endpoint"]

    assert endpoint("--endpoint", f"https://{domain}/") == f"https://{domain}"
    assert endpoint("--endpoint", f"http://{domain}:80") == f"http://{domain}"
    assert endpoint("--endpoint", f"http://{tenant}.localhost:9") == "http://127.0.0.1:9"
    grpc = ("--protocol", "grpc")
    assert endpoint(*grpc, "--grpc-endpoint", f"https://{domain}:4317") == f"https://{domain}:4317"
    assert endpoint(*grpc, METRICS_OTLP_GRPC_PORT="4317") == f"http://{tenant}.localhost:4317"
    based = endpoint(METRICS_BASE_DOMAIN="metrics.example", METRICS_PORT="8000")
    assert based == f"http://{tenant}.metrics.example:8000"


def test_what_is_wrong_is_one_line_and_makes_no_key(line, new_slug):
    tenant, other = new_slug(), new_slug()
    ours = ("--tenant", tenant, "--new-key")

    def refused(*arguments):
        done = line.here("setup", *arguments)
        assert done.out == ""
        assert done.err.count("\n") == 1
        return done.code, done.err

    code, err = refused("claude", *ours)
    assert (code, "claude-code, codex" in err) == (3, True)
    code, err = refused("codex", "--tenant", "no-such-tenant", "--new-key")
    assert (code, "no-such-tenant" in err) == (3, True)
    for arguments, words in (
        (("codex",), "--tenant"),
        (("codex", *ours, "--protocol", "smoke"), "'http/protobuf', 'http/json', 'grpc'"),
        (("cursor", *ours, "--protocol", "grpc"), "it speaks http/protobuf"),
        (("codex", *ours, "--protocol", "grpc"), "METRICS_OTLP_GRPC_PORT"),
        (("codex", *ours, "--team", ""), "team"),
        (("codex", *ours, "--repository", "x" * 256), "repository"),
        (("codex", *ours, "--team", "\udcff"), "team"),
        (("codex", *ours, "--user", "nobody"), "user"),
        (("codex", *ours, "--key-name", " "), "name"),
        (("codex", *ours, "--expires-in", "soon"), "duration"),
        (("codex", "--tenant", tenant, "--key-name", "x"), "--new-key"),
        (("codex", *ours, "--endpoint", "metrics.acme.com"), "--endpoint"),
        (("codex", *ours, "--endpoint", "ftp://metrics.acme.com"), "--endpoint"),
        (("codex", *ours, "--endpoint", "https://a.example:port"), "--endpoint"),
        (("codex", *ours, "--endpoint", f"https://{tenant}.localhost/v1/logs"), "--endpoint"),
        (("codex", *ours, "--endpoint", f"https://u:p@{tenant}.localhost"), "--endpoint"),
        (("codex", *ours, "--endpoint", "https://nobodys.example"), "is not a domain of"),
        (("codex", *ours, "--endpoint", "http://127.0.0.1:8000"), f"such as {tenant}.localhost"),
        (("codex", *ours, "--endpoint", f"https://{other}.localhost"), "is not a domain of"),
        (("codex", *ours, "--grpc-endpoint", f"https://{other}.localhost"), "--grpc-endpoint"),
    ):
        code, err = refused(*arguments)
        assert (code, words in err) == (2, True), err
    assert keys_of(line, tenant) == {}


def test_readme_shows_what_is_printed(line):
    readme = README.read_text()
    tenant = "fortium-demo"
    if line.here("tenant", "show", tenant).code:
        made = line.here("tenant", "create", tenant, "--name", "Fortium")
        assert made.code == 0, made.err
    section = readme.partition("## Connect an agent\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```(?:sh|toml)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)

    for agent in SHOWN:
        asked = f"metrics-service setup {agent} --tenant {tenant} --team web --repository acme/shop"
        assert asked in section
        printed = line.here(*asked.split()[1:], "--json", METRICS_PORT="8000").json()
        for part in printed["parts"]:
            assert part["content"] in [block.partition("\n")[2] for block in blocks], part


def test_serve_takes_grpc_where_the_setting_says():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])

    told = binding_of(Settings(metrics_otlp_grpc_port=free), None, free - 1, None, None)
    silent = binding_of(Settings(), None, free - 1, None, None)

    assert (told.otlp_grpc_port, silent.otlp_grpc_port) == (free, None)


def test_the_demo_starts_claude_code_with_all_that_it_must_be_told():
    tenant = Tenant(uuid4(), "acme", "Acme", "acme", "t_acme", "pro", "active")
    binding = Binding("127.0.0.1", 8000, 1)

    words = shlex.split(agent_command(DemoTenant(tenant, "msk_1"), binding, "localhost"))

    told = dict(word.split("=", 1) for word in words[:-1])
    assert words[-1] == "claude"
    assert told["CLAUDE_CODE_ENABLE_TELEMETRY"] == "1"
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:8000"
    assert told["OTEL_EXPORTER_OTLP_HEADERS"] == "x-api-key=msk_1,host=acme.localhost"
