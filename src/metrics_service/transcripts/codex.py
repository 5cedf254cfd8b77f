"""Codex's rollouts: `~/.codex/sessions/<year>/<month>/<day>/rollout-<time>-<id>.jsonl`.

Source: what Codex 0.169 writes, beside what it sends of the same session, and github.com/openai/codex
`codex-rs/protocol/src/protocol.rs` for what earlier ones wrote. Tool calls meet by `call_id`; model calls
and prompts have no name in common with what is sent live.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

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
    remote,
    text_bytes,
    told,
)

MAX_HEAD = 4096
COPY_NS = 10**9

_id_in_name = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$").search
# The head of a command's output, in the forms of several versions.
_exit_code = re.compile(r"(?:Process exited with code|Exit code:) (-?\d{1,9})\b").search
_BODY = "\nOutput:\n"
UNSUPPORTED = "unsupported call: "
_ENDED = {"completed": True, "failed": False, "declined": False}


class _Duration(msgspec.Struct):
    secs: int = 0
    nanos: int = 0

    @property
    def milliseconds(self) -> float:
        return self.secs * 1000 + self.nanos / 1e6


class _Item(msgspec.Struct):
    """Something of a turn that has come to its end."""

    type: str = ""
    id: str | None = None
    status: str | None = None
    exit_code: int | None = None
    duration: _Duration | None = None
    content: msgspec.Raw = msgspec.Raw()


class _Tokens(msgspec.Struct):
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    total_tokens: int | None = None


class _Info(msgspec.Struct):
    total_token_usage: _Tokens | None = None
    last_token_usage: _Tokens | None = None


class _Git(msgspec.Struct):
    commit_hash: str | None = None
    branch: str | None = None
    repository_url: str | None = None


class _Meta(msgspec.Struct):
    id: str | None = None
    cwd: str | None = None
    originator: str | None = None
    cli_version: str | None = None
    model_provider: str | None = None
    git: _Git | None = None


class _Turn(msgspec.Struct):
    turn_id: str | None = None
    model: str | None = None
    effort: str | None = None


class _Payload(msgspec.Struct):
    type: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    action: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    turn_id: str | None = None
    duration_ms: float | None = None
    exit_code: int | None = None
    duration: msgspec.Raw = msgspec.Raw()
    success: bool | None = None
    info: _Info | None = None
    usage: _Tokens | None = None
    item: _Item | None = None


class _Line(msgspec.Struct):
    type: str = ""
    timestamp: datetime | None = None
    payload: msgspec.Raw = msgspec.Raw()


class _Exited(msgspec.Struct):
    exit_code: int | None = None
    duration_seconds: float | None = None


class _Output(msgspec.Struct):
    """How versions before 0.60 wrote what a command did."""

    metadata: _Exited | None = None


class Answered(Open, omit_defaults=True):
    """A call whose result is there, while something may still tell how long it ran."""

    answered_ns: int = 0
    output_bytes: int | None = None


class Ran(msgspec.Struct, omit_defaults=True):
    """What the client recorded of a call's run, beside its result."""

    success: bool | None = None
    duration_ms: float | None = None


class Memory(msgspec.Struct, omit_defaults=True):
    """What is known at some place of a rollout."""

    session_id: str | None = None
    common: dict[str, Attribute] = {}
    """What every record says of the session."""
    provider: str | None = None
    model: str | None = None
    effort: str | None = None
    turn: str | None = None
    total: int | None = None
    """All tokens so far: what tells of the same total again tells nothing new."""
    usage_kind: str | None = None
    """What tells of model calls; of two that do, the first."""
    prompt_kind: str | None = None
    copied_until_ns: int = 0
    """Until then all lines are the history of another session, which earlier versions write anew."""
    calls: dict[str, Open] = {}
    answered: dict[str, Answered] = {}
    ran: dict[str, Ran] = {}


KNOWN = frozenset(
    {
        "session_meta",
        "turn_context",
        "response_item",
        "event_msg",
        "token_usage_record",
        "compacted",
    }
)
CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call"})
OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
RUNS = frozenset({"exec_command_end", "mcp_tool_call_end", "patch_apply_end"})
ITEMS = frozenset({"CommandExecution", "McpToolCall", "FileChange"})

_lines = msgspec.json.Decoder(_Line)
_metas = msgspec.json.Decoder(_Meta)
_turns = msgspec.json.Decoder(_Turn)
_payloads = msgspec.json.Decoder(_Payload)
_outputs = msgspec.json.Decoder(_Output)
_durations = msgspec.json.Decoder(_Duration)


