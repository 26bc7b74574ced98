"""What a difference says: "no widening" is a proof, a widening that is shown is one, and settings count, too."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from audit_middleware.model import Resource, Subject
from audit_middleware.policy import Policy, loads, schema
from audit_middleware.policy.authzen import evaluate_authzen
from audit_middleware.policy.diff import diff
from tests.policy.generated import attributes, conditions, policies, resources, subjects

HEAD = "version: 1\nname: p\nroles: {support: {}, clerk: {}, admin: {inherits: [clerk]}}\nactions:\n"
LIMITED = "refund.create: {allow: [{name: small, roles: [support], when: {resource.amount: {lte: %s}}}]}"


def policy(*actions: str, rest: str = "") -> Policy:
    return loads(HEAD + "".join(f"  {action}\n" for action in actions) + rest)


def changes(old: Policy, new: Policy) -> list[tuple[str, str, bool]]:
    return [(change.kind, change.text, change.proven) for change in diff(old, new).changes]


def test_an_action_gained_under_a_condition() -> None:
    assert changes(policy("x.y: {}"), policy("x.y: {}", LIMITED % 500)) == [
        ("widening", "support gains refund.create when resource.amount lte 500", True)
    ]


def test_bounds_are_compared_by_meaning() -> None:
    wide, narrow = policy(LIMITED % 500), policy(LIMITED % 100)
    assert changes(narrow, wide) == [
        (
            "widening",
            "support gains refund.create when resource.amount lte 500 (was: if resource.amount lte 100)",
            True,
        )
    ]
    (example,) = [change.example for change in diff(narrow, wide).changes]
    assert example is not None
    assert 100 < example["resource"]["properties"]["amount"] <= 500
    assert [kind for kind, _, _ in changes(wide, narrow)] == ["narrowing"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{lte: 5}", "{lte: 5.0}"),
        ("{in: [1, 2]}", "{not_in: [3], in: [1, 2, 3]}"),
        ("{equals: a}", "{in: [a]}"),
        ("{in_cidr: [10.0.0.0/9, 10.128.0.0/9]}", "{in_cidr: 10.0.0.0/8}"),
    ],
)
def test_what_means_the_same_is_no_change(old: str, new: str) -> None:
    first, second = (policy(f"a.b: {{allow: [{{name: r, when: {{resource.p: {when}}}}}]}}") for when in (old, new))
    assert changes(first, second) == changes(second, first) == []


def test_what_cannot_be_compared_is_treated_as_a_widening() -> None:
    first, second = (
        policy(f"a.b: {{allow: [{{name: r, roles: [clerk], when: {{resource.p: {{matches: '{pattern}'}}}}}}]}}")
        for pattern in ("^[a-f]{8}$", "^[a-f]{4}[a-f]{4}$")
    )
    found = diff(first, second)
    assert found.widened
    (widening, narrowing) = found.changes
    assert (widening.kind, widening.proven, widening.callers) == ("widening", False, ("clerk", "admin"))
    assert widening.text.endswith("cannot be compared: treated as widening")
    assert (narrowing.kind, narrowing.proven) == ("narrowing", False)


def test_an_example_shows_what_it_is_for_as_json_too() -> None:
    """Only a time as an object, which no JSON holds, is refused by the new rule alone: then there is no example."""
    window = "{name: late, when: {resource.p: {between: '08:00-18:00', zone: UTC}}}"
    itself = "{name: more, when: {not: {resource.p: {same_as: resource.p}}}}"
    first = policy(f"a.b: {{allow: [anyone], deny: [{window}]}}")
    (change, *_) = diff(first, policy(f"a.b: {{allow: [anyone], deny: [{window}, {itself}]}}")).changes
    assert (change.kind, change.proven, change.example) == ("narrowing", True, None)


def test_combinations_of_roles_are_compared() -> None:
    """Alone neither role gains: together a rule of one role refused what the other role's allows."""
    both = policy("a.b: {allow: [clerk], deny: [support]}")
    (change,) = diff(both, policy("a.b: {allow: [clerk]}")).changes
    assert (change.kind, change.proven, change.callers) == ("widening", True, ("admin", "support"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{allow: [clerk]}", "{allow: [clerk], mode: monitor}", ["widening"]),
        ("{allow: [clerk], mode: monitor}", "{allow: [clerk]}", ["narrowing"]),
        ("{allow: [clerk], record: request}", "{allow: [clerk]}", ["recording"]),
        ("{allow: [clerk]}", "{allow: [{name: other, roles: [clerk]}]}", []),
        ("{allow: [clerk], require: {mfa: true}}", "{allow: [clerk]}", ["widening"]),
        ("{allow: [clerk], require: {acr: [gold]}}", "{allow: [clerk], require: {acr: [gold, tin]}}", ["widening"]),
        ("{allow: [clerk], require: {auth_age: 15m}}", "{allow: [clerk], require: {auth_age: 5m}}", ["narrowing"]),
        ("{allow: [clerk], require: {reason: true}}", "{allow: [clerk], require: {mfa: true}}", ["widening"]),
        ("{allow: [clerk], limit: {rate: 5/hour}}", "{allow: [clerk], limit: {rate: 9/hour}}", ["widening"]),
        ("{allow: [clerk], limit: {rate: 5/hour}}", "{allow: [clerk], limit: {rate: 5/day}}", ["narrowing"]),
        ("{allow: [clerk], limit: {rate: 5/hour}}", "{allow: [clerk], limit: {rate: 9/day}}", ["widening"]),
        ("{allow: [clerk], limit: {concurrent: 2}}", "{allow: [clerk]}", ["widening"]),
        ("{allow: [clerk]}", "{allow: [clerk], limit: {concurrent: 2}}", ["narrowing"]),
        (
            "{allow: [clerk], limit: {rate: 5/hour}}",
            "{allow: [clerk], limit: {rate: 5/hour, per: address}}",
            ["widening"],
        ),
    ],
)
def test_settings_that_guard_count_as_well(
    old: str, new: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "ENFORCED", frozenset(schema.FEATURES))
    assert [kind for kind, _, _ in changes(policy(f"a.b: {old}"), policy(f"a.b: {new}"))] == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "routes: [{match: GET /x, exempt: why}]\n", "widening"),
        ("routes: [{match: GET /x, exempt: why}]\n", "", "narrowing"),
        ("", "routes: [{match: GET /x, action: a.b}]\n", "widening"),
        (
            "routes: [{match: GET /x, exempt: why, until: 2026-01-01}]\n",
            "routes: [{match: GET /x, exempt: why, until: 2027-01-01}]\n",
            "widening",
        ),
        (
            "routes: [{match: GET /x, exempt: why}]\n",
            "routes: [{match: GET /x, exempt: why, until: 2027-01-01}]\n",
            "narrowing",
        ),
        ("routes: [{match: '* /x', exempt: why}]\n", "routes: [{match: GET /x, exempt: other}]\n", "narrowing"),
        ("", "default: allow\n", "widening"),
        ("", "redact: {keys: [password]}\n", "recording"),
    ],
)
def test_routes_and_the_rest_of_the_file(old: str, new: str, expected: str) -> None:
    action = "a.b: {allow: [anyone]}"
    kinds = {kind for kind, _, _ in changes(policy(action, rest=old), policy(action, rest=new))}
    assert kinds == {expected}


