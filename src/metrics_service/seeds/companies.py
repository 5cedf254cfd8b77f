"""The companies of the demonstration: who works there, when, on what and with which agents."""

from __future__ import annotations

from typing import Literal

import msgspec

from metrics_service.tenants.new_tenant import Plan

Role = Literal["owner", "admin", "editor", "viewer", "service"]


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """One user and their rhythm; a `service` works at night, every night, and asks nobody."""

    name: str
    email: str
    role: Role
    team: str
    agents: dict[str, float]
    """Agent codes, each with how often it is chosen."""
    pace: float
    """Their share of the company's sessions, relative to the others'."""
    utc_offset_h: float = 0
    """Hours ahead of UTC. A number, because the machine may have no time zone database."""
    begins_h: float = 9
    score: float = 70

    @property
    def is_service(self) -> bool:
        return self.role == "service"


class Company(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant to be, with everything that its history follows from."""

    slug: str
    name: str
    plan: Plan
    people: tuple[Person, ...]
    repositories: dict[str, float]
    mcp_tools: tuple[tuple[str, str], ...]
    """Server and tool; the first one is the flaky one."""
    ticket_prefix: str
    sessions_a_workday: float
    bad_weekday: int
    """Every third week has one bad day: this one, Monday being 0."""
    is_tiny: bool = False


FORTIUM = Company(
    slug="fortium-demo",
    name="Fortium Demo",
    plan="basic",
    people=(
        Person(
            name="Marlene Voss",
            email="marlene.voss@fortium.example",
            role="owner",
            team="platform",
            agents={"claude-code": 8, "gemini-cli": 2},
            pace=0.7,
            utc_offset_h=1,
            score=78,
        ),
        Person(
            name="Tomasz Wilk",
            email="tomasz.wilk@fortium.example",
            role="admin",
            team="platform",
            agents={"codex": 6, "claude-code": 4},
            pace=1.2,
            utc_offset_h=1,
            begins_h=8,
            score=74,
        ),
        Person(
            name="Ines Carvalho",
            email="ines.carvalho@fortium.example",
            role="editor",
            team="product",
            agents={"claude-code": 5, "cursor": 5},
            pace=1.5,
            begins_h=9.5,
            score=69,
        ),
        Person(
            name="Jonas Brandt",
            email="jonas.brandt@fortium.example",
            role="viewer",
            team="product",
            agents={"copilot-vscode": 9, "gemini-cli": 1},
            pace=0.5,
            utc_offset_h=1,
            begins_h=10,
            score=61,
        ),
        Person(
            name="Build robot",
            email="build@fortium.example",
            role="service",
            team="platform",
            agents={"codex": 7, "claude-code": 3},
            pace=0.45,
        ),
    ),
    repositories={"fortium/storefront": 5, "fortium/billing": 3, "fortium/infra": 1},
    mcp_tools=(("jira", "search_issues"), ("github", "create_pull_request")),
    ticket_prefix="FOR",
    sessions_a_workday=6.8,
    bad_weekday=2,
)

LARKSPUR = Company(
    slug="larkspur-demo",
    name="Larkspur Logistics Demo",
    plan="pro",
    people=(
        Person(
            name="Priya Raman",
            email="priya.raman@larkspur.example",
            role="owner",
            team="routing",
            agents={"claude-code": 9, "codex": 1},
            pace=0.8,
            utc_offset_h=5.5,
            score=80,
        ),
        Person(
            name="Daniel Okafor",
            email="daniel.okafor@larkspur.example",
            role="admin",
            team="operations",
            agents={"codex": 5, "gemini-cli": 5},
            pace=1.0,
            begins_h=8.5,
            score=72,
        ),
        Person(
            name="Sofie Lindgren",
            email="sofie.lindgren@larkspur.example",
            role="editor",
            team="routing",
            agents={"cursor": 6, "claude-code": 4},
            pace=1.6,
            utc_offset_h=1,
            score=75,
        ),
        Person(
            name="Matteo Ricci",
            email="matteo.ricci@larkspur.example",
            role="viewer",
            team="mobile",
            agents={"copilot-vscode": 7, "cursor": 3},
            pace=1.0,
            utc_offset_h=1,
            begins_h=10,
            score=64,
        ),
        Person(
            name="Nightly maintenance",
            email="nightly@larkspur.example",
            role="service",
            team="operations",
            agents={"claude-code": 5, "codex": 5},
            pace=0.5,
        ),
    ),
    repositories={
        "larkspur/route-planner": 5,
        "larkspur/driver-app": 3,
        "larkspur/warehouse-api": 3,
        "larkspur/data-pipelines": 2,
    },
    mcp_tools=(("postgres", "query"), ("linear", "update_issue"), ("sentry", "find_errors")),
    ticket_prefix="LRK",
    sessions_a_workday=18.5,
    bad_weekday=1,
)

CINDERMOOR = Company(
    slug="cindermoor-demo",
    name="Cindermoor Energy Demo",
    plan="enterprise",
    people=(
        Person(
            name="Eleanor Whitcombe",
            email="eleanor.whitcombe@cindermoor.example",
            role="owner",
            team="architecture",
            agents={"claude-code": 7, "gemini-cli": 3},
            pace=0.6,
            score=79,
        ),
        Person(
            name="Kenji Morita",
            email="kenji.morita@cindermoor.example",
            role="admin",
            team="grid",
            agents={"claude-code": 6, "codex": 4},
            pace=1.2,
            utc_offset_h=9,
            begins_h=9.5,
            score=82,
        ),
        Person(
            name="Rosa Delgado",
            email="rosa.delgado@cindermoor.example",
            role="editor",
            team="metering",
            agents={"cursor": 5, "codex": 3, "claude-code": 2},
            pace=1.4,
            utc_offset_h=-8,
            begins_h=8.5,
            score=71,
        ),
        Person(
            name="Ahmed Saleh",
            email="ahmed.saleh@cindermoor.example",
            role="viewer",
            team="metering",
            agents={"copilot-vscode": 6, "gemini-cli": 4},
            pace=1.0,
            utc_offset_h=2,
            score=66,
        ),
        Person(
            name="Release train",
            email="release-train@cindermoor.example",
            role="service",
            team="architecture",
            agents={"codex": 6, "claude-code": 4},
            pace=0.55,
        ),
    ),
    repositories={
        "cindermoor/grid-control": 5,
        "cindermoor/meter-ingest": 4,
        "cindermoor/tariff-engine": 3,
        "cindermoor/customer-portal": 3,
        "cindermoor/terraform-live": 1,
    },
    mcp_tools=(
        ("jira", "search_issues"),
        ("grafana", "query_range"),
        ("github", "create_pull_request"),
        ("confluence", "get_page"),
    ),
    ticket_prefix="CME",
    sessions_a_workday=41,
    bad_weekday=3,
)

DEVELOPMENT = (FORTIUM, LARKSPUR, CINDERMOOR)
TEST = tuple(
    msgspec.structs.replace(
        company,
        slug=company.slug.replace("-demo", "-test"),
        name=company.name.replace("Demo", "Test"),
        is_tiny=True,
    )
    for company in DEVELOPMENT
)
