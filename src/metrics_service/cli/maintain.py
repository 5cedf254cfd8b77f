"""`metrics-service maintain`: the process that owns the schemas, and does what servers may not."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import rich_click as click
import structlog

from metrics_service.cli.maintenance import maintain_until_told, place_of
from metrics_service.cli.output import json_option, print_one
from metrics_service.cli.serve import database_to_serve, require_head
from metrics_service.cli.signals import run_async, until_told
from metrics_service.logs import configure_logging
from metrics_service.observability.export import load_otel_settings


@click.command()
@click.option("--once", is_flag=True, help="Do all that is to be done now, say what, and end.")
@json_option
def maintain(once: bool, as_json: bool) -> None:
    """Do queued jobs, measure tenants, delete what has had its time, until SIGTERM or Ctrl-C.

    Any number may run: one does the work, and another takes over when it ends. `serve` and `demo` on
    the embedded database have one beside them; with a database of your own, run it yourself.
    """
    # A mistake is one message before anything is done.
    load_otel_settings()
    with nullcontext() if once else until_told(), database_to_serve() as opened:
        place = place_of(opened)
        run_async(require_head(opened.addresses.runtime))
        if not once:
            configure_logging(
                opened.settings.metrics_log_level, json=as_json or not sys.stdout.isatty()
            )
            maintain_until_told(opened.settings, place)
            return
        # What is printed is for scripts.
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        from metrics_service.maintenance.process import Maintenance  # noqa: PLC0415  # as there

        print_one(run_async(Maintenance(place).once()), as_json=as_json)
