"""Maps what went wrong to one line on standard error and an exit code that scripts can tell apart."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import traceback
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import asyncpg
import rich_click as click

from metrics_service.cli.signals import end_on_sigterm
from metrics_service.db.failures import driver_error
from metrics_service.errors import (
    ConflictError,
    DatabaseUnreachableError,
    EmbeddedServerError,
    InvalidNameError,
    MetricsServiceError,
    NotFoundError,
    SettingsError,
    TenantSuspendedError,
    UnavailableError,
)

FAILED = 1
WRONG_USAGE = 2
NOT_FOUND = 3
CONFLICT = 4
UNREACHABLE = 5
INTERRUPTED = 130

CODE_OF: dict[type[MetricsServiceError], int] = {
    SettingsError: WRONG_USAGE,
    InvalidNameError: WRONG_USAGE,
    NotFoundError: NOT_FOUND,
    ConflictError: CONFLICT,
    TenantSuspendedError: CONFLICT,
    DatabaseUnreachableError: UNREACHABLE,
    EmbeddedServerError: UNREACHABLE,
}
"""Every other error of the product is a 1."""

# Connection exceptions, shutdown, start-up, out of connections, wrong password or database.
UNREACHABLE_STATES = ("08", "57P", "53300", "28", "3D000")
MISSING_TABLE_OR_FUNCTION = {"42P01", "42883", "3F000"}

DSN_VARIABLES = ("DATABASE_URL", "DATABASE_OWNER_URL", "DATABASE_DIRECT_URL", "REDIS_URL")


def run(command: click.Command, arguments: list[str] | None = None) -> int:
    """Run a command; print one line for whatever it raises, and return its exit code."""
    end_on_sigterm()
    try:
        code = command.main(arguments, prog_name="metrics-service", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. Python would flush the rest at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except click.Abort as error:
        # Click turns Ctrl-C and a "no" into the same exception.
        is_interrupted = isinstance(error.__context__, KeyboardInterrupt)
        return _complain("aborted", INTERRUPTED if is_interrupted else FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # the last line of defence against a traceback
        if os.environ.get("METRICS_LOG_LEVEL") == "debug":
            traceback.print_exc()
        return _complain(*describe(error))
    return code if isinstance(code, int) else 0


def describe(error: BaseException) -> tuple[str, int]:
    """What to print for an error, and the code to exit with."""
    if isinstance(error, click.UsageError):
        return _usage(error), WRONG_USAGE
    if isinstance(error, click.ClickException):
        return error.format_message(), FAILED
    if isinstance(error, MetricsServiceError):
        return str(error), _code_of(error)
    return _of_database(error) or (_unexpected(error), FAILED)


def _code_of(error: MetricsServiceError) -> int:
    if isinstance(error, UnavailableError) and error.__cause__ is not None:
        return UNREACHABLE if _is_unreachable(error.__cause__) else FAILED
    return next((code for kind, code in CODE_OF.items() if isinstance(error, kind)), FAILED)


def _usage(error: click.UsageError) -> str:
    where = f"; see '{error.ctx.command_path} --help'" if error.ctx is not None else ""
    return f"{error.format_message().rstrip('.')}{where}"


def _of_database(error: BaseException) -> tuple[str, int] | None:
    cause = driver_error(error)
    if _is_unreachable(cause):
        return f"the database cannot be reached: {_first_line(cause)}", UNREACHABLE
    if not isinstance(cause, asyncpg.PostgresError):
        return None
    if cause.sqlstate in MISSING_TABLE_OR_FUNCTION:
        return f"the database is not initialised, or incomplete: {_first_line(cause)}", FAILED
    return f"the database refused: {_first_line(cause)} ({cause.sqlstate})", FAILED


def _is_unreachable(error: BaseException) -> bool:
    cause = driver_error(error)
    if isinstance(cause, asyncpg.PostgresError):
        return (cause.sqlstate or "").startswith(UNREACHABLE_STATES)
    return isinstance(
        cause, (ConnectionError, asyncio.TimeoutError, asyncpg.InterfaceError)
    ) and not isinstance(cause, asyncpg.exceptions.DataError)


def _unexpected(error: BaseException) -> str:
    return (
        f"unexpected {type(error).__name__}: {_first_line(error)} (METRICS_LOG_LEVEL=debug: more)"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _complain(message: str, code: int) -> int:
    click.echo(f"metrics-service: {without_passwords(' '.join(message.split()))}", err=True)
    return code


def without_passwords(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Blot out the password of every DSN that this process was given."""
    text = re.sub(r"(://[^\s:/@]*):[^\s@]*@", r"\1:***@", text)
    for word in (*(environ.get(name, "") for name in DSN_VARIABLES), *sys.argv):
        for password in _passwords(word):
            text = text.replace(password, "***")
    return text


def _passwords(dsn: str) -> list[str]:
    if "://" not in dsn:
        return []
    try:
        password = urlsplit(dsn).password or ""
    except ValueError:
        return []
    return [form for form in {password, unquote(password)} if form]
