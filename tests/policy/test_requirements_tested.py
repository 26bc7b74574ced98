"""Requirements without a service: in policy tests, generated checks, mutants, explanations and AuthZEN."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from audit_middleware.errors import AuthzenError
from audit_middleware.model import Action, Decision, Resource, Subject
from audit_middleware.pipeline.decide import decide as pipeline_decide
from audit_middleware.pipeline.facts import Resolved
from audit_middleware.policy import loads, requirements
from audit_middleware.policy.authzen import evaluate_authzen
from audit_middleware.policy.explain import explain
from audit_middleware.policy.mutate import mutate
from audit_middleware.policy.requirements import Offer
from audit_middleware.policy.scenarios import run_scenarios
from audit_middleware.policy.suite import EXIT_BROKEN_TESTS, EXIT_FAILED, EXIT_OK, SuiteResult, run

POLICY = """\
version: 1
name: p
roles: {clerk: {}, admin: {}}
actions:
  invoice.read: {allow: [clerk]}
  invoice.purge:
    allow: [admin]
    require: {mfa: true, acr: [gold, silver], auth_age: 15m, reason: {matches: '^[A-Z]+-\\d+'}, confirm: true}
    limit: {rate: 10/minute, concurrent: 2}
"""
SUBJECTS = """\
now: 2026-03-02T10:00:00Z
subjects:
  clerk: {id: u-1, roles: [clerk]}
  weak: {id: u-2, roles: [admin]}
  one-factor: {id: u-3, roles: [admin], mfa: false, acr: gold, auth_time: 2026-03-02T09:50:00Z}
  bronze: {id: u-4, roles: [admin], mfa: true, acr: bronze, auth_time: 2026-03-02T09:50:00Z}
  stale: {id: u-5, roles: [admin], mfa: true, acr: gold, auth_time: 2026-03-02T09:40:00Z}
  gold: {id: u-6, roles: [admin], mfa: true, acr: gold, auth_time: 2026-03-02T09:45:00Z}
  silver: {id: u-7, roles: [admin], properties: {mfa: true, acr: silver, auth_time: 1772445600}}
resources:
  seven: {type: invoice, id: '7'}
"""
WHOLE = (
    SUBJECTS
    + """\
tests:
  - name: reading
    subjects: [clerk, weak]
    actions: [invoice.read]
    expect: [{subject: clerk, actions: {invoice.read: allow}}]
  - name: who brings everything may
    subjects: [nobody, clerk, weak, one-factor, bronze, stale, gold, silver]
    actions: [invoice.purge]
    resources: [seven]
    reason: CASE-1
    confirm: '7'
    expect:
      - {subject: [gold, silver], actions: {invoice.purge: {allow: admin}}}
      - {subject: one-factor, actions: {invoice.purge: {deny: {missing: mfa}}}}
      - {subject: bronze, actions: {invoice.purge: {deny: {missing: [acr]}}}}
      - {subject: stale, actions: {invoice.purge: {deny: {missing: auth_age}}}}
      - {subject: weak, actions: {invoice.purge: {deny: {missing: [mfa, acr, auth_age]}}}}
      - {subject: [nobody, clerk], actions: {invoice.purge: {deny: default}}}
  - name: another reason
    subjects: [gold]
    actions: [invoice.purge]
    reason: because
    confirm: true
    expect: [{actions: {invoice.purge: {deny: {missing: reason}}}}]
  - name: another invoice
    subjects: [gold]
    actions: [invoice.purge]
    resources: [seven]
    reason: CASE-1
    confirm: '8'
    expect: [{actions: {invoice.purge: {deny: {missing: confirm}}}}]
