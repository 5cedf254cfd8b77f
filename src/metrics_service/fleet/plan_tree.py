"""A plan as people read it: what each step does, on what, and what it is thought to cost."""

from __future__ import annotations

from typing import Any

import msgspec

SCANS_WHOLE = "Seq Scan"
# What says how rows are chosen and ordered; the rest is the planner's own book-keeping.
DETAILS = (
    *("Index Cond", "Recheck Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter"),
    *("One-Time Filter", "TID Cond", "Order By", "Sort Key", "Presorted Key", "Group Key"),
    *("Cache Key", "Run Condition", "Conflict Filter", "Conflict Resolution"),
)
AGGREGATES = {"Hashed": "HashAggregate", "Sorted": "GroupAggregate", "Mixed": "MixedAggregate"}


class PlanNode(msgspec.Struct, frozen=True):
    """One step; its children are done before it or for it."""

    title: str
    details: list[str]
    rows: int | None
    total_cost: float | None
    table: str | None
    reads_whole_table: bool
    children: list[PlanNode]

    def whole_tables(self) -> set[str]:
        """The tables that are read from beginning to end, here and below."""
        own = {self.table} if self.reads_whole_table and self.table is not None else set()
        return own.union(*(child.whole_tables() for child in self.children))


def tree_of(plan: msgspec.Raw | str) -> PlanNode:
    """Read what `EXPLAIN (FORMAT JSON)` gave."""
    return _node(msgspec.json.decode(plan)[0]["Plan"])


def _node(node: dict[str, Any]) -> PlanNode:
    return PlanNode(
        title=_title(node),
        details=[f"{name}: {_said(node[name])}" for name in DETAILS if name in node],
        rows=node.get("Plan Rows"),
        total_cost=node.get("Total Cost"),
        table=node.get("Relation Name"),
        reads_whole_table=node["Node Type"] == SCANS_WHOLE,
        children=[_node(child) for child in node.get("Plans", ())],
    )


def _title(node: dict[str, Any]) -> str:
    """As EXPLAIN's own text has it: Index Scan using ix on t."""
    words = [_step(node)]
    if node.get("Parallel Aware"):
        words.insert(0, "Parallel")
    if "Index Name" in node:
        words.append(f"using {node['Index Name']}")
    target = node.get("Relation Name") or node.get("CTE Name") or node.get("Function Name")
    if target is not None:
        words.append(f"on {target}")
        if node.get("Alias", target) != target:
            words.append(node["Alias"])
    if "Subplan Name" in node:
        words.append(f"({node['Subplan Name']})")
    return " ".join(words)


def _step(node: dict[str, Any]) -> str:
    kind = str(node["Node Type"])
    if kind == "ModifyTable":
        return str(node.get("Operation", "Modify"))
    if kind == "Aggregate":
        return AGGREGATES.get(node.get("Strategy", ""), kind)
    if node.get("Scan Direction") == "Backward":
        return f"{kind} Backward"
    join = node.get("Join Type", "Inner")
    if join == "Inner":
        return kind
    return kind.replace("Join", f"{join} Join") if "Join" in kind else f"{kind} {join} Join"


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
