"""One template for each of the agents that most teams use, about what is particular to it."""

from metrics_service.dashboards.templates.template import Template, Tile, chart, number, table


def _template(name: str, title: str, about: str, *particular: Tile) -> Template:
    """What is asked of every agent, and then what only this one is asked."""
    return Template(
        name=name,
        title=title,
        description=about,
        tags=["agents", name],
        tiles=[
            number("sessions", "Sessions", "sessions", "count", trend="day", agent=name),
            number("tool-calls", "Tool calls", "tool_metrics", "count", trend="day", agent=name),
            number("cost", "Cost", "model_calls", "cost_usd_micros", trend="day", agent=name),
            number(
                "output", "Output tokens", "model_calls", "output_tokens", trend="day", agent=name
            ),
            number("tool-errors", "Tool calls that failed", "tool_metrics", "error_rate",
                   agent=name),
            number("tool-p95", "95 of 100 tool calls take at most", "tool_metrics", "p95_ms",
                   agent=name),
            number("model-p95", "95 of 100 model calls take at most", "model_calls", "p95_ms",
                   agent=name),
            number("cache", "Input read from the cache", "model_calls", "cache_hit_rate",
                   agent=name),
            chart("tools-by-day", "Tool calls by day", "tool_metrics", "count",
                  "day tool_category", about="by kind of tool",
                  mark="bar", width=8, height=5, agent=name),
            chart("models", "Models", "model_calls", "count", "request_model",
                  about="share of calls", mark="arc", width=4, height=5, agent=name),
            table("tools", "Tools", "tool_metrics", "count error_rate p50_ms p95_ms", "tool_name",
                  height=5, agent=name),
            *particular,
        ],
    )  # fmt: skip


def _people(name: str) -> Tile:
    return table(
        "people", "People", "sessions", "count prompt_count tool_call_count cost_usd_micros",
        "user_id", height=5, agent=name,
    )  # fmt: skip


def _stopped(name: str) -> Tile:
    return chart(
        "stopped", "What people stopped", "tool_metrics", "rejected_count cancelled_count", "day",
        about="tool calls that were refused or broken off", mark="bar", agent=name,
    )  # fmt: skip


def _tokens(name: str) -> Tile:
    return chart(
        "tokens", "Tokens by kind", "model_calls",
        "cache_read_tokens cache_write_tokens input_uncached_tokens output_tokens", "day",
        mark="area", agent=name,
    )  # fmt: skip


def _reasoning(name: str) -> Tile:
    return chart(
        "reasoning", "Output and reasoning", "model_calls", "output_tokens reasoning_tokens",
        "day", about="reasoning is a part of the output", mark="line", agent=name,
    )  # fmt: skip


def _first_token(name: str) -> Tile:
    return chart(
        "first-token", "Until the first token", "model_calls", "avg_ttft_ms",
        "day request_model", about="mean, by model", mark="line", agent=name,
    )  # fmt: skip


def _failures(name: str) -> Tile:
    return chart(
        "failures", "Tools with the most failures", "tool_metrics", "error_count", "tool_name",
        limit=10, compared=True, agent=name,
    )  # fmt: skip


def _waits(name: str) -> Tile:
    return chart(
        "waits", "How long it waits for people", "tool_metrics", "avg_wait_ms", "tool_name",
        limit=10, about="mean of the calls that had to wait", agent=name,
    )  # fmt: skip


def _latency(name: str) -> Tile:
    return chart(
        "latency", "How long model calls take", "model_calls", "p50_ms p95_ms", "day",
        about="half and 95 of 100 calls take at most", mark="line", agent=name,
    )  # fmt: skip


AGENTS = (
    _template(
        "claude-code",
        "Claude Code",
        "What Claude Code does, how long it waits for people, what it changes and what it costs.",
        table("people", "People", "sessions",
              "count prompt_count lines_added commits pull_requests cost_usd_micros", "user_id",
              about="and what they changed", height=5, agent="claude-code"),
        _waits("claude-code"),
        _tokens("claude-code"),
    ),
    _template(
        "codex",
        "Codex",
        "What Codex does, how much of its output is reasoning, and what fails in the shell.",
        _people("codex"),
        _reasoning("codex"),
        _failures("codex"),
    ),
    _template(
        "gemini-cli",
        "Gemini CLI",
        "What Gemini CLI does, what people stop, and how it uses its cache.",
        _people("gemini-cli"),
        _stopped("gemini-cli"),
        _tokens("gemini-cli"),
    ),
    _template(
        "copilot-cli",
        "GitHub Copilot CLI",
        "What Copilot does on the command line, and how long its models take.",
        _people("copilot-cli"),
        _latency("copilot-cli"),
        _failures("copilot-cli"),
    ),
    _template(
        "cursor",
        "Cursor",
        "What Cursor's agent does, how long it waits for people, and what fails.",
        _people("cursor"),
        _waits("cursor"),
        _failures("cursor"),
    ),
    _template(
        "opencode",
        "OpenCode",
        "What OpenCode does with which models, and what they cost.",
        _people("opencode"),
        chart("cost-by-model", "Cost by model", "model_calls", "cost_usd_micros",
              "day request_model", mark="bar", agent="opencode"),
        _tokens("opencode"),
    ),
    _template(
        "qwen-code",
        "Qwen Code",
        "What Qwen Code does, what people stop, and what fails.",
        _people("qwen-code"),
        _stopped("qwen-code"),
        _failures("qwen-code"),
    ),
    _template(
        "copilot-vscode",
        "GitHub Copilot in VS Code",
        "What Copilot's agent mode does, how soon it answers, and how long it waits for people.",
        _people("copilot-vscode"),
        _first_token("copilot-vscode"),
        _waits("copilot-vscode"),
    ),
)  # fmt: skip
