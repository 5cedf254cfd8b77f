"""The words in which models are spoken to: how often tools were called so far, and how a reply looks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import msgspec


class Wish(msgspec.Struct, frozen=True):
    """One tool that the model wants called."""

    tool: str
    arguments: dict[str, Any]


class Reply(msgspec.Struct, frozen=True):
    """What goes back over the wire."""

    content_type: str
    body: str


Asked = dict[str, Any]
FAREWELL = "All done."
STREAM = "text/event-stream"


def next_wish(wishes: Sequence[Wish], fulfilled: int, asked: Asked) -> Wish | None:
    """What the model wants now; one that is asked for a title is given no tools, and wants none."""
    return wishes[fulfilled] if asked.get("tools") and fulfilled < len(wishes) else None


def events(said: Sequence[Any], *, named: bool = False) -> Reply:
    lines = (
        (f"event: {one['type']}\n" if named else "")
        + f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n"
        for one in said
    )
    return Reply(STREAM, "".join(lines))


def gemini(asked: Asked, wishes: Sequence[Wish], path: str) -> Reply:
    parts = [part for turn in asked["contents"] for part in turn["parts"]]
    fulfilled = sum("functionResponse" in part for part in parts)
    if fulfilled < len(wishes):
        wish = wishes[fulfilled]
        said = {"functionCall": {"name": wish.tool, "args": wish.arguments}}
    else:
        said = {"text": FAREWELL}
    reply = {
        "candidates": [
            {"index": 0, "content": {"role": "model", "parts": [said]}, "finishReason": "STOP"}
        ],
        "usageMetadata": {
            "promptTokenCount": 100,
            "cachedContentTokenCount": 40,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 5,
            "totalTokenCount": 125,
        },
    }
    if "streamGenerateContent" in path:
        return events([reply])
    return Reply("application/json", json.dumps(reply))


def responses(asked: Asked, wishes: Sequence[Wish], _: str) -> Reply:
    given = [one for one in asked["input"] if isinstance(one, dict)]
    fulfilled = sum(str(one.get("type")).endswith("call_output") for one in given)
    wish = next_wish(wishes, fulfilled, asked)
    item: dict[str, Any]
    if wish is not None:
        item = {
            "type": "function_call",
            "id": f"fc_{uuid4().hex}",
            "call_id": f"call_{uuid4().hex}",
            "name": wish.tool,
            "arguments": json.dumps(wish.arguments),
            "status": "completed",
        }
    else:
        said = {"type": "output_text", "text": FAREWELL, "annotations": []}
        item = {
            "type": "message",
            "id": f"msg_{uuid4().hex}",
            "role": "assistant",
            "status": "completed",
            "content": [said],
        }
    response = {
        "id": f"resp_{uuid4().hex}",
        "object": "response",
        "model": asked["model"],
        "status": "completed",
        "output": [item],
        "usage": {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 40},
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 5},
            "total_tokens": 120,
        },
    }
    began = response | {"status": "in_progress", "output": [], "usage": None}
    return events(
        [
            {"type": "response.created", "response": began},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": response},
        ],
        named=True,
    )


def chat(asked: Asked, wishes: Sequence[Wish], _: str) -> Reply:
    fulfilled = sum(message["role"] == "tool" for message in asked["messages"])
    wish = next_wish(wishes, fulfilled, asked)
    message: dict[str, Any] = {"role": "assistant", "content": FAREWELL}
    if wish is not None:
        function = {"name": wish.tool, "arguments": json.dumps(wish.arguments)}
        call = {"index": 0, "id": f"call_{uuid4().hex}", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    reason = "stop" if wish is None else "tool_calls"
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    reply = {"id": f"chatcmpl-{uuid4().hex}", "created": 1, "model": asked["model"]}
    if not asked.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": reason}
        whole = reply | {"object": "chat.completion", "choices": [choice], "usage": usage}
        return Reply("application/json", json.dumps(whole))
    reply["object"] = "chat.completion.chunk"
    return events(
        [
            reply | {"choices": [{"index": 0, "delta": message, "finish_reason": None}]},
            reply | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
            reply | {"choices": [], "usage": usage},
            "[DONE]",
        ]
    )


def messages(asked: Asked, wishes: Sequence[Wish], _: str) -> Reply:
    blocks = [
        block
        for message in asked["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
    ]
    fulfilled = sum(block["type"] == "tool_result" for block in blocks)
    wish = next_wish(wishes, fulfilled, asked)
    usage = {"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": 20}
    message = {
        "id": f"msg_{uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "stop_sequence": None,
    }
    reason = "end_turn" if wish is None else "tool_use"
    block: dict[str, Any] = {"type": "text", "text": FAREWELL}
    delta: dict[str, Any] = {"type": "text_delta", "text": FAREWELL}
    begun: dict[str, Any] = {"type": "text", "text": ""}
    if wish is not None:
        begun = {"type": "tool_use", "id": f"toolu_{uuid4().hex}", "name": wish.tool, "input": {}}
        block = begun | {"input": wish.arguments}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(wish.arguments)}
    if not asked.get("stream"):
        whole = message | {"content": [block], "stop_reason": reason, "usage": usage}
        return Reply("application/json", json.dumps(whole))
    start = message | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    return events(
        [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": begun},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": None},
                "usage": {"output_tokens": 20},
            },
            {"type": "message_stop"},
        ],
        named=True,
    )


API_OF: dict[str, Callable[[Asked, Sequence[Wish], str], Reply]] = {
    "/responses": responses,
    "/chat/completions": chat,
    "/messages": messages,
    "enerateContent": gemini,
}
"""By what their paths end with."""
