"""Whoever follows the OpenTelemetry GenAI and MCP conventions, or OpenInference."""

from __future__ import annotations

from metrics_service.otlp.agents.agent import Agent

AGENT = Agent()
