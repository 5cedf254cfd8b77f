"""Lines that are made to break the reader: each is passed over, and what follows is read."""

from __future__ import annotations

import json

import pytest

from metrics_service.transcripts.events import as_request
from metrics_service.transcripts.files import find_transcripts
from metrics_service.transcripts.reading import Client, Transcript
from metrics_service.transcripts.state import Progress

AT = "2026-11-20T10:00:00Z"
DEEP = "[" * 100_000 + "]" * 100_000
GOOD: dict[Client, dict] = {
    "claude-code": {
        "type": "user", "uuid": "u", "sessionId": "s", "timestamp": AT, "message": {"content": "hi"},
    },
    "codex": {
        "type": "event_msg", "timestamp": AT, "payload": {"type": "user_message", "message": "hi"},
    },
}  # fmt: skip
NAME = "rollout-01234567-89ab-cdef-0123-456789abcdef.jsonl"


def answer(tokens: int) -> str:
    message = {"id": "m", "model": "x", "usage": {"input_tokens": tokens, "output_tokens": 1}}
    line = {"type": "assistant", "sessionId": "s", "timestamp": AT, "message": message}
    return json.dumps(line)


def of_codex(payload: str) -> str:
    return f'{{"type":"event_msg","timestamp":"{AT}","payload":{payload}}}'


@pytest.mark.parametrize(
    ("client", "bad", "is_passed_over"),
    [
        ("claude-code", f'{{"type":"user","x":{DEEP}}}', True),
        ("claude-code", answer(-(2**70)), False),
        ("codex", of_codex(f'{{"type":"user_message","x":{DEEP}}}'), True),
        (
            "codex",
            of_codex(
                '{"type":"item_completed","item":{"type":"FileChange","id":"c",'
                f'"duration":{{"secs":{"9" * 400}}}}}}}'
            ),
            True,
        ),
    ],
)
def test_what_follows_is_read(tmp_path, client, bad, is_passed_over):
    (tmp_path / NAME).write_text(f"{bad}\n{json.dumps(GOOD[client])}\n")
    (found,) = find_transcripts(tmp_path).files
    transcript = Transcript(client, found, Progress(found.path), since_ns=0)

    records = [record for record in transcript.records() if record is not None]

    assert "user_prompt" in {record.name for record in records}
    assert transcript.troubles.unreadable_lines == is_passed_over
    assert as_request(client, None, records)
