"""The engine in AuthZEN 1.0 shape: what it takes, what it answers, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from audit_middleware.errors import AuthzenError
from audit_middleware.model import Resource, Subject
from audit_middleware.policy import loads
from audit_middleware.policy.authzen import evaluate_authzen, parse
from tests.policy.samples import BILLING

POLICY = loads(BILLING)
CLERK = {"type": "user", "id": "u-1", "properties": {"roles": ["clerk"], "tenant": "acme", "team": "sales"}}
INVOICE = {"type": "invoice", "id": "7", "properties": {"owner": "u-1"}}


def request(**changes: Any) -> dict[str, Any]:
    body = {"subject": CLERK, "action": {"name": "invoice.delete"}, "resource": INVOICE, "context": {"ip": "192.0.2.1"}}
    return {**body, **changes}


def test_one_evaluation_is_that_of_the_engine() -> None:
    answer = evaluate_authzen(POLICY, request())
    same = POLICY.evaluate(
        "invoice.delete",
        Subject("u-1", roles=("clerk",), tenant="acme", properties={"team": "sales"}),
        Resource("invoice", "7", {"owner": "u-1"}),
        {"ip": "192.0.2.1"},
    )
    assert answer["decision"] is (same.effect == "allow") is True
    assert answer["context"]["rule"] == same.rule == "owner-clerk"
    assert answer["context"]["policy_digest"] == POLICY.digest
    denied = evaluate_authzen(POLICY, request(context={"ip": "10.9.0.1"}))
    assert (denied["decision"], denied["context"]["cause"], denied["context"]["rule"]) == (
        False,
        "rule",
        "guest-network",
    )
    json.dumps(denied)


def test_several_evaluations_take_what_they_lack_from_the_request() -> None:
    items = [{}, {"action": {"name": "invoice.read"}}, {"context": {"ip": "10.9.0.1"}}, {"resource": {"type": "x"}}]
    answers = evaluate_authzen(POLICY, request(evaluations=items))["evaluations"]
    assert [answer["decision"] for answer in answers] == [True, True, False, False]
    assert answers[3]["context"] == {"error": {"status": 400, "message": "evaluations[3].resource.id: missing"}}
    assert evaluate_authzen(POLICY, request(evaluations=[]))["decision"] is True


@pytest.mark.parametrize(
    ("semantic", "decisions"),
    [
        ("execute_all", [True, False, True]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
def test_the_semantics_of_several_evaluations(semantic: str, decisions: list[bool]) -> None:
    items = [{}, {"action": {"name": "invoice.burn"}}, {}]
    body = request(evaluations=items, options={"evaluations_semantic": semantic})
    assert [answer["decision"] for answer in evaluate_authzen(POLICY, body)["evaluations"]] == decisions


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "request: expected an object"),
        ({}, "subject: missing"),
        (request(resources=INVOICE), "request: unknown member 'resources'; did you mean 'resource'?"),
        (request(subject="u-1"), "subject: expected an object"),
        (request(subject={"type": "user"}), "subject.id: missing"),
        (request(subject={"type": "user", "id": ""}), "subject.id: expected non-empty text"),
        (
            request(subject={**CLERK, "propertes": {}}),
            "subject: unknown member 'propertes'; did you mean 'properties'?",
        ),
        (request(subject={"type": "user", "id": 7}), "subject.id: expected non-empty text"),
        (
            request(subject={"type": "user", "id": "u", "properties": {"roles": "admin"}}),
            "subject.properties.roles: expected a list of text",
        ),
        (
            request(subject={"type": "user", "id": "u", "properties": {"tenant": 7}}),
            "subject.properties.tenant: expected text",
        ),
        (request(action="invoice.delete"), "action: expected an object"),
        (request(action={"name": None}), "action.name: expected non-empty text"),
        (request(resource={"type": "invoice", "id": "7", "properties": []}), "resource.properties: expected an object"),
        (request(context=[]), "context: expected an object"),
        (request(evaluations={}), "evaluations: expected a list"),
        (request(evaluations=["x"]), "evaluations[0]: expected an object"),
        (request(evaluations=[{}], options=[]), "options: expected an object"),
        (
            request(evaluations=[{}], options={"evaluations_semantic": "any"}),
            "options.evaluations_semantic: expected one of execute_all, deny_on_first_deny, permit_on_first_permit",
        ),
    ],
)
def test_another_shape_is_refused(body: Any, message: str) -> None:
    with pytest.raises(AuthzenError) as caught:
        evaluate_authzen(POLICY, body)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "request: not JSON"),
        ('{"a": 1, "a": 2}', "request: a member is there twice"),
        ('{"a": NaN}', "request: NaN is not JSON"),
        ("[" * 100_000, "request: not JSON"),
    ],
)
def test_text_is_read_strictly(text: str, message: str) -> None:
    with pytest.raises(AuthzenError, match=message):
        parse(text)


def test_an_anonymous_subject_is_nobody() -> None:
    text = "version: 1\nname: p\nactions: {a.b: {allow: [authenticated]}}\n"
    nobody = {"subject": {"type": "anonymous", "id": "-"}, "action": {"name": "a.b"}, "resource": INVOICE}
    assert evaluate_authzen(loads(text), nobody)["decision"] is False
    assert evaluate_authzen(loads(text), {**nobody, "subject": CLERK})["decision"] is True
