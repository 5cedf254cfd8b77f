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
    TransientError,
    UnavailableError,
)

QUERY_CANCELED = "57014"
TENANT_UNAVAILABLE = "P0002"
# The server ends, crashed, or is not up yet.
SHUTDOWN_CODES = frozenset({"57P01", "57P02", "57P03"})
IN_READ_ONLY = "25006"
# What undid a transaction by chance, so that the same may succeed at once: the connection was lost or
# the server ended it, a standby in our place, serialisation, deadlock, a session that was idle too long.
TRANSIENT_CLASS = "08"
TRANSIENT_CODES = SHUTDOWN_CODES | {IN_READ_ONLY, "40001", "40P01", "57P05"}
# What takes a while: resources, locks, transactions that took too long, a database that takes no
# connections.
UNAVAILABLE_CLASSES = ("53", "57")
UNAVAILABLE_CODES = frozenset({"25P03", "25P04", "55000", "55P03", "58030"})
# A refused or broken connection is a bare OSError, an aborted one an InterfaceError; one that was told
# to end and has not noticed yet is an InternalClientError.
BROKEN = (OSError, asyncio.TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# The login, its password, its right to connect, the database: changed, or not there.
NOT_LET_IN = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
)

# Of these, what becomes of a connection that there was.
LOST = (
    ConnectionAbortedError,
    ConnectionResetError,
    BrokenPipeError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

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
        return TransientError()
    if isinstance(error, asyncpg.PostgresError):
        return _by_sqlstate(error.sqlstate or "")
    if isinstance(error, PoolTimeoutError):
        return UnavailableError("the service is busy")
    if isinstance(error, asyncpg.exceptions.DataError) or not isinstance(error, BROKEN):
        return None
    if isinstance(error, LOST) and not isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return TransientError()
    return UnavailableError("the database cannot be reached", retry_after_s=2)


def tells_of_absence(error: BaseException) -> bool:
    """Whether it fails so when the server is away; it may be there all the same."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        return code in SHUTDOWN_CODES or code.startswith(TRANSIENT_CLASS)
    return isinstance(error, BROKEN) and not isinstance(error, asyncpg.exceptions.DataError)


def _by_sqlstate(sqlstate: str) -> MetricsServiceError | None:
    if sqlstate == QUERY_CANCELED:
        return StatementTimeoutError()
    if sqlstate == TENANT_UNAVAILABLE:
        return TenantSuspendedError()
    if sqlstate in TRANSIENT_CODES or sqlstate.startswith(TRANSIENT_CLASS):
        return TransientError()
    if sqlstate in UNAVAILABLE_CODES or sqlstate.startswith(UNAVAILABLE_CLASSES):
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
