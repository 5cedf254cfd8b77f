"""What people call agents; the codes are the contract's, and others are called as they call themselves."""

from __future__ import annotations

from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    "claude-code": "Claude Code",
    "codex": "Codex",
    "gemini-cli": "Gemini CLI",
    "qwen-code": "Qwen Code",
    "copilot-vscode": "GitHub Copilot in VS Code",
    "copilot-cli": "GitHub Copilot CLI",
    "opencode": "opencode",
    "cursor": "Cursor",
}


def agent_name(code: str | None) -> str:
    """The name of an agent."""
    return "not known" if code is None else NAMES.get(code, code)
