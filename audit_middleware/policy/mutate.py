"""Would the tests notice? Breaks a policy in one place at a time and runs its tests against each broken one.

What is broken: each rule is left out, turned from allow into deny or back, or opened to other roles; each condition,
and each part of it, is left out or turned into its opposite; each requirement is left out, or made weaker; each field
of ``personal`` is left out. A change that provably decides alike in every request is not counted: no test can notice
it. A change under which every test still passes is a **survivor**: a test is missing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import PolicyError
from .conditions import PredicateFunction
from .coverage import Coverage
from .evaluate import Policy
from .load import load, loads
from .logic import both, negated, solve
from .reach import allowed, anybody
from .schema import ANYONE, DURATION
from .suite import EXIT_BROKEN_TESTS, EXIT_NO_TESTS, case_files, run_case

__all__ = ["Mutant", "MutationResult", "mutate"]

_NO_PREDICATES: Mapping[str, PredicateFunction] = MappingProxyType({})
_Change = tuple[str, str, str, dict[str, Any]]  # action, rule, what was done, the policy


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken policy. ``caught_by`` is the first test that failed; ``None`` for a survivor."""

    action: str
    rule: str
    change: str
    caught_by: str | None

    @property
    def survived(self) -> bool:
        """No test failed."""
        return self.caught_by is None

    def to_dict(self) -> dict[str, Any]:
        """The mutant as JSON."""
        return {"action": self.action, "rule": self.rule, "change": self.change, "caught_by": self.caught_by}


@dataclass(frozen=True, slots=True)
class MutationResult:
    """What a run found. ``alike`` counts changes that change no decision; ``problem`` is why nothing could be run."""

    mutants: tuple[Mutant, ...]
    alike: int = 0
    problem: str | None = None
    exit_code: int = 0

    @property
    def survivors(self) -> tuple[Mutant, ...]:
        """Those that no test noticed."""
        return tuple(mutant for mutant in self.mutants if mutant.survived)

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON."""
        return {
            "mutants": len(self.mutants),
            "caught": len(self.mutants) - len(self.survivors),
            "changing_nothing": self.alike,
            "survivors": [mutant.to_dict() for mutant in self.survivors],
        }


def mutate(
    path: str | Path,
    *,
    predicates: Mapping[str, PredicateFunction] = _NO_PREDICATES,
    advance: Callable[[int], None] = lambda count: None,
) -> MutationResult:
    """Runs the tests beside a policy against every mutant of it; ``advance`` is told how many were tried.

    Raises:
        PolicyError: the policy does not load.
    """
    policy = load(path, predicates=predicates)
    files, problems = case_files(Path(path), policy, None)
    if problems:
        return MutationResult((), problem="\n".join(problems), exit_code=EXIT_BROKEN_TESTS)
    cases = [(file, case) for file in files for case in file.cases if case.skip is None]
    if not cases:
        return MutationResult((), problem=f"{path}: no tests found", exit_code=EXIT_NO_TESTS)
    if (failing := _first_failure(policy, cases, predicates)) is not None:
        return MutationResult((), problem=f"{path}: the test '{failing}' fails on the policy itself", exit_code=1)
    found: list[Mutant] = []
    alike = 0
    for number, (action, rule, change, tree) in enumerate(_all_changes(json.loads(policy.canonical))):
        advance(number)
        try:
            broken = _with_action(policy, loads(json.dumps(tree), predicates=predicates), action)
        except PolicyError:  # a rule without roles and conditions is none of the language
            continue
        if _same(policy, broken, action):
            alike += 1
            continue
        found.append(Mutant(action, rule, change, _first_failure(broken, cases, predicates)))
    assertions = [one for one in cases if one[1].pinned is not None]  # no decision changes, so no other test can notice
    for number, (action, rule, broken) in enumerate(_in_clear(policy, predicates), len(found) + alike):
        advance(number)
        found.append(Mutant(action, rule, "left out", _first_failure(broken, assertions, predicates)))
    return MutationResult(tuple(found), alike, exit_code=int(any(mutant.survived for mutant in found)))


def _first_failure(policy: Policy, cases: list[Any], predicates: Mapping[str, PredicateFunction]) -> str | None:
    coverage = Coverage(policy, predicates)
    for file, case in cases:
        if run_case(policy, file, case, coverage).status == "failed":
            return str(case.name)
    return None


def _with_action(policy: Policy, broken: Policy, action: str) -> Policy:
    """The policy with one action as ``broken`` has it."""
    return replace(policy, actions=MappingProxyType({**policy.actions, action: broken.actions[action]}))


def _same(old: Policy, new: Policy, action: str) -> bool:
    """Whether every request is allowed by both or by neither; proven, not tried."""
    first, second = old.actions[action], new.actions[action]
    applies = anybody([rule for one in (first, second) for rule in (*one.allow, *one.deny)])
    before, after = allowed(first, applies, old.default), allowed(second, applies, new.default)
    if first.require != second.require:  # then it matters to whoever the rules allow
        return solve(before) is None
    return solve(both((before, negated(after)))) is None and solve(both((after, negated(before)))) is None


# --- breaking ----------------------------------------------------------------------------------------------------


def _all_changes(tree: dict[str, Any]) -> Iterator[_Change]:
    """Each change with a policy of its action alone: an action is decided without the others, and loads sooner so."""
    for name, action in tree["actions"].items():
        yield from _changes({**tree, "actions": {name: action}, "routes": []})


def _changes(tree: dict[str, Any]) -> Iterator[_Change]:
    for name, action in tree["actions"].items():
        for effect in ("allow", "deny"):
            for index, rule in enumerate(action[effect]):
                for change, rules in _broken(rule, effect):
                    changed = copy.deepcopy(tree)
                    place = changed["actions"][name]
                    place[effect][index : index + 1] = rules.get(effect, [])
                    other = "deny" if effect == "allow" else "allow"
                    place[other] += rules.get(other, [])
                    yield name, rule["name"], change, changed
        for wanted, change, require in _weaker(action.get("require", {})):
            changed = copy.deepcopy(tree)
            place = changed["actions"][name]
            del place["require"]
            yield name, f"require {wanted}", change, changed if not require else _with(changed, name, require)


def _in_clear(policy: Policy, predicates: Mapping[str, PredicateFunction]) -> Iterator[tuple[str, str, Policy]]:
    """The policy with one field less in its ``personal:``, or in an action's own: action, field, policy."""
    tree = json.loads(policy.canonical)
    for name in ("", *tree["actions"]):
        for field in (tree["actions"][name] if name else tree).get("personal", {}):
            changed = copy.deepcopy(tree)
            del (changed["actions"][name] if name else changed)["personal"][field]
            yield name or "*", f"personal {field}", loads(json.dumps(_without_empty(changed)), predicates=predicates)


