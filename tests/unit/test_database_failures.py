"""What a failure of the database means, and which servers a DSN names."""

from __future__ import annotations

import socket

import asyncpg
import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from metrics_service.db.failures import domain_error, tells_of_absence
from metrics_service.db.hosts import hosts_of
from metrics_service.errors import StatementTimeoutError, TransientError, UnavailableError


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.SerializationError(""),
        asyncpg.DeadlockDetectedError(""),
        asyncpg.InvalidCachedStatementError(""),
        asyncpg.ConnectionDoesNotExistError(""),
        asyncpg.ConnectionFailureError(""),
        asyncpg.AdminShutdownError(""),
        asyncpg.CrashShutdownError(""),
        asyncpg.CannotConnectNowError(""),
        asyncpg.IdleSessionTimeoutError(""),
        asyncpg.ReadOnlySQLTransactionError(""),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("got result for unknown protocol state"),
        ConnectionResetError(),
        BrokenPipeError(),
    ],
    ids=repr,
)
def test_what_was_undone_by_chance_may_be_tried_again_at_once(error):
    assert type(domain_error(error)) is TransientError


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.LockNotAvailableError(""),
        asyncpg.DiskFullError(""),
        asyncpg.OutOfMemoryError(""),
        asyncpg.TooManyConnectionsError(""),
        asyncpg.DatabaseDroppedError(""),
        asyncpg.IdleInTransactionSessionTimeoutError(""),
        asyncpg.PostgresIOError(""),
        asyncpg.TargetServerAttributeNotMatched(""),
        ConnectionRefusedError(),
        FileNotFoundError(),
        socket.gaierror(),
        TimeoutError(),
        PoolTimeoutError("none in time"),
    ],
    ids=repr,
)
def test_what_takes_a_while_is_not_tried_again_at_once(error):
    assert type(domain_error(error)) is UnavailableError


def test_what_is_neither_is_told_apart():
    assert isinstance(domain_error(asyncpg.QueryCanceledError("")), StatementTimeoutError)
    assert domain_error(asyncpg.UniqueViolationError("")) is None
    assert domain_error(ValueError()) is None


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (asyncpg.ConnectionDoesNotExistError(""), True),
        (asyncpg.AdminShutdownError(""), True),
        (asyncpg.CannotConnectNowError(""), True),
        (asyncpg.LockNotAvailableError(""), False),
        (asyncpg.TooManyConnectionsError(""), False),
        (asyncpg.ReadOnlySQLTransactionError(""), False),
        (asyncpg.QueryCanceledError(""), False),
        (asyncpg.DeadlockDetectedError(""), False),
        (ValueError(), False),
    ],
    ids=repr,
)
def test_what_a_server_that_is_away_would_do_too(error, is_told):
    assert tells_of_absence(error) == is_told


@pytest.mark.parametrize(
    ("dsn", "hosts"),
    [
        ("postgresql://a@one/db", []),
        ("postgresql:///db?host=/run", []),
        ("postgresql://a:b@one:1,two:2/db", [("one", 1), ("two", 2)]),
        ("postgresql://a@one,two/db", [("one", None), ("two", None)]),
        ("postgresql://a@[::1]:1,[::2]/db", [("::1", 1), ("::2", None)]),
        ("postgresql://a@/db?host=/r/a,/r/b&port=5432,5433", [("/r/a", 5432), ("/r/b", 5433)]),
        ("postgresql://a@/db?host=one,two&port=6432", [("one", 6432), ("two", 6432)]),
        ("postgresql://a:p%40,x@one:1,two:2/db", [("one", 1), ("two", 2)]),
        ("postgresql://a@one,two/db?target_session_attrs=prefer-standby", []),
        ("postgresql://a@/db?host=one,two&port=1,2,3", []),
    ],
)
def test_several_servers_of_a_dsn_are_told_apart(dsn, hosts):
    assert hosts_of(dsn) == hosts
