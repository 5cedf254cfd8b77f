"""Plans without what was in them, and as trees."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.fleet.plan_tree import tree_of
from metrics_service.fleet.plans import without_literals


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("(t.status <> 'error'::text)", "(t.status <> ?::text)"),
        ("(name = 'it''s \"4711\"'::text)", "(name = ?::text)"),
        (r"(name = E'back\\slash ''x'''::text)", "(name = E?::text)"),
        ("((duration_ms > '12.5'::double precision) AND (n < 4711))", None),
        ("(n = ANY ('{1,2,3}'::integer[]))", "(n = ANY (?::integer[]))"),
        ("(tenant_id = $1)", "(tenant_id = $1)"),
        ("(tenant_id = (InitPlan 1).col1)", "(tenant_id = (InitPlan 1).col1)"),
        ("(NOT (ANY (x = (hashed SubPlan 2).col1)))", "(NOT (ANY (x = (hashed SubPlan 2).col1)))"),
        ("started_at DESC", "started_at DESC"),
        ('("odd ''4711'' column" = 1e10)', '("odd ''4711'' column" = ?)'),
        ("md5_2(t1.a_12)", "md5_2(t1.a_12)"),
        ("(x = '-5'::integer)", "(x = ?::integer)"),
        ("(x = 'unfinished", None),
    ],
)  # fmt: skip
def test_an_expression_loses_its_literals_and_keeps_its_names(expression, shown):
    found = without_literals({"Filter": expression})["Filter"]

    if shown is not None:
        assert found == shown
    for literal in ("4711)", "12.5", "error'", "unfinished"):
        assert literal not in found


@given(st.text(st.characters(exclude_characters="\0"), max_size=50))
def test_no_text_of_any_kind_survives(value):
    canary = f"canary{value}"
    literal = canary.replace("'", "''")
    expression = f"((name = '{literal}'::text) AND (n = 1))"

    assert without_literals({"Plans": [{"Filter": expression}]}) == {
        "Plans": [{"Filter": "((name = ?::text) AND (n = ?))"}]
    }


def test_words_of_the_planner_and_numbers_of_its_own_stay():
    plan = [{"Plan": {"Node Type": "Index Scan", "Index Name": "page_2_ix", "Plan Rows": 12,
                      "Conflict Arbiter Indexes": ["a_1"], "Sort Key": ["a", "(b || 'x'::text)"]}}]  # fmt: skip

    assert without_literals(plan) == [
        {"Plan": {**plan[0]["Plan"], "Sort Key": ["a", "(b || ?::text)"]}}
    ]


def test_a_plan_is_read_as_a_tree():
    scan = {"Node Type": "Seq Scan", "Relation Name": "tool_metrics", "Alias": "t",
            "Startup Cost": 0.0, "Total Cost": 9.5, "Plan Rows": 3, "Plan Width": 8,
            "Filter": "(status = ?)", "Parallel Aware": True}  # fmt: skip
    index = {"Node Type": "Index Scan", "Relation Name": "users", "Alias": "users",
             "Index Name": "users_pk", "Index Cond": "(id = t.user_id)", "Subplan Name": "SubPlan 1"}  # fmt: skip
    plan = {"Node Type": "Hash Join", "Join Type": "Left", "Plans": [scan, index]}

    tree = tree_of(json.dumps([{"Plan": plan}]))

    assert tree.title == "Hash Left Join"
    left, right = tree.children
    assert left.title == "Parallel Seq Scan on tool_metrics t"
    assert left.details == ["Filter: (status = ?)"]
    assert (left.total_cost, left.rows) == (9.5, 3)
    assert right.title == "Index Scan using users_pk on users (SubPlan 1)"
    assert tree.whole_tables() == {"tool_metrics"}


@pytest.mark.parametrize(
    ("node", "title"),
    [
        ({"Node Type": "Aggregate", "Strategy": "Plain"}, "Aggregate"),
        ({"Node Type": "Aggregate", "Strategy": "Hashed"}, "HashAggregate"),
        ({"Node Type": "Nested Loop", "Join Type": "Inner"}, "Nested Loop"),
        ({"Node Type": "Nested Loop", "Join Type": "Anti"}, "Nested Loop Anti Join"),
        ({"Node Type": "Merge Join", "Join Type": "Full"}, "Merge Full Join"),
        (
            {
                "Node Type": "Index Scan",
                "Scan Direction": "Backward",
                "Index Name": "users_pk",
                "Relation Name": "users",
            },
            "Index Scan Backward using users_pk on users",
        ),
        ({"Node Type": "CTE Scan", "CTE Name": "new", "Alias": "n"}, "CTE Scan on new n"),
        (
            {"Node Type": "ModifyTable", "Operation": "Insert", "Relation Name": "users"},
            "Insert on users",
        ),
    ],
)
def test_a_step_is_called_as_the_server_calls_it(node, title):
    assert tree_of(json.dumps([{"Plan": node}])).title == title