def _without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    for place in (tree, *tree["actions"].values()):
        if place.get("personal") == {}:
            del place["personal"]
    return tree


def _with(tree: dict[str, Any], action: str, require: dict[str, Any]) -> dict[str, Any]:
    tree["actions"][action]["require"] = require
    return tree


def _weaker(require: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each way to weaken what an action requires: which requirement, what is done, and what is required then."""
    for name, wanted in require.items():
        yield name, "left out", {key: value for key, value in require.items() if key != name}
        if name == "auth_age" and (match := DURATION.fullmatch(wanted)) is not None:
            longer = f"{int(match[1]) * 2}{match[2]}"
            yield name, f"{longer} instead of {wanted}", {**require, name: longer}
        if name == "reason" and isinstance(wanted, dict):
            yield name, "any reason", {**require, name: True}
        if name == "acr" and len(wanted) > 1:
            for level in wanted:
                yield name, f"not {level}", {**require, name: [kept for kept in wanted if kept != level]}


def _broken(rule: dict[str, Any], effect: str) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    """Each way to break one rule: what is done, and the rules that stand in its place."""
    other = "deny" if effect == "allow" else "allow"
    yield "left out", {}
    yield f"turned into {other}", {other: [rule]}
    if rule.get("roles") and ANYONE not in rule["roles"]:
        yield "for every caller", {effect: [{**rule, "roles": [ANYONE]}]}
        for role in rule["roles"] if len(rule["roles"]) > 1 else ():
            left = [kept for kept in rule["roles"] if kept != role]
            yield f"not for {role}", {effect: [{**rule, "roles": left}]}
    if "when" in rule:
        roles = rule.get("roles") or [ANYONE]
        yield "without its condition", {effect: [{"name": rule["name"], "roles": roles}]}
        for change, when in _broken_conditions(rule["when"]):
            yield change, {effect: [{**rule, "when": when}]}


def _broken_conditions(when: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each condition within turned into its opposite, and each part of an `all` or `any` left out."""
    ((key, inner),) = when.items()
    yield f"not: {json.dumps(when, ensure_ascii=False)}", {"not": when}
    if key == "not":
        for change, broken in _broken_conditions(inner):
            yield change, {"not": broken}
    if key not in ("all", "any"):
        return
    for index, part in enumerate(inner):
        rest = [*inner[:index], *inner[index + 1 :]]
        if rest:
            yield f"without {json.dumps(part, ensure_ascii=False)}", {key: rest}
        for change, broken in _broken_conditions(part):
            yield change, {key: [*rest, broken]}
