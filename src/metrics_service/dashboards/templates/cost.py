"""What it costs, for what, and who causes it."""

from metrics_service.dashboards.templates.template import Template, chart, number, table

COST = Template(
    name="cost",
    title="Models and cost",
    description="What the models cost, who uses them, and how much the cache saves.",
    tags=["cost", "models"],
    tiles=[
        number("cost", "Cost", "model_calls", "cost_usd_micros", trend="day"),
        number("calls", "Model calls", "model_calls", "count", trend="day"),
        number("input", "Input tokens", "model_calls", "input_tokens", trend="day"),
        number("output", "Output tokens", "model_calls", "output_tokens", trend="day"),
        chart(
            "by-day", "Cost by day", "model_calls", "cost_usd_micros", "day request_model",
            about="by model", mark="bar",
            width=12, height=5,
        ),
        number("cache", "Input read from the cache", "model_calls", "cache_hit_rate", width=4),
        number(
            "estimated", "Of the cost, estimated from list prices", "model_calls",
            "estimated_cost_usd_micros", width=4,
        ),
        number("first-token", "Until the first token (mean)", "model_calls", "avg_ttft_ms", width=4),
        table(
            "models", "Models", "model_calls",
            "cost_usd_micros count input_tokens cache_hit_rate output_tokens p95_ms",
            "request_model", width=12,
        ),
        chart(
            "by-person", "Cost by person", "model_calls", "cost_usd_micros", "user_id", limit=12,
            compared=True, height=5,
        ),
        chart(
            "by-repository", "Cost by repository", "model_calls", "cost_usd_micros", "repository",
            limit=12, compared=True, height=5,
        ),
        chart(
            "by-team", "Cost by team and agent", "model_calls", "cost_usd_micros", "team agent",
            mark="bar",
        ),
        chart(
            "kinds", "Tokens by kind", "model_calls",
            "cache_read_tokens cache_write_tokens input_uncached_tokens output_tokens", "day",
            mark="area",
        ),
    ],
)  # fmt: skip
