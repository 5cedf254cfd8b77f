"""The operators' domain, as tests talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import msgspec

from acceptance.talk import check_answer, check_page, check_problem
from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.fleet.operator_keys import (
    IssuedOperatorKey,
    create_operator_key,
    revoke_operator_key,
)

DOMAIN = "operator"
HOST = f"{DOMAIN}.localhost"
API = "/operator/api/v1"


class Site(msgspec.Struct, frozen=True):
    """An application with an operators' domain, and a key to it."""

    client: httpx.AsyncClient
    key: IssuedOperatorKey
    addresses: Addresses

    @property
    def headers(self) -> dict[str, str]:
        return {"Host": HOST, "Authorization": f"Bearer {self.key.key}"}

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(path, headers=self.headers, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return await self.client.post(path, headers=headers, **options)

    async def new_key(self, **options: Any) -> IssuedOperatorKey:
        return await new_key(self.addresses, **options)

    async def revoke(self, issued: IssuedOperatorKey) -> None:
        async with (
            owner_connection(self.addresses.require_owner()) as connection,
            connection.begin(),
        ):
            await revoke_operator_key(connection, issued.id, grace=timedelta(0))


async def new_key(addresses: Addresses, **options: Any) -> IssuedOperatorKey:
    options = {"name": f"night shift {uuid4().hex[:8]}", **options}
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        return await create_operator_key(connection, **options)


async def check_operators_answer(response: httpx.Response) -> None:
    """Hold every answer to what is promised for all of them."""
    if response.request.headers["host"] != HOST:
        await check_answer(response)
        return
    status = response.status_code
    await response.aread()
    assert status < 500 or status in (503, 504), (status, response.request.url, response.text)
    assert response.headers["x-content-type-options"] == "nosniff"
    is_kept = response.url.path.startswith("/static")
    if status < 400 and not is_kept:
        assert response.headers["cache-control"] == "no-store"
    if response.headers.get("content-type", "").startswith("text/html"):
        check_page(response)
    elif status >= 400 and response.request.method != "HEAD" and "/health" not in response.url.path:
        check_problem(response)


@asynccontextmanager
async def opened_site(
    open_app: Callable[..., Any], addresses: Addresses, **changes: Any
) -> AsyncIterator[Site]:
    async with open_app(metrics_operator_domain=DOMAIN, **changes) as opened:
        # The same application by another client: what is held of tenants' answers is no rule here.
        client = httpx.AsyncClient(
            transport=opened._transport,
            base_url="http://testserver",
            event_hooks={"response": [check_operators_answer]},
        )
        yield Site(client, await new_key(addresses), addresses)
