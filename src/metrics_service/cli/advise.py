"""`metrics-service db advise`."""

from __future__ import annotations

import rich_click as click

from metrics_service.cli.connect import opened_database
from metrics_service.cli.output import json_option, print_json
from metrics_service.cli.owner_reading import read_as_owner
from metrics_service.fleet.advice.advise import advise
from metrics_service.fleet.advice.findings import Finding


@click.command("advise")
@click.option("--tenant", metavar="SLUG", help="One tenant's schema; everything by default.")
@json_option
def advise_command(tenant: str | None, as_json: bool) -> None:
    """Say what would make the database faster or safer, why, and what to run for it.

    Nothing is changed. What the server counts begins anew when it is restarted hard.
    """
    with opened_database() as opened:
        tenant_id = opened.served_tenant(tenant).id if tenant is not None else None
        findings = read_as_owner(opened, lambda connection: advise(connection, tenant_id=tenant_id))
    if as_json:
        print_json(findings)
        return
    for finding in findings:
        _print(finding)
    if not findings:
        click.echo("nothing to do", err=True)


def _print(finding: Finding) -> None:
    whose = "" if finding.tenant is None else f"  (tenant {finding.tenant})"
    click.echo(f"{finding.severity}  {finding.kind}  {finding.object}{whose}")
    click.echo(f"  {finding.reason}")
    for statement in finding.statements:
        click.echo(f"    {statement}")
