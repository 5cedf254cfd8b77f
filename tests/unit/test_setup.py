"""Set-up snippets: each agent over each protocol, and values that would like to leave their place."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
import yaml

from metrics_service.errors import NotFoundError
from metrics_service.setup.agents import AGENTS
from metrics_service.setup.compose import (
    WrongProtocolError,
    choose_protocol,
    compose,
    find_agent,
    list_agents,
)
from metrics_service.setup.connection import Connection, Endpoint
from metrics_service.setup.schemas import Part, Setup
from metrics_service.setup.writing import form, toml_file

ROOT = Path(__file__).parents[2]
FAR = Endpoint("https", "metrics.acme.example", None, "https://metrics.acme.example:4317")
NEAR = Endpoint("http", "acme.localhost", 8000, "http://acme.localhost:4317")
KEY = "msk_0123456789_AbC-dEf_" + "x" * 36
SPOKEN = [(agent, protocol) for agent in AGENTS.values() for protocol in agent.protocols]
HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    '"""\n[other]\nx = 1',
    "line\nexport PWNED=1\n",
    "a,b=c;d e",
    "100%25 & more",
    "${env:HOME} $HOME",
    "\\\\ \\n \\u0041 \\",
    "tab\tbell\x07del\x7fnext\x85sep\u2028",
    "Bücher / 書店 / \U0001f4da",
    "# no comment",
    "- item: {a: b} &anchor *alias !tag",
    "x" * 255,
]
SHELLS_OWN = {"PWD", "OLDPWD", "SHLVL", "_"}
END = "that was all"


def setup_of(
    agent: str, protocol: str | None = None, endpoint: Endpoint = FAR, **told: Any
) -> Setup:
    found = AGENTS[agent]
    spoken = choose_protocol(found, protocol, endpoint)
    return compose(found, Connection(endpoint=endpoint, protocol=spoken, key=KEY, **told))


def content(setup: Setup, format_: str) -> str:
    (found,) = (part.content for part in setup.parts if part.format == format_)
    return found


def shell(exports: str, cwd: Path) -> dict[str, str]:
    """What a shell that read the exports hands to a program."""
    (told,) = shells([exports], cwd)
    return told


def shells(all_exports: list[str], cwd: Path) -> list[dict[str, str]]:
    """The same for several, one after the other, each on its own."""
    env = shutil.which("env")
    assert env is not None
    script = "\n".join(f"(\n{exports}\n{env} -0; printf '{END}\\0'\n)" for exports in all_exports)
    done = subprocess.run([env, "-i", "sh", "-c", script], cwd=cwd, capture_output=True, check=True)
    assert done.stderr == b""
    *told, rest = done.stdout.decode().split(f"{END}\0")
    assert (rest, len(told)) == ("", len(all_exports))
    return [variables(one) for one in told]


def variables(told: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in told.split("\0") if line)
    return {name: value for name, _, value in pairs if name not in SHELLS_OWN}


def attributes_of(told: str, *, encoded: bool) -> dict[str, str]:
    pairs = (pair.split("=", 1) for pair in told.split(","))
    return {name: unquote(value) if encoded else value for name, value in pairs}


def read(part: Part, cwd: Path) -> Any:
    match part.format:
        case "sh":
            return shell(part.content, cwd)
        case "toml":
            return tomllib.loads(part.content)
        case "json":
            return json.loads(part.content)
        case "yaml":
            return yaml.safe_load(part.content)
    return part.content


