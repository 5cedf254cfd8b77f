"""The operators' templates: those of the tenants' pages stand behind them, with the same filters."""

from __future__ import annotations

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader

from metrics_service.fleet.slow_queries import failure_in_words
from metrics_service.operations.pages.words import ago, check_name, is_recent, kind_name, span
from metrics_service.web.environment import ENVIRONMENT as OF_TENANTS

TEMPLATES = Path(__file__).parent.parent / "templates"


def _environment() -> Environment:
    loader = OF_TENANTS.loader
    if loader is None:
        raise AssertionError
    made = OF_TENANTS.overlay(loader=ChoiceLoader([FileSystemLoader(TEMPLATES), loader]))
    # An overlay shares these with what it lies on.
    made.filters = {
        **OF_TENANTS.filters,
        "ago": ago,
        "check_name": check_name,
        "kind_name": kind_name,
        "failure_in_words": failure_in_words,
        "is_recent": is_recent,
        "span": span,
    }
    return made


ENVIRONMENT = _environment()
