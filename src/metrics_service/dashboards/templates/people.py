"""Who works with agents, how, and with what result; for a conversation, not for a ranking."""

from metrics_service.dashboards.templates.template import Template, chart, number, table

PEOPLE = Template(
    name="people",
    title="People and teams",
    description="Who works with which agents, and what comes out of it.",
    tags=["people"],
    tiles=[
        number("sessions", "Sessions", "sessions", "count", trend="day"),
        number("tool-calls", "Tool calls", "sessions", "tool_call_count", trend="day"),
        number("cost", "Cost", "sessions", "cost_usd_micros", trend="day"),
        number("score", "Productivity score (mean)", "sessions", "avg_score", trend="day"),
        chart(
            "by-team", "Sessions by team", "sessions", "count", "day team",
            mark="bar", width=8,
            height=5,
        ),
        chart(
            "agents", "Agents in use", "sessions", "count", "agent", about="share of sessions",
            mark="arc", width=4, height=5,
        ),
        table(
            "people", "People", "sessions",
            "count prompt_count tool_call_count lines_added commits pull_requests avg_score "
            "cost_usd_micros",
            "user_id team", width=12,
        ),
        chart(
            "team-score", "Productivity score by team", "sessions", "avg_score", "team",
            about="mean of the sessions that have one", compared=True,
        ),
        chart(
            "rejections", "Tool calls that people refused", "tool_metrics", "rejected_count",
            "team", compared=True,
        ),
        chart(
            "repositories", "Repositories", "sessions", "count", "repository", limit=12,
            about="sessions", height=5,
        ),
        chart(
            "kinds", "Kinds of work", "sessions", "count", "session_type team",
            about="sessions by type and team", mark="bar", height=5,
        ),
    ],
)  # fmt: skip
