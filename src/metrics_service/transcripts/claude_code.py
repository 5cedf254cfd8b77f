"""Claude Code's transcripts: `~/.claude/projects/<folder>/<session>.jsonl`, and those of its subagents.

Source: what Claude Code 2.1.330 writes, beside what it sends of the same session. Tool calls meet by
`tool_use_id`, model calls by `requestId`, prompts by the line's `uuid`, commands by `promptId`; lines of
subagents carry their parent's session id, as what they send does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

import msgspec

from metrics_service.transcripts.records import (
    MAX_OPEN,
    Attribute,
    Open,
    Record,
    UnreadableLineError,
    as_text,
    decoded,
    last_folder,
    milliseconds,
    nanoseconds,
    text_bytes,
    told,
)

SYNTHETIC = "<synthetic>"
"""The model of what the client itself says in an assistant's place."""
MAX_PENDING = 16
NULL = msgspec.Raw(b"null")
REJECTED = ("User rejected tool use", "Error: The user doesn't want to proceed")

# What the client itself writes in a person's place, each between its own marks.
_NOT_TYPED = (
    "<local-command-",
    "<bash-",
    "<task-notification",
    "<system-reminder",
    "[Request interrupted by user",
    "Caveat: The messages below",
)
_command = re.compile(r"<command-name>/?([\w:.-]{1,64})").search
# Those of people may say more than their name should.
_BUILT_IN = frozenset(
    {
        "add-dir", "agents", "clear", "compact", "config", "context", "cost", "exit", "export", "help",
        "hooks", "init", "login", "logout", "mcp", "memory", "model", "permissions", "plan", "plugin",
        "resume", "review", "rewind", "security-review", "status", "tasks", "usage", "vim",
    }
)  # fmt: skip


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    content: msgspec.Raw = msgspec.Raw()


class _Block(msgspec.Struct):
    type: str = ""
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    tool_use_id: str | None = None
    is_error: bool | None = None
    content: msgspec.Raw = msgspec.Raw()
    text: msgspec.Raw = msgspec.Raw()


class _Ran(msgspec.Struct, rename="camel"):
    """What some tools say of themselves."""

    duration_ms: float | None = None
    total_duration_ms: float | None = None
    duration_seconds: float | None = None


class _Decision(msgspec.Struct):
    decision: str | None = None
    source: str | None = None


class _Origin(msgspec.Struct):
    kind: str | None = None


class _Fork(msgspec.Struct):
    """Only whether it is one matters."""


class _Compaction(msgspec.Struct, rename="camel"):
    trigger: str | None = None
    pre_tokens: int | None = None
    post_tokens: int | None = None
    duration_ms: float | None = None


class _Line(msgspec.Struct, rename="camel"):
    type: str = ""
    subtype: str | None = None
    uuid: str | None = None
    session_id: str | None = None
    prompt_id: str | None = None
    request_id: str | None = None
    agent_id: str | None = None
    attribution_agent: str | None = None
    timestamp: datetime | None = None
    cwd: str | None = None
    git_branch: str | None = None
    version: str | None = None
    entrypoint: str | None = None
    is_sidechain: bool | None = None
    is_meta: bool | None = None
    is_compact_summary: bool | None = None
    is_visible_in_transcript_only: bool | None = None
    is_api_error_message: bool | None = None
    api_error_status: int | None = None
    message: msgspec.Raw = msgspec.Raw()
    tool_use_result: msgspec.Raw = msgspec.Raw()
    permission_decision: _Decision | None = None
    compact_metadata: _Compaction | None = None
    forked_from: _Fork | None = None
    origin: _Origin | None = None


class _Type(msgspec.Struct):
    type: str = ""


class Memory(msgspec.Struct, omit_defaults=True):
    """What is known at some place of a transcript."""

    turn: str | None = None
    calls: dict[str, Open] = {}
    answers: dict[str, Record] = {}
    """Model calls of which more lines may follow: a line for each piece, the last one has it all."""


KNOWN = frozenset({"user", "assistant", "system"})

_types = msgspec.json.Decoder(_Type)
_lines = msgspec.json.Decoder(_Line)
_messages = msgspec.json.Decoder(_Message)
_blocks = msgspec.json.Decoder(list[_Block])
_ran = msgspec.json.Decoder(_Ran)


