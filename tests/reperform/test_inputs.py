"""What a record tells of the inputs of its decision: enough to make it again, or that it is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_middleware.evidence.reperform import Policies, reperform
from audit_middleware.ledger.canonical import decode, encode
from audit_middleware.model import Resource, Subject
from audit_middleware.pipeline.inputs import MAX_INPUTS
from audit_middleware.policy.evaluate import Policy
from audit_middleware.policy.load import loads
from audit_middleware.privacy.redact import Redactor
from audit_middleware.schema import Record
from tests.policy.generated import attributes, policies, resources, subjects
from tests.reperform.support import AT, again, decided, read_back, summary, written

QUICK = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
requirements = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "mfa": st.just(True),
            "acr": st.just(["ab", "b"]),
            "auth_age": st.sampled_from(["5m", "1h"]),
            "reason": st.sampled_from([True, {"matches": "^[A-Z]+-[0-9]+"}]),
            "confirm": st.just(True),
        },
    ).filter(bool),
)
offers = st.lists(
    st.sampled_from(
        [(b"x-request-reason", b"OPS-1"), (b"x-request-reason", b"because"), (b"x-confirm", b"1"), (b"x-confirm", b"2")]
    ),
    max_size=3,
)
signed_in = st.fixed_dictionaries(
    {},
    optional={
        "mfa": st.sampled_from([True, False, 1, "yes"]),
        "acr": st.sampled_from(["ab", "c", ["ab"], 3]),
        "auth_time": st.sampled_from([AT / 1e9 - 10, AT // 10**9 - 300, AT // 10**9, 0, "now", float("nan")]),
    },
)


def policy_of(body: dict[str, Any], require: Any = None) -> Policy:
    if require:
        body["actions"]["a.b"]["require"] = require
    return loads(json.dumps(body))


@QUICK
@given(policies, requirements, subjects, signed_in, resources, attributes, offers)
def test_what_is_told_leads_to_the_same_decision(
    body: Any, require: Any, subject: Subject, more: Any, resource: Resource, context: Any, headers: Any
) -> None:
    policy = policy_of(body, require)
    subject = Subject(subject.id, subject.type, subject.roles, properties={**subject.properties, **more})
    facts = decided(policy, "a.b", subject, resource, context, headers)
    entry = written(facts)
    record = decode(entry)
    Record.model_validate(record)
    verdict = again(entry, policy)
    assert verdict is not None
    inputs = record["decision"]["inputs"]
    if inputs is not None and inputs["withheld"]:
        assert (verdict.state, verdict.why) == ("not re-performable", "withheld inputs")
        return
    assert verdict.state == "same", (verdict, record["decision"], summary(facts.decision))


@QUICK
@given(policies, subjects, resources, attributes)
def test_what_is_redacted_is_never_taken_for_the_same(
    body: Any, subject: Subject, resource: Resource, context: Any
) -> None:
    policy = policy_of(body)
    facts = decided(policy, "a.b", subject, resource, context)
    entry = written(facts, Redactor(["p"], ["re:^ab"]))
    told = decode(entry)["decision"]["inputs"] or {"values": {}, "withheld": {}}
    assert not [name for name in told["values"] if name.endswith(".p") or told["values"][name] == "abc"]
    verdict = again(entry, policy)
    assert verdict is not None
    assert verdict.state == ("not re-performable" if told["withheld"] else "same")


READS = """
version: 1
name: test
roles: {clerk: {}, admin: {}}
actions:
  doc.plain: {allow: [clerk]}
  doc.own:
    allow:
      - {name: own, roles: [clerk], when: {resource.owner: {same_as: subject.id}, context.ip: {in_cidr: [127.0.0.0/8]}}}
      - {name: admin, roles: [admin]}
  doc.state: {allow: [{name: open, roles: [clerk], when: {resource.state: {not_in: [closed]}}}]}
  doc.tags: {allow: [{name: tagged, roles: [clerk], when: {resource.tags: {contains: 5}}}]}
  doc.hours: {allow: [{name: hours, roles: [clerk], when: {context.time: {between: '08:00-09:30', zone: UTC}}}]}
  doc.many: {allow: [{name: all, roles: [clerk], when: {any: [MANY]}}]}
  doc.reason: {allow: [clerk], require: {reason: {matches: '^[A-Z]+-'}}}
