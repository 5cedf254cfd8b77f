"""The servers that a DSN names, tried in turn: one that is frozen must not use up the time of the others."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from metrics_service.db.connect import ConnectionT, connect

# What a server that is away, or is not what is asked for, does to whoever connects.
NEXT = (OSError, asyncpg.PostgresError, asyncpg.InternalClientError)


class Hosts:
    """The one that was right last is tried first."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._named = hosts_of(dsn)
        self._order = list(self._named)

    def begin_anew(self) -> None:
        """In the order in which they are named: the last one was not right after all."""
        self._order = list(self._named)

    async def connect(
        self,
        *,
        connection_class: type[ConnectionT] = asyncpg.Connection,
        timeout: float,  # noqa: ASYNC109  # for all of it, as asyncpg's own
        **how: Any,
    ) -> ConnectionT:
        """Connect to the first that answers and is what the DSN asks for; raises what asyncpg does."""
        if not self._order:
            return await connect(
                self._dsn, connection_class=connection_class, timeout=timeout, **how
            )
        failure: BaseException | None = None
        for place in list(self._order):
            try:
                connection = await connect(
                    self._dsn,
                    connection_class=connection_class,
                    timeout=timeout / len(self._order),
                    host=place[0],
                    port=place[1],
                    **how,
                )
            except NEXT as error:
                failure = error
                continue
            if place in self._order:
                self._order.remove(place)
                self._order.insert(0, place)
            return connection
        assert failure is not None  # noqa: S101  # there is at least one, and none was right
        raise failure


def hosts_of(dsn: str) -> list[tuple[str, int | None]]:
    """The servers of a DSN that names several; none of any other, which asyncpg understands best."""
    parts = urlsplit(dsn)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if query.get("target_session_attrs") == "prefer-standby":
        # It takes the whole list to know that there is no standby.
        return []
    hosts: list[str] = []
    ports: list[str] = []
    for host in filter(None, parts.netloc.rpartition("@")[2].split(",")):
        name, colon, port = host.rpartition(":")
        is_bare = not colon or port.endswith("]")
        hosts.append(unquote(host if is_bare else name).strip("[]"))
        ports.append("" if is_bare else port)
    if "host" in query:
        hosts = query["host"].split(",")
        ports = ports if len(ports) == len(hosts) else [""] * len(hosts)
    if "port" in query:
        given = query["port"].split(",")
        ports = given * len(hosts) if len(given) == 1 else given
    if len(hosts) < 2 or len(ports) != len(hosts):
        return []
    return [(host, int(port) if port else None) for host, port in zip(hosts, ports, strict=True)]
