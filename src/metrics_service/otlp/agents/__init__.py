"""The clients that we know: every module here that has an `AGENT`. Adding a client is adding a file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

import msgspec

from metrics_service.otlp.agents.agent import Agent


class Agents(msgspec.Struct, frozen=True):
    """Recognises the client of an item: by scope, then by the item's name, then by service."""

    by_scope: Mapping[str, Agent]
    by_prefix: Mapping[str, Agent]
    by_service: Mapping[str, Agent]
    fallback: Agent

    def of(self, scope: str, name: str, service: str) -> Agent:
        """The agent of an item; the conventions' own mapper where nobody is recognised."""
        found = self.by_scope.get(scope)
        if found is not None:
            return found
        for prefix, agent in self.by_prefix.items():
            if name.startswith(prefix):
                return agent
        return self.by_service.get(service, self.fallback)


def _find() -> Agents:
    found: list[Agent] = []
    fallback = None
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        agent = getattr(importlib.import_module(f"{__name__}.{module.name}"), "AGENT", None)
        if module.name == "genai":
            fallback = agent
        elif agent is not None:
            found.append(agent)
    if fallback is None:
        raise ImportError("there is no mapper for the conventions")
    return Agents(
        {scope: agent for agent in found for scope in agent.scopes},
        {prefix: agent for agent in found for prefix in agent.prefixes},
        {service: agent for agent in found for service in agent.services},
        fallback,
    )


AGENTS = _find()