# -- every agent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("agent", "protocol"), SPOKEN, ids=lambda one: getattr(one, "code", one))
@pytest.mark.parametrize("endpoint", [FAR, NEAR], ids=["far", "near"])
def test_each_agent_is_told_address_and_key_over_each_protocol(tmp_path, agent, protocol, endpoint):
    setup = setup_of(agent.code, protocol, endpoint, team="web", repository="acme/shop")

    assert (setup.agent, setup.name, setup.protocol) == (agent.code, agent.name, protocol)
    whole = "".join(part.content for part in setup.parts)
    assert setup.endpoint in whole
    assert KEY in whole
    assert all(read(part, tmp_path) for part in setup.parts)
    assert setup.notes
    assert any("/api/v1/ingest-log" in check for check in setup.check)
    assert any("otlp send-test" in check for check in setup.check)
    if protocol == "grpc":
        assert setup.endpoints == [endpoint.grpc]
    else:
        assert setup.endpoints == [f"{setup.endpoint}/v1/{signal}" for signal in agent.signals]


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_the_shown_key_stands_in_the_parts_alone(agent):
    setup = setup_of(agent)

    assert not any(KEY in line for line in [*setup.notes, *setup.check])


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_without_a_key_a_placeholder_says_what_to_do(agent):
    spoken = AGENTS[agent].protocols[0]
    setup = compose(AGENTS[agent], Connection(endpoint=FAR, protocol=spoken))

    assert "msk_..." in "".join(part.content for part in setup.parts)
    assert any("msk_..." in note for note in setup.notes)


def test_the_list_names_every_agent_with_its_default_first():
    listed = {view.agent: view.protocols for view in list_agents()}

    assert listed == {code: [*agent.protocols] for code, agent in AGENTS.items()}
    assert listed["gemini-cli"] == ["http/json", "grpc"]
    assert listed["cursor"] == ["http/protobuf"]


def test_an_unknown_agent_is_not_found_and_the_known_ones_are_named():
    with pytest.raises(NotFoundError, match="claude-code, codex, gemini-cli"):
        find_agent("claude")


@pytest.mark.parametrize(
    ("agent", "protocol"),
    [
        (agent, protocol)
        for agent, protocol in product(AGENTS.values(), ("http/protobuf", "http/json", "grpc"))
        if protocol not in agent.protocols
    ],
    ids=lambda one: getattr(one, "code", one),
)
def test_a_protocol_that_an_agent_does_not_speak_is_refused(agent, protocol):
    with pytest.raises(WrongProtocolError) as refused:
        choose_protocol(agent, protocol, FAR)

    assert str(refused.value) == (
        f"{agent.code} does not speak {protocol}; it speaks {', '.join(agent.protocols)}"
    )


def test_grpc_is_refused_where_nothing_takes_it():
    served = msgspec.structs.replace(FAR, grpc=None)

    with pytest.raises(WrongProtocolError, match="--otlp-grpc-port"):
        choose_protocol(AGENTS["codex"], "grpc", served)


# -- addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "origin", "url"),
    [
        (Endpoint("https", "a.example"), "https://a.example", "https://a.example"),
        (Endpoint("https", "a.example", 443), "https://a.example", "https://a.example"),
        (Endpoint("https", "a.example", 80), "https://a.example:80", "https://a.example:80"),
        (Endpoint("http", "a.example", 8000), "http://a.example:8000", "http://a.example:8000"),
        (Endpoint("http", "a.localhost", 8000), "http://a.localhost:8000", "http://127.0.0.1:8000"),
        (Endpoint("http", "a.localhost"), "http://a.localhost", "http://127.0.0.1"),
        # A certificate is for a name.
        (Endpoint("https", "a.localhost"), "https://a.localhost", "https://a.localhost"),
        (Endpoint("http", "localhost.example"), "http://localhost.example", "http://localhost.example"),
    ],
)  # fmt: skip
def test_only_names_that_agents_cannot_resolve_are_replaced(endpoint, origin, url):
    assert (endpoint.origin, endpoint.url) == (origin, url)


def test_below_localhost_a_header_names_the_tenant_where_headers_can():
    assert Connection(endpoint=NEAR, protocol="http/json", key="k").header_list == (
        "x-api-key=k,host=acme.localhost"
    )
    assert Connection(endpoint=NEAR, protocol="grpc", key="k").header_list == "x-api-key=k"
    assert Connection(endpoint=FAR, protocol="http/json", key="k").header_list == "x-api-key=k"


def test_below_localhost_grpc_names_the_tenant_by_its_address_and_says_so():
    setup = setup_of("claude-code", "grpc", NEAR)

    assert setup.endpoint == "http://acme.localhost:4317"
    assert any("127.0.0.1 acme.localhost" in note for note in setup.notes)


def test_a_vendors_servers_are_never_told_of_loopback():
    setup = setup_of("cursor", endpoint=NEAR)

    assert setup.endpoint == "http://acme.localhost:8000"
    assert any("is not https" in note for note in setup.notes)
    assert "127.0.0.1" not in json.dumps(msgspec.to_builtins(setup))


