"""Which tools are used, by which agents, and how they behave."""

from metrics_service.dashboards.templates.template import Template, chart, number, table

TOOLS = Template(
    name="tools",
    title="Tools",
    description="Which tools the agents use, how long they run, and how often people are asked.",
    tags=["tools"],
    tiles=[
        number("calls", "Tool calls", "tool_metrics", "count", trend="day"),
        number("run-time", "Time that tools ran", "tool_metrics", "total_ms", trend="day"),
        number("waiting", "Time that people were waited for", "tool_metrics", "wait_ms", trend="day"),
        number("failed", "Calls that failed", "tool_metrics", "error_count", trend="day"),
        chart(
            "categories", "Calls by kind of tool", "tool_metrics", "count", "day tool_category",
            mark="area", width=8,
            height=5,
        ),
        chart(
            "time-by-kind", "Where the time goes", "tool_metrics", "total_ms", "tool_category",
            about="run time by kind of tool", mark="arc", width=4, height=5,
        ),
        chart(
            "most-used", "Most used tools", "tool_metrics", "count", "tool_name", limit=12,
            about="calls", compared=True, height=7,
        ),
        chart(
            "slowest", "Slowest tools", "tool_metrics", "p95_ms", "tool_name", limit=12,
            about="95 of 100 calls take at most", compared=True, height=7,
        ),
        table(
            "all-tools", "All tools", "tool_metrics",
            "count error_rate p50_ms p95_ms p99_ms total_ms", "tool_name tool_category",
            width=12, height=7,
        ),
        chart(
            "stopped", "What people stopped", "tool_metrics", "rejected_count cancelled_count",
            "day", about="tool calls that were refused or broken off", mark="bar", height=4,
        ),
        chart(
            "waits", "How long agents wait for people", "tool_metrics", "avg_wait_ms", "agent",
            about="mean of the calls that had to wait", height=4,
        ),
        table(
            "mcp", "Tools of MCP servers", "tool_metrics", "count error_rate p95_ms",
            "tool_name agent", tool_category="mcp", height=5,
        ),
        chart(
            "by-agent", "Which agent uses what", "tool_metrics", "count", "agent tool_category",
            about="calls by agent and kind of tool", mark="bar", height=5,
        ),
    ],
)  # fmt: skip
