"""The operators' domain, at which no tenant is ever served."""

from __future__ import annotations

from metrics_service.errors import InvalidNameError
from metrics_service.tenants.names import strip_base


def operators_hosts(operator_domain: str, base_domain: str) -> frozenset[str]:
    """What a tenant would have to be registered at to be served where operators look.

    They are at `<domain>` and at `<domain>.<base>`; of both the base is dropped in a look-up, once.
    """
    return frozenset({operator_domain, strip_base(operator_domain, base_domain)})


def refuse_operators(domain: str, *, operator_domain: str | None, base_domain: str) -> None:
    """Raise `InvalidNameError` for a normalised domain that is the operators'."""
    if operator_domain is not None and domain in operators_hosts(operator_domain, base_domain):
        raise InvalidNameError(f"domain {domain} is the operators' (METRICS_OPERATOR_DOMAIN)")