# -- the clients' own words -------------------------------------------------------------------------


def test_claude_code_is_told_a_protocol_its_exporters_and_the_beta(tmp_path):
    told = shell(content(setup_of("claude-code"), "sh"), tmp_path)

    assert told == {
        "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
        "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA": "1",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://metrics.acme.example",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={KEY}",
    }


@pytest.mark.parametrize(
    ("protocol", "encoding"), [("http/protobuf", "binary"), ("http/json", "json")]
)
def test_codex_is_told_three_full_addresses(protocol, encoding):
    table = tomllib.loads(content(setup_of("codex", protocol), "toml"))["otel"]

    def to(signal):
        place = f"https://metrics.acme.example/v1/{signal}"
        return {"endpoint": place, "protocol": encoding, "headers": {"x-api-key": KEY}}

    assert table == {
        "log_user_prompt": False,
        "exporter": {"otlp-http": to("logs")},
        "trace_exporter": {"otlp-http": to("traces")},
        "metrics_exporter": {"otlp-http": to("metrics")},
    }


def test_codex_is_told_an_origin_over_grpc():
    table = tomllib.loads(content(setup_of("codex", "grpc"), "toml"))["otel"]

    place = {"endpoint": "https://metrics.acme.example:4317", "headers": {"x-api-key": KEY}}
    assert [table[name] for name in ("exporter", "trace_exporter", "metrics_exporter")] == [
        {"otlp-grpc": place}
    ] * 3


@pytest.mark.parametrize(("protocol", "word"), [("http/json", "http"), ("grpc", "grpc")])
@pytest.mark.parametrize(("agent", "prefix"), [("gemini-cli", "GEMINI"), ("qwen-code", "QWEN")])
def test_gemini_and_its_fork_keep_prompts_to_themselves(tmp_path, agent, prefix, protocol, word):
    told = shell(content(setup_of(agent, protocol), "sh"), tmp_path)

    assert told[f"{prefix}_TELEMETRY_OTLP_PROTOCOL"] == word
    assert told[f"{prefix}_TELEMETRY_OTLP_ENDPOINT"] == (
        FAR.grpc if protocol == "grpc" else FAR.origin
    )
    assert told[f"{prefix}_TELEMETRY_LOG_PROMPTS"] == "false"
    assert told["OTEL_EXPORTER_OTLP_HEADERS"] == f"x-api-key={KEY}"


@pytest.mark.parametrize(
    ("protocol", "exporter", "place"),
    [
        ("http/json", "otlp-http", f"https://metrics.acme.example/i/{KEY}"),
        ("grpc", "otlp-grpc", "https://metrics.acme.example:4317"),
    ],
)
def test_vs_code_is_told_its_documented_settings(protocol, exporter, place):
    setup = setup_of("copilot-vscode", protocol)

    assert setup.parts[0].path == "~/.config/Code/User/settings.json"
    assert json.loads(content(setup, "json")) == {
        "github.copilot.chat.otel.enabled": True,
        "github.copilot.chat.otel.exporterType": exporter,
        "github.copilot.chat.otel.otlpEndpoint": place,
        "github.copilot.chat.otel.captureContent": False,
    }


def test_vs_code_gets_the_key_by_a_header_where_a_path_will_not_do(tmp_path):
    for protocol, endpoint in (("grpc", FAR), ("http/json", NEAR)):
        setup = setup_of("copilot-vscode", protocol, endpoint)

        assert KEY not in content(setup, "json")
        told = shell(content(setup, "sh"), tmp_path)
        assert told["OTEL_EXPORTER_OTLP_HEADERS"].startswith(f"x-api-key={KEY}")


def test_copilot_cli_is_told_by_environment(tmp_path):
    told = shell(content(setup_of("copilot-cli"), "sh"), tmp_path)

    assert told == {
        "COPILOT_OTEL_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://metrics.acme.example",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={KEY}",
    }


def test_opencode_is_told_to_make_spans():
    settings = json.loads(content(setup_of("opencode"), "json"))

    assert settings["experimental"] == {"openTelemetry": True}