# --- properties --------------------------------------------------------------------------------------------------

steady = settings(deadline=None, max_examples=150)


def narrowed(source: dict[str, Any], rule: int, condition: Any) -> dict[str, Any]:
    """The policy after an edit that a person makes to forbid more."""
    found = deepcopy(source)
    action = found["actions"]["a.b"]
    if action["allow"] and rule % 2:
        chosen = action["allow"][rule % len(action["allow"])]
        chosen["when"] = {"all": [chosen["when"], condition]} if "when" in chosen else condition
    else:
        action["deny"].append({"name": "more", "when": condition})
    return found


def decided_alike_or_less(
    old: dict[str, Any], new: dict[str, Any], who: Subject, what: Resource, context: dict[str, Any]
) -> None:
    before, after = loads(json.dumps(old)), loads(json.dumps(new))
    found = diff(before, after)
    event(f"widened: {found.widened}")
    effects = [each.evaluate("a.b", who, what, context).effect for each in (before, after)]
    assert found.widened or effects != ["deny", "allow"]
    for change in found.changes:
        if change.example is not None:
            request = {**change.example, "action": {"name": "a.b"}}
            request["resource"] = {**request["resource"], "type": "t", "id": "1"}
            assume("resource.type" not in json.dumps([old, new]))
            decisions = [evaluate_authzen(each, request)["decision"] for each in (before, after)]
            assert decisions == ([False, True] if change.kind == "widening" else [True, False])


