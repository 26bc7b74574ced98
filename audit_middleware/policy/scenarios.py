"""Checks that nobody has to write: malformed actions, unknown roles, empty subjects, and values at the edges.

They are generated from the policy and hold for every policy; what is generated is the same at every run:

* an action whose name is damaged is denied as unknown, for everybody;
* roles that the policy does not know, or that look like those it knows, grant nothing;
* nobody gets only what is for ``anyone`` (or allowed by default), a subject without a name and roles only what is for
  every caller who is signed in;
* whatever value an attribute has (missing, empty, at and beside each operand, of another type), a decision is made: no
  deny rule that holds or fails is outvoted, nothing is allowed without a rule that holds, and an error denies.

  The rules are asked of an explanation, in which every one is evaluated alone;
* whoever the rules allow is refused for each requirement that is not met, for exactly those, and for none that is met.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ..model import ANONYMOUS, NOBODY, Resource, Subject
from .conditions import Compare, leaves
from .domain import FALSE, TRUE
from .evaluate import CompiledAction, Policy
from .explain import Explanation, explain
from .logic import both, outcome, paths_of, solve
from .operators import address_range
from .patterns import Pattern
from .reach import Request, allowed, anybody, callers, request_of, with_value
from .requirements import NOTHING_OFFERED, Offer, decide, seconds_of
from .schema import REQUIRE_KEYS, Requirements

__all__ = ["ScenarioResult", "run_scenarios"]

MAX_REQUESTS = 400  # for one action and caller
MIN_REQUESTS = 20
MAX_CHECKS = 50_000  # for a whole policy: a larger one gets fewer requests for each action and caller
MAX_FAILURES = 10
_EMPTY = Resource()
_NOON = 1_772_452_800.0  # 2026-03-02T12:00:00Z
_LONG = "a" * 70_000
_EDGES: tuple[Any, ...] = (
    *(None, "", " ", "0", _LONG, "\ud800", "\x00", 0, -1, 2**53, 0.5, float("nan"), float("inf"), True, False),
    *([], [""], {}, {"id": 1}, "::1", "0.0.0.0", "1970-01-01T00:00:00Z", "2026-03-29T01:30:00+00:00"),  # noqa: S104
)


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """One kind of scenario: how many checks there were, and what failed, a line each."""

    name: str
    checks: int
    failures: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """``passed`` or ``failed``."""
        return "failed" if self.failures else "passed"


Check = Callable[[Policy], Iterator[str | None]]


def run_scenarios(policy: Policy) -> tuple[ScenarioResult, ...]:
    """Runs all scenarios against a policy."""
    kinds: tuple[tuple[str, Check], ...] = (
        ("malformed actions are denied", _malformed_actions),
        ("unknown roles grant nothing", _unknown_roles),
        ("empty subjects get what everybody gets", _empty_subjects),
        ("edge values never outvote a denial or an error", _edge_values),
    )
    if any(action.require is not None for action in policy.actions.values()):
        kinds += (("requirements refuse what is not met", _unmet_requirements),)
    return tuple(_result(name, check(policy)) for name, check in kinds)


def _result(name: str, checks: Iterable[str | None]) -> ScenarioResult:
    outcomes = list(checks)
    failures = [failure for failure in outcomes if failure is not None]
    return ScenarioResult(name, len(outcomes), tuple(failures[:MAX_FAILURES]))


def _malformed_actions(policy: Policy) -> Iterator[str | None]:
    everything = Subject(id="someone", roles=tuple(policy.roles))
    names = {"", " ", "*", "*.*", ".", "a", "\x00", _LONG, "../x"}
    for name in policy.actions:
        noun, _, verb = name.partition(".")
        names |= {name.upper(), f"{name} ", f" {name}", f"{name}\n", f"{name}\x00", f"{name}.", f".{name}", f"{noun}.*"}
        names |= {noun, verb, f"{noun}..{verb}", f"{noun}/{verb}", name.replace("e", "\u0435"), name + "\u200b"}
    for name in sorted(names - set(policy.actions)):
        for who in (NOBODY, everything):
            decision = policy.evaluate(name, who, _EMPTY, {})
            denied = (decision.effect, decision.cause) == ("deny", "unknown_action")
            yield None if denied else f"action {name[:80]!r}: {decision.effect} ({decision.cause})"


def _unknown_roles(policy: Policy) -> Iterator[str | None]:
    strange = {"", "*", "ghost", "anyone", "authenticated", "\x00", _LONG}
    for role in policy.roles:
        strange |= {role.upper(), f"{role} ", f" {role}", f"{role}\n", f"{role},", role[:-1], f"{role}s"}
    strange -= set(policy.roles)
    for name, action in policy.actions.items():
        for request in islice(_requests(action, Subject(id="someone")), 20):
            plain = policy.evaluate(name, request.subject, request.resource, request.context)
            roles = (*request.subject.roles, *sorted(strange))
            who = Subject(request.subject.id, roles=roles, properties=request.subject.properties)
            got = policy.evaluate(name, who, request.resource, request.context)
            gained = got.effect == "allow" and plain.effect == "deny" and "subject.roles" not in _paths(action)
            yield f"{name}: unknown roles are allowed by rule {got.rule}" if gained else None


def _empty_subjects(policy: Policy) -> Iterator[str | None]:
    nameless = (Subject(id=""), Subject(id="", type=""), Subject(id="", roles=("",)))
    for name, action in policy.actions.items():
        for base in (NOBODY, Subject(id="", type=ANONYMOUS), *nameless):
            for request in islice(_requests(action, base), 20):
                found = policy.evaluate(name, request.subject, request.resource, request.context)
                entitled = [
                    rule
                    for rule in action.allow
                    if rule.everyone or (rule.identified and request.subject.type != ANONYMOUS)
                ]
                open_to = found.cause == "default" or found.rule in {rule.name for rule in entitled}
                wrong = found.effect == "allow" and not open_to
                yield f"{name}: an empty subject is allowed by rule {found.rule}" if wrong else None


def _edge_values(policy: Policy) -> Iterator[str | None]:
    asked = [(action, caller) for action in policy.actions.values() if _paths(action) for caller in callers(policy)]
    share = max(MIN_REQUESTS, min(MAX_REQUESTS, MAX_CHECKS // len(asked))) if asked else 0
    for action, caller in asked:
        for who, what, context in map(_parts, islice(_requests(action, caller.subject), share)):
            passes = policy.evaluate(action.name, who, what, context).effect == "allow"
            problem = _unsound(explain(policy, action.name, who, what, context), policy) if passes else None
            yield f"{action.name} as {caller.name}: {problem}" if problem else None


def _parts(request: Request) -> tuple[Subject, Resource, Mapping[str, Any]]:
    return request.subject, request.resource, request.context


def _unsound(found: Explanation, policy: Policy) -> str | None:
    """Why "allow" does not follow from the rules, each evaluated alone; ``None`` where it does."""
    asked = [rule for rule in found.rules if rule.applies]
    for rule in asked:
        if rule.effect == "deny" and (rule.condition is None or rule.condition.outcome != "false"):
            return f"allowed although {rule.name} does not let it pass"
    if any(rule.effect == "allow" and rule.condition is None for rule in asked):
        return None
    failed = [rule.name for rule in asked if rule.condition is not None and rule.condition.outcome == "error"]
    if failed:
        return f"allowed although {failed[0]} cannot be computed"
    if policy.default == "allow" or any(rule.holds for rule in asked if rule.effect == "allow"):
        return None
    return "allowed although no rule holds"


def _unmet_requirements(policy: Policy) -> Iterator[str | None]:
    for action in policy.actions.values():
        wanted = tuple(action.require.to_json()) if action.require is not None else ()
        model = solve(allowed(action, anybody([*action.allow, *action.deny]), policy.default)) if wanted else None
        if action.require is None or model is None:
            continue
        who, what, context = _parts(request_of(model, None))
        if policy.evaluate(action.name, who, what, context).effect != "allow":
            continue  # the request was a guess, and a wrong one
        for lacking, changes, offer in _ways_to_lack(action.require, seconds_of(context)):
            caller = replace(who, properties={**who.properties, **changes})
            at = context if seconds_of(context) is not None else {**context, "time": _NOON}
            if policy.evaluate(action.name, caller, what, at).effect != "allow":
                continue  # a rule reads these as well
            found = decide(policy, action.name, caller, what, at, offer)
            # A reason that a pattern takes cannot be made up: that one may be missing as well.
            loose = {"reason"} if isinstance(action.require.reason, Pattern) else set()
            expected, got = lacking & set(wanted), set(found.missing)
            right = expected <= got <= expected | loose and (found.effect == "deny") is bool(got)
            shown = ", ".join(sorted(got)) or "nothing"
            yield None if right else f"{action.name}: without {', '.join(sorted(expected))} it misses {shown}"


def _ways_to_lack(require: Requirements, now: float | None) -> Iterator[tuple[set[str], dict[str, Any], Offer]]:
    """What lacks, and the caller's properties and the offer of which it does: nothing, everything, one at a time."""
    now = _NOON if now is None else now
    age = require.auth_age or 0
    good: dict[str, Any] = {"mfa": True, "acr": require.acr[0] if require.acr else None, "auth_time": now - age}
    offered = Offer("a reason", True)
    yield set(), good, offered
    yield set(REQUIRE_KEYS), dict.fromkeys(good), NOTHING_OFFERED
    for bad in (None, False, "true", 1, ["mfa"]):
        yield {"mfa"}, {**good, "mfa": bad}, offered
    for level in (None, "", "\x00", 1, [*require.acr], f"{' '.join(require.acr)} "):
        yield {"acr"}, {**good, "acr": level}, offered
    for moment in (None, now - age - 1, now + 3_600, True, str(now), float("nan")):
        yield {"auth_age"}, {**good, "auth_time": moment}, offered
    yield {"reason"}, good, Offer(None, True)
    for text in (False, "", "\x00"):
        yield {"confirm"}, good, Offer("a reason", text)


