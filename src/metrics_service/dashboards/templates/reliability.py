"""What fails, what is slow, and since when."""

from metrics_service.dashboards.templates.template import Template, chart, number, table

RELIABILITY = Template(
    name="reliability",
    title="Reliability",
    description="Which tools and models fail, which are slow, and since when.",
    tags=["tools", "models", "reliability"],
    tiles=[
        number("tool-errors", "Tool calls that failed", "tool_metrics", "error_rate"),
        number("timeouts", "Tool calls that timed out", "tool_metrics", "timeout_count"),
        number("model-errors", "Model calls that failed", "model_calls", "error_rate"),
        number("p95", "95 of 100 tool calls take at most", "tool_metrics", "p95_ms"),
        chart(
            "latency", "How long tools take", "tool_metrics", "p50_ms p95_ms p99_ms", "day",
            about="half, 95 and 99 of 100 calls take at most", mark="line", height=5,
        ),
        chart(
            "error-rate", "Share of tool calls that failed", "tool_metrics", "error_rate", "day",
            mark="line", compared=True, height=5,
        ),
        chart(
            "heat", "Where and when it fails", "tool_metrics", "error_rate", "day tool_category",
            about="share of failed calls, by day and kind of tool", mark="rect", width=12,
            height=5,
        ),
        chart(
            "failing", "Tools with the most failures", "tool_metrics", "error_count", "tool_name",
            limit=12, about="failed calls", compared=True,
            height=6,
        ),
        table(
            "slowest", "Slowest tools", "tool_metrics", "p95_ms p99_ms p50_ms count error_rate",
            "tool_name", height=6,
        ),
        chart(
            "mcp", "Failures of MCP tools", "tool_metrics", "error_count", "tool_name", limit=10,
            about="failed calls", compared=True,
            tool_category="mcp", height=5,
        ),
        chart(
            "model-latency", "How long models take", "model_calls", "p50_ms p95_ms", "day",
            about="half and 95 of 100 calls take at most", mark="line", height=5,
        ),
        table(
            "providers", "Models that fail", "model_calls", "error_count error_rate count p95_ms",
            "provider request_model", height=4,
        ),
        chart(
            "outcomes", "How tool calls end", "tool_metrics",
            "error_count rejected_count cancelled_count", "agent", mark="bar",
            about="of those that did not succeed", height=4,
        ),
    ],
)  # fmt: skip
