"""Which sessions a company has: pure, and the same for the same seed number and moment.

Every person's day is drawn on its own, so a day looks the same whenever it is seeded, and a later
run adds the days since.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from math import exp
from random import Random

import msgspec

from metrics_service.ingest.records import ModelCallRecord, SessionRecord, ToolMetricRecord
from metrics_service.seeds.agents import AGENTS, Agent, Tool, mcp_tool
from metrics_service.seeds.companies import Company, Person
from metrics_service.seeds.story import Circumstances, Story, log_normal, pick

DAYS = 30
EXTERNAL_ID_PREFIX = "seed-"
"""Begins the external id of every seeded session, and of no other."""

MIN_TOOL_CALLS, MAX_TOOL_CALLS = 5, 60
DAY_OFF_SHARE = 0.06
WEEKEND_SHARE = 0.08
# Mondays begin slowly, Fridays end early.
WORKDAY_SHAPE = (0.92, 1.12, 1.1, 1.06, 0.8)
UNFINISHED_SHARE = 0.012
SUBAGENT_SESSION_SHARE = 0.35
SUBAGENT_TOOL_CALLS = 12
# What goes on at the moment: how long ago something happened last, and at which hours people do it.
QUIET = timedelta(minutes=2)
LATE_H = (11, 19)
UNSCORED_SHARE = 0.15
BAD_DAY_EVERY_WEEKS = 3

# Five of any 29 days in a row, whichever day is today: the whole days of the window.
TINY_CYCLE_DAYS, TINY_STEP_DAYS = 29, 6

TOPICS = (
    "checkout-retry", "slow-login", "export-csv", "dark-mode", "rate-limits", "audit-trail",
    "search-index", "flaky-tests", "upgrade-deps", "price-rounding", "webhook-order", "cache-keys",
    "date-parsing", "empty-states", "batch-import", "session-expiry", "map-tiles", "unit-labels",
)  # fmt: skip
SYSTEMS = ("linux", "darwin", "darwin", "windows")


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of session: how often, how long, how its branches begin, what it is tagged with."""

    session_type: str
    weight: float
    tool_calls: float
    branch: str
    score: float
    tags: tuple[str, ...]


KINDS = (
    Kind(session_type="feature", weight=34, tool_calls=24, branch="feat", score=4,
         tags=("backend", "frontend", "api", "roadmap")),
    Kind(session_type="bugfix", weight=24, tool_calls=19, branch="fix", score=0,
         tags=("customer", "regression", "urgent")),
    Kind(session_type="refactoring", weight=12, tool_calls=28, branch="refactor", score=2,
         tags=("tech-debt", "types")),
    Kind(session_type="debugging", weight=10, tool_calls=22, branch="fix", score=-9,
         tags=("incident", "flaky", "performance")),
    Kind(session_type="testing", weight=8, tool_calls=17, branch="test", score=3,
         tags=("coverage", "flaky")),
    Kind(session_type="review", weight=7, tool_calls=11, branch="", score=5,
         tags=("security", "pull-request")),
    Kind(session_type="documentation", weight=5, tool_calls=10, branch="docs", score=6,
         tags=("docs",)),
)  # fmt: skip
NIGHTLY = Kind(
    session_type="automation",
    weight=1,
    tool_calls=15,
    branch="",
    score=0,
    tags=("nightly", "dependencies", "release"),
)


class Work(msgspec.Struct, kw_only=True):
    """One session with what happened in it; `until` is when the last of it was over."""

    session: SessionRecord
    tool_metrics: list[ToolMetricRecord]
    model_calls: list[ModelCallRecord]
    until: datetime
    is_attended: bool
    subagents: list[Work] = []
    """Sessions of agents that this one's agent set to work; none of theirs has any."""
    parent: str | None = None
    """The external id of the session whose agent began this one."""


def history(company: Company, number: int, now: datetime) -> Iterator[tuple[date, list[Work]]]:
    """The last 30 days, day by day: today's finished sessions, and one that goes on; none is tiny's.

    Nothing is after `now`.
    """
    now = now.astimezone(UTC)
    today = now.date()
    first = _midnight(today - timedelta(days=DAYS - 1))
    last = _midnight(today) if company.is_tiny else now
    # Somebody's day begins before UTC's and somebody's ends after it.
    for offset in range(-DAYS, 2):
        day = today + timedelta(days=offset)
        works = work_of_day(company, number, day)
        if day == today and not company.is_tiny:
            works.append(_under_way(company, number, now.replace(microsecond=0)))
        yield day, [w for w in works if first <= w.session.started_at and w.until <= last]


