"""Recorded decisions under another policy: which of them would come out otherwise.

A record tells what its own policy read. Where the new policy reads something else for this caller, or what it reads was
withheld, it *cannot be told* what it would decide; nothing is guessed. A decision that a limit or an outage of the log
turned into a denial counts as the allow that went before: neither is a matter of rules. An intent and its outcome are
one decision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..model import Decision
from ..persons import pseudonym
from ..policy.requirements import REASON
from .recorded import Inputs, Recorded, inputs_of
from .reperform import ALWAYS, NO_RULE, PREDICATE, UNREADABLE, Archived, Policies

__all__ = ["Backtest", "Change", "backtest"]

MAX_GROUPS, MAX_EXAMPLES = 10_000, 5
Group = tuple[str, tuple[str, ...]]
OTHERS: Group = ("(others)", ())
"""Stands for all actions and roles beyond `MAX_GROUPS`."""

BLOCKED = "the caller was blocked, whatever the policy says"
_STATE = frozenset({"limit", "log_unavailable"})


@dataclass(slots=True)
class Change:
    """Decisions about one action and the same roles that would all change in the same way."""

    action: str
    roles: tuple[str, ...]
    recorded: str
    becomes: str
    why: str
    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    def to_json(self, of: int) -> dict[str, Any]:
        """As the command prints it; ``of`` is how many decisions the action and roles have in all."""
        return {
            "action": self.action,
            "roles": list(self.roles),
            "count": self.count,
            "of": of,
            "recorded": self.recorded,
            "becomes": self.becomes,
            "why": self.why,
            "examples": [{"index": index, "user": user} for index, user in self.examples],
        }


@dataclass(slots=True)
class Backtest:
    """The result over a log. ``untold`` counts what cannot be told, by reason."""

    decisions: int = 0
    changed: int = 0
    totals: dict[Group, int] = field(default_factory=dict)
    changes: dict[tuple[str, tuple[str, ...], str, str, str], Change] = field(default_factory=dict)
    untold: dict[str, int] = field(default_factory=dict)

    def take(self, index: int, record: Recorded, again: Decision | str) -> None:
        """Counts one decision: what the new policy would decide, or why that cannot be told."""
        self.decisions += 1
        name = record.action or f"{record.method} {record.request.route}"
        group = (name, tuple(sorted(record.subject.roles)))
        if group not in self.totals and len(self.totals) >= MAX_GROUPS:
            group = OTHERS
        self.totals[group] = self.totals.get(group, 0) + 1
        if isinstance(again, str):
            self.untold[again] = self.untold.get(again, 0) + 1
            return
        before = "allow" if record.decision.cause in _STATE else record.decision.effect
        if again.effect == before:
            return
        self.changed += 1
        why = _why(again)
        key = (*group, before, again.effect, why)
        if key not in self.changes and len(self.changes) >= MAX_GROUPS:
            key = (*OTHERS, before, again.effect, "various")
        change = self.changes.setdefault(key, Change(*key))
        change.count += 1
        if len(change.examples) < MAX_EXAMPLES:
            change.examples.append((index, pseudonym(record.user_id) or ""))

    def listed(self) -> list[tuple[Change, int]]:
        """The changes, most widening first and then by action, each with the decisions its group has in all."""
        ordered = sorted(
            self.changes.values(), key=lambda one: (one.becomes != "allow", one.action, one.roles, one.why)
        )
        return [(one, self.totals.get((one.action, one.roles), one.count)) for one in ordered]

    def to_json(self) -> dict[str, Any]:
        """As the command prints it."""
        untold = sum(self.untold.values())
        return {
            "decisions": self.decisions,
            "unchanged": self.decisions - self.changed - untold,
            "changed": self.changed,
            "cannot_be_told": dict(sorted(self.untold.items())),
            "changes": [change.to_json(of) for change, of in self.listed()],
        }


def backtest(records: Iterable[tuple[int, Recorded | None]], policies: Policies, new: Archived) -> Backtest:
    """Decides every recorded request under the new policy; memory is bounded by `MAX_GROUPS`."""
    result = Backtest()
    for index, record in records:
        if record is None:
            result.untold[UNREADABLE] = result.untold.get(UNREADABLE, 0) + 1
            result.decisions += 1
        elif record.decision.cause != "no_route" and not _told_by_intent(record):
            result.take(index, record, decide_anew(record, policies, new))
    return result


def decide_anew(record: Recorded, policies: Policies, new: Archived) -> Decision | str:
    """What the new policy decides about a recorded request, or why that cannot be told."""
    said = record.decision
    by_rule = said.rule is not None and (said.detail or "").startswith(f"{said.rule}: ")
    if said.cause == "blocked":
        return BLOCKED
    if said.cause == "route_mismatch" or (said.cause == "error" and not by_rule):
        return NO_RULE
    found = policies.get(said.policy_digest)
    old = found if isinstance(found, Archived) else None
    action = _action(record, old, new)
    if not isinstance(action, str):
        return action if isinstance(action, Decision) else "the policies' routes map it differently"
    try:
        inputs = inputs_of(record)
    except (ValueError, TypeError):
        return UNREADABLE
    decision = new.decide(action, inputs)
    if decision is None:
        return PREDICATE
    unknown = _unknown(action, inputs, decision, record, old, new)
    if sealed := [name for name in unknown if name in inputs.sealed]:
        return f"{action} reads what is sealed: {', '.join(sealed)}"
    return f"{action} reads what is not recorded: {', '.join(unknown)}" if unknown else decision


def _action(record: Recorded, old: Archived | None, new: Archived) -> str | Decision | None:
    """The action under the new policy, or what its ``routes:`` decide; ``None`` if the record cannot tell."""
    route, method, policy = record.request.route or "", record.method, new.policy
    entry = policy.route(route, method)
    if record.action is not None:
        had = old is not None and old.policy.route(route, method) is not None
        if (entry is None and had) or (entry is not None and entry.action != record.action):
            return None
        return record.action
    if entry is None or all(entry.expired(day) for day in record.days):
        return Decision(policy.default, "unannotated", policy_digest=policy.digest, mode=policy.mode)
    if entry.action is not None:
        return entry.action
    return Decision("allow", "exempt", policy_digest=policy.digest, mode=policy.mode)


def _unknown(
    action: str, inputs: Inputs, decision: Decision, record: Recorded, old: Archived | None, new: Archived
) -> list[str]:
    """What the new policy reads for this caller and the record does not tell."""
    withheld = ALWAYS & (inputs.withheld.keys() | inputs.sealed)
    if withheld:
        return sorted(withheld)
    rule = new.policy.actions.get(action)
    if rule is None:
        return []
    names = set(rule.reads(inputs.subject))
    if decision.effect == "deny" and decision.cause != "requirement":
        names -= set(rule.required)
    known = inputs.known - inputs.withheld.keys()
    if not _header(record, inputs, old):
        known -= {REASON}
    return sorted(names - known)


def _header(record: Recorded, inputs: Inputs, old: Archived | None) -> bool:
    """Is the recorded reason the caller's own? Where no requirement read it, a handler may have said it."""
    part = record.decision.inputs
    if part is not None and (REASON in part.values or REASON in part.missing):
        return True
    rule = old.policy.actions.get(record.action or "") if old is not None else None
    return rule is not None and REASON in rule.required


def _told_by_intent(record: Recorded) -> bool:
    # Without its log there was no intent either: the outcome is the only record.
    return record.intent_id is not None and record.decision.cause != "log_unavailable"


def _why(decision: Decision) -> str:
    only = ", only noted" if decision.mode == "monitor" and decision.effect == "deny" else ""
    if decision.cause == "rule":
        return f"rule {decision.rule}{only}"
    if decision.cause == "requirement":
        return f"{decision.detail}{only}"
    return f"{decision.cause}: {decision.detail}{only}" if decision.cause == "error" else f"{decision.cause}{only}"
