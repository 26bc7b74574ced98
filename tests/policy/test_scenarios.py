"""Generated checks: they hold for a right engine, and each kind notices an engine that is broken in its way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from audit_middleware.model import Decision, Subject
from audit_middleware.policy import CompiledAction, Policy, loads
from audit_middleware.policy.scenarios import ScenarioResult, run_scenarios
from tests.policy.generated import policies
from tests.policy.samples import BILLING

POLICY = loads(BILLING)


def failed(policy: Policy) -> list[str]:
    return [result.name.split()[0] for result in run_scenarios(policy) if result.status == "failed"]


def test_they_hold_for_a_policy_and_are_many() -> None:
    results = run_scenarios(POLICY)
    assert [result.status for result in results] == ["passed"] * 4
    assert all(result.checks > 15 for result in results)
    assert results == run_scenarios(loads(BILLING)), "what is generated must not change from run to run"


@settings(deadline=None, max_examples=15)
@given(policies)
def test_they_hold_for_every_policy(source: dict[str, Any]) -> None:
    assert failed(loads(json.dumps(source))) == []


def allowed(*_: object) -> Decision:
    return Decision("allow", "rule", "admin")


def test_an_engine_that_takes_unknown_actions_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Policy.evaluate

    def tolerant(policy: Policy, action: str, *request: Any) -> Decision:
        return evaluate(policy, action.strip().lower(), *request)

    monkeypatch.setattr(Policy, "evaluate", tolerant)
    assert failed(POLICY) == ["malformed"]


def test_an_engine_that_takes_similar_roles_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    grant = CompiledAction._grant

    def similar(action: CompiledAction, subject: Subject) -> Decision | None:
        roles = tuple(role.strip().lower() for role in subject.roles)
        return grant(action, Subject(subject.id, subject.type, roles))

    monkeypatch.setattr(CompiledAction, "_grant", similar)
    assert failed(POLICY) == ["unknown"]


def test_an_engine_that_forgets_who_is_nobody_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompiledAction, "_grant", allowed)
    monkeypatch.setattr(CompiledAction, "_refusal", lambda *request: None)
    assert "empty" in failed(POLICY)


@pytest.mark.parametrize("damage", ["outvoted", "failing"])
def test_an_engine_that_lets_an_error_or_a_denial_pass_is_noticed(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = CompiledAction._refusal

    def weaker(action: CompiledAction, *request: Any) -> Decision | None:
        found = refusal(action, *request)
        return None if found is not None and (damage == "outvoted" or found.cause == "error") else found

    monkeypatch.setattr(CompiledAction, "_refusal", weaker)
    assert failed(POLICY) == ["edge"]


def test_failures_are_listed_but_not_by_the_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompiledAction, "decide", allowed)
    result: ScenarioResult = run_scenarios(POLICY)[-1]
    assert 0 < len(result.failures) <= 10
    assert result.failures[0].startswith("invoice.delete as ")
