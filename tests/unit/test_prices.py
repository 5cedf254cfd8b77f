"""Estimates of what model calls cost: names, dates, long prompts, and tables that are not good."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from metrics_service.errors import SettingsError
from metrics_service.ingest.parts import ModelPart
from metrics_service.ingest.prices import estimate_micros, load_prices
from metrics_service.settings import load_settings

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

TABLE = """
version = "test-1"
prices = [
    { model = "one", input = 1, cache_read = 0.1, cache_write = 1.25, output = 5 },
    { model = "one", from = 2026-11-01, input = 2, cache_read = 0.2, cache_write = 2.5, output = 10 },
    { model = "half", input = 0.5, output = 0.25 },
    { model = "half-*", input = 7, output = 7 },
    { model = "half-long-*", input = 8, output = 8 },
    { model = "half-long-exact", input = 9, output = 9 },
    { model = "tiered", input = 1, output = 1 },
    { model = "tiered", above = 100, input = 2, output = 3 },
]
"""


@pytest.fixture
def table(tmp_path):
    """Write a price table and give its path."""

    def write(text):
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def prices(table):
    return load_prices(table(TABLE))


def call(model="one", *, uncached=1000, output=100, **changes):
    return ModelPart(
        **{
            "request_model": model,
            "started_at": NOON,
            "input_uncached_tokens": uncached,
            "output_tokens": output,
            **changes,
        }
    )


# -- estimating -------------------------------------------------------------------------------------


def test_each_kind_of_token_has_its_price(prices):
    part = call(cache_read_tokens=10_000, cache_write_tokens=2_000)

    assert estimate_micros(prices, part) == 1000 * 2 + 2000 + 5000 + 100 * 10


def test_cache_costs_what_input_costs_where_the_table_says_nothing_else(prices):
    part = call("half", uncached=0, output=0, cache_read_tokens=10, cache_write_tokens=6)

    assert estimate_micros(prices, part) == 8


@pytest.mark.parametrize(("tokens", "micros"), [(0, 0), (1, 1), (2, 1), (3, 2), (5, 3)])
def test_half_a_micro_is_rounded_up(prices, tokens, micros):
    assert estimate_micros(prices, call("half", uncached=tokens, output=0)) == micros


def test_large_numbers_stay_exact(prices):
    part = call("half", uncached=10**12 - 1, output=3, cache_read_tokens=10**12)

    exact = Decimal(2 * 10**12 - 1) / 2 + Decimal("0.75")
    assert estimate_micros(prices, part) == int(exact + Decimal("0.5"))


@pytest.mark.parametrize(
    "missing",
    [
        {"uncached": None},
        {"output": None},
        {"model": None},
        {"model": "nobody-knows"},
        {"model": "one-of-another-kind"},
        {"model": ""},
    ],
)
def test_what_is_unknown_is_not_estimated(prices, missing):
    assert estimate_micros(prices, call(**missing)) is None


def test_the_model_that_answered_is_what_is_paid_for(prices):
    part = call("one", response_model="half", uncached=10, output=0)
    unknown = call("half", response_model="deployment-7", uncached=10, output=0)

    assert estimate_micros(prices, part) == estimate_micros(prices, unknown) == 5


@pytest.mark.parametrize(
    ("times", "micros"),
    [
        ({"started_at": datetime(2026, 10, 31, 23, 59, tzinfo=UTC)}, 1),
        ({"started_at": datetime(2026, 11, 1, tzinfo=UTC)}, 2),
        ({"started_at": None, "ended_at": datetime(2026, 10, 31, tzinfo=UTC)}, 1),
        ({"started_at": None}, 2),
    ],
)
def test_the_price_is_that_of_the_day(prices, times, micros):
    assert estimate_micros(prices, call(uncached=1, output=0, **times)) == micros


def test_a_price_that_is_not_valid_yet_is_none(table):
    only = 'version = "1"\nprices = [{ model = "a", from = 2027-01-01, input = 1, output = 1 }]'

    assert estimate_micros(load_prices(table(only)), call("a")) is None


@pytest.mark.parametrize(
    ("uncached", "cached", "micros"), [(100, 0, 110), (101, 0, 232), (50, 51, 232), (50, 50, 110)]
)
def test_long_prompts_have_prices_of_their_own(prices, uncached, cached, micros):
    part = call("tiered", uncached=uncached, cache_read_tokens=cached, output=10)

    assert estimate_micros(prices, part) == micros


@pytest.mark.parametrize(
    ("model", "price"),
    [("half", "0.5"), ("half-x", "7"), ("half-long-x", "8"), ("half-long-exact", "9")],
)
def test_the_longest_name_that_fits_wins(prices, model, price):
    found = prices.find(model, day=None, input_tokens=1)

    assert found.input == Decimal(price)


# -- the table that comes along ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "same"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/eu.anthropic.claude-haiku-4-5-20251001-v1:0",
         "claude-haiku-4-5"),
        ("claude-opus-4-5@20251101", "claude-opus-4-5"),
        ("anthropic/claude-opus-4.5", "claude-opus-4-5"),
        ("claude-sonnet-4-5[1m]", "claude-sonnet-4-5"),
        ("Claude-Sonnet-4-5-latest", "claude-sonnet-4-5"),
        ("claude-3-7-sonnet-20250219", "claude-3.7-sonnet"),
        ("openai/gpt-5.1-codex", "gpt-5.1-codex"),
        ("gpt-5-2025-08-07", "gpt-5"),
        ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("o3-2025-04-16", "o3"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("gemini-2.5-flash-preview-09-2025", "gemini-2.5-flash"),
        ("gemini-3-pro-preview", "gemini-3-pro"),
        ("publishers/google/models/gemini-2.5-flash-001", "gemini-2.5-flash"),
        ("qwen3-coder-plus-2025-09-23", "qwen3-coder-plus"),
    ],
)  # fmt: skip
def test_a_model_has_one_price_whoever_names_it(model, same):
    prices = load_prices()

    found = prices.find(model, day=None, input_tokens=1)

    assert found is not None
    assert found == prices.find(same, day=None, input_tokens=1)


@pytest.mark.parametrize(
    "model",
    ["gpt-5.99", "gpt-5-image", "gpt-4o-audio-preview", "claude-opus-9", "qwen3-coder:30b",
     "gemini-2.5-flash-image", "o3-deep-research", "claude", "gpt-4o-transcribe"],
)  # fmt: skip
def test_a_model_that_is_only_called_alike_has_no_price(model):
    assert load_prices().find(model, day=None, input_tokens=1) is None


def test_known_models_cost_what_their_vendors_say():
    prices = load_prices()
    used = {"uncached": 1_000_000, "output": 100_000, "cache_read_tokens": 0}

    assert estimate_micros(prices, call("claude-sonnet-4-5", **used)) == 4_500_000
    assert estimate_micros(prices, call("gpt-5", **used)) == 2_250_000
    assert estimate_micros(prices, call("gemini-2.5-pro", **used)) == 4_000_000
    assert estimate_micros(prices, call("gemini-2.5-pro", uncached=100_000, output=0)) == 125_000
    assert prices.version == "2026-11-21"


def test_a_cut_of_the_price_holds_from_its_day():
    prices = load_prices()

    before = prices.find("claude-sonnet-5-5", day=date(2026, 10, 6), input_tokens=1)
    after = prices.find("claude-sonnet-5-5", day=date(2026, 10, 7), input_tokens=1)

    assert (before.cache_read, after.cache_read) == (Decimal("0.2"), Decimal("0.1"))


# -- the operator's own -----------------------------------------------------------------------------


def test_the_operators_table_takes_the_place_of_ours(table):
    path = table(TABLE)
    settings = load_settings({"METRICS_PRICES_FILE": str(path)})

    prices = load_prices(settings.prices_file)

    assert prices.version == "test-1"
    assert prices.find("gpt-5", day=None, input_tokens=1) is None
    assert load_settings({}).prices_file is None


ENTRY = 'version = "1"\nprices = [{{ model = "a", input = 1, output = 1{} }}]'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prices = ]", "line 1"),
        ("", "version"),
        ('version = "1"', "prices"),
        ('version = "1"\nprices = []', "length"),
        ('version = ""\nprices = [{ model = "a", input = 1, output = 1 }]', "version"),
        ('version = "1"\nprices = [{ model = "a", input = 1 }]', "output"),
        ('version = "1"\nprices = [{ model = "a", input = "much", output = 1 }]', "input"),
        ('version = "1"\nprices = [{ model = "a", input = -1, output = 1 }]', "input"),
        ('version = "1"\nprices = [{ model = "a", input = nan, output = 1 }]', "input"),
        ('version = "1"\nprices = [{ model = "a", input = inf, output = 1 }]', "input"),
        ('version = "1"\nprices = [{ model = "a", input = true, output = 1 }]', "input"),
        (ENTRY.format(", cache_reads = 1"), "cache_reads"),
        (ENTRY.format(", above = -1"), "above"),
        (ENTRY.format(', from = "yesterday"'), "from"),
        (
            'version = "1"\nprices = [{ model = "a-1.5", input = 1, output = 1 },'
            ' { model = "A-1-5", input = 2, output = 1 }]',
            "twice",
        ),
        ("\udcff", "utf-8"),
    ],
)
def test_a_table_that_cannot_be_used_stops_the_start_and_says_why(tmp_path, text, reason):
    path = tmp_path / "prices.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(SettingsError) as raised:
        load_prices(path)

    assert str(raised.value).startswith("METRICS_PRICES_FILE ")
    assert str(path) in str(raised.value)
    assert reason in str(raised.value)


@pytest.mark.parametrize("name", ["nothing.toml", "."])
def test_a_file_that_is_not_there_stops_the_start(tmp_path, name):
    with pytest.raises(SettingsError, match="METRICS_PRICES_FILE"):
        load_prices(tmp_path / name)


def test_the_setting_is_in_the_example():
    assert "METRICS_PRICES_FILE=" in (ROOT / ".env.example").read_text()
