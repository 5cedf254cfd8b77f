"""What the agents of the demonstration use: their tools and models, and how those behave."""

from __future__ import annotations

from typing import Literal

import msgspec

from metrics_service.ingest.records import CostSource


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One tool; its durations are log-normal around the median, with a slow tail."""

    name: str
    category: str
    weight: float
    median_ms: float
    spread: float = 0.8
    error_rate: float = 0.015
    errors: tuple[str, ...] = ("tool_error",)
    """The first is the most frequent."""
    asks: float = 0
    """The share of calls for which a person is asked first."""
    output_bytes: float = 2_000
    is_process: bool = False
    """Processes report cpu and memory."""
    is_remote: bool = False
    """Remote tools suffer on a bad day."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model; prices are USD for a million tokens, which is micro-USD for one."""

    request: str
    response: str
    provider: str
    weight: float
    price: float
    cache_read_price: float
    cache_write_price: float
    output_price: float
    tokens_a_second: float
    reasoning: float = 0
    """The usual share of the output that is reasoning."""


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """One client program."""

    code: str
    version: str
    tools: tuple[Tool, ...]
    models: tuple[Model, ...]
    mcp_name: str
    """How it names the tool of an MCP server."""
    caching: Literal["explicit", "automatic"]
    cost_source: CostSource


def _shell(name: str, weight: float, asks: float) -> Tool:
    return Tool(
        name=name,
        category="shell",
        weight=weight,
        median_ms=1_400,
        spread=1.5,
        error_rate=0.09,
        errors=("exit_code", "command_not_found", "permission_denied"),
        asks=asks,
        output_bytes=3_000,
        is_process=True,
    )


def _read(name: str, weight: float) -> Tool:
    return Tool(
        name=name,
        category="file_read",
        weight=weight,
        median_ms=18,
        errors=("file_not_found", "file_too_large"),
        output_bytes=7_000,
    )


def _edit(name: str, weight: float, asks: float) -> Tool:
    return Tool(
        name=name,
        category="file_edit",
        weight=weight,
        median_ms=45,
        error_rate=0.045,
        errors=("text_not_found", "file_changed", "file_not_found"),
        asks=asks,
        output_bytes=900,
    )


def _search(name: str, weight: float, median_ms: float = 120) -> Tool:
    return Tool(
        name=name,
        category="search",
        weight=weight,
        median_ms=median_ms,
        spread=1.0,
        errors=("invalid_pattern",),
        output_bytes=1_800,
    )


def _web(name: str, weight: float) -> Tool:
    return Tool(
        name=name,
        category="web",
        weight=weight,
        median_ms=2_200,
        error_rate=0.07,
        errors=("http_404", "http_403", "connection_reset"),
        asks=0.15,
        output_bytes=14_000,
        is_remote=True,
    )


def _plan(name: str, weight: float) -> Tool:
    return Tool(name=name, category="planning", weight=weight, median_ms=6, error_rate=0.002)


def _subagent(name: str, weight: float) -> Tool:
    return Tool(
        name=name,
        category="subagent",
        weight=weight,
        median_ms=38_000,
        spread=0.7,
        error_rate=0.02,
        errors=("subagent_failed",),
        output_bytes=5_000,
    )


def mcp_tool(name: str, *, is_flaky: bool) -> Tool:
    """A tool of an MCP server; the flaky one fails far more often, and slowly."""
    return Tool(
        name=name,
        category="mcp",
        weight=3,
        median_ms=950 if is_flaky else 420,
        spread=1.3 if is_flaky else 0.9,
        error_rate=0.21 if is_flaky else 0.02,
        errors=("upstream_timeout", "http_502") if is_flaky else ("http_401", "invalid_arguments"),
        asks=0.1,
        output_bytes=4_000,
        is_remote=True,
    )