# --- requests ----------------------------------------------------------------------------------------------------


def _compares(action: CompiledAction) -> list[Compare]:
    rules = [rule.condition for rule in (*action.deny, *action.allow) if rule.condition is not None]
    return [leaf for condition in rules for leaf in leaves(condition.condition) if isinstance(leaf, Compare)]


def _paths(action: CompiledAction) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for leaf in _compares(action) for path in paths_of(leaf)))


def _requests(action: CompiledAction, who: Subject) -> Iterator[Request]:
    """No attributes at all; then from requests that rules hold for, one attribute at a time to each edge."""
    yield Request(who, _EMPTY, {})
    edges = {path: list(_edges(action, path)) for path in _paths(action)}
    for base in _bases(action, who):
        yield base
        for path, values in edges.items():
            for value in values:
                yield with_value(base, path, value)


def _bases(action: CompiledAction, who: Subject) -> Iterator[Request]:
    rules = [rule.condition.condition for rule in action.allow if rule.condition is not None]
    refusals = [rule.condition.condition for rule in action.deny if rule.condition is not None]
    spared = both(outcome(condition, FALSE) for condition in refusals)
    wanted = [both((outcome(condition, TRUE), spared)) for condition in rules] or [spared]
    for formula in [*wanted, *(outcome(condition, TRUE) for condition in refusals)]:
        model = solve(formula)
        if model is not None:
            made = request_of(model, None)
            about = Subject(who.id, who.type, who.roles, made.subject.tenant, None, made.subject.properties)
            yield Request(about, made.resource, made.context)


