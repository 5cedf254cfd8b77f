"""What a team looks at first: how much, how well, how fast, for how much, and by whom."""

from metrics_service.dashboards.templates.template import Template, chart, number, table

OVERVIEW = Template(
    name="overview",
    title="Team overview",
    description="How much the agents do, how well it goes, how long it takes and what it costs.",
    tags=["overview"],
    tiles=[
        number("sessions", "Sessions", "sessions", "count", trend="day"),
        number("tool-calls", "Tool calls", "tool_metrics", "count", trend="day"),
        number("tokens", "Output tokens", "model_calls", "output_tokens", trend="day"),
        number("cost", "Cost", "model_calls", "cost_usd_micros", trend="day"),
        number("error-rate", "Tool calls that failed", "tool_metrics", "error_rate"),
        number("slow-calls", "95 of 100 tool calls take at most", "tool_metrics", "p95_ms"),
        number("model-errors", "Model calls that failed", "model_calls", "error_rate"),
        number("cache", "Input read from the cache", "model_calls", "cache_hit_rate"),
        chart(
            "calls-by-day", "Tool calls by day", "tool_metrics", "count", "day agent",
            about="by agent", mark="bar",
            width=8, height=5,
        ),
        chart(
            "cost-by-model", "Where the money goes", "model_calls", "cost_usd_micros",
            "request_model", about="cost by model", mark="arc", width=4, height=5,
        ),
        table(
            "top-tools", "Most used tools", "tool_metrics", "count error_rate p50_ms p95_ms",
            "tool_name", width=6, height=5,
        ),
        chart(
            "by-team", "Sessions by team", "sessions", "count", "team",
            compared=True, width=6, height=5,
        ),
    ],
)  # fmt: skip