"""
)
GOOD = {"roles": ["admin"], "mfa": True, "acr": "gold", "auth_time": 1_772_445_300}
AT = {"time": "2026-03-02T10:00:00Z"}


def project(folder: Path, tests: str, policy: str = POLICY) -> Path:
    path = folder / "p.yaml"
    path.write_text(policy)
    (folder / "p_test.yaml").write_text(tests)
    return path


def single(folder: Path, body: str, subjects: str = SUBJECTS) -> SuiteResult:
    return run(project(folder, f"{subjects}tests:\n  - {{name: t, {body}}}\n"))


def purge(**changes: Any) -> dict[str, Any]:
    offered = {"reason": "CASE-1", "confirm": "7"}
    body = {"action": {"name": "invoice.purge", "properties": offered}, "resource": {"type": "invoice", "id": "7"}}
    return {"subject": {"type": "user", "id": "u-6", "properties": GOOD}, **body, "context": AT, **changes}


# --- tests -------------------------------------------------------------------------------------------------------


def test_a_suite_sees_every_requirement_met_and_unmet(tmp_path: Path) -> None:
    result = run(project(tmp_path, WHOLE), scenarios=True)
    assert result.exit_code == EXIT_OK, result.tree()
    assert result.coverage is not None
    assert (result.coverage.requirement_ratio, result.coverage.missing()) == (1.0, ())
    assert "100% of requirements" in result.tree()
    assert {one["requirement"] for one in result.to_dict()["coverage"]["requirements"]} == {
        *("mfa", "acr", "auth_age", "reason", "confirm")
    }


def test_what_no_test_shows_is_listed(tmp_path: Path) -> None:
    result = single(tmp_path, "subjects: [one-factor], actions: [invoice.purge], expect: []")
    assert result.coverage is not None
    assert result.coverage.requirement_ratio == 0
    found = {line for line in result.coverage.missing() if line.startswith("requirement")}
    assert found == {
        "requirement invoice.purge/mfa: never met",
        "requirement invoice.purge/acr: never unmet",
        "requirement invoice.purge/auth_age: never unmet",
        "requirement invoice.purge/reason: never met",
        "requirement invoice.purge/confirm: never met",
    }


def test_requirements_are_not_asked_of_those_who_are_denied(tmp_path: Path) -> None:
    result = single(tmp_path, "subjects: [clerk], actions: [invoice.purge], expect: []")
    assert result.coverage is not None
    assert "requirement invoice.purge/mfa: never met or unmet" in result.coverage.missing()


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (
            "confirm: true, expect: [{actions: {invoice.purge: {deny: {missing: confirm}}}}]",
            "expected deny (missing: confirm), got deny (requirement admin, missing: reason)",
        ),
        (
            "expect: [{actions: {invoice.purge: {deny: {missing: reason}}}}]",
            "expected deny (missing: reason), got deny (requirement admin, missing: reason, confirm)",
        ),
        (
            "reason: CASE-1, confirm: true, expect: [{actions: {invoice.purge: {deny: requirement}}}]",
            "expected deny (requirement), got allow (rule admin)",
        ),
        (
            "expect: [{actions: {invoice.purge: {deny: admin}}}]",
            "expected deny (admin), got deny (requirement admin, missing: reason, confirm)",
        ),
    ],
)
def test_a_failure_names_what_is_missing(tmp_path: Path, body: str, failure: str) -> None:
    result = single(tmp_path, f"subjects: [gold], actions: [invoice.purge], {body}")
    assert result.exit_code == EXIT_FAILED
    assert f"gold invoice.purge: {failure}\n" in result.tree()


def test_without_a_time_no_sign_in_is_recent(tmp_path: Path) -> None:
    timeless = SUBJECTS.partition("\n")[2]
    body = "reason: CASE-1, confirm: true, expect: [{actions: {invoice.purge: {deny: {missing: auth_age}}}}]"
    assert single(tmp_path, f"subjects: [gold], actions: [invoice.purge], {body}", timeless).exit_code == EXIT_OK


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ("expect: [{actions: {invoice.purge: {deny: {missing: mfaa}}}}]", "invoice.purge does not require 'mfaa'"),
        ("expect: [{actions: {invoice.purge: {deny: {missing: []}}}}]", "an empty list says nothing"),
        ("expect: [{actions: {invoice.purge: {deny: {}}}}]", "missing: missing"),
        ("expect: [{actions: {invoice.purge: {deny: {lacks: mfa}}}}]", "lacks: unknown key"),
        ("expect: [{actions: {invoice.purge: {allow: {missing: mfa}}}}]", "expected text"),
        ("expect: [], confirm: [x]", "expected text"),
        ("expect: [], reason: {}", "expected text"),
    ],
)
def test_expectations_are_read_strictly(tmp_path: Path, body: str, finding: str) -> None:
    result = single(tmp_path, f"subjects: [gold], actions: [invoice.purge], {body}")
    assert result.exit_code == EXIT_BROKEN_TESTS
    assert any(finding in problem for problem in result.problems), result.problems


@pytest.mark.parametrize(
    ("subject", "finding"),
    [
        ("{id: x, mfa: 'true'}", "expected true or false"),
        ("{id: x, acr: [gold]}", "expected text"),
        ("{id: x, auth_time: 1772445600}", "is not a time with a zone"),
        ("{id: x, acr: gold, properties: {acr: silver}}", "there is properties.acr as well: say it once"),
    ],
)
def test_subjects_are_read_strictly(tmp_path: Path, subject: str, finding: str) -> None:
    extended = SUBJECTS.replace("subjects:\n", f"subjects:\n  who: {subject}\n")
    result = single(tmp_path, "subjects: [who], actions: [invoice.read], expect: []", extended)
    assert result.exit_code == EXIT_BROKEN_TESTS
    assert any(finding in problem for problem in result.problems), result.problems


# --- mutants and generated checks --------------------------------------------------------------------------------


def test_every_weakened_requirement_is_noticed_by_a_complete_suite(tmp_path: Path) -> None:
    result = mutate(project(tmp_path, WHOLE))
    assert result.survivors == ()
    assert {(one.rule, one.change) for one in result.mutants if one.rule.startswith("require")} == {
        ("require mfa", "left out"),
        ("require acr", "left out"),
        ("require acr", "not gold"),
        ("require acr", "not silver"),
        ("require auth_age", "left out"),
        ("require auth_age", "1800s instead of 900s"),
        ("require reason", "left out"),
        ("require reason", "any reason"),
        ("require confirm", "left out"),
    }


@pytest.mark.parametrize(
    ("find", "put", "survivor"),
    [
        ("09:40:00Z", "09:00:00Z", ("require auth_age", "1800s instead of 900s")),
        ("reason: because\n    ", "", ("require reason", "any reason")),
        (", silver]", "]", ("require acr", "not silver")),
        ("confirm: '8'", "confirm: '7'", None),
    ],
)
def test_a_gap_in_the_suite_survives(tmp_path: Path, find: str, put: str, survivor: tuple[str, str] | None) -> None:
    tests = WHOLE.replace(find, put)
    assert tests != WHOLE
    result = mutate(project(tmp_path, tests))
    if survivor is None:
        assert result.problem is not None
        assert "'another invoice' fails on the policy itself" in result.problem
    else:
        assert [(one.rule, one.change) for one in result.survivors] == [survivor]


def test_requirements_of_an_action_that_nobody_reaches_do_not_count(tmp_path: Path) -> None:
    shut = POLICY.replace("allow: [admin]\n", "allow: [admin]\n    deny: [anyone]\n")
    tests = dedent(
        """\
        subjects: {clerk: {id: u-1, roles: [clerk]}, admin: {id: u-2, roles: [admin]}}
        tests:
          - name: t
            subjects: [clerk, admin]
            actions: [invoice.read, invoice.purge]
            expect: [{subject: clerk, actions: {invoice.read: allow}}]
        """
    )
    result = mutate(project(tmp_path, tests, shut))
    assert not [one for one in result.mutants if one.rule.startswith("require")]
    assert result.alike >= 9


def test_generated_checks_notice_requirements_that_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.status for one in run_scenarios(loads(POLICY))] == ["passed"] * 5

    def lenient(decision: Decision, *request: object, **brought: object) -> Decision:
        return decision

    monkeypatch.setattr(requirements, "demanded", lenient)
    last = run_scenarios(loads(POLICY))[-1]
    assert (last.name, last.status) == ("requirements refuse what is not met", "failed")
    assert last.failures[0] == "invoice.purge: without acr, auth_age, confirm, mfa, reason it misses nothing"


# --- the service -------------------------------------------------------------------------------------------------

WHEN = datetime(2026, 3, 2, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "reason", [None, "", " ", "CASE-1", " CASE-1\t", "because", "CASE-1\n", "CASE-1 " + "x" * 2050]
)
@pytest.mark.parametrize("confirm", ["7", "8", "", "invoice.purge"])
@pytest.mark.parametrize("changed", [{}, {"mfa": 1}, {"acr": "bronze"}, {"auth_time": 1_772_440_000}, {"roles": []}])
def test_tests_decide_as_the_service_does(reason: str | None, confirm: str, changed: dict[str, Any]) -> None:
    policy = loads(POLICY)
    known = {**GOOD, **changed}
    who = Subject("u-6", roles=tuple(known.pop("roles")), properties=known)
    headers = [(b"x-confirm", confirm.encode())] + ([(b"x-request-reason", reason.encode())] if reason else [])
    resolved = Resolved(Action("invoice.purge"), policy.actions["invoice.purge"])
    for what in (Resource("invoice", "7"), Resource()):
        context = {"time": WHEN}
        served = pipeline_decide(policy, resolved, who, None, what, context, headers=headers)
        assert requirements.decide(policy, "invoice.purge", who, what, context, Offer(reason, confirm)) == served


# --- explanations and AuthZEN ------------------------------------------------------------------------------------


def test_an_explanation_shows_each_requirement() -> None:
    policy = loads(POLICY)
    who = Subject("u-6", roles=("admin",), properties={**GOOD, "mfa": "true"})
    found = explain(policy, "invoice.purge", who, Resource("invoice", "7"), AT, Offer("CASE-1", "8"))
    assert (found.decision.cause, found.decision.missing) == ("requirement", ("mfa", "confirm"))
    assert [(one.name, one.text, one.met) for one in found.requirements] == [
        ("mfa", "mfa", False),
        ("acr", "acr gold or silver", True),
        ("auth_age", "auth_age at most 15m", True),
        ("reason", r"reason matches ^[A-Z]+-\d+", True),
        ("confirm", "confirm", False),
    ]
    body = found.to_dict()
    assert body["missing"] == ["mfa", "confirm"]
    assert body["terms"] == {"record": "metadata", "guarantee": "after", "on_log_failure": "deny"}
    denied = explain(policy, "invoice.purge", Subject("u-1", roles=("clerk",)), Resource(), {})
    assert denied.decision.cause == "default"
    assert [one.met for one in denied.requirements] == [False] * 5


def test_authzen_answers_with_what_is_missing_and_tells_the_limit() -> None:
    policy = loads(POLICY)
    limit = {"rate": "10/minute", "concurrent": 2, "per": "subject", "on_limit_error": "deny", "counted": False}
    answer = evaluate_authzen(policy, purge())
    assert (answer["decision"], answer["context"]["missing"], answer["context"]["limit"]) == (True, [], limit)
    answer = evaluate_authzen(policy, purge(action={"name": "invoice.purge"}))
    assert answer["decision"] is False
    context = answer["context"]
    assert (context["cause"], context["missing"], context["limit"]) == ("requirement", ["reason", "confirm"], limit)
    several = purge(evaluations=[{}, {"context": {}}, {"action": {"name": "invoice.read"}}])
    answers = evaluate_authzen(policy, several)["evaluations"]
    assert [one["context"]["missing"] for one in answers] == [[], ["auth_age"], []]
    assert [one["context"]["cause"] for one in answers] == ["rule", "requirement", "default"]
    assert answers[2]["context"]["limit"] is None


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ({"reason": 7}, "action.properties.reason: expected text"),
        ({"confirm": 7}, "action.properties.confirm: expected text, true or false"),
    ],
)
def test_authzen_reads_offers_strictly(offered: dict[str, Any], message: str) -> None:
    with pytest.raises(AuthzenError, match=message):
        evaluate_authzen(loads(POLICY), purge(action={"name": "invoice.purge", "properties": offered}))
