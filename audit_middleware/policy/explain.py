"""Why a request is decided as it is: every rule of the action, and how each of its conditions comes out.

The decision is `Policy.evaluate`'s own; beside it each rule is asked alone, apart from the request path. An
explanation names rules, attributes and text of the policy. It holds no value of the request, so it can be shown where
the record is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConditionError
from ..model import Decision, Effect, Resource, Subject
from .conditions import Compare, CompiledCondition, leaves
from .evaluate import CompiledAction, CompiledRule, Policy
from .logic import paths_of
from .personal import in_words
from .requirements import NOTHING_OFFERED, Offer, about, decide, seconds_of, unmet, usable
from .wording import requirements_in_words

__all__ = ["ConditionView", "Explanation", "Outcome", "RequirementView", "RuleView", "explain"]

Outcome = Literal["true", "false", "error", "not asked"]
"""How a condition came out. A predicate is not asked for a caller whose roles the rule does not name."""


@dataclass(frozen=True, slots=True)
class ConditionView:
    """One condition: how it came out, the attributes it reads, and the error's text. ``conjunction``: all ``parts``
    have to hold."""

    text: str
    outcome: Outcome
    attributes: tuple[str, ...]
    problem: str | None
    parts: tuple[ConditionView, ...]
    conjunction: bool

    def to_dict(self) -> dict[str, Any]:
        """The condition and its parts as JSON."""
        body: dict[str, Any] = {
            "condition": self.text,
            "outcome": self.outcome,
            "attributes": list(self.attributes),
            "problem": self.problem,
        }
        return {**body, "parts": [part.to_dict() for part in self.parts]} if self.parts else body


@dataclass(frozen=True, slots=True)
class RuleView:
    """One rule. ``applies``: the caller's roles match; ``holds``: it applies and its condition is true."""

    name: str
    effect: Effect
    roles: tuple[str, ...]
    applies: bool
    condition: ConditionView | None

    @property
    def holds(self) -> bool:
        """The rule applies, and its condition is true or there is none."""
        return self.applies and (self.condition is None or self.condition.outcome == "true")

    @property
    def failed_on(self) -> tuple[str, ...]:
        """What kept the rule from holding: ``roles a, b``, and the innermost conditions that are not true."""
        roles = () if self.applies else (f"roles {', '.join(self.roles)}",)
        return (*roles, *(_failed(self.condition) if self.condition is not None else ()))

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {
            "rule": self.name,
            "effect": self.effect,
            "roles": list(self.roles),
            "applies": self.applies,
            "holds": self.holds,
            "failed_on": list(self.failed_on),
            "condition": self.condition.to_dict() if self.condition is not None else None,
        }


def _failed(view: ConditionView) -> Iterator[str]:
    if view.outcome in ("true", "not asked"):
        return
    guilty = [part for part in view.parts if part.outcome in ("false", "error")]
    # Below `not` and `any` the parts do not fail on their own.
    if guilty and view.conjunction:
        for part in guilty:
            yield from _failed(part)
    else:
        yield f"{view.text} ({view.problem})" if view.problem else view.text


@dataclass(frozen=True, slots=True)
class RequirementView:
    """One requirement, in words, and whether the request meets it. It is asked only of what the rules allow."""

    name: str
    text: str
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """The requirement as JSON."""
        return {"requirement": self.name, "text": self.text, "met": self.met}


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with all that led to it; limits are not counted. ``require`` and ``limit`` apply to those whom the
    rules allow; ``terms`` are how the action is recorded, ``personal`` what is done with personal data, by field."""

    action: str
    decision: Decision
    rules: tuple[RuleView, ...]
    requirements: tuple[RequirementView, ...]
    unknown_roles: tuple[str, ...]
    require: Mapping[str, Any] | None
    limit: Mapping[str, Any] | None
    terms: Mapping[str, str] | None
    personal: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The explanation as JSON."""
        decision = self.decision
        return {
            "action": self.action,
            "effect": decision.effect,
            "cause": decision.cause,
            "rule": decision.rule,
            "detail": decision.detail,
            "near_misses": list(decision.near_misses),
            "policy_digest": decision.policy_digest,
            "mode": decision.mode,
            "missing": list(decision.missing),
            "rules": [rule.to_dict() for rule in self.rules],
            "requirements": [requirement.to_dict() for requirement in self.requirements],
            "unknown_roles": list(self.unknown_roles),
            "require": dict(self.require) if self.require is not None else None,
            "limit": dict(self.limit) if self.limit is not None else None,
            "terms": dict(self.terms) if self.terms is not None else None,
            "personal": dict(self.personal),
        }


def explain(
    policy: Policy,
    action: str,
    subject: Subject,
    resource: Resource,
    context: Mapping[str, Any],
    offer: Offer = NOTHING_OFFERED,
) -> Explanation:
    """Decides by rules and requirements, and shows every one of the action's; never raises for a request."""
    decision = decide(policy, action, subject, resource, context, offer)
    compiled = policy.actions.get(action)
    request = (subject, resource, context)
    rules = tuple(_rule(rule, *request) for rule in (*compiled.deny, *compiled.allow)) if compiled else ()
    roles = subject.roles if not isinstance(subject.roles, str) else ()
    return Explanation(
        action=action,
        decision=decision,
        rules=rules,
        requirements=_requirements(compiled, *request, offer) if compiled else (),
        unknown_roles=tuple(role for role in roles if role not in policy.roles),
        require=compiled.require.to_json() if compiled and compiled.require else None,
        limit=compiled.limit.to_json() if compiled and compiled.limit else None,
        terms=_terms(compiled) if compiled else None,
        personal={path: in_words(treatment) for path, treatment in sorted(policy.personal_of(action).items())},
    )


def _requirements(
    action: CompiledAction, subject: Subject, resource: Resource, context: Mapping[str, Any], offer: Offer
) -> tuple[RequirementView, ...]:
    """Each requirement, also where the rules deny and none is asked."""
    if action.require is None:
        return ()
    confirmed = offer.confirms(about(action.name, resource))
    missing = unmet(action.require, subject, reason=usable(offer.reason), confirmed=confirmed, now=seconds_of(context))
    words = requirements_in_words(action.require)
    return tuple(RequirementView(name, text, name not in missing) for name, text in words.items())


def _terms(action: CompiledAction) -> dict[str, str]:
    return {"record": action.record, "guarantee": action.guarantee, "on_log_failure": action.on_log_failure}


def _rule(rule: CompiledRule, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> RuleView:
    applies = rule.applies(subject)
    view = _view(rule.condition, applies, subject, resource, context) if rule.condition is not None else None
    return RuleView(rule.name, rule.effect, rule.roles, applies, view)


def _view(
    condition: CompiledCondition, applies: bool, subject: Subject, resource: Resource, context: Mapping[str, Any]
) -> ConditionView:
    problem: str | None = None
    outcome: Outcome = "not asked"
    if applies or not condition.foreign:
        try:
            outcome = "true" if condition.test(subject, resource, context) else "false"
        except ConditionError as error:
            outcome, problem = "error", str(error)
    parts = tuple(_view(part, applies, subject, resource, context) for part in condition.inner)
    return ConditionView(condition.text, outcome, _attributes(condition), problem, parts, bool(condition.parts))


def _attributes(condition: CompiledCondition) -> tuple[str, ...]:
    read = (path for leaf in leaves(condition.condition) if isinstance(leaf, Compare) for path in paths_of(leaf))
    return tuple(dict.fromkeys(read))
