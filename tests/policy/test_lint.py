"""What lint reports is true: each kind is found, on its line, and removing what it reports changes no decision."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from audit_middleware.errors import PolicyError
from audit_middleware.model import Resource, Subject
from audit_middleware.policy import loads
from audit_middleware.policy.lint import CODES, lint, sarif
from tests.policy.generated import attributes, policies, resources, subjects

TODAY = date(2026, 3, 2)
HEAD = "version: 1\nname: p\nroles: {viewer: {}, clerk: {inherits: [viewer]}, admin: {inherits: [clerk]}}\nactions:\n"


def found(folder: Path, text: str) -> list[tuple[str, int, str]]:
    """Code, line and message of each finding about a policy, but that it declares no personal data."""
    path = folder / "p.yaml"
    path.write_text(text)
    findings = lint(path, TODAY).findings
    return [(one.code, one.line, one.message) for one in findings if one.code != "personal-undeclared"]


def in_actions(folder: Path, actions: str) -> list[tuple[str, int, str]]:
    """As `found`; the first line of ``actions`` is line 1. Every role is used."""
    used = "".join(f"  z.{role}: {{allow: [{role}]}}\n" for role in ("viewer", "clerk", "admin"))
    listed = found(folder, HEAD + "".join(f"  {line}\n" for line in dedent(actions).strip().splitlines()) + used)
    return [(code, line - 4, text) for code, line, text in listed]


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (
            """
            a.b:
              allow:
                - viewer
                - {name: twice, roles: [clerk]}
            """,
            [("shadowed-rule", 4, "changes no decision: rule viewer covers it")],
        ),
        (
            """
            a.b:
              allow:
                - {name: one, roles: [clerk], when: {resource.n: {lt: 5}}}
                - {name: two, roles: [admin], when: {resource.n: {lt: 3}}}
            """,
            [("shadowed-rule", 4, "changes no decision: rule one covers it")],
        ),
        (
            """
            a.b:
              allow: [viewer]
              deny:
                - {name: all-of-it, roles: [anyone], when: {context.ip: {in_cidr: [10.0.0.0/8]}}}
                - {name: a-part, roles: [clerk], when: {context.ip: {in_cidr: [10.1.0.0/16]}}}
            """,
            [("shadowed-rule", 5, "changes no decision: rule all-of-it covers it")],
        ),
        (
            """
            a.b:
              allow:
                - {name: small, roles: [clerk], when: {resource.n: {gt: 5, lt: 5}}}
                - admin
            """,
            [("condition-never-holds", 3, "can never hold: resource.n gt 5 and resource.n lt 5")],
        ),
        (
            """
            a.b:
              allow:
                - {name: r, when: {any: [{resource.n: 1}, {all: [{resource.m: a}, {resource.m: b}]}]}}
            """,
            [("part-never-holds", 3, "an alternative can never hold: resource.m equals a and resource.m equals b")],
        ),
        (
            """
            a.b:
              allow:
                - {name: inside, roles: [clerk], when: {context.ip: {in_cidr: [10.1.0.0/16]}}}
                - {name: outside, roles: [clerk], when: {context.ip: {in_cidr: [192.0.2.0/24]}}}
              deny:
                - {name: network, roles: [anyone], when: {context.ip: {in_cidr: [10.0.0.0/8]}}}
            """,
            [("unreachable-rule", 3, "deny rules refuse all that it would allow")],
        ),
        (
            "a.b: {allow: [viewer, authenticated]}\n",
            [("shadowed-rule", 1, "changes no decision: rule authenticated covers it")],
        ),
        ("a.b: {allow: [viewer], deny: [anyone]}\n", [("unreachable-action", 1, "no request is ever allowed")]),
        ("a.b: {}\n", [("unreachable-action", 1, "no request is ever allowed: it has no allow rule")]),
    ],
)
def test_each_kind_of_useless_rule(tmp_path: Path, actions: str, expected: list[Any]) -> None:
    assert in_actions(tmp_path, actions) == expected


@pytest.mark.parametrize(
    "actions",
    [
        "a.b: {allow: [viewer], deny: [admin]}\n",
        "a.b:\n  allow:\n    - {name: x, roles: [clerk], when: {resource.o: {same_as: subject.id}}}\n    - admin\n",
        "a.b:\n  allow:\n    - {name: x, roles: [clerk], when: {resource.p: {matches: '^a'}}}\n"
        "    - {name: y, roles: [clerk], when: {resource.p: {matches: '^ab'}}}\n",
    ],
)
def test_what_may_matter_is_not_reported(tmp_path: Path, actions: str) -> None:
    assert in_actions(tmp_path, actions) == []


def test_roles_and_exemptions(tmp_path: Path) -> None:
    text = "version: 1\nname: p\nroles:\n  a: {}\n  b: {inherits: [a]}\n  c: {}\nactions:\n  x.y: {allow: [a]}\n"
    text += "routes:\n"
    text += "  - {match: GET /a, exempt: why, until: 2026-03-01}\n  - {match: GET /b, exempt: why, until: 2026-03-02}\n"
    assert found(tmp_path, text) == [
        ("unused-role", 6, "role c grants nothing: no rule names it or what it inherits"),
        ("expired-exemption", 10, "the exemption ended on 2026-03-01: the route is refused"),
    ]


def test_channels_that_nobody_hears_of(tmp_path: Path) -> None:
    text = "version: 1\nname: p\nroles: {a: {}}\nactions:\n"
    text += "  x.y: {allow: [a], record: none, notify: [one]}\n"
    text += "  x.z: {allow: [a], record: none, notify: {channels: [one], outcomes: [denied]}}\n"
    text += "channels:\n  one: {type: slack, url: '${ONE}'}\n  two: {type: slack, url: '${TWO}'}\n"
    assert found(tmp_path, text) == [
        (
            "notify-unrecorded",
            5,
            "notifies of success, and record: none: what succeeds leaves no record, so nobody hears of it",
        ),
        (
            "unused-channel",
            9,
            "no action notifies channel two: only rules of a followers' configuration can use it",
        ),
    ]


def test_a_policy_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        found(tmp_path, "version: 2\n")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policies, subjects, resources, attributes)
def test_removing_what_is_reported_changes_no_decision(
    tmp_path: Path, source: dict[str, Any], who: Subject, what: Resource, context: dict[str, Any]
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps(source))
    findings = lint(path, TODAY).findings
    gone = {one.where.rpartition(" ")[2] for one in findings if one.code.endswith("-rule") or "never" in one.code}
    gone -= {one.where.rpartition(" ")[2] for one in findings if one.code == "part-never-holds"}
    never = {one.where.rpartition(" ")[2] for one in findings if one.code == "condition-never-holds"}
    policy = loads(json.dumps(source))
    decision = policy.evaluate("a.b", who, what, context)
    assert decision.rule not in never or decision.cause == "error"
    if any(one.code == "unreachable-action" for one in findings):
        assert decision.effect == "deny"
    if never:  # their errors still deny
        return
    action = source["actions"]["a.b"]
    kept = {effect: [rule for rule in action[effect] if rule["name"] not in gone] for effect in action}
    smaller = loads(json.dumps({**source, "actions": {"a.b": kept}}))
    assert smaller.evaluate("a.b", who, what, context).effect == decision.effect


def test_sarif_names_every_rule_and_place(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(HEAD + "  a.b: {}\n")
    log = sarif(lint(path, TODAY).findings, "1.0")
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(CODES)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == path.as_posix()
        assert place["physicalLocation"]["region"]["startLine"] >= 1
    assert {result["ruleId"] for result in run["results"]} == {
        *("unused-role", "unreachable-action", "personal-undeclared")
    }
