"""Forms as browsers send them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from litestar import Request

from metrics_service.errors import MalformedRequestError, UnsupportedMediaTypeError
from metrics_service.http.body import take_body
from metrics_service.http.headers import content_type_of, values_of

FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 20


async def read_form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """The fields of a form; raises `UnsupportedMediaTypeError` or `MalformedRequestError`."""
    media_type, charset = content_type_of(values_of(request.scope["headers"], b"content-type"))
    if media_type != FORM or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaTypeError(f"Content-Type must be {FORM}, in UTF-8")
    body = await take_body(request)
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise MalformedRequestError("the form cannot be read") from None
    form: dict[str, str] = {}
    for name, value in pairs:
        if name in form:
            raise MalformedRequestError("a field of the form is given twice")
        form[name] = value
    return form
