"""Who can reach an action, as a formula: what `logic` needs to compare rules, policies and assertions.

The formula is that of `evaluate`, step by step: no deny rule is anything but false, and then either an allow rule
without a condition, or no conditional allow rule that errs and one that holds (or ``default: allow``).

Which rules apply to a caller is either fixed (one role, with what it inherits) or left open: then each group of roles
that brings the same rules is an unknown of its own, so that every combination of roles is covered.

One thing is taken for granted: nobody (a subject of type ``anonymous``) has no roles.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ..model import NOBODY, Resource, Subject
from .conditions import Compare
from .domain import ERROR, FALSE, MISSING, TRUE, value_for
from .evaluate import CompiledAction, CompiledRule, Policy
from .logic import ALWAYS, NEVER, Formula, Lit, Model, both, constraints, either, negated, outcome, paths_of
from .schema import ANYONE, AUTHENTICATED

__all__ = ["Applies", "Caller", "Request", "allowed", "anybody", "callers", "fires", "request_of", "with_value"]

IDENTIFIED = "identified"
Applies = Callable[[CompiledRule], Formula]


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller that stands for others: nobody, someone signed in without a role, or someone with one role."""

    name: str
    roles: tuple[str, ...] = ()
    identified: bool = True

    def applies(self, rule: CompiledRule) -> Formula:
        """`ALWAYS` where the rule is for this caller, else `NEVER`."""
        return ALWAYS if rule.applies(self.subject) else NEVER

    @property
    def subject(self) -> Subject:
        """The caller as a subject."""
        return Subject(id="someone", roles=self.roles) if self.identified else NOBODY


def callers(*policies: Policy) -> tuple[Caller, ...]:
    """Nobody, someone signed in, and each role that one of the policies knows, in the order of the files."""
    roles = dict.fromkeys(role for policy in policies for role in policy.roles)
    return (Caller(ANYONE, (), False), Caller(AUTHENTICATED), *(Caller(role, (role,)) for role in roles))


def anybody(rules: Iterable[CompiledRule]) -> Applies:
    """Callers with any combination of roles. The rules may be those of several policies."""
    named = list(rules)
    groups: dict[frozenset[int], str] = {}
    for role in sorted({role for rule in named for role in rule.grantees}):
        brings = frozenset(id(rule) for rule in named if role in rule.grantees)
        groups.setdefault(brings, f"role {role}")

    def applies(rule: CompiledRule) -> Formula:
        if rule.everyone:
            return ALWAYS
        if rule.identified:  # whoever has a role is somebody
            return either([*(Lit(key, TRUE) for key in groups.values()), Lit(IDENTIFIED, TRUE)])
        return either(Lit(key, TRUE) for brings, key in groups.items() if id(rule) in brings)

    return applies


def fires(rule: CompiledRule, applies: Applies, mask: int = TRUE) -> Formula:
    """The rule applies, and its condition's outcome is among ``mask``."""
    return both((applies(rule), _comes_to(rule, mask)))


@lru_cache(maxsize=8192)
def _comes_to(rule: CompiledRule, mask: int) -> Formula:
    """That the rule's condition, or its absence, comes to one of ``mask``. Rules are told apart by identity."""
    if rule.condition is None:
        return ALWAYS if mask & TRUE else NEVER
    return outcome(rule.condition.condition, mask)


def allowed(
    action: CompiledAction | None, applies: Applies, default: str, without: Collection[CompiledRule] = ()
) -> Formula:
    """The action is allowed. ``None`` is an action that the policy does not know; ``without`` leaves rules out."""
    if action is None:
        return NEVER
    allow = [rule for rule in action.allow if rule not in without]
    unrefused = [negated(fires(rule, applies, TRUE | ERROR)) for rule in action.deny if rule not in without]
    granted = [applies(rule) for rule in allow if rule.condition is None]
    conditional = [rule for rule in allow if rule.condition is not None]
    unfailed = [negated(fires(rule, applies, ERROR)) for rule in conditional]
    held = ALWAYS if default == "allow" else either(fires(rule, applies) for rule in conditional)
    return both([*unrefused, either([*granted, both([*unfailed, held])])])


