"""The generated history: the same every time, and what a team's month looks like."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from uuid import UUID

import msgspec
import pytest

from metrics_service.seeds.agents import AGENTS
from metrics_service.seeds.companies import DEVELOPMENT, TEST, Company
from metrics_service.seeds.story import cost_of
from metrics_service.seeds.telling import Telling
from metrics_service.seeds.work import DAYS, Work, history, is_bad_day, work_of_day

NOW = datetime(2026, 3, 12, 15, 30, tzinfo=UTC)
SIZES = {"basic": (100, 200), "pro": (320, 480), "enterprise": (750, 1050)}

each_company = pytest.mark.parametrize("company", DEVELOPMENT, ids=lambda company: company.slug)


def works_of(company: Company, *, number: int = 1, now: datetime = NOW) -> list[Work]:
    return [work for _, works in history(company, number, now) for work in works]


@pytest.fixture(scope="module")
def month() -> dict[str, list[Work]]:
    return {company.slug: works_of(company) for company in DEVELOPMENT}


@each_company
def test_the_same_number_and_moment_give_the_same_history(company, month):
    assert works_of(company) == month[company.slug]


def test_another_number_gives_another_history(month):
    company = DEVELOPMENT[0]

    other = works_of(company, number=2)

    assert other != month[company.slug]
    assert not {w.session.external_id for w in other} & {
        w.session.external_id for w in month[company.slug]
    }


@each_company
def test_a_later_moment_only_adds(company, month):
    later = works_of(company, now=NOW + timedelta(days=2, hours=3))

    known = {work.session.external_id: work for work in month[company.slug]}
    shared = [work for work in later if work.session.external_id in known]
    assert all(work == known[work.session.external_id] for work in shared)
    assert 0 < len(later) - len(shared) < len(known)


@each_company
def test_the_size_fits_the_plan(company, month):
    least, most = SIZES[company.plan]

    assert least <= len(month[company.slug]) <= most
    assert all(5 <= len(work.tool_metrics) <= 60 for work in month[company.slug])


@each_company
def test_everything_is_within_the_last_30_days(company, month):
    first = datetime.combine(NOW.date() - timedelta(days=DAYS - 1), time(), tzinfo=UTC)

    for work in month[company.slug]:
        times = [fact.started_at for fact in (*work.tool_metrics, *work.model_calls)]
        ends = [
            fact.started_at + timedelta(milliseconds=fact.duration_ms or 0)
            for fact in (*work.tool_metrics, *work.model_calls)
        ]
        assert first <= work.session.started_at <= min(times)
        assert max(ends) <= work.until <= NOW
        assert work.session.ended_at in (None, work.until)


@each_company
def test_one_session_goes_on(company, month):
    last = [work for work in month[company.slug] if NOW - work.until < timedelta(minutes=3)]

    assert any(work.session.ended_at is None for work in last)


@each_company
def test_subagents_work_within_the_call_that_they_are(company, month):
    with_subagents = [work for work in month[company.slug] if work.subagents]

    assert with_subagents
    for work in with_subagents:
        calls = [one for one in work.tool_metrics if one.tool_category == "subagent"]
        for subagent in work.subagents:
            call = next(one for one in calls if one.started_at == subagent.session.started_at)
            over = call.started_at + timedelta(milliseconds=call.duration_ms)
            assert subagent.parent == work.session.external_id
            assert subagent.tool_metrics and subagent.model_calls
            assert subagent.session.ended_at == subagent.until == over


def test_what_is_told_of_a_session_is_the_same_every_time_and_within_it(month):
    tenant_id = UUID(int=1)
    for work in month[DEVELOPMENT[0].slug]:
        telling, again = Telling(tenant_id), Telling(tenant_id)
        telling.tell(work)
        again.tell(work)

        assert msgspec.json.encode([telling.tools, telling.models]) == msgspec.json.encode(
            [again.tools, again.models]
        )
        assert telling.telemetry.events == again.telemetry.events
        assert telling.telemetry.points == again.telemetry.points
        times = [event.record.occurred_at for event in telling.telemetry.events.values()]
        assert work.session.started_at == min(times) <= max(times) <= work.until


@each_company
def test_every_record_is_one_that_a_client_may_send(company, month):
    for work in month[company.slug]:
        parts = (work.session, *work.tool_metrics, *work.model_calls)

        assert parts == tuple(
            msgspec.json.decode(msgspec.json.encode(part), type=type(part)) for part in parts
        )


@each_company
def test_weekends_are_quiet(company, month):
    works = month[company.slug]

    weekend = sum(work.session.started_at.weekday() > 4 for work in works)

    assert 0 < weekend / len(works) < 0.25


@each_company
def test_people_work_in_their_own_daytime(company, month):
    offsets = {p.email: p.utc_offset_h for p in company.people if not p.is_service}
    hours = [
        (work.session.started_at + timedelta(hours=offsets[work.session.user_email])).hour
        for work in month[company.slug]
        if work.session.user_email in offsets
    ]

    assert sum(8 <= hour < 19 for hour in hours) / len(hours) > 0.85
    assert all(7 <= hour < 23 for hour in hours)


@each_company
def test_durations_have_a_slow_tail(company, month):
    durations = sorted(
        metric.duration_ms
        for work in month[company.slug]
        for metric in work.tool_metrics
        if metric.duration_ms is not None
    )

    p50, p95 = (durations[int(len(durations) * share)] for share in (0.5, 0.95))

    assert p95 > 4 * p50


@each_company
def test_some_calls_fail_and_some_are_refused(company, month):
    metrics = [metric for work in month[company.slug] for metric in work.tool_metrics]

    failed = [metric for metric in metrics if metric.status in ("error", "timeout")]
    rejected = [metric for metric in metrics if metric.status == "rejected"]

    assert 0.01 < len(failed) / len(metrics) < 0.15
    assert all(metric.error_type for metric in failed)
    assert rejected
    assert all(metric.wait_ms and metric.duration_ms is None for metric in rejected)
    assert all(metric.error_type is None for metric in metrics if metric.status == "success")


@each_company
def test_one_tool_is_flaky(company, month):
    flaky = company.mcp_tools[0][1]
    metrics = [metric for work in month[company.slug] for metric in work.tool_metrics]

    def error_rate(of):
        return sum(metric.status in ("error", "timeout") for metric in of) / len(of)

    assert error_rate([m for m in metrics if m.tool_name.endswith(flaky)]) > 3 * error_rate(
        [m for m in metrics if not m.tool_name.endswith(flaky)]
    )


@each_company
def test_every_window_has_a_bad_day(company):
    for start in range(60):
        window = [NOW.date() + timedelta(days=start - day) for day in range(DAYS)]

        assert 1 <= sum(is_bad_day(company, day) for day in window) <= 2


@each_company
def test_tokens_add_up(company, month):
    calls = [call for work in month[company.slug] for call in work.model_calls]
    models = {model.request: model for agent in AGENTS.values() for model in agent.models}

    for call in calls:
        if call.status != "success":
            assert call.input_tokens is call.output_tokens is call.cost_usd_micros is None
            continue
        parts = (call.input_uncached_tokens, call.cache_read_tokens, call.cache_write_tokens)
        assert all(part >= 0 for part in parts)
        assert sum(parts) == call.input_tokens
        assert 0 <= call.reasoning_tokens <= call.output_tokens
        assert (call.cost_source == "none") == (call.cost_usd_micros is None)
        if call.cost_usd_micros is not None:
            assert call.cost_usd_micros == cost_of(models[call.request_model], call)
    assert 0 < sum(call.status == "error" for call in calls) / len(calls) < 0.1


@each_company
def test_processes_alone_report_cpu_and_memory(company, month):
    metrics = [metric for work in month[company.slug] for metric in work.tool_metrics]

    measured = {metric.tool_category for metric in metrics if metric.cpu_ms is not None}

    assert measured == {"shell"}
    assert any(metric.memory_bytes for metric in metrics)


def test_all_agents_and_roles_appear(month):
    works = [work for each in month.values() for work in each]

    assert {work.session.agent for work in works} == set(AGENTS)
    for company in DEVELOPMENT:
        assert len({person.role for person in company.people}) == len(company.people) == 5
        emails = {work.session.user_email for work in month[company.slug]}
        assert emails == {person.email for person in company.people}


def test_external_ids_are_unique(month):
    for works in month.values():
        names = {(work.session.agent, work.session.external_id) for work in works}
        assert len(names) == len(works)


@pytest.mark.parametrize("company", TEST, ids=lambda company: company.slug)
def test_tiny_companies_have_five_sessions_whatever_the_day(company):
    for day in range(60):
        now = NOW + timedelta(days=day, hours=day % 24)

        assert len(works_of(company, now=now)) == 5


def test_a_day_does_not_depend_on_its_neighbours():
    company = DEVELOPMENT[0]
    day = NOW.date()

    alone = work_of_day(company, 1, day)

    work_of_day(company, 1, day - timedelta(days=1))
    assert work_of_day(company, 1, day) == alone
