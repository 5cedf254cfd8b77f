"""Which attributes hold what people and models wrote, by the names that conventions have for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

CONTENT = frozenset(
    {
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.prompt",
        "gen_ai.completion",
        "gen_ai.system_instructions",
        "gen_ai.tool.definitions",
        "gen_ai.tool.call.arguments",
        "gen_ai.tool.call.result",
        "gen_ai.tool.description",
        "input.value",
        "output.value",
        "prompt",
        "response",
        "request_text",
        "response_text",
        "content",
        "message",
        "exception.message",
        "exception.stacktrace",
    }
)
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
    return name in CONTENT or name.startswith(CONTENT_PREFIXES)


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
        if name in content or is_content(name):
            if (length := size(value)) is not None:
                kept[f"{name}_bytes"] = length
        elif isinstance(value, str) and len(value) > MAX_ATTRIBUTE:
            kept[name] = value[:MAX_ATTRIBUTE]
        elif isinstance(value, (list, dict)) and (size(value) or 0) > MAX_ATTRIBUTE:
            kept[f"{name}_bytes"] = size(value)
        else:
            kept[name] = value
    return kept or None
