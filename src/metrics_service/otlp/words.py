"""The clients' words in ours: decisions, tokens, money, and which attributes everything carries."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from functools import lru_cache

from metrics_service.ingest.parts import ModelPart
from metrics_service.otlp.items import Value
from metrics_service.otlp.values import flag

# On every item of some client, and kept with the session: not worth repeating with each call.
SESSION_COLUMNS: dict[str, str] = {
    "service.version": "agent_version",
    "app.version": "agent_version",
    "app.entrypoint": "entrypoint",
    "cursor.entrypoint": "entrypoint",
    "originator": "entrypoint",
    "terminal.type": "terminal_type",
    "os.type": "os_type",
    "os.version": "os_version",
    "host.arch": "host_arch",
    "cursor.surface": "surface",
    "session.type": "session_type",
    "team.id": "team",
    "team": "team",
    "department": "team",
    "cost_center": "cost_center",
    "service.namespace": "project",
    "project": "project",
    "project.id": "project",
    "project.name": "project",
    "env": "environment",
    "deployment.environment": "environment",
    "deployment.environment.name": "environment",
    "vcs.repository.url.full": "repository",
    "vcs.repository.name": "repository",
    "github.copilot.git.repository": "repository",
    "cursor.repo": "repository",
    "repo": "repository",
    "repository": "repository",
    "vcs.ref.head.name": "branch",
    "github.copilot.git.branch": "branch",
    "branch": "branch",
    "vcs.ref.head.revision": "commit_sha",
    "github.copilot.git.commit_sha": "commit_sha",
    "workspace.host_paths": "workspace_paths",
}
# Where two attributes speak of one column, the one that is said on purpose wins.
COLUMN_STRENGTH: dict[str, int] = {
    "service.namespace": -1, "project.id": -2, "department": -1, "team.id": -2, "env": -2,
    "deployment.environment": -1, "vcs.repository.url.full": -1, "originator": -1,
    "service.version": -1,
}  # fmt: skip
CLAIM_ATTRIBUTES = frozenset(
    {
        "user.email",
        "enduser.id",
        "user.account_uuid",
        "user.account_id",
        "gen_ai.user.id",
        "cursor.user.id",
        "cursor.user.email",
        "ai.telemetry.metadata.userId",
        "enduser.pseudo.id",
        "user.id",
        "installation.id",
        "organization.id",
        "user.groups",
        "identity.source",
        "cursor.team.id",
    }
)
NOBODY = frozenset({"unknown", "anonymous", ""})
"""What clients say where they do not know who is working."""
SESSION_KEYS = (
    "gen_ai.conversation.id",
    "session.id",
    "conversation.id",
    "cursor.conversation.id",
    "ai.telemetry.metadata.sessionId",
)
STANDARD: frozenset[str] = (
    frozenset(SESSION_COLUMNS)
    | CLAIM_ATTRIBUTES
    | frozenset(SESSION_KEYS)
    | {"event.name", "event.timestamp", "event.sequence", "prompt.id"}
)

MAX_WORD = 64
_ONCE = "user_once"
_ALWAYS = "user_always"
# Who or what decided; whoever else it was is taken for a person.
_MODES = {
    "config": "auto",
    "auto": "auto",
    "system": "auto",
    "policy": "auto",
    "hook": "hook",
    "user_permanent": _ALWAYS,
}
# How a word begins, without its separators; what it decides, and the mode where it says that too.
# The first that fits counts.
_DECISIONS: tuple[tuple[tuple[str, ...], str, str | None], ...] = (
    (("abort", "cancel"), "cancel", _ONCE),
    (("timedout",), "reject", "timeout"),
    (("deny", "denied", "reject"), "reject", None),
    (("modif",), "modify", None),
    (("auto",), "accept", "auto"),
    (("proceedalways", "always"), "accept", _ALWAYS),
    (("accept", "approve", "allow", "once", "proceed"), "accept", None),
)


def decided(decision: Value, source: Value = None) -> tuple[str | None, str | None]:
    """Our decision and its mode, from any client's words; None where nothing was decided."""
    if not isinstance(decision, str) or not decision:
        return None, None
    return _decided(decision[:MAX_WORD], source[:MAX_WORD] if isinstance(source, str) else "")


@lru_cache(maxsize=1024)
def _decided(decision: str, source: str) -> tuple[str | None, str | None]:
    by = source.lower()
    if by == "user_abort":
        return "cancel", _ONCE
    word = decision.lower().replace("_", "").replace("-", "").replace(" ", "")
    # Approved for the session, with an amendment of the policy, for a server: more than this once.
    is_for_more = word.startswith("approved") and word != "approved"
    mode_by_source = _ALWAYS if is_for_more else _MODES.get(by, _ONCE)
    for beginnings, ours, mode in _DECISIONS:
        if word.startswith(beginnings):
            return ours, mode or mode_by_source
    return None, None


def ended(success: Value) -> str | None:
    """The status of a call by the client's word on whether it succeeded; None where it has none."""
    known = flag(success)
    return None if known is None else "success" if known else "error"


def micros(millionths: Value, dollars: Value = None) -> int | None:
    """Money as whole micro-USD, from micro-USD or from decimal USD; never by way of a float sum."""
    for value, factor in ((millionths, 1), (dollars, 1_000_000)):
        if value is None or isinstance(value, (bool, list, dict)):
            continue
        try:
            amount = Decimal(str(value).strip()) * factor
        except InvalidOperation:
            continue
        if amount.is_finite() and 0 <= amount <= 10**12:
            return int(amount.to_integral_value())
    return None


def model_tokens(
    part: ModelPart,
    *,
    total: int | None = None,
    uncached: int | None = None,
    cache_read: int | None = None,
    cache_write: int | None = None,
    output: int | None = None,
    reasoning: int | None = None,
) -> None:
    """Fill the tokens of a part: give the input's total, or what of it was not cached.

    Where a part of the input exceeds its total, the client's library has the other meaning: then what
    it reported is taken for the uncached input, and the part is flagged (`tokens`: `cache_apart`).
    """
    cached = (cache_read or 0) + (cache_write or 0)
    if total is not None and cached > total:
        total, uncached = None, total
        part.extra = {**(part.extra or {}), "tokens": "cache_apart"}
    if total is not None:
        uncached = total - cached
    elif uncached is not None:
        total = uncached + cached
    part.input_tokens = total
    part.input_uncached_tokens = uncached
    part.cache_read_tokens = cache_read
    part.cache_write_tokens = cache_write
    part.output_tokens = output
    part.reasoning_tokens = reasoning