# --- examples ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One request: what `Policy.evaluate` takes, beside the action."""

    subject: Subject
    resource: Resource
    context: Mapping[str, Any]


def request_of(model: Model, caller: Caller | None) -> Request:
    """A request made up from a model. It is a guess: evaluate it before showing it."""
    leaves = [(key, leaf) for key, leaf in model.leaves.items() if isinstance(leaf, Compare) and key in model.masks]
    paths = dict.fromkeys(path for _, leaf in leaves for path in paths_of(leaf))
    values: dict[str, Any] = {}
    for path in paths:
        asked = [(key, model.masks[key]) for key, leaf in leaves if path in paths_of(leaf)]
        values[path] = value_for(path, constraints(asked, model.leaves))
    _align(values, [(leaf, model.masks[key]) for key, leaf in leaves if leaf.operator == "same_as"])
    known = {path: value for path, value in values.items() if value is not MISSING and value is not None}
    return _request(known, model, caller)


def with_value(request: Request, path: str, value: Any) -> Request:
    """The request with one attribute changed; ``None`` leaves it out."""
    root, name, *rest = path.split(".")
    if root == "context":
        return replace(request, context=_set(request.context, [name, *rest], value))
    part: Any = request.subject if root == "subject" else request.resource
    if name in ("id", "type", "tenant", "session", "roles") and hasattr(part, name):
        own: dict[str, Any] = {name: value if isinstance(value, str) else ""}
    else:
        own = {"properties": _set(part.properties, [name, *rest], value)}
    changed: dict[str, Any] = {root: replace(part, **own)}
    return replace(request, **changed)


def _set(properties: Mapping[str, Any], names: list[str], value: Any) -> dict[str, Any]:
    found = dict(properties)
    if len(names) > 1:
        inner = found.get(names[0])
        found[names[0]] = _set(inner if isinstance(inner, Mapping) else {}, names[1:], value)
    else:
        found[names[0]] = value
    return found


def _align(values: dict[str, Any], same: Sequence[tuple[Compare, int]]) -> None:
    """Makes attributes equal, or different, where a comparison of the two says so."""
    for leaf, mask in same:
        left, right = values[leaf.path], values[leaf.operand]
        if not mask & ERROR and right is MISSING:
            values[leaf.operand] = "same" if left is MISSING else left
        if mask == TRUE:
            values[leaf.path] = values[leaf.operand]
        elif mask == ERROR:
            values[leaf.path] = MISSING
        elif (mask == FALSE and left == right) or left is MISSING:
            values[leaf.path] = f"not {values[leaf.operand]}"


def _request(values: Mapping[str, Any], model: Model, caller: Caller | None) -> Request:
    tree: dict[str, dict[str, Any]] = {"subject": {}, "resource": {}, "context": {}}
    for path, value in sorted(values.items()):
        *parents, last = path.split(".")
        place: Any = tree
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place[last] = _plain(value)
    who, what = tree["subject"], tree["resource"]
    if caller is None:
        held = [key.removeprefix("role ") for key, mask in model.masks.items() if mask == TRUE and "role " in key[:5]]
        identified = bool(held) or bool(model.masks.get(IDENTIFIED, TRUE) & TRUE)
        caller = Caller("", tuple(held), identified)
    base = caller.subject
    subject = Subject(
        id=who.pop("id", base.id),
        type=who.pop("type", base.type),
        roles=(*base.roles, *who.pop("roles", ())),
        tenant=who.pop("tenant", None),
        session=who.pop("session", None),
        properties=who,
    )
    return Request(subject, Resource(what.pop("type", None), what.pop("id", None), what), tree["context"])


def _plain(value: Any) -> Any:
    """A number between two others becomes a float, as a request would carry it."""
    return float(value) if isinstance(value, Fraction) else value
