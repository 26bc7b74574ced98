"""What a run of policy tests exercised: rules that decided, and conditions that were seen both true and false."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConditionError
from ..model import Decision, Resource, Subject
from .conditions import CompiledCondition, PredicateFunction, compile_condition, leaves
from .evaluate import CompiledAction, CompiledRule, Policy

__all__ = ["Coverage", "RuleCoverage"]


@dataclass(slots=True)
class ConditionCoverage:
    """One comparison or predicate of a rule, and which outcomes were seen where the rule's roles matched."""

    compiled: CompiledCondition
    outcomes: set[str] = field(default_factory=set)

    @property
    def both(self) -> bool:
        """Seen true and seen false."""
        return {"true", "false"} <= self.outcomes


@dataclass(slots=True)
class RuleCoverage:
    """One rule: how many checks it decided, and its conditions."""

    action: str
    rule: CompiledRule
    conditions: tuple[ConditionCoverage, ...]
    decided: int = 0


class Coverage:
    """Counts over all rules of a policy; `note` adds one decision."""

    def __init__(self, policy: Policy, predicates: Mapping[str, PredicateFunction]) -> None:
        self.actions: dict[str, int] = dict.fromkeys(policy.actions, 0)
        self.rules: dict[tuple[str, str], RuleCoverage] = {}
        for name, action in policy.actions.items():
            for rule in (*action.deny, *action.allow):
                self.rules[name, rule.name] = RuleCoverage(name, rule, _conditions(rule, name, predicates))

    def note(
        self,
        action: CompiledAction,
        subject: Subject,
        resource: Resource,
        context: Mapping[str, Any],
        decision: Decision,
    ) -> None:
        """Counts one decision, and asks each condition that could have mattered to it."""
        self.actions[action.name] += 1
        if decision.cause == "rule" and decision.rule is not None:
            self.rules[action.name, decision.rule].decided += 1
        for rule in (*action.deny, *action.allow):
            if rule.applies(subject):
                for condition in self.rules[action.name, rule.name].conditions:
                    condition.outcomes.add(_outcome(condition.compiled, subject, resource, context))

    @property
    def rule_ratio(self) -> float:
        """Rules that decided at least one check, of all; 1.0 for a policy without rules."""
        return _ratio([rule.decided > 0 for rule in self.rules.values()])

    @property
    def condition_ratio(self) -> float:
        """Conditions seen both true and false, of all; 1.0 for a policy without conditions."""
        return _ratio([condition.both for rule in self.rules.values() for condition in rule.conditions])

    def missing(self) -> tuple[str, ...]:
        """One line for each action, rule and condition outcome that no test exercised."""
        lines = [f"action {name}: not tested" for name, count in self.actions.items() if not count]
        for rule in self.rules.values():
            name = f"rule {rule.action}/{rule.rule.name}"
            if not rule.decided:
                lines.append(f"{name}: decided nothing")
            for condition in rule.conditions:
                unseen = [outcome for outcome in ("true", "false") if outcome not in condition.outcomes]
                if unseen:
                    lines.append(f"{name}: {condition.compiled.text}: never {' or '.join(unseen)}")
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON."""
        return {
            "rule_ratio": self.rule_ratio,
            "condition_ratio": self.condition_ratio,
            "actions": self.actions,
            "rules": [_rule_dict(rule) for rule in self.rules.values()],
            "missing": list(self.missing()),
        }


def _conditions(
    rule: CompiledRule, action: str, predicates: Mapping[str, PredicateFunction]
) -> tuple[ConditionCoverage, ...]:
    if rule.condition is None:
        return ()
    parts = leaves(rule.condition.condition)
    return tuple(ConditionCoverage(compile_condition(part, action, predicates)) for part in parts)


def _outcome(condition: CompiledCondition, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> str:
    try:
        return "true" if condition.test(subject, resource, context) else "false"
    except ConditionError:
        return "error"


def _ratio(covered: list[bool]) -> float:
    return sum(covered) / len(covered) if covered else 1.0


def _rule_dict(rule: RuleCoverage) -> dict[str, Any]:
    conditions = [{"condition": c.compiled.text, "outcomes": sorted(c.outcomes)} for c in rule.conditions]
    body = {"action": rule.action, "rule": rule.rule.name, "effect": rule.rule.effect, "decided": rule.decided}
    return {**body, "conditions": conditions}
