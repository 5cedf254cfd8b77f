"""What a mutation of the edge must be noticed by: run by the proofs beside it, on their copies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from metrics_service.db.pages import CursorSigner, Position
from metrics_service.errors import InvalidCursorError
from metrics_service.http.links import LinkSigner
from metrics_service.tenants.authenticate import KeyRing


async def test_a_remembered_key_is_no_key_of_another_tenant(engine, new_tenant):
    a, b = await new_tenant(), await new_tenant()
    ring = KeyRing(engine, ttl_s=lambda: 60)
    assert await ring.find_principal(a.id, a.key) is not None

    assert await ring.find_principal(b.id, a.key) is None
    assert await ring.find_principal(a.id, b.key) is None


def test_a_cursor_of_another_tenant_is_refused():
    signer, listing = CursorSigner(b"secret"), b"sessions"
    a, b = uuid4(), uuid4()
    cursor = signer.sign(a, listing, Position(datetime(2026, 1, 1, tzinfo=UTC), uuid4()))
    assert signer.verify(a, listing, cursor)

    with pytest.raises(InvalidCursorError):
        signer.verify(b, listing, cursor)


def test_a_link_of_another_tenant_opens_nothing():
    links = LinkSigner(b"a secret that only this test has")
    mine, yours = uuid4(), uuid4()
    token = links.sign(mine, uuid4(), datetime.now(UTC) + timedelta(days=1))

    assert links.verify(mine, token) is not None
    assert links.verify(yours, token) is None