SONNET = Model(
    request="claude-sonnet-4-5",
    response="claude-sonnet-4-5-20250929",
    provider="anthropic",
    weight=7,
    price=3,
    cache_read_price=0.3,
    cache_write_price=3.75,
    output_price=15,
    tokens_a_second=70,
)
OPUS = Model(
    request="claude-opus-4-5",
    response="claude-opus-4-5-20251101",
    provider="anthropic",
    weight=2,
    price=5,
    cache_read_price=0.5,
    cache_write_price=6.25,
    output_price=25,
    tokens_a_second=52,
)
HAIKU = Model(
    request="claude-haiku-4-5",
    response="claude-haiku-4-5-20251001",
    provider="anthropic",
    weight=1,
    price=1,
    cache_read_price=0.1,
    cache_write_price=1.25,
    output_price=5,
    tokens_a_second=140,
)
GPT_CODEX = Model(
    request="gpt-5-codex",
    response="gpt-5-codex",
    provider="openai",
    weight=8,
    price=1.25,
    cache_read_price=0.125,
    cache_write_price=0,
    output_price=10,
    tokens_a_second=80,
    reasoning=0.55,
)
GPT_MINI = Model(
    request="gpt-5-mini",
    response="gpt-5-mini-2025-08-07",
    provider="openai",
    weight=2,
    price=0.25,
    cache_read_price=0.025,
    cache_write_price=0,
    output_price=2,
    tokens_a_second=120,
    reasoning=0.4,
)
GEMINI_PRO = Model(
    request="gemini-2.5-pro",
    response="gemini-2.5-pro",
    provider="google",
    weight=7,
    price=1.25,
    cache_read_price=0.125,
    cache_write_price=0,
    output_price=10,
    tokens_a_second=85,
    reasoning=0.45,
)
GEMINI_FLASH = Model(
    request="gemini-2.5-flash",
    response="gemini-2.5-flash",
    provider="google",
    weight=3,
    price=0.3,
    cache_read_price=0.03,
    cache_write_price=0,
    output_price=2.5,
    tokens_a_second=190,
    reasoning=0.3,
)

AGENTS = {
    agent.code: agent
    for agent in (
        Agent(
            code="claude-code",
            version="2.1.190",
            tools=(
                _shell("Bash", 26, asks=0.22),
                _read("Read", 30),
                _edit("Edit", 18, asks=0.08),
                _edit("Write", 4, asks=0.2),
                _search("Grep", 12),
                _search("Glob", 6, median_ms=60),
                _plan("TodoWrite", 5),
                _subagent("Task", 1.5),
                _web("WebFetch", 2),
            ),
            models=(SONNET, OPUS, HAIKU),
            mcp_name="mcp__{server}__{tool}",
            caching="explicit",
            cost_source="reported",
        ),
        Agent(
            code="codex",
            version="0.169.0",
            tools=(
                _shell("shell", 62, asks=0.12),
                _edit("apply_patch", 22, asks=0.1),
                _plan("update_plan", 7),
                _read("view_image", 1),
                _web("web_search", 2),
            ),
            models=(GPT_CODEX, GPT_MINI),
            mcp_name="mcp__{server}__{tool}",
            caching="automatic",
            cost_source="estimated",
        ),
        Agent(
            code="gemini-cli",
            version="0.61.0",
            tools=(
                _shell("run_shell_command", 24, asks=0.3),
                _read("read_file", 24),
                _read("read_many_files", 5),
                _edit("replace", 20, asks=0.25),
                _edit("write_file", 6, asks=0.3),
                _search("search_file_content", 10),
                _search("glob", 4, median_ms=70),
                _web("google_web_search", 4),
                _web("web_fetch", 2),
            ),
            models=(GEMINI_PRO, GEMINI_FLASH),
            mcp_name="{tool}",
            caching="automatic",
            cost_source="estimated",
        ),
        Agent(
            code="copilot-vscode",
            version="0.38.2",
            tools=(
                _shell("run_in_terminal", 18, asks=0.45),
                _read("read_file", 30),
                _edit("replace_string_in_file", 20, asks=0),
                _edit("create_file", 4, asks=0),
                _search("grep_search", 12),
                _search("semantic_search", 7, median_ms=650),
                _search("file_search", 5, median_ms=80),
                _plan("manage_todo_list", 4),
            ),
            models=(SONNET, GPT_MINI),
            mcp_name="mcp_{server}_{tool}",
            caching="automatic",
            cost_source="none",
        ),
        Agent(
            code="cursor",
            version="2.3.14",
            tools=(
                _shell("run_terminal_cmd", 20, asks=0.3),
                _read("read_file", 30),
                _edit("search_replace", 22, asks=0),
                _search("grep", 12, median_ms=90),
                _search("codebase_search", 9, median_ms=800),
                _read("list_dir", 6),
                _plan("todo_write", 3),
                _web("web_search", 2),
            ),
            models=(SONNET, GPT_CODEX),
            mcp_name="mcp_{server}_{tool}",
            caching="automatic",
            cost_source="reported",
        ),
    )
}
