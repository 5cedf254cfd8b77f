"""Bringing in a laptop's history: MiB per second and the importer's memory, against the real server.

    python scripts/bench/transcripts.py [--mib 100] [--data DIR]

The history looks like what Claude Code writes: a line for each piece of an answer, the output of a tool
twice. The target is 100 MiB in less than 20 s, and memory that a longer history does not change: so a
quarter of it is brought in too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID, uuid4

import psutil
from common import SECRET, SOURCE, database, serving, table, watched

TARGET_S = 20
MIB = 2**20
CALLS_PER_FILE = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=100)
    parser.add_argument("--data", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mb-") as made:
        folder = Path(made)
        data = chosen.data or folder / "data"
        environ = os.environ | {
            "PYTHONPATH": str(SOURCE),
            "METRICS_DATA_DIR": str(data),
            "METRICS_SECRET_KEY": SECRET,
        }
        with database(data) as addresses:
            _run(environ, "db", "init")
            with serving("service", addresses.runtime, data=data) as server:
                rows = [
                    _measure(environ, folder, chosen.mib // share, server.port) for share in (4, 1)
                ]
    print(table(["MiB", "records", "seconds", "MiB/s", "peak MiB"], rows))
    seconds = float(rows[-1][2])
    if seconds * 100 / chosen.mib > TARGET_S:
        raise SystemExit(f"100 MiB are to take less than {TARGET_S} s")


def _measure(environ: dict[str, str], folder: Path, mib: int, port: int) -> list[str]:
    """Import a history of that size for a tenant of its own."""
    slug = f"b{uuid4().hex[:12]}"
    _run(environ, "tenant", "create", slug)
    key = json.loads(_run(environ, "key", "create", slug, "--scope", "ingest", "--json"))["key"]
    history = folder / slug
    size = write_history(history, mib * MIB)
    laptop = {
        name: value for name, value in os.environ.items() if not name.startswith("METRICS_")
    } | {
        "PYTHONPATH": str(SOURCE),
        "METRICS_INGEST_KEY": key,
        "XDG_STATE_HOME": str(folder / f"{slug}-state"),
    }
    begun = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "metrics_service", "import", "claude-code", str(history)),
            *("--endpoint", f"http://127.0.0.1:{port}", "--host", f"{slug}.localhost", "--json"),
        ],
        env=laptop,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with watched(psutil.Process(process.pid)) as peak:
        out, _ = process.communicate()
    seconds = time.perf_counter() - begun
    summary = json.loads(out)
    if process.returncode or summary["refused_records"]:
        raise SystemExit(f"it ended with {process.returncode}: {summary}")
    return [
        f"{size / MIB:.0f}",
        f"{summary['sent_records']}",
        f"{seconds:.1f}",
        f"{size / MIB / seconds:.1f}",
        f"{peak[0]:.0f}",
    ]


def write_history(folder: Path, size: int, seed: int = 1) -> int:
    """Write transcripts of about that size; return what it became."""
    folder.mkdir()
    rng = random.Random(seed)
    written = 0
    while written < size:
        session = str(UUID(int=rng.getrandbits(128)))
        with (folder / f"{session}.jsonl").open("w") as file:
            for number in range(CALLS_PER_FILE):
                written += file.write(_call(rng, session, number))
                if written >= size:
                    break
    return written


def _call(rng: random.Random, session: str, number: int) -> str:
    """The lines of one answer that calls a tool, and of what the tool did."""
    prompt = str(UUID(int=rng.getrandbits(128)))
    name = f"{rng.getrandbits(64):016x}"
    at = f"2026-10-{1 + number // 60 % 28:02d}T10:{number % 60:02d}"
    common = {
        "isSidechain": False, "userType": "external", "cwd": "/home/ada/shop", "sessionId": session,
        "version": "2.1.330", "gitBranch": "main",
    }  # fmt: skip
    usage = {
        "input_tokens": 12, "cache_creation_input_tokens": 800, "cache_read_input_tokens": 60_000,
        "output_tokens": 300, "service_tier": "standard",
    }  # fmt: skip
    message = {
        "id": f"msg_{name}",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "usage": usage,
    }
    text = {"type": "text", "text": "word " * 120}
    command = {"command": "some words " * 40, "description": "words " * 5}
    call = {"type": "tool_use", "id": f"toolu_{name}", "name": "Bash", "input": command}
    output = "a line of what came out\n" * rng.randrange(20, 300)
    result = {"type": "tool_result", "tool_use_id": f"toolu_{name}", "content": output}
    asked = {"type": "assistant", "requestId": f"req_{name}", **common}
    lines = [
        {**asked, "message": {**message, "content": [text]}, "timestamp": f"{at}:01.000Z"},
        {**asked, "message": {**message, "content": [call]}, "timestamp": f"{at}:02.000Z"},
        {
            "type": "user", "promptId": prompt, **common, "timestamp": f"{at}:05.000Z",
            "message": {"role": "user", "content": [result]},
            "toolUseResult": {"stdout": output, "stderr": "", "interrupted": False},
        },
        {"type": "attachment", **common, "attachment": {"type": "x", "content": "words " * 100}},
    ]  # fmt: skip
    if number % 20 == 0:
        typed = {"role": "user", "content": "Please do it. " * 20}
        lines.insert(0, {
            "type": "user", "promptId": prompt, "uuid": prompt, **common, "message": typed,
            "timestamp": f"{at}:00.000Z",
        })  # fmt: skip
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def _run(environ: dict[str, str], *arguments: str) -> bytes:
    command = [sys.executable, "-m", "metrics_service", *arguments]
    return subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    main()
