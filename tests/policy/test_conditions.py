"""Each operator: when it is true, when false, and when it is an error."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest.mock import Mock

import pytest

from audit_middleware.model import NOBODY, Resource, Subject
from audit_middleware.policy.operators import OPERATORS
from tests.policy.samples import decide, one_rule, verdict


class Tier(enum.StrEnum):
    GOLD = "gold"


@pytest.mark.parametrize(
    ("when", "x", "expected"),
    [
        ("{resource.x: red}", "red", "true"),
        ("{resource.x: red}", "Red", "false"),
        ("{resource.x: {equals: red}}", "red", "true"),
        ("{resource.x: {equals: gold}}", Tier.GOLD, "true"),
        ("{resource.x: 5}", 5, "true"),
        ("{resource.x: 5}", 5.0, "true"),
        ("{resource.x: 5}", "5", "resource.x is text, not a number"),
        ("{resource.x: '5'}", 5, "resource.x is a number, not text"),
        ("{resource.x: 1}", True, "resource.x is a boolean, not a number"),
        ("{resource.x: true}", 1, "resource.x is a number, not a boolean"),
        ("{resource.x: true}", True, "true"),
        ("{resource.x: true}", False, "false"),
        ("{resource.x: 0}", float("nan"), "resource.x is not a number"),
        ("{resource.x: red}", ["red"], "resource.x is not a single text, number or boolean"),
        ("{resource.x: red}", {"red": 1}, "resource.x is not a single text, number or boolean"),
        ("{resource.x: red}", b"red", "resource.x is not a single text, number or boolean"),
        ("{resource.x: red}", None, "resource.x is missing"),
        ("{resource.x: {not_equals: red}}", "blue", "true"),
        ("{resource.x: {not_equals: red}}", "red", "false"),
        ("{resource.x: {not_equals: red}}", 1, "resource.x is a number, not text"),
        ("{resource.x: {not_equals: red}}", None, "resource.x is missing"),
        ("{resource.x: {in: [red, blue]}}", "blue", "true"),
        ("{resource.x: {in: [red, blue]}}", "green", "false"),
        ("{resource.x: {in: [red, blue]}}", 1, "resource.x is a number, not text"),
        ("{resource.x: {in: [1, 2.5]}}", 2.5, "true"),
        ("{resource.x: {in: [1, 2]}}", True, "resource.x is a boolean, not a number"),
        ("{resource.x: {in: [red]}}", ["red"], "resource.x is not a single text, number or boolean"),
        ("{resource.x: {not_in: [red, blue]}}", "green", "true"),
        ("{resource.x: {not_in: [red, blue]}}", "red", "false"),
        ("{resource.x: {not_in: [red, blue]}}", None, "resource.x is missing"),
        ("{resource.x: {lt: 5}}", 4.9, "true"),
        ("{resource.x: {lt: 5}}", 5, "false"),
        ("{resource.x: {lte: 5}}", 5, "true"),
        ("{resource.x: {lte: 5}}", 6, "false"),
        ("{resource.x: {gt: 5}}", 6, "true"),
        ("{resource.x: {gt: 5}}", 5, "false"),
        ("{resource.x: {gte: 5}}", 5, "true"),
        ("{resource.x: {gte: 5}}", 4, "false"),
        ("{resource.x: {gte: 0}}", True, "resource.x is a boolean, not a number"),
        ("{resource.x: {lt: 5}}", "4", "resource.x is text, not a number"),
        ("{resource.x: {lt: 5}}", float("nan"), "resource.x is not a number"),
        ("{resource.x: {lt: 5}}", 10**400, "false"),
        ("{resource.x: {matches: '^[A-Z]+-\\d+$'}}", "ABC-12", "true"),
        ("{resource.x: {matches: '^[A-Z]+-\\d+$'}}", "ABC-12\n", "false"),
        ("{resource.x: {matches: '[A-Z]+-\\d+'}}", "see ABC-12, thanks", "true"),
        ("{resource.x: {matches: '^.$'}}", "é", "true"),
        ("{resource.x: {matches: a}}", 1, "resource.x is not text"),
        ("{resource.x: {matches: a}}", "\ud800", "resource.x is not valid Unicode"),
        ("{resource.x: {starts_with: inv/}}", "inv/7", "true"),
        ("{resource.x: {starts_with: inv/}}", "INV/7", "false"),
        ("{resource.x: {starts_with: inv/}}", ["inv/7"], "resource.x is not text"),
        ("{resource.x: {ends_with: .pdf}}", "a.pdf", "true"),
        ("{resource.x: {ends_with: .pdf}}", "a.pdf.exe", "false"),
        ("{resource.x: {ends_with: .pdf}}", 1, "resource.x is not text"),
        ("{resource.x: {contains: red}}", ["blue", "red"], "true"),
        ("{resource.x: {contains: red}}", ("blue",), "false"),
        ("{resource.x: {contains: red}}", [], "false"),
        ("{resource.x: {contains: 1}}", [True], "false"),
        ("{resource.x: {contains: true}}", [1], "false"),
        ("{resource.x: {contains: 1}}", [{"a": 1}, 1.0], "true"),
        ("{resource.x: {contains: red}}", "red", "resource.x is not a list"),
        ("{resource.x: {contains: red}}", {"red": 1}, "resource.x is not a list"),
        ("{resource.x: {exists: true}}", 0, "true"),
        ("{resource.x: {exists: true}}", "", "true"),
        ("{resource.x: {exists: true}}", None, "false"),
        ("{resource.x: {exists: false}}", None, "true"),
        ("{resource.x: {exists: false}}", False, "false"),
        ("{resource.x: {in_cidr: 10.9.0.0/16}}", "10.9.255.255", "true"),
        ("{resource.x: {in_cidr: 10.9.0.0/16}}", "10.10.0.0", "false"),
        ("{resource.x: {in_cidr: 10.9.0.0/16}}", "10.8.255.255", "false"),
        ("{resource.x: {in_cidr: 10.9.0.1}}", "10.9.0.1", "true"),
        ("{resource.x: {in_cidr: 10.9.0.0/16}}", "::ffff:10.9.1.1", "true"),
        ("{resource.x: {in_cidr: '::ffff:10.9.0.0/112'}}", "10.9.1.1", "true"),
        ("{resource.x: {in_cidr: '::/0'}}", "10.9.1.1", "false"),
        ("{resource.x: {in_cidr: '::/0'}}", "2001:db8::1", "true"),
        ("{resource.x: {in_cidr: 0.0.0.0/0}}", "2001:db8::1", "false"),
        ("{resource.x: {in_cidr: ['2001:db8::/32', 192.0.2.0/24]}}", "192.0.2.7", "true"),
        ("{resource.x: {in_cidr: 'fe80::/10'}}", "fe80::1%eth0", "true"),
        ("{resource.x: {in_cidr: 'fe80::/10'}}", "fe80::1%" + "e" * 56, "true"),
        ("{resource.x: {in_cidr: 'fe80::/10'}}", "fe80::1%" + "e" * 57, "resource.x is not an IP address"),
        ("{resource.x: {in_cidr: '::fffe:0:0/95'}}", "::fffe:1:1", "true"),
        ("{resource.x: {in_cidr: 10.0.0.0/8}}", "010.0.0.1", "resource.x is not an IP address"),
        ("{resource.x: {in_cidr: 10.0.0.0/8}}", "10.0.0.1\n", "resource.x is not an IP address"),
        ("{resource.x: {in_cidr: 10.0.0.0/8}}", "unknown", "resource.x is not an IP address"),
        ("{resource.x: {in_cidr: 10.0.0.0/8}}", 167772161, "resource.x is not an IP address"),
        ("{resource.x: {in_cidr: 10.0.0.0/8}}", "1" * 65, "resource.x is not an IP address"),
    ],
)  # fmt: skip
def test_operators(when: str, x: Any, expected: str) -> None:
    assert verdict(when, what={"x": x}) == expected


@pytest.mark.parametrize(
    ("window", "zone", "moment", "expected"),
    [
        ("08:00-18:00", "UTC", "2026-01-05T08:00:00Z", "true"),
        ("08:00-18:00", "UTC", "2026-01-05T07:59:59.999999Z", "false"),
        ("08:00-18:00", "UTC", "2026-01-05T17:59:59Z", "true"),
        ("08:00-18:00", "UTC", "2026-01-05T18:00:00Z", "false"),
        # Berlin is an hour ahead of UTC in January, two in July.
        ("08:00-18:00", "Europe/Berlin", "2026-01-05T07:00:00Z", "true"),
        ("08:00-18:00", "Europe/Berlin", "2026-01-05T06:59:00Z", "false"),
        ("08:00-18:00", "Europe/Berlin", "2026-07-05T06:00:00Z", "true"),
        ("08:00-18:00", "Europe/Berlin", "2026-07-05T05:59:00Z", "false"),
        ("22:00-06:00", "UTC", "2026-01-05T23:00:00Z", "true"),
        ("22:00-06:00", "UTC", "2026-01-05T05:59:00Z", "true"),
        ("22:00-06:00", "UTC", "2026-01-05T06:00:00Z", "false"),
        ("22:00-06:00", "UTC", "2026-01-05T21:59:00Z", "false"),
        ("18:00-24:00", "UTC", "2026-01-05T23:59:59Z", "true"),
        ("18:00-24:00", "UTC", "2026-01-05T00:00:00Z", "false"),
        ("08:00-18:00", "UTC", "2026-01-05T09:30:00+02:00", "false"),
        ("08:00-18:00", "UTC", datetime(2026, 1, 5, 9, tzinfo=UTC), "true"),
        ("08:00-18:00", "UTC", datetime(2026, 1, 5, 9, tzinfo=timezone(timedelta(hours=2))), "false"),
        ("00:00-00:01", "UTC", 0, "true"),
        ("00:00-00:01", "UTC", 60.5, "false"),
        ("08:00-18:00", "UTC", datetime(2026, 1, 5, 9), "context.time is not a time with a zone"),
        ("08:00-18:00", "UTC", "2026-01-05T09:00:00", "context.time is not a time with a zone"),
        ("08:00-18:00", "UTC", "nine", "context.time is not a time with a zone"),
        ("08:00-18:00", "UTC", True, "context.time is not a time with a zone"),
        ("08:00-18:00", "UTC", 1e300, "context.time is not a time with a zone"),
        ("08:00-18:00", "Asia/Tokyo", datetime.max.replace(tzinfo=UTC), "context.time is not a time with a zone"),
        ("08:00-18:00", "UTC", [9], "context.time is not a time with a zone"),
        ("08:00-18:00", "UTC", None, "context.time is missing"),
    ],
)
def test_between(window: str, zone: str, moment: Any, expected: str) -> None:
    when = f"{{context.time: {{between: '{window}', zone: {zone}}}}}"
    assert verdict(when, context={"time": moment}) == expected


@pytest.mark.parametrize(
    ("who", "what", "expected"),
    [
        ({"team": "a"}, {"team": "a"}, "true"),
        ({"team": "a"}, {"team": "b"}, "false"),
        ({"team": 1}, {"team": 1.0}, "true"),
        ({"team": 1}, {"team": "1"}, "resource.team is text, not a number as subject.team"),
        ({"team": 1}, {"team": True}, "resource.team is a boolean, not a number as subject.team"),
        ({}, {"team": "b"}, "subject.team is missing"),
        ({"team": "a"}, {}, "resource.team is missing"),
        ({}, {}, "resource.team is missing"),
        ({"team": None}, {"team": None}, "resource.team is missing"),
        ({"team": ["a"]}, {"team": ["a"]}, "resource.team is not a single text, number or boolean"),
    ],
)
def test_same_as(who: Mapping[str, Any], what: Mapping[str, Any], expected: str) -> None:
    assert verdict("{resource.team: {same_as: subject.team}}", who=who, what=what) == expected


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("{subject.id: u-1}", "true"),
        ("{subject.type: user}", "true"),
        ("{subject.tenant: acme}", "true"),
        ("{subject.session: s}", "subject.session is missing"),
        ("{subject.roles: {contains: auditor}}", "true"),
        ("{subject.roles: {contains: admin}}", "false"),
        ("{subject.department: sales}", "true"),
        ("{subject.address.city: Bonn}", "true"),
        ("{subject.address.street: x}", "subject.address.street is missing"),
        ("{subject.department.x: x}", "subject.department.x is missing"),
        ("{subject.address.city.x: {exists: true}}", "false"),
        ("{subject.a-b: 1}", "true"),
        ("{resource.id: '7'}", "true"),
        ("{resource.type: invoice}", "true"),
        ("{resource.name: x}", "resource.name is missing"),
        ("{context.method: DELETE}", "true"),
        ("{context.headers.x: z}", "true"),
        ("{context.id: {exists: true}}", "false"),
    ],
)
def test_attributes(when: str, expected: str) -> None:
    who = {"department": "sales", "address": {"city": "Bonn"}, "a-b": 1, "id": "spoofed", "tenant": "spoofed"}
    what = {"id": "spoofed", "type": "spoofed"}
    assert verdict(when, who=who, what=what, context={"method": "DELETE", "headers": {"x": "z"}}) == expected


def test_fields_of_a_resource_that_are_unknown_are_missing() -> None:
    policy = one_rule("{resource.id: {exists: true}}")
    assert policy.evaluate("a.b", NOBODY, Resource("invoice"), {}).effect == "deny"
    assert policy.evaluate("a.b", NOBODY, Resource("invoice", "7"), {}).effect == "allow"


TRUE, FALSE, ERROR = "{context.t: true}", "{context.t: false}", "{context.e: true}"


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (f"{{all: [{TRUE}, {TRUE}]}}", "true"),
        (f"{{all: [{TRUE}, {FALSE}]}}", "false"),
        (f"{{all: [{TRUE}, {ERROR}]}}", "error"),
        (f"{{all: [{ERROR}, {FALSE}]}}", "false"),
        (f"{{all: [{FALSE}, {ERROR}]}}", "false"),
        (f"{{any: [{FALSE}, {TRUE}]}}", "true"),
        (f"{{any: [{FALSE}, {FALSE}]}}", "false"),
        (f"{{any: [{FALSE}, {ERROR}]}}", "error"),
        (f"{{any: [{ERROR}, {TRUE}]}}", "true"),
        (f"{{any: [{TRUE}, {ERROR}]}}", "true"),
        (f"{{not: {TRUE}}}", "false"),
        (f"{{not: {FALSE}}}", "true"),
        (f"{{not: {ERROR}}}", "error"),
        (f"{{not: {{any: [{FALSE}, {{all: [{TRUE}, {FALSE}]}}]}}}}", "true"),
        ("{context.t: true, context.n: 7}", "true"),
        ("{context.t: true, context.n: 8}", "false"),
        ("{context.n: {gt: 5, lt: 8}}", "true"),
        ("{context.n: {gt: 5, lt: 7}}", "false"),
        (f"{{context.n: 7, any: [{FALSE}, {TRUE}], not: {FALSE}}}", "true"),
        (f"{{context.n: 7, any: [{FALSE}, {TRUE}], not: {TRUE}}}", "false"),
        ("{context.e: {exists: true, equals: x}}", "false"),
    ],
)
def test_three_valued_logic(when: str, expected: str) -> None:
    found = verdict(when, context={"t": True, "n": 7})
    assert found == ("context.e is missing" if expected == "error" else expected)


def test_an_error_names_rule_and_attribute_and_no_value() -> None:
    decision = decide("{resource.card: {lt: 5}}", what={"card": "4111111111111111"})
    assert (decision.effect, decision.cause, decision.rule) == ("deny", "error", "r")
    assert decision.detail == "r: resource.card is text, not a number"


def test_predicates_get_the_request_in_authzen_shape() -> None:
    seen: list[Mapping[str, Any]] = []

    def owns(request: Mapping[str, Any]) -> bool:
        seen.append(request)
        return bool(request["subject"]["id"] == request["resource"]["properties"]["owner"])

    policy = one_rule("{predicate: owns}", predicates={"owns": owns})
    caller = Subject(id="u-1", roles=("clerk",), tenant="acme", properties={"team": "a"})
    assert policy.evaluate("a.b", caller, Resource("invoice", "7", {"owner": "u-1"}), {"ip": "::1"}).effect == "allow"
    assert policy.evaluate("a.b", caller, Resource("invoice", "7", {"owner": "u-2"}), {}).cause == "default"
    assert seen[0] == {
        "subject": {
            "type": "user",
            "id": "u-1",
            "properties": {"team": "a", "roles": ("clerk",), "tenant": "acme", "session": None},
        },
        "action": {"name": "a.b"},
        "resource": {"type": "invoice", "id": "7", "properties": {"owner": "u-1"}},
        "context": {"ip": "::1"},
    }


def test_a_predicate_that_raises_or_answers_otherwise_denies() -> None:
    def broken(request: Mapping[str, Any]) -> bool:
        raise KeyError("a secret")

    policy = one_rule("{predicate: p}", predicates={"p": broken})
    decision = policy.evaluate("a.b", NOBODY, Resource(), {})
    assert (decision.effect, decision.cause, decision.detail) == ("deny", "error", "r: predicate p raised KeyError")
    answers: tuple[Any, ...] = (1, "yes", None)
    for answer in answers:
        policy = one_rule("{predicate: p}", predicates={"p": Mock(return_value=answer)})
        decision = policy.evaluate("a.b", NOBODY, Resource(), {})
        assert decision.detail == "r: predicate p answered neither True nor False"
        assert decision.effect == "deny"


def test_the_set_of_operators_is_closed() -> None:
    # A new operator is a new part of the language: the documentation, the linter and this list have to know it.
    assert sorted(OPERATORS) == [
        *("between", "contains", "ends_with", "equals", "exists", "gt", "gte", "in", "in_cidr"),
        *("lt", "lte", "matches", "not_equals", "not_in", "same_as", "starts_with"),
    ]
