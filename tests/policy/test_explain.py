"""An explanation says how every rule comes out, and what it says leads to the decision that was taken."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings

from audit_middleware.model import NOBODY, Resource, Subject
from audit_middleware.policy import loads
from audit_middleware.policy.explain import ConditionView, Explanation, explain
from tests.policy.generated import attributes, policies, resources, subjects
from tests.policy.samples import BILLING, NOWHERE, one_rule, subject

POLICY = loads(BILLING)


def rederived(explanation: Explanation, default: str) -> tuple[str, str]:
    """Effect and cause by the documented order, from what the explanation says of each rule."""
    asked = [rule for rule in explanation.rules if rule.applies]
    came = [(rule.effect, rule.condition.outcome if rule.condition else "none") for rule in asked]
    if ("deny", "true") in came or ("deny", "none") in came:
        return "deny", "rule"
    if ("deny", "error") in came:
        return "deny", "error"
    if ("allow", "none") in came:
        return "allow", "rule"
    if ("allow", "error") in came:
        return "deny", "error"
    return ("allow", "rule") if ("allow", "true") in came else (default, "default")


def views(view: ConditionView) -> list[ConditionView]:
    return [view, *(inner for part in view.parts for inner in views(part))]


@settings(deadline=None)
@given(policies, subjects, resources, attributes)
def test_the_rules_as_explained_lead_to_the_decision(
    source: dict[str, Any], who: Subject, what: Resource, context: dict[str, Any]
) -> None:
    policy = loads(json.dumps(source))
    explanation = explain(policy, "a.b", who, what, context)
    decision = policy.evaluate("a.b", who, what, context)
    assert explanation.decision == decision
    assert (decision.effect, decision.cause) == rederived(explanation, policy.default)
    for rule in explanation.rules:
        assert rule.holds is not bool(rule.failed_on)
        for view in views(rule.condition) if rule.condition else ():
            assert (view.outcome == "error") is (view.problem is not None)
            assert view.attributes


def test_it_names_what_failed_and_the_attributes_read() -> None:
    explanation = explain(POLICY, "invoice.delete", subject("clerk"), Resource("invoice", "7", {"owner": "x"}), {})
    deny, owner, admin = explanation.rules
    assert (deny.name, deny.applies, deny.failed_on) == (
        "guest-network",
        True,
        ('context.ip in_cidr ["10.9.0.0/16"] (context.ip is missing)',),
    )
    assert owner.failed_on == ("resource.owner same_as subject.id",)
    assert owner.condition is not None
    assert owner.condition.attributes == ("resource.owner", "subject.id")
    assert admin.failed_on == ("roles admin",)
    assert explanation.decision.cause == "error"


def test_the_innermost_part_of_a_conjunction_is_named_but_not_of_an_alternative() -> None:
    policy = one_rule("{all: [{context.a: 1}, {context.b: 2}, {any: [{context.c: 3}, {context.d: 4}]}]}")
    explanation = explain(policy, "a.b", NOBODY, NOWHERE, {"a": 1, "b": 3, "c": 0, "d": 0})
    assert explanation.rules[0].failed_on == ("context.b equals 2", "context.c equals 3 or context.d equals 4")
    negated = explain(one_rule("{not: {context.a: 1}}"), "a.b", NOBODY, NOWHERE, {"a": 1})
    assert negated.rules[0].failed_on == ("not (context.a equals 1)",)


def test_unknown_actions_and_roles_are_told() -> None:
    explanation = explain(POLICY, "invoice.burn", subject("clerk", "ghost"), NOWHERE, {})
    assert (explanation.decision.cause, explanation.rules, explanation.unknown_roles) == (
        "unknown_action",
        (),
        ("ghost",),
    )


def test_foreign_code_is_not_run_for_a_caller_without_the_role() -> None:
    asked: list[Any] = []
    text = BILLING.replace("{resource.owner: {same_as: subject.id}}", "{predicate: called}")

    def called(request: Any) -> bool:
        asked.append(request)
        return True

    policy = loads(text, predicates={"called": called})
    explanation = explain(policy, "invoice.delete", subject("viewer"), NOWHERE, {"ip": "192.0.2.1"})
    assert [rule.condition.outcome for rule in explanation.rules if rule.condition] == ["false", "not asked"]
    assert asked == []
    assert explain(policy, "invoice.delete", subject("clerk"), NOWHERE, {"ip": "192.0.2.1"}).decision.effect == "allow"


def test_it_is_plain_json() -> None:
    explanation = explain(POLICY, "invoice.delete", subject("clerk"), NOWHERE, {"ip": "10.9.0.1"})
    body = json.loads(json.dumps(explanation.to_dict()))
    assert (body["effect"], body["cause"], body["rule"]) == ("deny", "rule", "guest-network")
    assert body["policy_digest"] == POLICY.digest
    assert [rule["rule"] for rule in body["rules"]] == ["guest-network", "owner-clerk", "admin"]