class CodexReader:
    """Reads one rollout of Codex."""

    def __init__(self, name: str, memory: Memory | None = None) -> None:
        """`name` is the file's, which ends with the session's id."""
        self.memory = memory or Memory()
        self.other_lines = 0
        if self.memory.session_id is None and (found := _id_in_name(name)) is not None:
            self.memory.session_id = found[0]

    def feed(self, line: bytes, end: int) -> Iterator[Record]:
        one: _Line = decoded(line, _lines)
        if one.type not in KNOWN:
            self.other_lines += 1
            return
        if one.timestamp is None or not one.payload:
            return
        at_ns = nanoseconds(one.timestamp)
        payload = bytes(one.payload)
        if one.type == "session_meta":
            self._begin(decoded(payload, _metas), at_ns)
        elif at_ns < self.memory.copied_until_ns:
            return
        elif one.type == "turn_context":
            self._turn(decoded(payload, _turns))
        elif one.type == "compacted":
            yield from self._told("context_compacted", at_ns, {"event.sequence": end})
        else:
            said: _Payload = decoded(payload, _payloads)
            if one.type == "token_usage_record":
                yield from self._usage(one.type, said.usage, at_ns, end)
            elif one.type == "response_item":
                yield from self._item(said, at_ns)
            else:
                yield from self._event(said, at_ns, end)

    def finish(self) -> Iterator[Record]:
        yield from self._results()

    def _begin(self, meta: _Meta, at_ns: int) -> None:
        memory = self.memory
        if memory.common and meta.id != memory.session_id:
            # The session that this one was made of: its history is written anew, in one go.
            memory.copied_until_ns = at_ns + COPY_NS
            return
        memory.session_id = meta.id or memory.session_id
        git = meta.git or _Git()
        memory.provider = meta.model_provider
        memory.common = told(
            app__version=meta.cli_version,
            originator=meta.originator,
            # The weakest name for it: whoever named the project on purpose is believed.
            service__namespace=last_folder(meta.cwd),
            vcs__ref__head__name=git.branch,
            vcs__ref__head__revision=git.commit_hash,
            vcs__repository__url__full=remote(git.repository_url),
        )

    def _turn(self, turn: _Turn) -> None:
        self.memory.turn = turn.turn_id or self.memory.turn
        self.memory.model = turn.model or self.memory.model
        self.memory.effort = turn.effort

    def _item(self, said: _Payload, at_ns: int) -> Iterator[Record]:
        memory = self.memory
        if said.call_id is None or said.type not in CALLS | OUTPUTS:
            return
        if said.type in OUTPUTS:
            call = memory.calls.pop(said.call_id, None)
            if call is not None:
                memory.answered[said.call_id] = Answered(
                    call.name, call.at_ns, call.input_bytes, at_ns, text_bytes(said.output)
                )
                self._look_at(said.call_id, said.output)
            return
        yield from self._results()
        if len(memory.calls) >= MAX_OPEN:
            del memory.calls[next(iter(memory.calls))]
        given = said.arguments or said.input or said.action
        name = said.name or ("local_shell" if said.type == "local_shell_call" else "unknown")
        memory.calls[said.call_id] = Open(name, at_ns, text_bytes(given))

    def _look_at(self, call_id: str, output: msgspec.Raw) -> None:
        """Take from the head of an output how the call ended, where nothing else says it."""
        text = as_text(output)
        if text is None or call_id in self.memory.ran:
            return
        if text.startswith(UNSUPPORTED):
            self.memory.ran[call_id] = Ran(success=False)
            return
        if text.startswith("{"):
            try:
                exited = _outputs.decode(text).metadata or _Exited()
            except (msgspec.DecodeError, UnicodeDecodeError):
                return
            if exited.exit_code is not None:
                lasted = exited.duration_seconds
                self.memory.ran[call_id] = Ran(
                    exited.exit_code == 0, None if lasted is None else lasted * 1000
                )
            return
        found = _exit_code(text[:MAX_HEAD].partition(_BODY)[0])
        if found is not None:
            self.memory.ran[call_id] = Ran(success=int(found[1]) == 0)

    def _event(self, said: _Payload, at_ns: int, end: int) -> Iterator[Record]:
        if said.type == "token_count" and said.info is not None:
            total = said.info.total_token_usage
            if total is None or total.total_tokens != self.memory.total:
                self.memory.total = total.total_tokens if total is not None else None
                yield from self._usage(said.type, said.info.last_token_usage, at_ns, end)
        elif said.type == "user_message":
            yield from self._prompt(said.type, text_length(said.message), at_ns, end)
        elif said.type == "item_completed" and said.item is not None:
            yield from self._completed(said.item, at_ns, end)
        elif said.type in RUNS and said.call_id is not None:
            self._note(said.call_id, Ran(_ended(said), _lasted(said.duration)))
        elif said.type in {"task_complete", "turn_aborted"}:
            yield from self._results()
            attributes = told(
                duration_ms=said.duration_ms,
                turn__id=said.turn_id or self.memory.turn,
                aborted=True if said.type == "turn_aborted" else None,
                event__sequence=end,
            )
            yield from self._told("task_complete", at_ns, attributes)

    def _completed(self, item: _Item, at_ns: int, end: int) -> Iterator[Record]:
        if item.type == "UserMessage":
            yield from self._prompt(item.type, _length_of(item.content), at_ns, end)
        elif item.type in ITEMS and item.id is not None:
            lasted = item.duration.milliseconds if item.duration is not None else None
            self._note(item.id, Ran(_ENDED.get(item.status or ""), lasted))

    def _note(self, call_id: str, ran: Ran) -> None:
        if call_id in self.memory.calls or call_id in self.memory.answered:
            self.memory.ran[call_id] = ran

    def _prompt(self, kind: str, length: int | None, at_ns: int, end: int) -> Iterator[Record]:
        self.memory.prompt_kind = self.memory.prompt_kind or kind
        if kind == self.memory.prompt_kind:
            attributes = told(prompt_length=length, turn__id=self.memory.turn, event__sequence=end)
            yield from self._told("user_prompt", at_ns, attributes)

    def _usage(self, kind: str, tokens: _Tokens | None, at_ns: int, end: int) -> Iterator[Record]:
        memory = self.memory
        memory.usage_kind = memory.usage_kind or kind
        if tokens is None or kind != memory.usage_kind:
            return
        yield from self._told(
            "sse_event",
            at_ns,
            told(
                event__kind="response.completed",
                model=memory.model,
                model_reasoning_effort=memory.effort,
                provider_name=memory.provider,
                turn__id=memory.turn,
                input_token_count=tokens.input_tokens,
                output_token_count=tokens.output_tokens,
                cached_token_count=tokens.cached_input_tokens,
                cache_write_token_count=tokens.cache_write_input_tokens,
                reasoning_token_count=tokens.reasoning_output_tokens,
                tool_token_count=tokens.total_tokens,
                event__sequence=end,
            ),
        )

    def _results(self) -> Iterator[Record]:
        memory = self.memory
        for call_id, call in memory.answered.items():
            ran = memory.ran.pop(call_id, None) or Ran()
            yield from self._told(
                "tool_result",
                call.answered_ns,
                told(
                    tool_name=call.name,
                    call_id=call_id,
                    success=None if ran.success is None else str(ran.success).lower(),
                    duration_ms=ran.duration_ms,
                    total_ms=milliseconds(call.at_ns, call.answered_ns),
                    tool_input_size_bytes=call.input_bytes,
                    tool_result_size_bytes=call.output_bytes,
                    model=memory.model,
                    turn__id=memory.turn,
                ),
            )
        memory.answered.clear()

    def _told(self, name: str, at_ns: int, attributes: dict[str, Attribute]) -> Iterator[Record]:
        if self.memory.session_id is not None:
            yield Record(name, self.memory.session_id, at_ns, {**self.memory.common, **attributes})


def text_length(raw: msgspec.Raw) -> int | None:
    """How many characters a JSON string has."""
    text = as_text(raw) if raw else None
    return None if text is None else len(text)


class _Piece(msgspec.Struct):
    text: msgspec.Raw = msgspec.Raw()


_pieces = msgspec.json.Decoder(list[_Piece])


def _length_of(content: msgspec.Raw) -> int | None:
    if not content:
        return None
    try:
        pieces = _pieces.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UnreadableLineError from None
    return sum(text_length(piece.text) or 0 for piece in pieces)


def _ended(said: _Payload) -> bool | None:
    if said.success is not None:
        return said.success
    return None if said.exit_code is None else said.exit_code == 0


def _lasted(raw: msgspec.Raw) -> float | None:
    if not raw or bytes(memoryview(raw)[:1]) != b"{":
        return None
    try:
        duration: Any = _durations.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return float(duration.milliseconds)
