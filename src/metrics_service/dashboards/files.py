"""Dashboards as files, JSON or YAML: the same document in both, read strictly and written exactly.

YAML is read by its core schema (https://yaml.org/spec/1.2.2/#103-core-schema): `no` and `2026-01-01`
are text. What JSON does not have is refused: anchors and aliases, tags, several documents, keys twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from metrics_service.dashboards.schemas import MAX_CONFIG_BYTES, DashboardIn, Layout, Widgets
from metrics_service.errors import (
    BodyTooLargeError,
    InvalidBodyError,
    MalformedRequestError,
)
from metrics_service.fields import Name, Tags, Text
from metrics_service.http.bodies import decode_json, field_error, refuse_nul
from metrics_service.http.json_shape import check_json
from metrics_service.http.limits import MAX_DEPTH

FORMAT: Literal["metrics-service.dashboard"] = "metrics-service.dashboard"
FileKind = Literal["json", "yaml"]
MEDIA_TYPES: Mapping[FileKind, str] = {"json": "application/json", "yaml": "application/yaml"}
"""As it is sent, by kind: RFC 8259 and RFC 9512."""

# Layout and widgets at their largest; spread over lines, they may take a few times as much.
MAX_FILE_BYTES = 3 * MAX_CONFIG_BYTES
# To read a hundred thousand takes half a second, which no other request gets.
MAX_VALUES = 50_000


class DashboardFile(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"kind": "format"}
):
    """A dashboard without what only one tenant knows: ids, owner, visibility, history."""

    kind: Literal["metrics-service.dashboard"]
    format_version: Literal[1]
    name: Name
    description: Text = ""
    tags: Tags = []
    layout: Layout = {}
    widgets: Widgets = []

    @classmethod
    def of(cls, dashboard: Any) -> DashboardFile:
        """Of anything with the fields of a dashboard."""
        return cls(
            kind=FORMAT,
            format_version=1,
            name=dashboard.name,
            description=dashboard.description,
            tags=dashboard.tags,
            layout=dashboard.layout,
            widgets=dashboard.widgets,
        )

    def dashboard(self, *, visibility: Literal["private", "team", "tenant"]) -> DashboardIn:
        """The new dashboard that the file describes."""
        return DashboardIn(
            name=self.name,
            description=self.description,
            tags=self.tags,
            layout=self.layout,
            widgets=self.widgets,
            visibility=visibility,
        )


def file_stem(name: str) -> str:
    """A dashboard's name as every system takes it for the name of a file."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:60].strip("-")
    return plain or "dashboard"


def write_file(file: DashboardFile, kind: FileKind) -> bytes:
    if kind == "json":
        return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
    text: str = yaml.dump(
        msgspec.to_builtins(file),
        Dumper=_Dumper,
        allow_unicode=True,
        sort_keys=False,
        # Lines are never folded: what is folded is not always unfolded to the same.
        width=MAX_WIDTH,
    )
    return text.encode()


def read_file(content: bytes, kind: FileKind) -> DashboardFile:
    """Raises `MalformedRequestError`, `BodyTooLargeError` or `InvalidBodyError`."""
    if len(content) > MAX_FILE_BYTES:
        raise BodyTooLargeError(f"a file may have {MAX_FILE_BYTES} bytes")
    if kind == "json":
        check_json(content)
        return decode_json(_decoder, content)
    value = read_yaml(content)
    refuse_nul(value)
    try:
        return msgspec.convert(value, DashboardFile)
    except msgspec.ValidationError as error:
        raise InvalidBodyError([field_error(error, kind=DashboardFile)]) from None


MAX_WIDTH = 2**30
_decoder = msgspec.json.Decoder(DashboardFile)


# -- YAML -------------------------------------------------------------------------------------------