def work_of_day(company: Company, number: int, day: date) -> list[Work]:
    """The sessions that begin on everybody's local `day`."""
    if company.is_tiny:
        return _tiny_day(company, number, day)
    works = []
    for person in company.people:
        rng = Random(f"{number}/{company.slug}/{person.email}/{day.isoformat()}")
        for place, started_at in enumerate(_starts(rng, company, person, day)):
            works.append(_work(rng, company, person, f"{number}-{day:%Y%m%d}", place, started_at))
    return works


def _tiny_day(company: Company, number: int, day: date) -> list[Work]:
    if day.toordinal() % TINY_CYCLE_DAYS % TINY_STEP_DAYS:
        return []
    rng = Random(f"{number}/{company.slug}/{day.isoformat()}")
    person = company.people[day.toordinal() % TINY_CYCLE_DAYS // TINY_STEP_DAYS]
    # Noon in UTC, so that no session leaves its day.
    noon = _midnight(day) + timedelta(hours=12, milliseconds=rng.randrange(3_600_000))
    return [_work(rng, company, person, f"{number}-{day:%Y%m%d}", 0, noon)]


def _under_way(company: Company, number: int, now: datetime) -> Work:
    """A session whose last event is minutes old; another moment has another one."""
    rng = Random(f"{number}/{company.slug}/{now.isoformat()}")
    awake = [
        person
        for person in company.people
        if not person.is_service
        and LATE_H[0] <= (now + timedelta(hours=person.utc_offset_h)).hour < LATE_H[1]
    ]
    person = rng.choice(awake or [one for one in company.people if one.is_service])
    drawn, name = rng.random(), f"{number}-{now:%Y%m%d%H%M%S}"
    # Told twice, because only then it is known how long it is.
    lasts = _work(Random(drawn), company, person, name, 0, now).until - now
    work = _work(Random(drawn), company, person, name, 0, now - QUIET - lasts)
    work.session.ended_at = work.session.productivity_score = None
    return work


def is_bad_day(company: Company, day: date) -> bool:
    """Whether what the agents depend on was in trouble."""
    week = (day.toordinal() - day.weekday()) // 7
    # Not in the same week for every company.
    is_bad_week = (week + company.bad_weekday) % BAD_DAY_EVERY_WEEKS == 0
    return is_bad_week and day.weekday() == company.bad_weekday


# -- when -----------------------------------------------------------------------------------------


def _starts(rng: Random, company: Company, person: Person, day: date) -> list[datetime]:
    midnight = _midnight(day) - timedelta(hours=person.utc_offset_h)
    count = _poisson(rng, _expected(rng, company, person, day))
    hours = sorted(_hour(rng, person, is_weekend=day.weekday() > 4) for _ in range(count))
    return [midnight + timedelta(milliseconds=round(hour * 3_600_000)) for hour in hours]


def _expected(rng: Random, company: Company, person: Person, day: date) -> float:
    share = person.pace / sum(each.pace for each in company.people)
    is_off = rng.random() < DAY_OFF_SHARE
    mean = company.sessions_a_workday * share
    if person.is_service:
        return mean
    if day.weekday() > 4:
        return mean * WEEKEND_SHARE
    return 0 if is_off else mean * WORKDAY_SHAPE[day.weekday()]


def _hour(rng: Random, person: Person, *, is_weekend: bool) -> float:
    """An hour of the local day: two bumps around lunch, now and then an evening."""
    if person.is_service:
        return rng.uniform(1.5, 4.5)
    if is_weekend:
        return rng.uniform(10, 21)
    chance = rng.random()
    if chance < 0.5:
        hour = rng.gauss(person.begins_h + 1.9, 0.9)
    elif chance < 0.95:
        hour = rng.gauss(person.begins_h + 6.2, 1.2)
    else:
        hour = rng.uniform(20, 22.5)
    return min(22.8, max(person.begins_h - 0.5, hour))


def _poisson(rng: Random, mean: float) -> int:
    limit, count, product = exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


# -- what -----------------------------------------------------------------------------------------


def _work(
    rng: Random, company: Company, person: Person, day_name: str, place: int, started_at: datetime
) -> Work:
    kind = NIGHTLY if person.is_service else pick(rng, KINDS, [kind.weight for kind in KINDS])
    agent = AGENTS[pick(rng, list(person.agents), list(person.agents.values()))]
    # The whole address would be readable, but long; its local part is unique in a company.
    external_id = f"{EXTERNAL_ID_PREFIX}{day_name}-{person.email.partition('@')[0]}-{place}"
    around = Circumstances(
        agent=agent,
        tools=tools_of(company, agent),
        external_id=external_id,
        email=person.email,
        is_attended=not person.is_service,
        is_bad_day=is_bad_day(company, started_at.date()),
    )
    story = Story(rng, around, started_at)
    calls = round(log_normal(rng, kind.tool_calls, 0.55))
    story.tell(min(MAX_TOOL_CALLS, max(MIN_TOOL_CALLS, calls)))
    session = _session(rng, company, person, kind, around, story, started_at)
    return Work(
        session=session,
        tool_metrics=story.tool_metrics,
        model_calls=story.model_calls,
        until=story.clock,
        is_attended=around.is_attended,
        subagents=[] if company.is_tiny else list(_subagents(around, session, story)),
    )


def _subagents(around: Circumstances, session: SessionRecord, story: Story) -> Iterator[Work]:
    """Some subagents report a session of their own, within the tool call that they are."""
    # Drawn apart, so that what is not theirs is the same with and without them.
    rng = Random(f"{around.external_id}/subagents")
    tools = tuple(tool for tool in around.tools if tool.category != "subagent")
    for place, metric in enumerate(story.tool_metrics):
        if metric.tool_category != "subagent" or rng.random() > SUBAGENT_SESSION_SHARE:
            continue
        within = msgspec.structs.replace(
            around, tools=tools, external_id=f"{around.external_id}-sub-{place}", is_attended=False
        )
        told = Story(rng, within, metric.started_at)
        told.tell(SUBAGENT_TOOL_CALLS)
        until = metric.started_at + timedelta(milliseconds=metric.duration_ms or 0)
        tool_metrics = [one for one in told.tool_metrics if _end(one) <= until]
        if tool_metrics:
            yield Work(
                session=msgspec.structs.replace(
                    session,
                    external_id=within.external_id,
                    started_at=metric.started_at,
                    ended_at=until,
                    productivity_score=None,
                ),
                tool_metrics=tool_metrics,
                model_calls=[one for one in told.model_calls if _end(one) <= until],
                until=until,
                is_attended=False,
                parent=around.external_id,
            )


def _end(fact: ToolMetricRecord | ModelCallRecord) -> datetime:
    return fact.started_at + timedelta(milliseconds=fact.duration_ms or 0)


def tools_of(company: Company, agent: Agent) -> tuple[Tool, ...]:
    """An agent's own tools and those of the company's MCP servers."""
    return agent.tools + tuple(
        mcp_tool(agent.mcp_name.format(server=server, tool=tool), is_flaky=place == 0)
        for place, (server, tool) in enumerate(company.mcp_tools)
    )


def _session(
    rng: Random,
    company: Company,
    person: Person,
    kind: Kind,
    around: Circumstances,
    story: Story,
    started_at: datetime,
) -> SessionRecord:
    repository = pick(rng, list(company.repositories), list(company.repositories.values()))
    # A client that crashed never says that it ended.
    is_finished = rng.random() >= UNFINISHED_SHARE
    return SessionRecord(
        agent=around.agent.code,
        external_id=around.external_id,
        started_at=started_at,
        ended_at=story.clock if is_finished else None,
        session_type=kind.session_type,
        user_email=person.email,
        repository=repository,
        branch=_branch(company, person, kind, repository, started_at.date()),
        team=person.team,
        tags=sorted(rng.sample(kind.tags, rng.randint(0, min(2, len(kind.tags))))),
        productivity_score=_score(rng, person, kind, story),
        metadata={
            "client_version": around.agent.version,
            "os": "linux" if person.is_service else rng.choice(SYSTEMS),
        },
    )


def _branch(company: Company, person: Person, kind: Kind, repository: str, day: date) -> str:
    if not kind.branch:
        return "main"
    # Drawn apart, so that somebody stays on one branch for three days.
    rng = Random(f"{company.slug}/{person.email}/{repository}/{kind.branch}/{day.toordinal() // 3}")
    ticket = rng.randint(1_100, 4_900)
    return f"{kind.branch}/{company.ticket_prefix}-{ticket}-{rng.choice(TOPICS)}"


def _score(rng: Random, person: Person, kind: Kind, story: Story) -> float | None:
    if person.is_service or rng.random() < UNSCORED_SHARE:
        return None
    failed = sum(metric.status in ("error", "timeout") for metric in story.tool_metrics)
    lost = 70 * failed / len(story.tool_metrics)
    score = person.score + kind.score - lost + rng.gauss(0, 7)
    return round(min(100.0, max(0.0, score)), 1)
