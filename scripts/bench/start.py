"""How long `metrics-service demo` takes until it answers: on an empty directory, then again.

    python scripts/bench/start.py [--rounds 3]

Each round has a data directory of its own. Targets: 60 seconds, then 5.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import SOURCE, _free_port, median, table

PATIENCE_S = 120
POLL_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    cold, second, serve = [], [], []
    for _ in range(chosen.rounds):
        with tempfile.TemporaryDirectory(
            prefix="metrics-start-", ignore_cleanup_errors=True
        ) as made:
            # The server's user must be able to enter.
            Path(made).chmod(0o755)
            cold.append(_seconds("demo", made))
            second.append(_seconds("demo", made))
            serve.append(_seconds("serve", made))
    print(
        table(
            ["start", "median s", "worst s", "target s"],
            [
                ["demo, cold", f"{median(cold):.1f}", f"{max(cold):.1f}", "60"],
                ["demo, second", f"{median(second):.1f}", f"{max(second):.1f}", "5"],
                ["serve, second", f"{median(serve):.1f}", f"{max(serve):.1f}", ""],
            ],
        )
    )


def _seconds(command: str, data: str) -> float:
    port = _free_port()
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("DATABASE_")
    }
    environ |= {"PYTHONPATH": str(SOURCE), "METRICS_DATA_DIR": data, "METRICS_LOG_LEVEL": "warning"}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "metrics_service", command, "--port", str(port)],
        env=environ,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() - began > PATIENCE_S:
                raise SystemExit(f"`{command}` does not serve")
            time.sleep(POLL_S)
        return time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main()
