"""Puts together how one client is set up for one tenant. Pure: nothing is looked up here."""

from __future__ import annotations

import msgspec

from metrics_service.errors import NotFoundError
from metrics_service.fields import Protocol
from metrics_service.setup.agents import AGENTS
from metrics_service.setup.agents.agent import Agent
from metrics_service.setup.connection import PLACEHOLDER, Connection, Endpoint
from metrics_service.setup.schemas import AgentView, Setup

MAX_SHOWN = 64


class WrongProtocolError(Exception):
    """A protocol that the client does not speak, or the server does not take; says what would do."""


def list_agents() -> list[AgentView]:
    return [
        AgentView(agent.code, agent.name, [*agent.protocols], [*agent.signals])
        for agent in AGENTS.values()
    ]


def find_agent(code: str) -> Agent:
    """Raises `NotFoundError` that names those there are."""
    if code not in AGENTS:
        known = ", ".join(AGENTS)
        raise NotFoundError(f"set-up for {code[:MAX_SHOWN]!r}; the agents are {known}")
    return AGENTS[code]


def choose_protocol(agent: Agent, wanted: Protocol | None, endpoint: Endpoint) -> Protocol:
    """The protocol that was asked for, or the client's default; raises `WrongProtocolError`."""
    if wanted is None:
        return agent.protocols[0]
    if wanted not in agent.protocols:
        raise WrongProtocolError(
            f"{agent.code} does not speak {wanted}; it speaks {', '.join(agent.protocols)}"
        )
    if wanted == "grpc" and endpoint.grpc is None:
        raise WrongProtocolError(
            "OTLP over gRPC is not taken here; METRICS_OTLP_GRPC_PORT, or --otlp-grpc-port of the "
            "server, says at which port it is"
        )
    return wanted


def compose(agent: Agent, connection: Connection) -> Setup:
    connection = msgspec.structs.replace(connection, is_remote=agent.is_remote)
    snippet = agent.write(connection)
    return Setup(
        agent=agent.code,
        name=agent.name,
        protocol=connection.protocol,
        endpoint=connection.url,
        endpoints=list(dict.fromkeys(map(connection.url_of, agent.signals))),
        parts=snippet.parts,
        notes=[*snippet.notes, *_local_notes(connection), *_key_notes(connection)],
        check=_checks(connection),
    )


def _local_notes(connection: Connection) -> list[str]:
    if connection.is_remote or not connection.endpoint.is_local:
        return []
    host = connection.endpoint.host
    line = f"127.0.0.1 {host}"
    if connection.needs_host:
        return [
            (
                f"Agents ask the system for {host}, which may not know it: hence the loopback address, and "
                f"the tenant's name in the header host. With '{line}' in /etc/hosts, "
                f"{connection.endpoint.origin} does without."
            )
        ]
    return [
        f"Over gRPC the address names the tenant: where {host} is unknown, add '{line}' to /etc/hosts."
    ]


def _key_notes(connection: Connection) -> list[str]:
    if connection.key != PLACEHOLDER:
        return []
    return [f"{PLACEHOLDER} is to be replaced by a key of this tenant with the scope ingest."]


def _checks(connection: Connection) -> list[str]:
    origin = connection.endpoint.origin
    host = f" --host {connection.endpoint.host}" if connection.needs_host else ""
    return [
        (
            f"curl -sS {origin}/api/v1/ingest-log -H 'Authorization: Bearer {PLACEHOLDER}'   "
            "# what arrived, what was refused and why; with a key of the scope admin"
        ),
        (
            f"METRICS_INGEST_KEY={PLACEHOLDER} metrics-service otlp send-test "
            f"--protocol {connection.protocol} --endpoint {connection.url}{host}   "
            "# a session of its own, as this machine would send it"
        ),
    ]
