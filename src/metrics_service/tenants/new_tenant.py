"""What is asked for when a tenant is to be made; who only asks needs nothing of what makes it."""

from __future__ import annotations

import base64
from typing import Literal
from uuid import UUID

import msgspec

from metrics_service.errors import InvalidNameError
from metrics_service.tenants.names import normalize_domain, validate_display_name, validate_slug
from metrics_service.tenants.operator_domain import refuse_operators

Plan = Literal["basic", "pro", "enterprise"]
PLANS: tuple[Plan, ...] = ("basic", "pro", "enterprise")


class NewTenant(msgspec.Struct, frozen=True):
    """What an operator asks for, checked and normalised."""

    slug: str
    name: str
    domain: str
    plan: Plan

    @classmethod
    def of(
        cls,
        slug: str,
        *,
        name: str | None,
        domain: str | None,
        plan: str,
        base_domain: str,
        operator_domain: str | None = None,
    ) -> NewTenant:
        """Raises `InvalidNameError` that names the field."""
        slug = validate_slug(slug)
        if plan not in PLANS:
            raise InvalidNameError(f"plan: {plan!r} is none of {', '.join(PLANS)}")
        host = normalize_domain(domain if domain is not None else slug, base_domain)
        refuse_operators(host, operator_domain=operator_domain, base_domain=base_domain)
        return cls(
            slug=slug,
            name=validate_display_name(name if name is not None else slug),
            domain=host,
            plan=plan,
        )


def schema_name_of(tenant_id: UUID) -> str:
    """The name of schema and role: from the id, because catalogs are readable by every role."""
    key = base64.b32encode(tenant_id.bytes).decode().rstrip("=").lower()
    return f"t_{key}"