def read_yaml(content: bytes) -> Any:
    """The one document as plain values; raises `MalformedRequestError` or `InvalidBodyError`."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise MalformedRequestError("the file is not valid UTF-8") from None
    reader = _Reader()
    try:
        for event in yaml.parse(text, Loader=_Parser):
            reader.take(event)
    except yaml.YAMLError as error:
        raise MalformedRequestError(f"the file is not YAML: {_told(error)}") from None
    if not reader.documents:
        raise MalformedRequestError("the file is empty")
    return reader.root[0]


# libyaml's, which is ten times as fast, wherever PyYAML was built with it.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Emitter: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _told(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    mark = getattr(error, "problem_mark", None)
    return f"{problem}, {_place(mark)}" if mark is not None else str(problem)


def _place(mark: Any) -> str:
    return f"at {mark.line + 1}:{mark.column + 1}"


_MISSING: Any = object()


class _Reader:
    """Builds plain values of the parser's events, without ever going deeper than allowed."""

    def __init__(self) -> None:
        self.documents = 0
        self._values = 0
        self.root: list[Any] = []
        self._open: list[Any] = [self.root]
        # For each open mapping the key that waits for its value.
        self._keys: list[Any] = [_MISSING]

    def take(self, event: Event) -> None:
        if isinstance(event, ScalarEvent):
            self._refuse_names(event)
            self._put(event, _scalar(event))
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            self._refuse_names(event)
            self._enter(event, {} if isinstance(event, MappingStartEvent) else [])
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, AliasEvent):
            raise _refused(event, "aliases are not taken")
        elif isinstance(event, DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise _refused(event, "there is more than one document")

    def _refuse_names(self, event: Any) -> None:
        if event.anchor is not None:
            raise _refused(event, "anchors are not taken")
        # `!` alone says of a quoted text that it is one.
        if event.tag not in {None, "!"}:
            raise _refused(event, "tags are not taken")

    def _enter(self, event: Event, made: Any) -> None:
        self._put(event, made)
        if len(self._open) > MAX_DEPTH:
            raise _refused(event, f"nested over {MAX_DEPTH} levels deep")
        self._open.append(made)
        self._keys.append(_MISSING)

    def _put(self, event: Event, value: Any) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise BodyTooLargeError(f"a file may have {MAX_VALUES} values")
        into = self._open[-1]
        if isinstance(into, list):
            into.append(value)
            return
        key = self._keys[-1]
        if key is not _MISSING:
            into[key] = value
            self._keys[-1] = _MISSING
            return
        if not isinstance(value, str):
            raise _refused(event, "a key is not text")
        if value in into:
            raise _refused(event, "a key is there twice")
        self._keys[-1] = value


def _refused(event: Any, what: str) -> MalformedRequestError:
    return MalformedRequestError(f"the file: {what}, {_place(event.start_mark)}")


_is_null = re.compile(r"null|Null|NULL|~|").fullmatch
_is_true = re.compile(r"true|True|TRUE").fullmatch
_is_false = re.compile(r"false|False|FALSE").fullmatch
_is_int = re.compile(r"[-+]?[0-9]+").fullmatch
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_is_float = re.compile(_FLOAT).fullmatch
_is_no_number = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)").fullmatch
# What fits into 64 bits has far fewer; to read thousands takes quadratic time.
MAX_DIGITS = 400


def _scalar(event: ScalarEvent) -> Any:
    text = event.value
    # One parser says None, the other an empty text, of what is not quoted.
    if event.style or event.tag == "!":
        return text
    if _is_null(text):
        return None
    if _is_true(text) or _is_false(text):
        return text in {"true", "True", "TRUE"}
    if _is_int(text) and len(text) <= MAX_DIGITS:
        return int(text)
    if _is_no_number(text):
        raise _refused(event, "a number is not finite")
    if not (_is_int(text) or _is_float(text)):
        return text
    if math.isinf(number := float(text)):
        raise _refused(event, "a number is too large")
    return number


class _Dumper(_Emitter):  # type: ignore[misc]  # which of the two is known when it runs
    """Quotes every text that a reader of YAML 1.1 or 1.2 would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # overrides
        return True


# The library knows what 1.1 has; this is what 1.2 has besides.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"^{_FLOAT}$"), list("-+.0123456789")
)