def test_cursors_form_has_a_base_address_and_one_header():
    (part,) = setup_of("cursor").parts

    assert (part.kind, part.path) == ("form", "Team Settings > OpenTelemetry Export")
    fields = dict(line.split(": ", 1) for line in part.content.splitlines())
    assert {name: value.strip() for name, value in fields.items()} == {
        "Endpoint": "https://metrics.acme.example",
        "Header": "x-api-key",
        "Value": KEY,
    }


def test_the_collectors_file_is_the_example_with_this_tenant_in_it():
    example = yaml.safe_load((ROOT / "deploy" / "otel-collector.yaml").read_text())
    ours = yaml.safe_load(content(setup_of("collector"), "yaml"))

    exporter = example["exporters"]["otlphttp"]
    exporter |= {"endpoint": "https://metrics.acme.example", "headers": {"x-api-key": KEY}}
    assert ours == example


def test_the_collector_speaks_grpc_by_its_other_exporter_and_json_by_an_encoding():
    grpc = yaml.safe_load(content(setup_of("collector", "grpc", NEAR), "yaml"))
    by_json = yaml.safe_load(content(setup_of("collector", "http/json", NEAR), "yaml"))

    assert grpc["exporters"] == {
        "otlp": {
            "endpoint": "http://acme.localhost:4317",
            "compression": "gzip",
            "headers": {"x-api-key": KEY},
            "tls": {"insecure": True},
        }
    }
    assert by_json["exporters"]["otlphttp"]["encoding"] == "json"
    assert by_json["exporters"]["otlphttp"]["headers"] == {
        "x-api-key": KEY,
        "Host": "acme.localhost",
    }


# -- values that would like to leave their place ------------------------------------------------------


@pytest.mark.parametrize(
    "agent", [agent for agent in sorted(AGENTS) if agent not in {"cursor", "collector"}]
)
def test_no_name_leaves_its_place_in_a_shell(tmp_path, agent):
    is_literal = agent in {"codex", "copilot-vscode"}
    plain, *all_told = shells(
        [
            content(setup_of(agent, team=value, repository=value), "sh")
            for value in ("plain", *HOSTILE)
        ],
        tmp_path,
    )

    assert [*tmp_path.iterdir()] == []
    for value, told in zip(HOSTILE, all_told, strict=True):
        assert told.keys() == plain.keys()
        expected = value.replace(",", "%2C") if is_literal else value
        attributes = attributes_of(told["OTEL_RESOURCE_ATTRIBUTES"], encoded=not is_literal)
        assert attributes == {"team": expected, "vcs.repository.name": expected}
        if not is_literal:
            # As OpenTelemetry has it; and nothing that a lax parser could stumble over.
            encoded = told["OTEL_RESOURCE_ATTRIBUTES"]
            assert encoded.isascii()
            assert encoded.isprintable()
            assert (encoded.count(","), encoded.count("=")) == (1, 2)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(("agent", "protocol"), SPOKEN, ids=lambda one: getattr(one, "code", one))
def test_no_name_breaks_a_file(tmp_path, agent, protocol, value):
    plain = setup_of(agent.code, protocol, team="t", repository="r")
    hostile = setup_of(agent.code, protocol, team=value, repository=value)

    assert len(hostile.parts) == len(plain.parts)
    for part, other in zip(plain.parts, hostile.parts, strict=True):
        if part.format in {"toml", "json"}:
            assert read(part, tmp_path) == read(other, tmp_path)
        elif part.format == "yaml":
            expected = read(part, tmp_path)
            for attribute in expected["processors"]["resource"]["attributes"]:
                # To the collector a dollar begins a variable, and two are one.
                attribute["value"] = value.replace("$", "$$")
            assert read(other, tmp_path) == expected


@pytest.mark.parametrize("value", HOSTILE)
def test_any_text_survives_a_toml_string(value):
    table = {"plain": value, "deep": {"x-api-key": value, value[:20]: {"a": value}}, "is": True}

    assert tomllib.loads(toml_file("f", "t", table).content)["t"] == table


def test_a_form_is_one_line_a_field():
    assert form("there", {"A": "1", "Longer": "2"}).content == "A:      1\nLonger: 2\n"
