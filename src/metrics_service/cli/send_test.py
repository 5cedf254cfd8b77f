"""`metrics-service otlp send-test`: one session over each protocol, and what to change where it fails."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import rich_click as click

from metrics_service.cli.failures import FAILED, UNREACHABLE
from metrics_service.cli.output import json_option, print_columns, print_json, progress
from metrics_service.fields import Protocol
from metrics_service.send_test.diagnosis import UNREACHED, UnusableError
from metrics_service.send_test.endpoint import Target, Told, parse_endpoint, parse_told
from metrics_service.settings import CLIENTS_KEY

if TYPE_CHECKING:
    from metrics_service.send_test.send import Outcome, Tested

PROTOCOLS: tuple[Protocol, ...] = ("http/protobuf", "http/json", "grpc")
ALL = "all"
MAX_TIMEOUT_S = 600


@click.command(name="send-test")
@click.option(
    "--endpoint",
    required=True,
    metavar="URL",
    help="What the agent has as OTEL_EXPORTER_OTLP_ENDPOINT: https://acme.example.com.",
)
@click.option(
    "--key",
    envvar=CLIENTS_KEY,
    show_envvar=True,
    metavar="KEY",
    help="A key with the scope ingest; better in the variable, where no list of processes shows it.",
)
@click.option(
    "--protocol",
    type=click.Choice([*PROTOCOLS, ALL]),
    default=ALL,
    show_default=True,
    help="The protocol to test.",
)
@click.option(
    "--grpc-endpoint",
    metavar="URL",
    help="Where gRPC is taken; by default port 4317 of the endpoint's host, with `grpc` the endpoint.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="A header that is sent along; can be given several times.",
)
@click.option(
    "--host", metavar="NAME", help="The tenant's domain, where the endpoint is an address."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(1, MAX_TIMEOUT_S),
    default=10,
    show_default=True,
    metavar="S",
    help="Seconds to wait for each answer.",
)
@json_option
def send_test(
    endpoint: str,
    key: str | None,
    protocol: str,
    grpc_endpoint: str | None,
    headers: tuple[str, ...],
    host: str | None,
    timeout_s: int,
    as_json: bool,
) -> int:
    """Send a test session over OTLP, and say what came back and what to change.

    It needs no database and no settings: run it where the silent agent runs. The session belongs to an
    agent of its own, otlp-send-test. Proxies of the environment are gone through, redirects are not
    followed, nothing is tried again.

    Exit code 0: all was accepted; 1: something was not; 2: endpoint, key or header cannot be used; 5:
    the server cannot be reached.

    Example: METRICS_INGEST_KEY=msk_... metrics-service otlp send-test --endpoint http://127.0.0.1:8000
    --host acme.localhost
    """
    # gRPC reads it when it is imported, and else writes about every connection that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from metrics_service.send_test.send import send_all  # noqa: PLC0415  # see above

    try:
        told, named = parse_told(key, headers, timeout_s)
        targets = _targets(endpoint, grpc_endpoint, protocol, host or named)
        with progress() as advance:
            tested = send_all(targets, told, advance)
    except UnusableError as error:
        raise click.UsageError(str(error)) from None
    outcomes = [outcome for one in tested for outcome in one.outcomes]
    if as_json:
        print_json(outcomes)
    else:
        _report(tested, told, _page(targets))
    return _code(outcomes)


def _targets(
    endpoint: str, grpc_endpoint: str | None, protocol: str, host: str | None
) -> list[Target]:
    targets = []
    for one in PROTOCOLS:
        if protocol not in {one, ALL}:
            continue
        if one != "grpc":
            place = parse_endpoint(endpoint, host=host)
        elif grpc_endpoint is None and protocol == ALL:
            place = parse_endpoint(endpoint, host=host).of_grpc()
        else:
            place = parse_endpoint(grpc_endpoint or endpoint, host=host, is_grpc=True)
        targets.append(Target(one, place))
    return targets


def _page(targets: list[Target]) -> str | None:
    """Where people look: at the port of HTTP, which gRPC's is not."""
    return next((one.endpoint.page for one in targets if one.protocol != "grpc"), None)


def _report(tested: list[Tested], told: Told, page: str | None) -> None:
    header = ["protocol", "signal", "sent", "accepted", "refused", "status", "ms", "message"]
    rows = [_row(outcome) for one in tested for outcome in one.outcomes]
    print_columns([header, *rows])
    for one in tested:
        click.echo()
        click.echo(f"{one.target.protocol} to {one.outcomes[0].endpoint}")
        for line in _lines(one, told, page):
            click.echo(f"  {line}")


def _row(outcome: Outcome) -> list[str]:
    cells = (outcome.protocol, outcome.signal, outcome.sent, outcome.accepted, outcome.refused)
    answer = (outcome.status or "-", f"{outcome.duration_ms:.0f}", outcome.message or "-")
    return [str(cell) for cell in (*cells, *answer)]


def _lines(tested: Tested, told: Told, page: str | None) -> list[str]:
    # The same of three signals is said once.
    advice = dict.fromkeys(one.advice for one in tested.outcomes if one.advice is not None)
    lines = [f"change: {one}" for one in advice]
    if tested.proxy is not None:
        lines.append(
            f"note: it went through {tested.proxy.words}; agents that know no proxies (those on"
            " Node.js) need a way without it"
        )
    if tested.is_stored:
        # Where HTTP is, nobody said who tested gRPC alone.
        place = "$HOST" if page is None else told.hide(page)
        delete = f'curl -X DELETE {place}/api/v1/sessions/ID -H "x-api-key: $KEY"'
        lines += [
            f"It was stored as session {tested.session} of agent otlp-send-test",
            f"see {place}/api/v1/sessions?agent=otlp-send-test (key with the scope read)",
            f"delete it by the id that stands there (key with the scope write): {delete}",
        ]
    return lines


def _code(outcomes: list[Outcome]) -> int:
    if all(one.is_accepted for one in outcomes):
        return 0
    return UNREACHABLE if all(one.symptom in UNREACHED for one in outcomes) else FAILED