class ClaudeReader:
    """Reads one transcript of Claude Code."""

    def __init__(self, name: str, memory: Memory | None = None) -> None:
        """`name` is the file's, which is the session's id but for subagents."""
        self.memory = memory or Memory()
        self.other_lines = 0
        self._session_id = "" if name.startswith("agent-") else name

    def feed(self, line: bytes, end: int) -> Iterator[Record]:  # noqa: ARG002  # lines have ids here
        if decoded(line, _types).type not in KNOWN:
            self.other_lines += 1
            return
        one: _Line = decoded(line, _lines)
        session_id = one.session_id or self._session_id
        if one.forked_from is not None or one.timestamp is None or not session_id:
            # The copy of a line of another session, or no line of any.
            return
        at_ns = nanoseconds(one.timestamp)
        if one.type == "system":
            if one.subtype == "compact_boundary":
                yield _compaction(one, session_id, at_ns)
            return
        if not one.message or one.message == NULL:
            return
        message: _Message = decoded(bytes(one.message), _messages)
        self.memory.turn = one.prompt_id or self.memory.turn
        if one.type == "assistant":
            yield from self._answer(one, message, session_id, at_ns)
        else:
            yield from self._said(one, message, session_id, at_ns)

    def finish(self) -> Iterator[Record]:
        yield from self.memory.answers.values()
        self.memory.answers.clear()

    def _answer(
        self, one: _Line, message: _Message, session_id: str, at_ns: int
    ) -> Iterator[Record]:
        attributes = {
            **_common(one, self.memory.turn),
            **told(
                request_id=one.request_id, agent_id=one.agent_id, agent__name=one.attribution_agent
            ),
        }
        if one.is_api_error_message:
            attributes |= told(status_code=one.api_error_status, event__sequence=one.uuid)
            yield Record("api_error", session_id, at_ns, attributes)
            return
        for block in _content(message):
            if block.type == "tool_use" and block.id and block.name:
                self._ask(block, at_ns)
        name = one.request_id or message.id
        if message.model in {None, SYNTHETIC} or message.usage is None or name is None:
            return
        attributes |= told(
            model=message.model,
            input_tokens=message.usage.input_tokens,
            output_tokens=message.usage.output_tokens,
            cache_read_tokens=message.usage.cache_read_input_tokens,
            cache_creation_tokens=message.usage.cache_creation_input_tokens,
            # Where no request id names it, the message's does.
            event__sequence=message.id if one.request_id is None else None,
        )
        answers = self.memory.answers
        answers.pop(name, None)
        if len(answers) >= MAX_PENDING:
            yield answers.pop(next(iter(answers)))
        answers[name] = Record("api_request", session_id, at_ns, attributes)

    def _ask(self, block: _Block, at_ns: int) -> None:
        calls = self.memory.calls
        if block.id is None or block.name is None or block.id in calls:
            return
        if len(calls) >= MAX_OPEN:
            del calls[next(iter(calls))]
        calls[block.id] = Open(block.name, at_ns, len(block.input) or None)

    def _said(self, one: _Line, message: _Message, session_id: str, at_ns: int) -> Iterator[Record]:
        typed = as_text(message.content) if message.content else None
        results = 0
        if typed is None:
            blocks = _content(message)
            for block in blocks:
                if block.type == "tool_result" and block.tool_use_id:
                    results += 1
                    yield from self._result(one, block, session_id, at_ns)
            texts = [as_text(block.text) or "" for block in blocks if block.type == "text"]
            typed = None if results else "".join(texts)
        if typed is None or _is_not_typed(one, typed):
            return
        attributes = _common(one, one.prompt_id)
        attributes |= told(prompt_length=len(typed), message__uuid=one.uuid)
        if "<command-name>" in typed:
            found = _command(typed)
            known = found is not None and found[1] in _BUILT_IN
            attributes["command_name"] = found[1] if found is not None and known else "custom"
            attributes.pop("prompt_length")
        yield Record("user_prompt", session_id, at_ns, attributes)

    def _result(self, one: _Line, block: _Block, session_id: str, at_ns: int) -> Iterator[Record]:
        call = self.memory.calls.pop(str(block.tool_use_id), None)
        if call is None:
            # Asked for in what was read, and sent, before: or in another file.
            return
        has_failed = bool(block.is_error)
        decision = one.permission_decision or _Decision()
        if has_failed and decision.decision is None and _is_rejected(one):
            decision = _Decision("reject", "user_reject")
        yield Record(
            "tool_result",
            session_id,
            at_ns,
            {
                **_common(one, self.memory.turn),
                **told(
                    tool_name=call.name,
                    tool_use_id=block.tool_use_id,
                    success="false" if has_failed else "true",
                    duration_ms=_duration(one),
                    total_ms=milliseconds(call.at_ns, at_ns),
                    tool_input_size_bytes=call.input_bytes,
                    tool_result_size_bytes=text_bytes(block.content),
                    decision_type=decision.decision,
                    decision_source=decision.source,
                    agent_id=one.agent_id,
                ),
            },
        )


def _common(one: _Line, turn: str | None) -> dict[str, Attribute]:
    return told(
        prompt__id=turn,
        service__version=one.version,
        app__entrypoint=one.entrypoint,
        vcs__ref__head__name=one.git_branch,
        # The weakest name for it: whoever named the project on purpose is believed.
        service__namespace=last_folder(one.cwd),
    )


def _content(message: _Message) -> list[_Block]:
    if not message.content or bytes(memoryview(message.content)[:1]) != b"[":
        return []
    try:
        return _blocks.decode(message.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UnreadableLineError from None


def _is_not_typed(one: _Line, typed: str) -> bool:
    return bool(
        one.is_sidechain
        or one.is_meta
        or one.is_compact_summary
        or one.is_visible_in_transcript_only
        or (one.origin is not None and one.origin.kind not in {None, "human"})
        or typed.startswith(_NOT_TYPED)
    )


def _is_rejected(one: _Line) -> bool:
    said = as_text(one.tool_use_result) if one.tool_use_result else None
    return said is not None and said.startswith(REJECTED)


def _duration(one: _Line) -> float | None:
    raw = one.tool_use_result
    if not raw or bytes(memoryview(raw)[:1]) != b"{":
        return None
    try:
        ran = _ran.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if ran.duration_ms is not None:
        return ran.duration_ms
    if ran.total_duration_ms is not None:
        return ran.total_duration_ms
    return None if ran.duration_seconds is None else ran.duration_seconds * 1000


def _compaction(one: _Line, session_id: str, at_ns: int) -> Record:
    said = one.compact_metadata or _Compaction()
    return Record(
        "compaction",
        session_id,
        at_ns,
        {
            **_common(one, one.prompt_id),
            **told(
                trigger=said.trigger,
                pre_tokens=said.pre_tokens,
                post_tokens=said.post_tokens,
                duration_ms=said.duration_ms,
                event__sequence=one.uuid,
            ),
        },
    )
