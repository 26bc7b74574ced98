"""What policy tests exercised: rules that decided, conditions seen true and false, requirements met and unmet."""

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


@dataclass(slots=True)
class RequirementCoverage:
    """One requirement of an action: how many checks that the rules allowed met it, and how many did not."""

    action: str
    name: str
    met: int = 0
    unmet: int = 0

    @property
    def both(self) -> bool:
        """Seen met and seen unmet."""
        return self.met > 0 and self.unmet > 0


class Coverage:
    """Counts over all rules and requirements of a policy; `note` adds one decision."""

    def __init__(self, policy: Policy, predicates: Mapping[str, PredicateFunction]) -> None:
        self.actions: dict[str, int] = dict.fromkeys(policy.actions, 0)
        self.rules: dict[tuple[str, str], RuleCoverage] = {}
        self.requirements: dict[tuple[str, str], RequirementCoverage] = {}
        for name, action in policy.actions.items():
            for rule in (*action.deny, *action.allow):
                self.rules[name, rule.name] = RuleCoverage(name, rule, _conditions(rule, name, predicates))
            for wanted in action.require.to_json() if action.require is not None else ():
                self.requirements[name, wanted] = RequirementCoverage(name, wanted)

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
        if decision.effect == "allow" or decision.cause == "requirement":
            self._note_requirements(action, decision.missing)
        for rule in (*action.deny, *action.allow):
            if rule.applies(subject):
                for condition in self.rules[action.name, rule.name].conditions:
                    condition.outcomes.add(_outcome(condition.compiled, subject, resource, context))

    def _note_requirements(self, action: CompiledAction, missing: tuple[str, ...]) -> None:
        """Requirements are asked of what the rules allow."""
        for name in action.require.to_json() if action.require is not None else ():
            seen = self.requirements[action.name, name]
            if name in missing:
                seen.unmet += 1
            else:
                seen.met += 1

    @property
    def ratio(self) -> float:
        """The lowest of the ratios: what a threshold is compared with."""
        return min(self.rule_ratio, self.condition_ratio, self.requirement_ratio)

    @property
    def rule_ratio(self) -> float:
        """Rules that decided at least one check, of all; 1.0 for a policy without rules."""
        return _ratio([rule.decided > 0 for rule in self.rules.values()])

    @property
    def condition_ratio(self) -> float:
        """Conditions seen both true and false, of all; 1.0 for a policy without conditions."""
        return _ratio([condition.both for rule in self.rules.values() for condition in rule.conditions])

    @property
    def requirement_ratio(self) -> float:
        """Requirements seen both met and unmet, of all; 1.0 for a policy without requirements."""
        return _ratio([requirement.both for requirement in self.requirements.values()])

    def summary(self) -> str:
        """The ratios in words."""
        parts = [f"{self.rule_ratio:.0%} of rules", f"{self.condition_ratio:.0%} of conditions"]
        parts += [f"{self.requirement_ratio:.0%} of requirements"] if self.requirements else []
        return ", ".join(parts)

    def missing(self) -> tuple[str, ...]:
        """One line for each action, rule, condition outcome and requirement that no test exercised."""
        lines = [f"action {name}: not tested" for name, count in self.actions.items() if not count]
        for rule in self.rules.values():
            name = f"rule {rule.action}/{rule.rule.name}"
            if not rule.decided:
                lines.append(f"{name}: decided nothing")
            for condition in rule.conditions:
                unseen = [outcome for outcome in ("true", "false") if outcome not in condition.outcomes]
                if unseen:
                    lines.append(f"{name}: {condition.compiled.text}: never {' or '.join(unseen)}")
        for requirement in self.requirements.values():
            unseen = [word for word in ("met", "unmet") if not getattr(requirement, word)]
            if unseen:
                lines.append(f"requirement {requirement.action}/{requirement.name}: never {' or '.join(unseen)}")
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON."""
        return {
            "rule_ratio": self.rule_ratio,
            "condition_ratio": self.condition_ratio,
            "requirement_ratio": self.requirement_ratio,
            "actions": self.actions,
            "rules": [_rule_dict(rule) for rule in self.rules.values()],
            "requirements": [
                {"action": one.action, "requirement": one.name, "met": one.met, "unmet": one.unmet}
                for one in self.requirements.values()
            ],
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