@steady
@given(policies, policies, subjects, resources, attributes)
def test_no_widening_is_a_proof(
    old: dict[str, Any], new: dict[str, Any], who: Subject, what: Resource, context: dict[str, Any]
) -> None:
    """Any two policies: if no widening is reported, no request is allowed by the new one that the old one denied."""
    decided_alike_or_less(old, new, who, what, context)


@steady
@given(policies, st.integers(0, 9), conditions, subjects, resources, attributes)
def test_no_widening_is_a_proof_after_an_edit(
    source: dict[str, Any], rule: int, condition: Any, who: Subject, what: Resource, context: dict[str, Any]
) -> None:
    """Policies that are near one another, in both directions, so that many pairs do not widen."""
    edited = narrowed(source, rule, condition)
    decided_alike_or_less(source, edited, who, what, context)
    decided_alike_or_less(edited, source, who, what, context)


@steady
@given(policies)
def test_a_policy_does_not_differ_from_itself(source: dict[str, Any]) -> None:
    same = loads(json.dumps(source))
    assert diff(same, loads(json.dumps(source))).changes == ()


def _notifying(action: str, *channels: str) -> Policy:
    return loads(
        f"version: 1\nname: p\nactions: {{a.b: {{{action}}}}}\nchannels:\n"
        + "".join(f"  {channel}\n" for channel in channels)
    )


def test_who_is_told_is_compared() -> None:
    one, two = "one: {type: slack, url: '${ONE}'}", "two: {type: slack, url: '${TWO}'}"
    few, all_of = "notify: {channels: [one], outcomes: [denied, error]}", "notify: [one]"
    base = _notifying(all_of, one, two)
    assert changes(base, _notifying("notify: [one, two]", one, two)) == [
        ("recording", "a.b: notify one -> one, two", True)
    ]
    assert changes(base, _notifying(few, one, two)) == [("weakening", "a.b: notify one -> one of denied, error", True)]
    assert changes(_notifying(few, one, two), base) == [("recording", "a.b: notify one of denied, error -> one", True)]
    assert changes(base, _notifying("", one, two)) == [("weakening", "a.b: notify one -> nothing", True)]


def test_channels_are_compared_without_showing_what_they_hold() -> None:
    old = _notifying(
        "", "one: {type: slack, url: '${ONE}'}", "two: {type: slack, url: '${TWO}'}", "a: {type: slack, url: '${A}'}"
    )
    new = _notifying(
        "",
        "one: {type: slack, url: '${OTHER}'}",
        "two: {type: apprise, url: '${TWO}'}",
        "b: {type: slack, url: '${A}'}",
    )
    assert [text for _, text, _ in changes(old, new)] == [
        "channel a: slack -> nothing",
        "channel b: nothing -> slack",
        "channel one: other url",
        "channel two: slack -> apprise",
    ]
