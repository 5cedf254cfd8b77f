"""What a model call costs where its client does not say: estimated from a dated table of list prices.

The table is `prices.toml` beside this file, or the operator's own. Models are named as their vendor
names them, whoever sold the call: `us.anthropic.claude-sonnet-4-5-20250929-v1:0` is `claude-sonnet-4-5`.
"""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from metrics_service.errors import SettingsError
from metrics_service.ingest.parts import ModelPart

VARIABLE = "METRICS_PRICES_FILE"
BUILT_IN = Path(__file__).with_name("prices.toml")
ANY_REST = "*"

MAX_PRICE = Decimal(1_000_000)
NAMES_REMEMBERED = 1024


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one model costs, in USD per million tokens."""

    model: Annotated[str, Meta(min_length=1)]
    """A name; one that ends with `*` is a beginning of names, and the longest that fits wins."""
    since: date | None = msgspec.field(default=None, name="from")
    """From this day on, in UTC; a later entry replaces all earlier ones of its model."""
    above: Annotated[int, Meta(ge=0)] = 0
    """For requests with more tokens of input than this."""
    input: Decimal
    cache_read: Decimal | None = None
    """As `input` where it is not given; likewise `cache_write`."""
    cache_write: Decimal | None = None
    output: Decimal


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Annotated[str, Meta(min_length=1, max_length=64)]
    prices: Annotated[list[Price], Meta(min_length=1)]


class Prices:
    """A price table, read once and asked often."""

    def __init__(self, version: str, prices: list[Price]) -> None:
        self.version = version
        """As rows keep it with their estimate."""
        self._exact: dict[str, list[Price]] = {}
        beginnings: dict[str, list[Price]] = {}
        for price in prices:
            name = _plain(price.model.removesuffix(ANY_REST))
            named = beginnings if price.model.endswith(ANY_REST) else self._exact
            named.setdefault(name, []).append(price)
        self._beginnings = sorted(beginnings.items(), key=lambda it: len(it[0]), reverse=True)

    def find(self, model: str, *, day: date | None, input_tokens: int) -> Price | None:
        """The price of a request to `model`; without a day the latest."""
        for name in _spellings(model):
            fitting = [
                price
                for price in self._named(name)
                if price.above < max(input_tokens, 1)
                and (day is None or price.since is None or price.since <= day)
            ]
            if fitting:
                return max(fitting, key=lambda price: (price.since or date.min, price.above))
        return None

    def _named(self, name: str) -> list[Price]:
        if name in self._exact:
            return self._exact[name]
        found = (prices for beginning, prices in self._beginnings if name.startswith(beginning))
        return next(found, [])


def load_prices(path: Path | None = None) -> Prices:
    """Read the operator's table, or the one that comes with the service.

    Raises `SettingsError` that names the variable and what is wrong with the file.
    """
    try:
        given = (path or BUILT_IN).read_bytes().decode()
        table = msgspec.convert(tomllib.loads(given, parse_float=Decimal), _Table)
        _check(table)
    except OSError as error:
        raise _wrong(path, error.strerror or type(error).__name__) from None
    except (ValueError, msgspec.ValidationError) as error:
        raise _wrong(path, str(error)) from None
    return Prices(table.version, table.prices)


def _wrong(path: Path | None, reason: str) -> SettingsError:
    return SettingsError(f"{VARIABLE} names a file that cannot be used, {path}: {reason}")


def _check(table: _Table) -> None:
    """Refuse what the types of a table cannot say; raises `ValueError`."""
    seen: set[Any] = set()
    for place, price in enumerate(table.prices):
        for name in ("input", "cache_read", "cache_write", "output"):
            amount = getattr(price, name)
            if amount is not None and not (amount.is_finite() and 0 <= amount <= MAX_PRICE):
                raise ValueError(f"{name} must be from 0 to {MAX_PRICE} - at `$.prices[{place}]`")
        entry = (_plain(price.model), price.since, price.above)
        if entry in seen:
            raise ValueError(f"{price.model} is given twice - at `$.prices[{place}]`")
        seen.add(entry)


def estimate_micros(prices: Prices, part: ModelPart) -> int | None:
    """Whole micro-USD, half rounded up; None where tokens, the model or its price are unknown."""
    uncached, output = part.input_uncached_tokens, part.output_tokens
    if uncached is None or output is None:
        return None
    read, write = part.cache_read_tokens or 0, part.cache_write_tokens or 0
    price = _price_of(prices, part, uncached + read + write)
    if price is None:
        return None
    # USD for a million tokens are micro-USD for one.
    cost = (
        uncached * price.input
        + read * (price.input if price.cache_read is None else price.cache_read)
        + write * (price.input if price.cache_write is None else price.cache_write)
        + output * price.output
    )
    return int(cost.to_integral_value(ROUND_HALF_UP))


def _price_of(prices: Prices, part: ModelPart, input_tokens: int) -> Price | None:
    day = _day(part.started_at or part.ended_at)
    # What answered is what is billed; gateways answer with names of their own.
    for model in (part.response_model, part.request_model):
        if model is not None:
            price = prices.find(model, day=day, input_tokens=input_tokens)
            if price is not None:
                return price
    return None


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.astimezone(UTC).date()


# -- names ------------------------------------------------------------------------------------------

# Cloud regions and vendors as Bedrock puts them in front: `us.anthropic.`.
_vendors = re.compile(r"^(?:[a-z-]+\.)+")
# The window's size in brackets, as Claude Code has it.
_bracket = re.compile(r"\[[^\]]*\]$")
_version = re.compile(
    r"(?:@[\w.-]+|-v\d+(?::\d+)?|-\d{4}-\d{2}-\d{2}|-\d{8}|-\d{3}|-latest"
    r"|-preview(?:-\d{2}-(?:\d{4}|\d{2}))?)$"
)


@lru_cache(NAMES_REMEMBERED)
def _spellings(model: str) -> tuple[str, ...]:
    """The name as it is, without what stands before it, and then without what says which build."""
    full = _plain(model)
    short = full
    while (shorter := _version.sub("", short)) != short:
        short = shorter
    return (full, short) if short != full else (full,)


def _plain(model: str) -> str:
    name = model.strip().lower().rpartition("/")[2]
    # `claude-opus-4.5` and `claude-opus-4-5` are one.
    return _vendors.sub("", _bracket.sub("", name)).replace(".", "-")
