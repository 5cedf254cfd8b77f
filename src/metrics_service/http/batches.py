"""Batches: an array, `{"items": [...]}` or NDJSON, refused whole or stored but for the bad items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from msgspec import Meta

from metrics_service.errors import BodyTooLargeError, FieldError, InvalidBodyError
from metrics_service.fields import now
from metrics_service.http.bodies import field_error, nul_field, parse_json
from metrics_service.http.diary_notes import reasons_of
from metrics_service.http.headers import content_type_of, values_of
from metrics_service.http.limits import LINE_TYPES
from metrics_service.http.query import query_operation
from metrics_service.ingest.diary_page import Taken
from metrics_service.observability.work import span

ItemT = TypeVar("ItemT", bound=msgspec.Struct)

MAX_ITEMS = 10_000
# A hostile batch of ten thousand bad items is not answered with ten thousand reasons.
MAX_ERRORS = 100


class BatchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    on_error: Annotated[
        Literal["refuse", "skip"],
        Meta(description="`skip` stores the valid items and lists the others."),
    ] = "refuse"


class BatchReceipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a batch; `rejected` with `on_error=skip` only."""

    inserted: int
    duplicates: int
    rejected: list[FieldError] | msgspec.UnsetType = msgspec.UNSET


class Batch(msgspec.Struct, Generic[ItemT]):
    """The items that are good so far, each with its place in the request, and the others' faults."""

    items: list[ItemT]
    places: list[int]
    errors: list[FieldError]

    def reject(self, refused: dict[int, FieldError]) -> None:
        """Take out items by their position in `items`."""
        if not refused:
            return
        self.errors += [
            FieldError(error.reason, field=error.field, index=self.places[position])
            for position, error in refused.items()
        ]
        kept = [position for position in range(len(self.items)) if position not in refused]
        self.items = [self.items[position] for position in kept]
        self.places = [self.places[position] for position in kept]

    def settle(self, query: BatchQuery) -> None:
        """Raises `InvalidBodyError` when there are errors and they refuse the whole."""
        if self.errors and query.on_error == "refuse":
            self.errors.sort(key=lambda error: error.index or 0)
            raise InvalidBodyError(
                self.errors[:MAX_ERRORS],
                f"{len(self.errors)} items are invalid; nothing was stored",
            )

    def receipt(self, query: BatchQuery, *, inserted: int, duplicates: int) -> BatchReceipt:
        rejected = sorted(self.errors, key=lambda error: error.index or 0)
        return BatchReceipt(
            inserted, duplicates, rejected if query.on_error == "skip" else msgspec.UNSET
        )


class BatchDecoder(Generic[ItemT]):
    """Decodes batches of one kind of item, checking each with `check` besides its type."""

    def __init__(
        self, kind: type[ItemT], check: Callable[[ItemT, datetime], FieldError | None]
    ) -> None:
        self._all: msgspec.json.Decoder[list[ItemT]] = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._one = msgspec.json.Decoder(kind)
        self._raw = msgspec.json.Decoder(list[msgspec.Raw])
        self._envelope = msgspec.json.Decoder(_Envelope)
        self._check = check

    def decode(self, body: bytes, headers: Any) -> Batch[ItemT]:
        """Raises `MalformedRequestError`, `InvalidBodyError`, `BodyTooLargeError`."""
        with span("ingest.decode", bytes=len(body)) as stage:
            batch = self._decode(body, headers)
            stage.note(records=len(batch.items), refused=len(batch.errors))
        return batch

    def _decode(self, body: bytes, headers: Any) -> Batch[ItemT]:
        media_type, _ = content_type_of(values_of(headers, b"content-type"))
        if media_type in LINE_TYPES:
            return self._piecemeal([line for line in body.split(b"\n") if line.strip()])
        if body.lstrip()[:1] == b"{":
            body = bytes(parse_json(self._envelope, body).items)
        if b"\\u0000" not in body:
            try:
                return self._checked(self._all.decode(body))
            except (msgspec.DecodeError, RecursionError, ValueError):
                # Something is wrong: find out what, item by item.
                pass
        return self._piecemeal([bytes(raw) for raw in parse_json(self._raw, body)])

    def _checked(self, items: list[ItemT]) -> Batch[ItemT]:
        _refuse_too_many(len(items))
        batch = Batch(items, list(range(len(items))), [])
        check, moment = self._check, now()
        batch.reject(
            {
                position: error
                for position, item in enumerate(items)
                if (error := check(item, moment)) is not None
            }
        )
        return batch

    def _piecemeal(self, raws: list[bytes]) -> Batch[ItemT]:
        _refuse_too_many(len(raws))
        batch: Batch[ItemT] = Batch([], [], [])
        for place, raw in enumerate(raws):
            item = self._decoded(raw)
            if isinstance(item, FieldError):
                batch.errors.append(FieldError(item.reason, field=item.field, index=place))
            else:
                batch.items.append(item)
                batch.places.append(place)
        return batch

    def _decoded(self, raw: bytes) -> ItemT | FieldError:
        try:
            item = self._one.decode(raw)
        except msgspec.ValidationError as error:
            return field_error(error, kind=self._one.type)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return FieldError("is not valid JSON")
        if b"\\u0000" in raw and (field := nul_field(item)) is not None:
            return FieldError("text must not contain U+0000", field=field)
        return self._check(item, now()) or item


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    items: msgspec.Raw


def _refuse_too_many(count: int) -> None:
    if count > MAX_ITEMS:
        raise BodyTooLargeError(f"a batch has at most {MAX_ITEMS} items")


def taken_of(batch: Batch[ItemT], receipt: BatchReceipt) -> Taken:
    """What the receiver's diary is to know of a batch that was stored."""
    rejected = [] if receipt.rejected is msgspec.UNSET else receipt.rejected
    agent = getattr(batch.items[-1], "agent", None) if batch.items else None
    return Taken(
        receipt.inserted + receipt.duplicates,
        reasons_of(rejected),
        agent,
        duplicates=receipt.duplicates,
    )


def batch_operation(kind: type[msgspec.Struct], example: list[dict[str, Any]]) -> type[Operation]:
    """An OpenAPI operation whose body is a batch of `kind`."""
    parameters = query_operation(BatchQuery)

    @dataclass
    class BatchOperation(parameters):  # type: ignore[valid-type,misc]  # made above
        def __post_init__(self) -> None:
            super().__post_init__()
            item = Reference(ref=f"#/components/schemas/{kind.__name__}")
            array = Schema(type=OpenAPIType.ARRAY, items=item, max_items=MAX_ITEMS)
            self.request_body = RequestBody(
                required=True,
                content={
                    "application/json": OpenAPIMediaType(schema=array, example=example),
                    "application/x-ndjson": OpenAPIMediaType(schema=item),
                },
            )

    return BatchOperation
