"""Writes values into each format by the format's own rules, so that none of them can leave its place."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from metrics_service.setup.schemas import Part

_DELETE = "\x7f"


def environment(variables: Mapping[str, str]) -> Part:
    """Exports for a shell; variables without a value are left out."""
    lines = (f"export {assignment}\n" for assignment in assignments(variables))
    return Part("environment", None, "sh", "".join(lines))


def assignments(variables: Mapping[str, str]) -> list[str]:
    """As they may stand before a command, too."""
    return [f"{name}={shlex.quote(value)}" for name, value in variables.items() if value]


def json_file(path: str, value: Mapping[str, Any]) -> Part:
    content = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return Part("file", path, "json", f"{content}\n")


def yaml_file(path: str, value: Mapping[str, Any]) -> Part:
    # Long lines would be folded, at spaces that may be part of a value.
    content = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1_000_000)
    return Part("file", path, "yaml", content)


def toml_file(path: str, table: str, values: Mapping[str, Any]) -> Part:
    """A file with one table."""
    lines = "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())
    return Part("file", path, "toml", f"[{table}]\n{lines}")


def _toml(value: str | bool | Mapping[str, Any]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A basic string is JSON's, except that this one must be escaped too.
        return json.dumps(value, ensure_ascii=False).replace(_DELETE, "\\u007f")
    fields = ", ".join(f"{_key(name)} = {_toml(field)}" for name, field in value.items())
    return f"{{ {fields} }}"


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if is_bare else _toml(name)


def form(path: str, fields: Mapping[str, str]) -> Part:
    width = max(map(len, fields)) + 1
    lines = (f"{name + ':':<{width}} {value}\n" for name, value in fields.items())
    return Part("form", path, "text", "".join(lines))
