"""Which attributes hold what people and models wrote, by the names that conventions have for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

CONTENT = frozenset(
    {
        "gen_ai.system_instructions",
        "gen_ai.tool.definitions",
        "gen_ai.tool.description",
        "process.command_line",
        "process.command_args",
    }
)
# By the last word of a name, whatever stands before it, where the value is no number.
CONTENT_WORDS = frozenset(
    {
        "args", "arguments", "body", "command", "completion", "content", "input", "message",
        "messages", "output", "prompt", "prompts", "query", "request_text", "response",
        "response_text", "result", "stacktrace", "statement", "stderr", "stdout", "text", "value",
        "bash_command", "full_command", "prompt_text", "tool_input", "tool_output",
        "tool_parameters", "user_prompt",
    }
)  # fmt: skip
CONTENT_PREFIXES = (
    "gen_ai.prompt.",
    "gen_ai.completion.",
    "llm.input_messages",
    "llm.output_messages",
    "llm.prompts",
    "ai.prompt",
    "ai.response.text",
    "ai.response.object",
    "ai.response.toolCalls",
    "ai.request.headers",
    "ai.response.reasoning",
    "ai.toolCall.input",
    "ai.toolCall.output",
    "ai.toolCall.args",
    "ai.toolCall.result",
    "traceloop.entity.",
    "retrieval.documents.",
    "embedding.embeddings.",
    "reranker.",
    "llm.tools.",
)
REDACTED = frozenset({"<REDACTED>", "[REDACTED]"})
MAX_ATTRIBUTE = 1024
MAX_KEPT = 64
MAX_NAME = 255


def is_content(name: str) -> bool:
    """Whether an attribute of this name holds what people and models wrote, unless it is a number."""
    return (
        name in CONTENT
        or name.rpartition(".")[2] in CONTENT_WORDS
        or name.startswith(CONTENT_PREFIXES)
    )


def has_content(value: Any) -> bool:
    """Whether something inside a value does."""
    if isinstance(value, dict):
        return any(is_content(str(name)) or has_content(inner) for name, inner in value.items())
    return isinstance(value, list) and any(has_content(inner) for inner in value)


def size(value: Any) -> int | None:
    """The length of content in bytes of UTF-8; None where there is none, or the client redacted it."""
    if value is None or (isinstance(value, str) and value in REDACTED):
        return None
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return len(text.encode("utf-8", "replace"))


def rest(
    attributes: Mapping[str, Any],
    known: frozenset[str],
    content: frozenset[str] = frozenset(),
) -> dict[str, Any] | None:
    """The attributes that have no column, or None.

    Content leaves its length, long text is cut: what may be stored of them has columns of its own.
    """
    if attributes.keys() <= known:
        return None
    kept: dict[str, Any] = {}
    for name, value in attributes.items():
        if name in known or value is None or len(kept) >= MAX_KEPT or len(name) > MAX_NAME:
            continue
        is_written = isinstance(value, (str, list, dict)) and is_content(name)
        if name in content or is_written or has_content(value):
            if (length := size(value)) is not None:
                kept[f"{name}_bytes"] = length
        elif isinstance(value, str) and len(value) > MAX_ATTRIBUTE:
            kept[name] = value[:MAX_ATTRIBUTE]
        elif isinstance(value, (list, dict)) and (size(value) or 0) > MAX_ATTRIBUTE:
            kept[f"{name}_bytes"] = size(value)
        else:
            kept[name] = value
    return kept or None
