"""What is asked for a client's configuration, and the configuration as it is shown."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from metrics_service.fields import Name, Protocol, ShortText, Signal
from metrics_service.tenants.keys import IssuedKey

ProtocolWord = Annotated[
    Protocol, Meta(description="In OpenTelemetry's words; the client's default where not given.")
]
Repository = Annotated[
    ShortText, Meta(description="Told with everything that is sent, as a column to filter by.")
]
Team = Annotated[
    ShortText, Meta(description="Told with everything that is sent, as a column to filter by.")
]


class SetupQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    protocol: ProtocolWord | None = None
    repository: Repository | None = None
    team: Team | None = None


class SetupKeyIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The key to issue; its scope is ingest, because it will lie in files and environments."""

    name: Name
    expires_in_days: Annotated[int, Meta(ge=1, le=3650)] | None = None
    user_id: UUID | None = None


class SetupIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    key: SetupKeyIn
    protocol: ProtocolWord | None = None
    repository: Repository | None = None
    team: Team | None = None


class AgentView(msgspec.Struct, frozen=True):
    """A client that can be set up; the first protocol is the one it is given by default."""

    agent: str
    name: str
    protocols: list[Protocol]
    signals: list[Signal]


class AgentList(msgspec.Struct, frozen=True):
    data: list[AgentView]


class Part(msgspec.Struct, frozen=True):
    """One thing to paste: into a shell's environment, a file, or the fields of a form."""

    kind: Literal["environment", "file", "form"]
    path: str | None
    """The file, or where the form is; None for an environment."""
    format: Literal["sh", "toml", "json", "yaml", "text"]
    content: str


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How one client is pointed at this tenant."""

    agent: str
    name: str
    protocol: Protocol
    endpoint: str
    """As the client is told it."""
    endpoints: list[str]
    """Where its requests then go."""
    parts: list[Part]
    notes: list[str]
    check: list[str]
    """How one sees what arrives."""


class IssuedSetup(Setup, frozen=True, kw_only=True):
    key: IssuedKey
    """This answer is the only place where it is shown."""
