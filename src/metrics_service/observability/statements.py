"""What a statement is, without anything that was in it: its shape, and the name of that shape.

A shape never has a literal in it. A fingerprint is the same for the text we send and for what
pg_stat_statements makes of it, which numbers the literals and leaves out most of a long list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b

import msgspec

MAX_REMEMBERED = 2_000
MAX_TEXT_LENGTH = 32 * 1024
"""A longer text is looked at each time, and only so far."""
MAX_SHAPE_LENGTH = 8_192
OTHER = "OTHER"

_CHANGES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
_VERBS = _CHANGES | frozenset(
    {
        *("SELECT", "VALUES", "TABLE", "BEGIN", "START", "COMMIT", "END", "ROLLBACK", "SAVEPOINT"),
        *("RELEASE", "SET", "RESET", "SHOW", "LISTEN", "UNLISTEN", "NOTIFY", "COPY", "EXPLAIN"),
        *("PREPARE", "EXECUTE", "DEALLOCATE", "DECLARE", "FETCH", "CLOSE", "DISCARD", "CALL", "DO"),
        *("CREATE", "ALTER", "DROP", "GRANT", "REVOKE", "COMMENT", "LOCK", "TRUNCATE", "VACUUM"),
        *("ANALYZE", "REINDEX", "CLUSTER", "REFRESH", "IMPORT"),
    }
)
# After these a word is a part of what stands before it: FOR NO KEY UPDATE, ON CONFLICT DO UPDATE.
_NO_VERB_AFTER = frozenset({"FOR", "KEY", "DO", "ON", "THEN", ".", "AS"})
# Functions that have FROM between their arguments.
_FROM_IS_THEIRS = frozenset({"EXTRACT", "SUBSTRING", "TRIM", "OVERLAY", "POSITION"})
# After these a minus is a number's own sign, as it is after an operator.
_SIGN_AFTER = frozenset(
    {
        *("SELECT", "WHERE", "AND", "OR", "NOT", "WHEN", "THEN", "ELSE", "CASE", "BETWEEN", "IN"),
        *(
            "LIMIT",
            "OFFSET",
            "BY",
            "RETURNING",
            "VALUES",
            "SET",
            "HAVING",
            "ON",
            "LIKE",
            "DISTINCT",
        ),
    }
)

# Comments may hold comments, which no expression of this kind can count: see `_tokens`.
_TOKEN = re.compile(
    r"""
      (?P<space> \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<string>
          [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)
        | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*(?:'|\Z)
        | (?P<dollars>\$(?:[^\W\d]\w*)?\$)(?s:.*?)(?:(?P=dollars)|\Z)
      )
    | (?P<name> (?:[uU]&)?"(?:[^"]|"")*(?:"|\Z) )
    | (?P<parameter> \$\d+ )
    | (?P<number>
          0[xX][0-9a-fA-F_]+ | 0[oO][0-7_]+ | 0[bB][01_]+
        | (?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?
      )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<other> :: | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_FIRST_WORD = re.compile(r"\s*([A-Za-z]+)")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_LIST = re.compile(r"\?(?: ?, ?\?)+")
_ROWS = re.compile(r"\(\?\)(?: ?, ?\(\?\))+")
# Constants to pg_stat_statements too, though not in IS NULL; made equal in both.
_CONSTANT = re.compile(r"\$\d+|\b(?:null|true|false)\b")


class Statement(msgspec.Struct, frozen=True):
    """A statement's shape."""

    operation: str
    """One of a few words: INSERT where a part of it inserts, whatever it begins with."""
    table: str | None
    """What it changes, else what it reads first."""
    normalised: str
    """Without comments, every literal a `?`; `$1` stays. A long one is cut."""
    fingerprint: str
    """16 hexadecimal digits."""

    @property
    def summary(self) -> str:
        return self.operation if self.table is None else f"{self.operation} {self.table}"


def describe(text: str) -> Statement:
    """Find out what a statement is; remembered, so that each text is looked at once."""
    if len(text) > MAX_TEXT_LENGTH:
        return _described(text)
    statement = REMEMBERED.get(text)
    if statement is None:
        statement = _described(text)
        if len(REMEMBERED) >= MAX_REMEMBERED:
            # The one that is there for longest; another thread may have been faster.
            REMEMBERED.pop(next(iter(REMEMBERED)), None)
        REMEMBERED[text] = statement
    return statement


REMEMBERED: dict[str, Statement] = {}
"""By text; others only read it."""


def operation_of(text: str) -> str:
    """What `describe` says it does; of a text that is not remembered, what its first word says."""
    if len(text) <= MAX_TEXT_LENGTH:
        return describe(text).operation
    first = _FIRST_WORD.match(text)
    word = first[1].upper() if first is not None else OTHER
    return word if word in _VERBS else OTHER


class _Token(msgspec.Struct, frozen=True, gc=False):
    kind: str
    text: str

    @property
    def word(self) -> str:
        return self.text.upper() if self.kind == "word" else self.text


_SPACE = _Token("space", " ")
_LITERAL = _Token("literal", "?")


def _described(text: str) -> Statement:
    tokens = list(_shaped(text[:MAX_TEXT_LENGTH]))
    normalised = "".join(token.text for token in tokens).strip(" ;")
    operation, table = _subject([token for token in tokens if token is not _SPACE])
    return Statement(operation, table, normalised[:MAX_SHAPE_LENGTH], _fingerprint(tokens))


def _fingerprint(tokens: list[_Token]) -> str:
    # Case and space are the same to the server; names in quotes are not, but they differ otherwise too.
    shape = " ".join(token.text for token in tokens if token is not _SPACE).strip(" ;").lower()
    shape = _CONSTANT.sub("?", shape).replace("( ", "(").replace(" )", ")")
    shape = _ROWS.sub("(?)", _LIST.sub("?", shape))
    return blake2b(shape.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _shaped(text: str) -> Iterator[_Token]:
    """The tokens, with one space where there was any, and literals made equal."""
    before: list[_Token] = []
    for token in _tokens(text):
        if token is _SPACE:
            if before and before[-1] is not _SPACE:
                before.append(token)
            continue
        if token is _LITERAL and _continues(before):
            continue
        if token is _LITERAL and _ends_with_sign(before):
            before.pop()
        before.append(token)
    return iter(before)


def _continues(tokens: list[_Token]) -> bool:
    """Whether a literal stands there already: parts of a string on several lines are one."""
    return next((token for token in reversed(tokens) if token is not _SPACE), None) is _LITERAL


def _ends_with_sign(tokens: list[_Token]) -> bool:
    """Whether a minus stands there that is no subtraction: it is a part of the number then."""
    if not tokens or tokens[-1].text != "-":
        return False
    last = next((token for token in reversed(tokens[:-1]) if token is not _SPACE), None)
    if last is None or last.word in _SIGN_AFTER:
        return True
    return last.kind == "other" and last.text not in {")", "]"}


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while (match := _TOKEN.match(text, place)) is not None:
        place = match.end()
        kind = match.lastgroup or "other"
        if kind == "comment":
            place = _comment_end(text, place)
            yield _SPACE
        elif kind == "space":
            yield _SPACE
        elif kind in {"string", "number"}:
            yield _LITERAL
        else:
            yield _Token(kind, match.group())


def _comment_end(text: str, place: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, place)
        if edge is None:
            return len(text)
        depth += 1 if edge.group() == "/*" else -1
        place = edge.end()
    return place


def _subject(tokens: list[_Token]) -> tuple[str, str | None]:
    """What the statement does, and to which table."""
    words = [token.word for token in tokens]
    verbs = [
        place
        for place, word in enumerate(words)
        if word in _VERBS and (place == 0 or words[place - 1] not in _NO_VERB_AFTER)
    ]
    changes = [place for place in verbs if words[place] in _CHANGES]
    place = (changes or _outermost(words, verbs) or [0])[0] if words[:1] == ["WITH"] else 0
    operation = words[place] if place < len(words) else OTHER
    if operation in _CHANGES:
        return operation, _changed(tokens, words, place)
    if operation == "SELECT":
        return operation, _read(tokens, words)
    return operation if operation in _VERBS else OTHER, None


def _outermost(words: list[str], verbs: list[int]) -> list[int]:
    depth, found = 0, []
    wanted = set(verbs)
    for place, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if depth == 0 and place in wanted:
            found.append(place)
    return found


def _changed(tokens: list[_Token], words: list[str], place: int) -> str | None:
    place += 1
    while place < len(words) and words[place] in {"INTO", "FROM", "ONLY"}:
        place += 1
    return _name(tokens, place)


def _read(tokens: list[_Token], words: list[str]) -> str | None:
    """The first table of the outermost FROM; neither a function nor what WITH has named."""
    named = {
        words[place]
        for place in range(len(words) - 1)
        if place and words[place - 1] in {"WITH", "RECURSIVE", ","} and words[place + 1] == "AS"
    }
    opened: list[str] = []
    found: list[tuple[int, str]] = []
    for place, word in enumerate(words):
        if word == "(":
            opened.append(words[place - 1] if place else "")
        elif word == ")":
            del opened[-1:]
        elif word == "FROM" and not (opened and opened[-1] in _FROM_IS_THEIRS):
            start = place + 2 if words[place + 1 : place + 2] == ["ONLY"] else place + 1
            name = _name(tokens, start)
            if words[place - 1] != "DISTINCT" and name is not None and name.upper() not in named:
                found.append((len(opened), name))
    return min(found, key=lambda one: one[0])[1] if found else None


def _name(tokens: list[_Token], place: int) -> str | None:
    """The name that stands there, with its schema; None for a function and for anything else."""
    parts: list[str] = []
    while place < len(tokens) and tokens[place].kind in {"word", "name"}:
        parts.append(tokens[place].text.strip('"'))
        place += 1
        if place >= len(tokens) or tokens[place].text != ".":
            break
        place += 1
    if not parts or (place < len(tokens) and tokens[place].text == "(" and _is_call(tokens, place)):
        return None
    return ".".join(parts)[:255]


def _is_call(tokens: list[_Token], place: int) -> bool:
    # INSERT INTO t (a, b) has its columns there.
    words = [token.word for token in tokens[max(0, place - 4) : place]]
    return "INTO" not in words
