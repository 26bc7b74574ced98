"""Properties over generated policies, requests and texts."""

from __future__ import annotations

import json
import random
from itertools import permutations
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.errors import PolicyError
from audit_middleware.model import ANONYMOUS, NOBODY, Resource, Subject
from audit_middleware.policy import Policy, loads
from audit_middleware.policy.operators import OPERATORS
from tests.policy.samples import BILLING, NOWHERE, one_rule

# A loaded machine must not fail a property that holds.
steady = settings(deadline=None)

# A role graph without cycles: each role may inherit those before it.
ROLES = ("r0", "r1", "r2", "r3")
BUILT_IN = ("anyone", "authenticated")
CONTEXT = {"t": True}
CONDITIONS = {"none": None, "true": {"context.t": True}, "false": {"context.t": False}, "error": {"context.e": True}}

inheritance = st.tuples(*(st.sets(st.sampled_from(ROLES[:n])) if n else st.just(set()) for n in range(len(ROLES))))
rules = st.tuples(st.sets(st.sampled_from((*ROLES, *BUILT_IN)), max_size=2), st.sampled_from(list(CONDITIONS)))
callers = st.one_of(
    st.just(NOBODY),
    st.sets(st.sampled_from((*ROLES, "unknown"))).map(lambda roles: Subject(id="u", roles=tuple(sorted(roles)))),
)
Rule = tuple[set[str], str]


def body(name: str, rule: Rule) -> dict[str, Any]:
    roles, condition = rule
    result: dict[str, Any] = {"name": name}
    if roles or CONDITIONS[condition] is None:
        result["roles"] = sorted(roles or {"anyone"})
    if CONDITIONS[condition] is not None:
        result["when"] = CONDITIONS[condition]
    return result


def policy_of(parents: tuple[set[str], ...], allow: list[Rule], deny: list[Rule], default: str) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "p",
        "default": default,
        "roles": {role: {"inherits": sorted(parents[n])} for n, role in enumerate(ROLES)},
        "actions": {
            "a.b": {
                "allow": [body(f"allow{n}", rule) for n, rule in enumerate(allow)],
                "deny": [body(f"deny{n}", rule) for n, rule in enumerate(deny)],
            }
        },
    }


def oracle(policy: dict[str, Any], caller: Subject) -> tuple[str, str]:
    """The decision by the documented order, written as sets and without any of the code under test."""
    inherits = {role: set(entry["inherits"]) for role, entry in policy["roles"].items()}
    held = set(caller.roles) & set(ROLES)
    for _ in ROLES:
        held |= {inherited for role in held for inherited in inherits[role]}
    held |= {"anyone"} | ({"authenticated"} if caller.type != ANONYMOUS else set())
    by_value = {json.dumps(value): name for name, value in CONDITIONS.items()}

    def outcomes(effect: str) -> list[str]:
        action = policy["actions"]["a.b"]
        matching = [rule for rule in action[effect] if "roles" not in rule or held & set(rule["roles"])]
        return [by_value[json.dumps(rule.get("when"))] for rule in matching]

    denies, allows = outcomes("deny"), outcomes("allow")
    if {"none", "true"} & set(denies):
        return "deny", "rule"
    if "error" in denies:
        return "deny", "error"
    if "none" in allows:
        return "allow", "rule"
    if "error" in allows:
        return "deny", "error"
    return ("allow", "rule") if "true" in allows else (policy["default"], "default")


@steady
@given(
    inheritance, st.lists(rules, max_size=4), st.lists(rules, max_size=3), st.sampled_from(["deny", "allow"]), callers
)
def test_decisions_are_those_of_the_documented_order(
    parents: tuple[set[str], ...], allow: list[Rule], deny: list[Rule], default: str, caller: Subject
) -> None:
    source = policy_of(parents, allow, deny, default)
    decision = loads(json.dumps(source)).evaluate("a.b", caller, NOWHERE, CONTEXT)
    assert (decision.effect, decision.cause) == oracle(source, caller)


@steady
@given(inheritance, st.lists(rules, max_size=3), st.lists(rules, max_size=3), callers)
def test_deny_overrides_in_every_order_of_rules(
    parents: tuple[set[str], ...], allow: list[Rule], deny: list[Rule], caller: Subject
) -> None:
    source = policy_of(parents, allow, deny, "deny")
    action = source["actions"]["a.b"]
    decisions = set()
    for allows in permutations(action["allow"]):
        for denies in permutations(action["deny"]):
            source["actions"]["a.b"] = {"deny": list(denies), "allow": list(allows)}
            decision = loads(json.dumps(source)).evaluate("a.b", caller, NOWHERE, CONTEXT)
            decisions.add((decision.effect, decision.cause))
    assert len(decisions) == 1
    with_kill_switch = dict(action, deny=[*action["deny"], {"name": "stop", "roles": ["anyone"]}])
    source["actions"]["a.b"] = with_kill_switch
    assert loads(json.dumps(source)).evaluate("a.b", caller, NOWHERE, CONTEXT).effect == "deny"


