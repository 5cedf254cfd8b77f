"""What a client sent live and what its transcripts tell later: any order, split and repetition is one."""

from __future__ import annotations

import os
from typing import Any

import pytest
from laptop import imported_items, live_items
from test_telemetry_order import _anonymous, assert_same, clear, in_order, send, shuffled, tables

SEEDS = int(os.environ.get("TEST_IMPORT_ORDERS", "6"))
CLIENTS = ("claude-code", "codex")
ADA = "ada@example.com"


def both(client: Any) -> list[Any]:
    return [*live_items(client), *imported_items(client), *imported_items(client, ADA)]


@pytest.fixture(scope="module")
async def expected(engine, new_tenant):
    found = {}
    for client in CLIENTS:
        tenant_id = (await new_tenant()).id
        await send(engine, tenant_id, in_order(both(client)))
        found[client] = _anonymous(await tables(engine, tenant_id))
    return found


@pytest.fixture(scope="module")
async def other(new_tenant):
    return (await new_tenant()).id


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_any_order_of_live_and_imported_leaves_the_same_tables(
    addresses, engine, other, expected, client, seed
):
    await clear(engine, other)

    await send(engine, other, shuffled(both(client), seed))

    assert_same(_anonymous(await tables(engine, other)), expected[client])


@pytest.mark.parametrize("client", CLIENTS)
async def test_importing_first_and_sending_live_afterwards_leaves_the_same_tables(
    engine, other, expected, client
):
    await clear(engine, other)
    imported = in_order([*imported_items(client), *imported_items(client, ADA)])

    await send(engine, other, [*imported, *in_order(live_items(client)), *imported])

    assert_same(_anonymous(await tables(engine, other)), expected[client])


async def _figures(engine: Any, tenant_id: Any, items: list[Any]) -> list[dict[str, Any]]:
    await clear(engine, tenant_id)
    await send(engine, tenant_id, in_order(items))
    return (await tables(engine, tenant_id))["metrics_sessions"]


COUNTED = (
    "prompt_count", "tool_call_count", "tool_error_count", "model_call_count", "model_error_count",
    "compactions", "turn_count", "input_tokens", "output_tokens", "cache_read_tokens",
)  # fmt: skip


def _counted(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in COUNTED}


async def test_what_was_told_live_of_claude_code_counts_once(engine, other):
    (live,) = await _figures(engine, other, live_items("claude-code"))

    (merged,) = await _figures(engine, other, both("claude-code"))

    assert _counted(merged) == _counted(live)
    assert merged["signals"] == ["import", "logs", "metrics", "traces"]


async def test_what_was_told_live_of_codex_counts_once(engine, other):
    live = await _figures(engine, other, live_items("codex"))

    merged = await _figures(engine, other, both("codex"))

    assert [_counted(row) for row in merged] == [_counted(row) for row in live]


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_session_known_by_its_transcript_alone_has_the_figures_of_the_live_one(
    engine, other, client
):
    live = await _figures(engine, other, live_items(client))

    alone = await _figures(engine, other, imported_items(client))

    # Summaries of a compaction are no line; Codex calls a command that exits with 3 a success.
    assert [row["prompt_count"] for row in alone] == [row["prompt_count"] for row in live]
    assert [row["tool_call_count"] for row in alone] == [row["tool_call_count"] for row in live]
    assert all(row["signals"] == ["import"] for row in alone)
