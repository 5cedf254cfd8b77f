"""`serve` in a process of its own, on a database of a test's own, with tenants of the test's own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import httpx
import msgspec
from command_line import CommandLine, Output, free_port, on_database, running
from own_servers import OwnServer

from metrics_service.db.engine import owner_connection
from metrics_service.tenants.initialise import target_of
from metrics_service.tenants.keys import SCOPES, create_key
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant

READY = "Metrics Service serves"
# For what has to be started and ended, which a busy machine takes its time for.
PATIENCE_S = 150.0


class Tenant(msgspec.Struct, frozen=True):
    id: UUID
    slug: str
    schema_name: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Host": f"{self.slug}.localhost", "Authorization": f"Bearer {self.key}"}


async def new_tenant(own: OwnServer) -> Tenant:
    slug = f"t{uuid4().hex[:16]}"
    new = NewTenant.of(slug, name=None, domain=None, plan="basic", base_domain="localhost")
    async with owner_connection(own.addresses.require_owner()) as connection:
        made = await create_tenant(connection, new, target_of(own.addresses))
        async with connection.begin():
            issued = await create_key(connection, made.id, scopes=list(SCOPES), name="test")
    return Tenant(made.id, slug, made.schema_name, issued.key)


class Served(msgspec.Struct, frozen=True):
    """A server that runs."""

    port: int
    process: subprocess.Popen[str]
    output: Output

    async def end(self) -> int:
        """As an operator ends it; gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.output.wait_for_end, within_s=PATIENCE_S)


@asynccontextmanager
async def served(own: OwnServer, **environ: str) -> AsyncIterator[Served]:
    """Start it, with further settings; in the end it must end well, and have failed at nothing."""
    made = on_database(own.addresses)
    ours = {"METRICS_LOG_LEVEL": "warning", "METRICS_REQUESTS_PER_SECOND": "0", **environ}
    line = CommandLine(made.environ | ours)
    port = free_port()
    with running(line, "serve", "--port", str(port)) as (process, output):
        # In threads: what it needs to start and to end may be served by this loop.
        await asyncio.to_thread(output.wait_for, READY, within_s=PATIENCE_S)
        server = Served(port, process, output)
        await _ready(server)
        yield server
        if process.poll() is None:
            assert await server.end() == 0
        assert "Traceback" not in output.text, output.text[-5000:]
        assert "by force" not in output.text, output.text[-5000:]


async def _ready(server: Served) -> None:
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(PATIENCE_S):
        while True:
            answer = await client.get(f"http://127.0.0.1:{server.port}/health/ready")
            if answer.status_code == 200:
                return
            await asyncio.sleep(0.05)
