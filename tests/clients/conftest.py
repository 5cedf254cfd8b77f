"""The service as its clients meet it, and the programs of `package.json` that are its clients."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from metrics_service.db.addresses import Addresses

HERE = Path(__file__).resolve().parent
# What runs the command line there runs it here.
sys.path.append(str(HERE.parent / "integration"))

from command_line import on_database, running  # noqa: E402  # it is found only now

READY = "Metrics Service serves"
PACKAGES = HERE / "node_modules"
OLDEST_NODE = 20
ONLY_LOOPBACK = f"--import={(HERE / 'loopback.mjs').as_uri()}"


class Service(msgspec.Struct, frozen=True):
    """A server that is running, and how to look at what it has stored."""

    port: int
    grpc_port: int

    def read(self, path: str, headers: dict[str, str], **query: str) -> list[dict[str, Any]]:
        answer = httpx.get(
            f"http://127.0.0.1:{self.port}/api/v1/{path}",
            params=query | {"limit": "100"},
            headers=headers,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


@pytest.fixture(scope="module")
def service(addresses: Addresses) -> Iterator[Service]:
    port, grpc_port = free_port(), free_port()
    ports = ("--port", str(port), "--otlp-grpc-port", str(grpc_port))
    with running(on_database(addresses), "serve", *ports) as (_, output):
        output.wait_for(READY)
        yield Service(port, grpc_port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Node = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def node() -> Node:
    """Run a program of Node.js to which the domains below localhost are all the world."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node.js is not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Node.js {OLDEST_NODE} is needed, not {version.stdout.strip()}")
    if not PACKAGES.is_dir():
        pytest.skip("the packages are not installed: npm install --prefix tests/clients")

    def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        # Nothing is inherited: neither somebody's proxies and keys, nor their home.
        return subprocess.run(
            [program, *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(cwd), "NODE_OPTIONS": ONLY_LOOPBACK}
            | environ,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def package() -> Callable[[str], Path]:
    """Find an installed package."""

    def find(name: str) -> Path:
        place = PACKAGES / name
        if not place.is_dir():
            pytest.skip(f"the package {name} is not installed")
        return place

    return find
