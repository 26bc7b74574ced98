"""The proofs that lint and diff rest on: what is said to be impossible never happens, and what should be seen is."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.errors import ConditionError
from audit_middleware.model import Resource, Subject
from audit_middleware.policy import logic
from audit_middleware.policy.conditions import Compare, CompiledCondition
from audit_middleware.policy.domain import ANY_OUTCOME, ERROR, FALSE, TRUE, Known, value_for
from audit_middleware.policy.logic import Formula, both, either, negated, outcome, solve
from tests.policy.generated import NETWORKS, WINDOWS, ZONES, addresses, attributes, conditions, resources, subjects
from tests.policy.samples import one_rule

steady = settings(deadline=None, max_examples=300)
masks = st.integers(1, ANY_OUTCOME)


def compiled(when: Any) -> CompiledCondition:
    (rule,) = one_rule(when if isinstance(when, str) else json.dumps(when)).actions["a.b"].allow
    assert rule.condition is not None
    return rule.condition


def came_to(condition: CompiledCondition, subject: Subject, resource: Resource, context: dict[str, Any]) -> int:
    try:
        return TRUE if condition.test(subject, resource, context) else FALSE
    except ConditionError:
        return ERROR


@steady
@given(st.lists(conditions, min_size=1, max_size=3), subjects, resources, attributes)
def test_what_happens_is_never_called_impossible(
    whens: list[Any], subject: Subject, resource: Resource, context: dict[str, Any]
) -> None:
    """Any request, any conditions: together they come out as they do, so the solver must find that possible."""
    found = [compiled(when) for when in whens]
    seen = [came_to(condition, subject, resource, context) for condition in found]
    formula = both(outcome(each.condition, mask) for each, mask in zip(found, seen, strict=True))
    assert solve(formula) is not None
    assert solve(negated(negated(formula))) is not None


@steady
@given(conditions, masks, subjects, resources, attributes)
def test_a_formula_or_its_opposite_holds_in_every_request(
    when: Any, mask: int, subject: Subject, resource: Resource, context: dict[str, Any]
) -> None:
    condition = compiled(when)
    seen = outcome(condition.condition, came_to(condition, subject, resource, context))
    formula = outcome(condition.condition, mask)
    assert solve(both((formula, negated(formula)))) is None
    assert solve(both((seen, either((formula, negated(formula)))))) is not None


COMPARISONS = [
    *(f"{{{operator}: {value}}}" for operator in ("equals", "not_equals") for value in (1, 2.5, "a", "ab", "true")),
    *("{in: [1, 2]}", "{in: [a, 10.0.0.1]}", "{not_in: [0.5, 3]}", "{not_in: [ab, b]}", "{in: [true]}"),
    *(f"{{{operator}: {value}}}" for operator in ("lt", "lte", "gt", "gte") for value in (0, 1, 2.5)),
    *("{starts_with: a}", "{starts_with: ab}", "{ends_with: b}", "{ends_with: ab}", "{matches: '^a'}"),
    *("{contains: a}", "{contains: 1}", "{contains: true}", "{exists: true}", "{exists: false}"),
    *(f"{{in_cidr: '{network}'}}" for network in NETWORKS),
    *(f"{{between: '{window}', zone: {zone}}}" for window in WINDOWS for zone in ZONES),
    *("{same_as: subject.id}", "{same_as: resource.p}"),
]
MOMENTS = [datetime(2026, 3, 2, hour, 30, tzinfo=UTC) for hour in range(0, 24, 2)]
VALUES: list[Any] = [
    *(None, True, False, 0, 0.5, 0.75, 1, 2, 2.5, 3, -7, 10**18, float("nan"), float("inf")),
    *("", "a", "ab", "abb", "b", "true", "1", "x", "a" * 70_000, "\ud800", {}, object(), datetime(2026, 3, 2)),
    *([], ["a"], [1], [True], ["a", 1, True], *addresses, *MOMENTS, *(moment.isoformat() for moment in MOMENTS)),
    *(moment.timestamp() for moment in MOMENTS),
]


def test_every_value_is_found_possible_whatever_is_known_of_it() -> None:
    """For each value, how any few comparisons of it come out: a value for which they do must be found."""
    chance = random.Random(20260302)
    known: list[tuple[Compare, CompiledCondition]] = []
    for text in COMPARISONS:
        condition = compiled(f"{{resource.p: {text}}}")
        assert isinstance(condition.condition, Compare)
        known.append((condition.condition, condition))
    for value in VALUES:
        what = Resource("t", "1", {"p": value})
        seen = [Known(leaf, came_to(condition, Subject("a"), what, {})) for leaf, condition in known]
        for _ in range(250):
            some = chance.sample(seen, chance.randint(1, 5))
            assert value_for("resource.p", some) is not None, (value, some)
        assert value_for("resource.p", seen) is not None, value


IMPOSSIBLE = [
    "{resource.p: {equals: a, in: [b, c]}}",
    "{all: [{resource.p: a}, {resource.p: b}]}",
    "{resource.p: {gt: 5, lt: 5}}",
    "{resource.p: {gte: 5, lt: 5}}",
    "{resource.p: {gt: 5, lte: 4.5}}",
    "{resource.p: {in: [1, 2], not_in: [1, 2, 3]}}",
    "{resource.p: {in: [1, 2], gt: 2}}",
    "{resource.p: {exists: false, equals: a}}",
    "{resource.p: {exists: false}, any: [{resource.p: a}, {resource.p: {gt: 1}}]}",
    "{resource.p: {equals: a, gt: 1}}",
    "{resource.p: {equals: 1, matches: '1'}}",
    "{resource.p: {in_cidr: 10.0.0.0/8}, not: {resource.p: {in_cidr: 10.0.0.0/7}}}",
    "{all: [{resource.p: {in_cidr: 10.0.0.0/8}}, {resource.p: {in_cidr: 192.0.2.0/24}}]}",
    "{all: [{resource.p: {in_cidr: 10.0.0.0/8}}, {resource.p: {in_cidr: '2001:db8::/32'}}]}",
    "{resource.p: {in_cidr: 10.0.0.0/8, contains: a}}",
    "{all: [{context.t: {between: '08:00-10:00', zone: UTC}}, {context.t: {between: '10:00-12:00', zone: UTC}}]}",
    "{resource.p: {starts_with: ab}, not: {resource.p: {starts_with: a}}}",
    "{all: [{resource.p: {starts_with: ab}}, {resource.p: {starts_with: ac}}]}",
    "{all: [{resource.p: {ends_with: ab}}, {resource.p: {ends_with: cb}}]}",
    "{resource.p: {equals: xyz, starts_with: ab}}",
    "{resource.p: {equals: xyz, matches: '^a'}}",
    "{resource.p: {same_as: subject.q}, subject.q: {exists: false}}",
    "{not: {resource.p: {same_as: resource.p}}}",
    "{all: [{any: [{resource.p: 1}, {resource.p: 2}]}, {any: [{resource.p: 3}, {resource.p: 4}]}]}",
    "{resource.p: true, not: {resource.p: {in: [true]}}}",
    "{subject.id: {exists: false}}",
]


@pytest.mark.parametrize("when", IMPOSSIBLE)
def test_contradictions_are_seen(when: str) -> None:
    assert solve(outcome(compiled(when).condition, TRUE)) is None


POSSIBLE = [
    "{resource.p: {gt: 5, lt: 6}}",
    "{resource.p: {gte: 5, lte: 5}}",
    "{resource.p: {matches: '^a', starts_with: b}}",  # patterns are not looked into
    "{all: [{resource.p: {in_cidr: 10.0.0.0/8}}, {resource.p: {in_cidr: 10.1.0.0/16}}]}",
    "{all: [{context.t: {between: '22:00-06:00', zone: UTC}}, {context.t: {between: '05:00-07:00', zone: UTC}}]}",
    "{all: [{context.t: {between: '08:00-09:00', zone: UTC}}, {context.t: {between: '17:00-18:00', zone: Japan}}]}",
    "{all: [{resource.p: {contains: a}}, {resource.p: {contains: b}}]}",
    "{resource.p: {not_equals: a, not_in: [b, c]}}",
    "{not: {resource.p: {exists: false}}, resource.p: {equals: false}}",
    "{all: [{resource.p: {in_cidr: '::ffff:10.0.0.0/104'}}, {resource.p: {in_cidr: 10.0.0.0/8}}]}",
]


@pytest.mark.parametrize("when", POSSIBLE)
def test_what_can_hold_is_not_called_a_contradiction(when: str) -> None:
    assert solve(outcome(compiled(when).condition, TRUE)) is not None


def test_a_search_that_takes_too_long_is_given_up_and_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pigeons in holes: unsatisfiable, and no search by cases is quick at it."""
    monkeypatch.setattr(logic, "MAX_STEPS", 300)
    pigeons, holes = 7, 6

    def sits(pigeon: int, hole: int) -> Formula:
        return outcome(compiled(f"{{resource.p{pigeon}h{hole}: {{same_as: subject.id}}}}").condition, TRUE)

    everyone = [either(sits(p, h) for h in range(holes)) for p in range(pigeons)]
    apart = [
        either((negated(sits(p, h)), negated(sits(q, h))))
        for h in range(holes)
        for p in range(pigeons)
        for q in range(p)
    ]
    model = solve(both([*everyone, *apart]))
    assert model is not None
    assert not model.complete