def _edges(action: CompiledAction, path: str) -> Iterator[Any]:
    yield from _EDGES
    for leaf in _compares(action):
        if path not in paths_of(leaf):
            continue
        operands: Iterable[Any] = leaf.operand if isinstance(leaf.operand, tuple) else (leaf.operand,)
        for operand in operands:
            yield from _beside(leaf.operator, operand)


def _beside(operator: str, operand: Any) -> Iterator[Any]:
    if isinstance(operand, bool):
        yield from (operand, not operand, str(operand), int(operand))
    elif isinstance(operand, int | float):
        yield from (operand, operand - 1, operand + 1, operand + 1e-9, str(operand))
    elif operator == "in_cidr":
        version, first, last = address_range(operand)
        make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        limit = 2 ** (32 if version == 4 else 128)
        yield from (str(make(number)) for number in (first - 1, first, last, last + 1) if 0 <= number < limit)
    elif isinstance(operand, str) and operator != "same_as":
        yield from (operand, operand.upper(), f"{operand} ", f"{operand}\n", operand[:-1], [operand])
    elif operator == "between":
        for end in (operand.start, operand.end):
            minutes = ((end + beside) % 1440 for beside in (-1, 0, 1))
            yield from (f"2026-03-02T{minute // 60:02d}:{minute % 60:02d}:00Z" for minute in minutes)
