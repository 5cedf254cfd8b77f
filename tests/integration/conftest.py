"""What these tests share, beside what all do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from own_servers import OwnServer, own_server


@pytest.fixture(scope="module")
def own() -> Iterator[OwnServer]:
    """A database server that nobody else asks, to be stopped, frozen, filled or moved."""
    with own_server() as made:
        yield made
