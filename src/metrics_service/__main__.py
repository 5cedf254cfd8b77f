"""Starts the command line: `metrics-service`, or `python -m metrics_service`."""

from __future__ import annotations

import sys

from metrics_service.cli.commands import metrics_service
from metrics_service.cli.failures import run


def main() -> None:
    sys.exit(run(metrics_service))


if __name__ == "__main__":
    main()
