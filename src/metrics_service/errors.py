"""What can go wrong, in the product's words; `http/problems.py` gives each one its status."""

from __future__ import annotations

from uuid import UUID

import msgspec


class MetricsServiceError(Exception):
    """Base of everything this product raises on purpose; its text is safe to show to a client."""


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One refused value: where it stood and why."""

    reason: str
    field: str | None = None
    index: int | None = None


# -- what a client sent ---------------------------------------------------------------------------


class MalformedRequestError(MetricsServiceError):
    """The request cannot be read: broken encoding, JSON, host, parameter."""


class BodyBrokenOffError(MalformedRequestError):
    """The client left before its body was complete, or framed it so that it has no end.

    The server does not say which, so there is an answer, for whoever is there to read it.
    """

    def __init__(self) -> None:
        super().__init__("the body broke off")


class InvalidQueryError(MalformedRequestError):
    """A query parameter is unknown or has a value outside its range."""


class InvalidCursorError(MalformedRequestError):
    """A cursor that this service did not issue for this very list."""

    def __init__(self) -> None:
        super().__init__("the cursor does not belong to this list; start again without it")


class InvalidBodyError(MetricsServiceError):
    """The body was parsed, but its values are refused."""

    def __init__(
        self, errors: list[FieldError], detail: str = "the body has invalid values"
    ) -> None:
        super().__init__(detail)
        self.errors = errors


class BodyTooLargeError(MetricsServiceError):
    """More bytes or items than the route takes."""


class HeadersTooLargeError(MetricsServiceError):
    """More header bytes than the service takes."""


class UnsupportedMediaTypeError(MetricsServiceError):
    """A content type or content encoding that the route does not take."""


class MethodNotAllowedError(MetricsServiceError):
    """A method that the path does not have."""


class RequestTimeoutError(MetricsServiceError):
    """The body stopped arriving."""


# -- who is asking --------------------------------------------------------------------------------


class UnknownHostError(MetricsServiceError):
    """No tenant lives at this host."""

    def __init__(self) -> None:
        super().__init__("nothing is served at this address; its host must be a tenant's domain")


class UnauthenticatedError(MetricsServiceError):
    """No credential, or none that this tenant knows."""

    def __init__(
        self,
        detail: str = "a valid API key of this tenant is required",
        *,
        finding: str | None = None,
        key_id: UUID | None = None,
    ) -> None:
        super().__init__(detail)
        self.finding = finding or detail
        """What the tenant itself may know of it."""
        self.key_id = key_id
        """The key that it was, once."""


class ForbiddenError(MetricsServiceError):
    """The credential is known but lacks a scope."""


class TenantSuspendedError(MetricsServiceError):
    """The tenant exists but is not being served."""

    def __init__(self) -> None:
        super().__init__("this tenant is suspended")


class TooManyRequestsError(MetricsServiceError):
    """The caller is over a limit; try again after `retry_after_s` seconds."""

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


# -- what is there --------------------------------------------------------------------------------


class NotFoundError(MetricsServiceError):
    """Nothing by that id for this tenant; whether another tenant has it is never told."""

    def __init__(self, what: str, key: object = None) -> None:
        super().__init__(f"there is no {what}" if key is None else f"there is no {what} {key}")


class ConflictError(MetricsServiceError):
    """The change contradicts what is stored: taken name, stale version, request still running."""


class IdempotencyMismatchError(MetricsServiceError):
    """An Idempotency-Key came back with another request."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used with a different request")


# -- what the service stands on --------------------------------------------------------------------


class UnavailableError(MetricsServiceError):
    """The service cannot answer now; trying again after `retry_after_s` seconds is right."""

    def __init__(self, detail: str = "the service is busy", *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TransientError(UnavailableError):
    """Undone by chance, and wholly: the same may succeed at once."""

    def __init__(self) -> None:
        super().__init__("the service was interrupted")


class CommitUnknownError(UnavailableError):
    """The connection was lost after COMMIT was sent and before it was answered."""

    def __init__(self) -> None:
        super().__init__(
            "the database was lost while the change was being stored: it may be stored, or not;"
            " look before you send it again"
        )


class StatementTimeoutError(MetricsServiceError):
    """The database took longer than the tenant's limit for one statement."""

    def __init__(self) -> None:
        super().__init__("the query took too long; ask for less, or for a shorter time")


# -- operators ------------------------------------------------------------------------------------


class InvalidNameError(MetricsServiceError):
    """A slug, domain or name that cannot be registered."""


class SettingsError(MetricsServiceError):
    """A setting is missing, misspelt or has a wrong value."""


class DatabaseUnreachableError(MetricsServiceError):
    """No connection to the database."""


class MigrationError(MetricsServiceError):
    """A schema could not be brought to its revision, or fails the coverage gate."""


class EmbeddedServerError(MetricsServiceError):
    """The embedded PostgreSQL cannot be started."""
