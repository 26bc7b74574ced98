"""Where only the caller's roles count, the short way says what the long one says, to the letter."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from audit_middleware.model import NOBODY, Action, Resource, Subject
from audit_middleware.pipeline.decide import decide, decide_by_role
from audit_middleware.pipeline.facts import Problem, Resolved
from audit_middleware.policy.evaluate import Policy
from audit_middleware.policy.load import loads

ROLES = "roles: {viewer: {}, clerk: {inherits: [viewer]}, admin: {inherits: [clerk]}}"
CALLERS = (
    NOBODY,
    Subject("a", roles=()),
    Subject("a", roles=("viewer",)),
    Subject("a", roles=("clerk", "nonsense")),
    Subject("a", roles=("admin", "viewer")),
    Subject("a", roles=("stranger",), tenant="t"),
)
CONTEXT: dict[str, Any] = {"ip": "10.0.0.1", "time": datetime(2026, 1, 1, tzinfo=UTC), "method": "GET"}
GRANTEES = ("[viewer]", "[clerk, viewer]", "[admin]", "[anyone]", "[authenticated]", "[]")
BEYOND = {
    "a deny rule": "{allow: [anyone], deny: [{name: no, roles: [viewer]}]}",
    "a condition": "{allow: [{name: near, roles: [anyone], when: {context.ip: 10.0.0.1}}]}",
    "a requirement": "{allow: [anyone], require: {mfa: true}}",
    "a limit": "{allow: [anyone], limit: {rate: 10/minute, per: subject}}",
}


def policy_of(actions: str, mode: str, default: str) -> Policy:
    head = f"version: 1\nname: p\nmode: {mode}\ndefault: {default}\n{ROLES}\n"
    return loads(f"{head}actions:\n{actions}\n", "p.yaml")


def resolved_for(policy: Policy, name: str) -> Resolved:
    return Resolved(Action(name), policy.actions[name])


@pytest.mark.parametrize("seed", range(20))
def test_both_ways_decide_alike(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"doc.a{number}" for number in range(8)]
    actions = "\n".join(f"  {name}: {{allow: {chance.choice(GRANTEES)}}}" for name in names)
    policy = policy_of(actions, chance.choice(["enforce", "monitor"]), chance.choice(["allow", "deny"]))
    for name in names:
        resolved = resolved_for(policy, name)
        for caller in CALLERS:
            short = decide_by_role(policy, resolved, caller, None)
            assert short is not None
            assert short == decide(policy, resolved, caller, None, Resource("doc", "1"), CONTEXT)


@pytest.mark.parametrize("what", BEYOND)
def test_anything_else_takes_the_long_way(what: str) -> None:
    policy = policy_of(f"  doc.a: {BEYOND[what]}", "enforce", "deny")
    for caller in CALLERS:
        assert decide_by_role(policy, resolved_for(policy, "doc.a"), caller, None) is None


@pytest.mark.parametrize("problem", ["credential_refused", "identity_unavailable", "identity_error"])
def test_a_problem_with_the_identity_takes_the_long_way(problem: Problem) -> None:
    policy = policy_of("  doc.a: {allow: [anyone]}", "enforce", "deny")
    assert decide_by_role(policy, resolved_for(policy, "doc.a"), NOBODY, problem) is None


def test_without_a_rule_only_what_is_no_route_is_short() -> None:
    policy = policy_of("  doc.a: {allow: [anyone]}", "enforce", "allow")
    short = decide_by_role(policy, Resolved(cause="no_route"), NOBODY, None)
    assert short == decide(policy, Resolved(cause="no_route"), NOBODY, None, Resource(), CONTEXT)
    for cause in ("exempt", "unannotated", "unknown_action", "error"):
        assert decide_by_role(policy, Resolved(cause=cause), NOBODY, None) is None
