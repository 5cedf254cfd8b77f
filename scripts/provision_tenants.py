#!/usr/bin/env python3
"""Provisions the tenants of a CSV or TOML file; running it again makes what is missing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import rich_click as click

from metrics_service.cli.connect import opened_database
from metrics_service.cli.failures import run
from metrics_service.cli.output import json_option, print_json, print_many, progress
from metrics_service.errors import MigrationError
from metrics_service.settings import load_settings
from metrics_service.tenants.initialise import default_jobs, target_of
from metrics_service.tenants.provision_file import read_tenants
from metrics_service.tenants.provision_many import provision_many


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--jobs", type=click.IntRange(1, 64), help="How many tenants at a time.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only say what is there and what not.")
@json_option
def provision_tenants(file: Path, jobs: int | None, is_dry_run: bool, as_json: bool) -> None:
    """Provision the tenants of FILE.

    CSV with the header slug,name,domain,plan, or TOML with a [[tenant]] for each; only the slug is
    required. The whole file is checked before anything is done. A tenant that is there with the
    same slug and domain is left as it is.
    """
    settings = load_settings()
    tenants = read_tenants(
        file,
        base_domain=settings.metrics_base_domain,
        operator_domain=settings.metrics_operator_domain,
    )
    with opened_database() as opened, progress() as advance:
        report = asyncio.run(
            provision_many(
                tenants,
                target_of(opened.addresses),
                jobs=jobs or default_jobs(),
                is_dry_run=is_dry_run,
                on_done=lambda outcome, done, total: advance(outcome.slug, done, total),
            )
        )
    if as_json:
        print_json(report)
    else:
        print_many(report.tenants, as_json=False, none="the file has no tenants")
        summary = f"{report.created} created, {report.present} present, {report.failed} failed"
        click.echo(f"{summary}, {report.missing} missing" if is_dry_run else summary)
    if report.failed:
        raise MigrationError(f"{report.failed} of {len(report.tenants)} tenants failed")


if __name__ == "__main__":
    sys.exit(run(provision_tenants))
