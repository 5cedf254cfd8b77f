"""The clients that can be set up: every module here that has an `AGENT`, in the order of the page."""

from __future__ import annotations

from metrics_service.setup.agents import (
    claude_code,
    codex,
    collector,
    copilot_cli,
    copilot_vscode,
    cursor,
    gemini_cli,
    opencode,
    qwen_code,
    sdk,
)
from metrics_service.setup.agents.agent import Agent

AGENTS: dict[str, Agent] = {
    module.AGENT.code: module.AGENT
    for module in (
        claude_code,
        codex,
        gemini_cli,
        qwen_code,
        copilot_vscode,
        copilot_cli,
        opencode,
        cursor,
        sdk,
        collector,
    )
}