# --- any attributes ----------------------------------------------------------------------------------------------

OPERANDS: dict[str, str] = {
    "exists": "true",
    "equals": "x",
    "not_equals": "1",
    "same_as": "subject.p",
    "in": "[x, z]",
    "not_in": "[1, 2.5]",
    "lt": "1",
    "lte": "1.5",
    "gt": "-1",
    "gte": "0",
    "matches": "'^(a+)+$'",
    "starts_with": "x",
    "ends_with": "x",
    "contains": "x",
    "in_cidr": "[10.0.0.0/8, '2001:db8::/32']",
    "between": "'08:00-18:00', zone: Asia/Tokyo",
}
text = st.text(st.characters(exclude_categories=()), max_size=8)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), text, st.just("a" * 70_000), st.ip_addresses().map(str),
    st.datetimes().map(lambda moment: moment.isoformat()), st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=6,
)
attributes = st.dictionaries(st.sampled_from(["p", "q"]), values)
ANY_ATTRIBUTE = {
    operator: {
        path: one_rule(f"{{{path}: {{{operator}: {operand}}}}}")
        for path in ("subject.p", "resource.p", "context.p", "resource.p.q", "subject.roles", "resource.id")
    }
    for operator, operand in OPERANDS.items()
}


def test_every_operator_is_generated() -> None:
    assert set(OPERANDS) == set(OPERATORS)


@pytest.mark.parametrize("operator", list(OPERANDS))
@steady
@given(who=attributes, what=attributes, context=attributes, identity=st.one_of(st.none(), text))
def test_evaluation_never_raises_for_any_attributes(
    operator: str, who: dict[str, Any], what: dict[str, Any], context: dict[str, Any], identity: str | None
) -> None:
    caller = Subject(id="u", roles=("x",), properties=who)
    for policy in ANY_ATTRIBUTE[operator].values():
        decision = policy.evaluate("a.b", caller, Resource("t", identity, what), context)
        assert (decision.effect, decision.cause) in {("allow", "rule"), ("deny", "default"), ("deny", "error")}
        assert (decision.cause == "error") is (decision.detail is not None)


# --- any text ----------------------------------------------------------------------------------------------------


@steady
@given(st.text(max_size=200))
def test_any_text_loads_or_is_a_policy_error(source: str) -> None:
    with pytest.raises(PolicyError) as caught:
        loads(source, "p.yaml")
    assert all(line.startswith("p.yaml:") for line in str(caught.value).splitlines())


@steady
@given(st.integers(0, len(BILLING)), st.integers(0, 12), st.text("{}[]:,'\"- \n#&*!|>%@`yesno0.~\t", max_size=6))
def test_a_damaged_policy_loads_or_is_a_policy_error(at: int, cut: int, inserted: str) -> None:
    damaged = BILLING[:at] + inserted + BILLING[at + cut :]
    try:
        policy = loads(damaged, "p.yaml")
    except PolicyError as error:
        assert all(line.startswith("p.yaml:") for line in str(error).splitlines())  # noqa: PT017 # either is right
    else:
        assert loads(policy.canonical.decode()).digest == policy.digest


# --- the digest --------------------------------------------------------------------------------------------------

BASE = loads(BILLING)


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(inner, chance)) for key, inner in value.items()]
        chance.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        inner = [shuffled(item, chance) for item in value]
        if all(isinstance(item, str) for item in inner):  # roles, networks, keys: sets written as lists
            chance.shuffle(inner)
        return inner
    return value


@steady
@given(st.randoms(use_true_random=False), st.one_of(st.none(), st.booleans()), st.integers(2, 9), st.integers(20, 200))
def test_the_digest_survives_reordering_and_reformatting(
    chance: random.Random, flow: bool | None, indent: int, width: int
) -> None:
    tree = shuffled(json.loads(BASE.canonical), chance)
    commented = chance.random() < 0.5
    width = 10**6 if commented else width  # a comment may follow a whole scalar only
    written = yaml.safe_dump(tree, sort_keys=False, default_flow_style=flow, indent=indent, width=width)
    if commented:
        written = "".join(f"{line}  # {chance.random()}\n" for line in written.splitlines())
    assert loads(f"# {chance.random()}\n{written}").digest == BASE.digest


@steady
@given(inheritance, st.lists(rules, max_size=3), st.lists(rules, max_size=2), callers)
def test_the_archived_policy_decides_alike(
    parents: tuple[set[str], ...], allow: list[Rule], deny: list[Rule], caller: Subject
) -> None:
    policy = loads(json.dumps(policy_of(parents, allow, deny, "deny")))
    archived: Policy = loads(policy.canonical.decode())
    assert archived.digest == policy.digest
    assert archived.evaluate("a.b", caller, NOWHERE, CONTEXT) == policy.evaluate("a.b", caller, NOWHERE, CONTEXT)
