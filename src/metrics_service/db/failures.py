"""What PostgreSQL and the driver raise, in the product's words, told apart by SQLSTATE."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from metrics_service.errors import (
    MetricsServiceError,
    StatementTimeoutError,
    TenantSuspendedError,
    UnavailableError,
)

QUERY_CANCELED = "57014"
TENANT_UNAVAILABLE = "P0002"
# Classes and codes after which the same request may well succeed a moment later: connection
# exceptions, resources, locks, shutdown, a standby in our place, serialisation.
TRANSIENT_CLASSES = ("08", "53", "57")
TRANSIENT_CODES = frozenset({"25006", "40001", "40P01", "55P03", "58030"})
# A refused or broken connection is a bare OSError, an aborted one an InterfaceError; one that was told
# to end and has not noticed yet is an InternalClientError.
BROKEN = (OSError, asyncio.TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# What is wrong with the values themselves, however often they are sent.
VALUES_REFUSED = (
    asyncpg.DataError,
    asyncpg.CheckViolationError,
    asyncpg.NotNullViolationError,
)


def driver_error(error: BaseException) -> BaseException:
    """What asyncpg said, whatever SQLAlchemy and the repositories put around it."""
    if isinstance(error.__cause__, DBAPIError):
        # The repositories have errors of their own around it.
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, AsyncAdapt_asyncpg_dbapi.Error) and error.__cause__ is not None:
        # The pool raises it bare when it cannot connect.
        error = error.__cause__
    return error


def domain_error(error: BaseException) -> MetricsServiceError | None:
    """The meaning of a database error, or None when it is a bug of ours."""
    error = driver_error(error)
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        # The schema was migrated under a prepared statement, which the driver has forgotten by now.
        return UnavailableError()
    if isinstance(error, asyncpg.PostgresError):
        return _by_sqlstate(error.sqlstate or "")
    if isinstance(error, PoolTimeoutError):
        return UnavailableError("the service is busy")
    if isinstance(error, BROKEN) and not isinstance(error, asyncpg.exceptions.DataError):
        return UnavailableError("the database cannot be reached", retry_after_s=2)
    return None


def _by_sqlstate(sqlstate: str) -> MetricsServiceError | None:
    if sqlstate == QUERY_CANCELED:
        return StatementTimeoutError()
    if sqlstate == TENANT_UNAVAILABLE:
        return TenantSuspendedError()
    if sqlstate in TRANSIENT_CODES or sqlstate.startswith(TRANSIENT_CLASSES):
        return UnavailableError()
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Raise domain errors in place of the database's."""
    try:
        yield
    except MetricsServiceError:
        raise
    except Exception as error:
        meaning = domain_error(error)
        if meaning is None:
            raise
        raise meaning from error