"""
MANY = ", ".join(f"{{resource.property-{n}: x}}" for n in range(400))
POLICY = loads(READS.replace("MANY", MANY))
CLERK = Subject("ann", roles=("clerk",))


def told(action: str, subject: Subject = CLERK, headers: Any = (), redactor: Any = None, **properties: Any) -> Any:
    facts = decided(POLICY, action, subject, Resource("doc", "1", properties), {}, headers)
    entry = written(facts, redactor)
    return decode(entry)["decision"]["inputs"], again(entry, POLICY)


def test_a_grant_by_role_has_no_inputs() -> None:
    inputs, verdict = told("doc.plain")
    assert inputs is None
    assert verdict.state == "same"
    admin = Subject("root", roles=("admin",))
    assert told("doc.own", admin, owner="ann")[0] is None, "the rule of others is not read"
    both = Subject("root", roles=("clerk", "admin"))
    assert told("doc.own", both, owner="ann")[0] is None, "a rule that is not needed is not read"


def test_only_what_the_record_does_not_say_anyway_is_repeated() -> None:
    inputs, verdict = told("doc.own", owner="ann", other="secret")
    assert inputs == {"values": {"resource.owner": "ann"}, "missing": [], "withheld": {}}
    assert verdict.state == "same"
    assert told("doc.hours")[0] is None, "the time is in the record, to the microsecond"
    assert told("doc.hours")[1].state == "same"


def test_a_missing_attribute_is_said_to_be_missing() -> None:
    inputs, verdict = told("doc.own")
    assert inputs == {"values": {}, "missing": ["resource.owner"], "withheld": {}}
    assert verdict.state == "same"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.5, {"number": "1.5"}),
        (2**60, {"number": str(2**60)}),
        (datetime(2026, 3, 2, 10, tzinfo=UTC), {"time": "2026-03-02T10:00:00+00:00"}),
        (UUID(int=1), {"type": "UUID"}),
        ({"a": 1}, {"type": "dict"}),
        (["a", 5, None], ["a", 5, None]),
        ({"a"}, ["a"]),
        (True, True),
    ],
)
def test_values_keep_their_kind(value: Any, shown: Any) -> None:
    for action, name in (("doc.state", "state"), ("doc.tags", "tags")):
        inputs, verdict = told(action, **{name: value})
        assert inputs["values"] == {f"resource.{name}": shown}
        assert verdict.state == "same"


@pytest.mark.parametrize(
    ("value", "why"),
    [("x" * 5000, "too long"), ("\ud800", "not text"), ("ann@example.com", "redacted"), ([Decimal(5)], "not plain")],
)
def test_what_cannot_be_written_down_is_withheld(value: Any, why: str) -> None:
    inputs, verdict = told("doc.tags", redactor=Redactor([], ["email"]), tags=value)
    assert inputs == {"values": {}, "missing": [], "withheld": {"resource.tags": why}}
    assert (verdict.state, verdict.why) == ("not re-performable", "withheld inputs")


def test_inputs_take_a_bounded_part_of_the_record() -> None:
    inputs, verdict = told("doc.many", CLERK, (), None, **{f"property-{n}": "y" * 100 for n in range(400)})
    assert inputs["withheld"]["*"] == "too long"
    assert len(json.dumps(inputs)) < 3 * MAX_INPUTS
    assert verdict.why == "withheld inputs"


def test_roles_and_names_that_the_record_cuts_are_told_in_full_or_withheld() -> None:
    many = Subject("ann", roles=(*(f"r{n}" for n in range(70)), "clerk"))
    inputs, verdict = told("doc.plain", many)
    assert inputs["values"]["subject.roles"][-1] == "clerk"
    assert verdict.state == "same"
    inputs, verdict = told("doc.plain", Subject("ann", roles=(*(f"{n:0200}" for n in range(70)), "clerk")))
    assert inputs["withheld"] == {"subject.roles": "too long"}
    assert verdict.why == "withheld inputs"
    long = "ann" * 200
    inputs, verdict = told("doc.own", Subject(long, roles=("clerk",)), owner=long)
    assert inputs["values"] == {"resource.owner": long, "subject.id": long}
    assert verdict.state == "same"


def test_what_a_handler_says_is_not_taken_for_the_callers_reason() -> None:
    facts = decided(POLICY, "doc.reason", CLERK, Resource(), {})
    facts.notes.reason = "OPS-1"
    entry = written(facts)
    assert decode(entry)["decision"]["inputs"] == {"values": {}, "missing": ["reason"], "withheld": {}}
    verdict = again(entry, POLICY)
    assert verdict is not None
    assert verdict.state == "same"


def test_keys_that_are_paths_are_withheld() -> None:
    redactor = Redactor(["card.*"])
    policy = loads(
        "version: 1\nname: p\nactions: {a.b: {allow: [{name: r, when: {context.body.card.number: '4'}}]}}",
    )
    for body, names in (({"card": {"number": "4"}}, ["context.body.card.number"]), ({"number": "4"}, [])):
        entry = written(decided(policy, "a.b", CLERK, Resource(), {"body": body}), redactor)
        assert list(decode(entry)["decision"]["inputs"]["withheld"]) == names


def test_a_reason_that_is_redacted_is_withheld() -> None:
    reason = [(b"x-request-reason", b"OPS-1 for ann@example.com")]
    assert told("doc.reason", headers=reason)[0] is None
    assert told("doc.reason", headers=reason)[1].state == "same"
    inputs, verdict = told("doc.reason", headers=reason, redactor=Redactor([], ["email"]))
    assert inputs["withheld"] == {"reason": "redacted"}
    assert verdict.state == "not re-performable"


def test_a_record_that_is_cut_to_its_core_withholds_its_inputs() -> None:
    loud = Subject("ann", roles=("clerk", *("\x01" * 250 for _ in range(60))))
    entry = written(decided(POLICY, "doc.own", loud, Resource("doc", "1", {"owner": "ann"}), {}))
    assert decode(entry)["decision"]["inputs"]["withheld"] == {"*": "too long"}
    verdict = again(entry, POLICY)
    assert verdict is not None
    assert verdict.why == "withheld inputs"


def forged(**changes: Any) -> bytes:
    """A canonical entry whose inputs somebody else wrote."""
    entry = decode(written(decided(POLICY, "doc.state", CLERK, Resource("doc", "1", {"state": "open"}), {})))
    entry["decision"]["inputs"] = {"values": {}, "missing": [], "withheld": {}} | changes.pop("inputs", {})
    return encode(entry | changes)


@pytest.mark.parametrize(
    "value",
    [{"number": "1" * 400}, {"number": "x"}, {"number": 1}, {"time": "soon"}, {"a": "b"}, {}, {"type": "a", "b": "c"}],
)
def test_inputs_that_nobody_wrote_like_this_are_a_difference(value: Any) -> None:
    verdict = again(forged(inputs={"values": {"resource.state": value}}), POLICY)
    assert verdict is not None
    assert verdict.state == "differs"
    assert "not as they are written" in verdict.why


@pytest.mark.parametrize("values", [{"state": "open"}, {"other.state": "open"}, {"subject.roles": "clerk"}])
def test_names_that_are_no_attributes_are_a_difference(values: Any) -> None:
    verdict = again(forged(inputs={"values": {"resource.state": "open"} | values}), POLICY)
    assert verdict is not None
    assert verdict.state == "differs"


def test_inputs_that_were_left_out_are_reported() -> None:
    verdict = again(forged(), POLICY)
    assert verdict is not None
    assert (verdict.state, verdict.why) == ("not re-performable", "inputs not recorded")


def test_what_is_no_record_is_counted() -> None:
    good = forged(inputs={"values": {"resource.state": "open"}})
    policies = Policies({POLICY.digest: POLICY.canonical}.get)
    result = reperform(read_back(good, b"{}", b"not JSON", forged(timestamp="2026-99-99T00:00:00.000000Z")), policies)
    assert (result.same, result.holds, result.not_performable) == (1, True, {"not a record": 3})
