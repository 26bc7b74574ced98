"""Sealing a record and opening it again: what is declared, its copies, and what cannot be moved."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest

from audit_middleware.ledger.canonical import encode
from audit_middleware.persons import About, Person, Treatment
from audit_middleware.privacy.covering import about, withheld
from audit_middleware.privacy.opening import Opener, shown
from audit_middleware.privacy.places import Plan
from audit_middleware.privacy.sealed import Mark, commitment, parse, place_of, text_of
from audit_middleware.privacy.sealing import Sealing
from audit_middleware.schema import Record
from tests.kit import ORIGIN, MemoryKeys

ACTION_ID = "01900000-0000-7000-8000-000000000001"
ALICE = Person("user", "alice")
PATIENT = Person("resource", "patient/7")


def record(**changed: Any) -> dict[str, Any]:
    """A whole record of a clerk who changes a patient's file; ``request__query=`` sets a member."""
    made: dict[str, Any] = {
        "schema_version": 1,
        "action_id": ACTION_ID,
        "timestamp": "2026-11-23T06:00:00.000000Z",
        "recorded_at": "2026-11-23T06:00:00.000001Z",
        "duration_us": 5,
        "kind": "outcome",
        "intent_id": None,
        "sequence": 0,
        "service": {"name": "clinic", "version": None, "instance": "a:1", "environment": None},
        "action": "patient.change",
        "event": "PATIENT_CHANGED",
        "severity": "info",
        "user_id": "alice",
        "subject": {
            "type": "user", "roles": ["clerk"], "tenant": "north", "session": "s-1",
            "properties": {"email": "alice@example.com"},
        },
        "source": {"method": "jwt", "issuer": None, "detail": None},
        "initiator_ip": "192.0.2.7",
        "forwarded": {"untrusted": ["198.51.100.9"], "header": "x-forwarded-for"},
        "user_agent": "curl/8",
        "resource": {"type": "patient", "id": "7", "properties": {"ward": "3b"}},
        "reason": "asked to",
        "impact": {"before": {"name": "Old"}, "after": {"name": "New"}, "count": 1},
        "decision": {
            "effect": "allow", "cause": "rule", "rule": "clerk", "near_misses": [], "policy_digest": None,
            "mode": "enforce", "detail": None,
            "inputs": {
                "values": {"resource.id": "7", "resource.owner": "alice", "subject.email": "alice@example.com",
                           "context.ip": "192.0.2.7", "context.body.email": "p@example.com", "context.hour": 7},
                "missing": [], "withheld": {},
            },
        },
        "outcome": "success",
        "request": {
            "protocol": "http", "method": "PUT", "route": "/patients/{id}", "path": "/patients/7",
            "path_params": {"id": "7"}, "query": "by=phone", "headers": {"referer": "https://x.example/patients/7"},
            "size": 9, "digest": "ab" * 32,
            "body": {
                "content": {"email": "p@example.com", "people": [{"name": "A"}, {"name": "B"}, "C", None], "n": 3},
                "content_type": "application/json", "size": 9, "truncated": False,
            },
        },
        "response": {"status": 200, "size": 2, "error": None, "body": None},
        "trace": dict.fromkeys(
            ("trace_id", "span_id", "parent", "correlation_id", "request_id", "client_correlation_id",
             "client_request_id")
        ),
        "flags": [],
        "extra": {"note": "n"},
    }  # fmt: skip
    for name, value in changed.items():
        *parts, last = name.split("__")
        place = made
        for part in parts:
            place = place[part]
        place[last] = value
    return made


def treat(**hows: str) -> dict[str, Treatment]:
    """``user_id="seal"``, ``reason="seal of resource"``; two underlines are a dot."""
    found = {}
    for name, how in hows.items():
        treatment, _, of = how.partition(" of ")
        found[name.replace("__", ".")] = Treatment(treatment, of or "subject")  # type: ignore[arg-type]  # of tests
    return found


def sealed(given: dict[str, Any], personal: Mapping[str, Treatment], keys: MemoryKeys | None = None) -> dict[str, Any]:
    """Sealed once; the record given is not changed, and the result fits the schema and the entry's form."""
    before = copy.deepcopy(given)
    out = Sealing(keys or MemoryKeys(), ORIGIN).apply(given, personal)
    assert given == before
    Record.model_validate(json.loads(encode(out)))
    return out


def mark(value: Any) -> Mark:
    """The mark that stands for a value."""
    found = place_of(value)
    assert found is not None, value
    return found


# --- one field -----------------------------------------------------------------------------------------------------


def test_each_treatment_leaves_its_own_text() -> None:
    keys = MemoryKeys()
    personal = treat(user_id="token", reason="seal", user_agent="commit", initiator_ip="drop", extra="drop")
    out = sealed(record(), personal, keys)
    token = keys.rows[ALICE].token
    assert out["user_id"] == f"token.v1.{token}"
    assert (mark(out["reason"]).kind, mark(out["reason"]).token) == ("sealed", token)
    assert mark(out["user_agent"]).kind == "commit"
    assert out["initiator_ip"] == "[redacted]"
    assert out["extra"] == {"personal": "[redacted]"}
    assert out["forwarded"]["untrusted"] == ["[redacted]"]
    untouched = ("action", "subject", "source", "impact", "resource", "response", "flags", "trace", "service")
    assert all(out[name] == record()[name] for name in untouched)


def test_what_is_empty_stays_and_what_is_false_or_zero_does_not() -> None:
    given = record(reason=None, query="", extra={"a": "", "b": [], "c": {}, "d": None, "e": 0, "f": False})
    del given["query"]
    out = sealed(given, treat(reason="seal", extra__a="seal", extra__b="seal", extra__c="seal", extra__d="seal",
                              extra__e="seal", extra__f="seal"))  # fmt: skip
    assert out["reason"] is None
    assert {name: out["extra"][name] for name in "abcd"} == {"a": "", "b": [], "c": {}, "d": None}
    assert mark(out["extra"]["e"]).kind == mark(out["extra"]["f"]).kind == "sealed"


def test_the_schema_is_kept_by_objects_lists_and_parts() -> None:
    keys = MemoryKeys()
    personal = treat(subject__roles="seal", subject__properties="seal", request="seal", response="seal", impact="seal")
    out = sealed(record(response__error="ValueError"), personal, keys)
    assert mark(out["subject"]["roles"])
    assert len(out["subject"]["roles"]) == 1
    assert set(out["subject"]["properties"]) == {"personal"}
    assert mark(out["request"]["body"]["content"])
    assert out["request"]["body"]["size"] == 9
    assert mark(out["impact"]["before"])
    assert out["impact"]["count"] == 1
    assert mark(out["response"]["error"])
    assert out["response"]["status"] == 200
    assert Opener(keys, ORIGIN).opened(out) == record(response__error="ValueError")


def test_a_path_meets_lists_and_other_shapes() -> None:
    keys = MemoryKeys()
    out = sealed(record(), treat(request__body__content__people__name="seal"), keys)
    one, two, other, none = out["request"]["body"]["content"]["people"]
    assert mark(one["name"])
    assert mark(two["name"])
    assert mark(other)
    assert none is None
    form = record(request__body__content="email=p%40example.com&x=1")
    assert parse(sealed(form, treat(request__body__content__email="seal"))["request"]["body"]["content"])
    whole = sealed(record(extra={"person": "Ann"}), treat(extra__person__name="drop"))
    assert whole["extra"] == {"person": "[redacted]"}
    top = record(request__body__content=[{"email": "a"}, {"email": "b"}, {"other": 1}])
    found = sealed(top, treat(request__body__content__email="drop"))["request"]["body"]["content"]
    assert found == [{"email": "[redacted]"}, {"email": "[redacted]"}, {"other": 1}]


def test_the_stricter_of_a_part_and_its_member_holds() -> None:
    keys = MemoryKeys()
    out = sealed(record(), treat(impact="seal", impact__after__name="drop"), keys)
    assert Opener(keys, ORIGIN).opened(out)["impact"]["after"] == {"name": "[redacted]"}


def test_a_members_own_key_opens_below_the_key_of_the_whole() -> None:
    keys = MemoryKeys()
    personal = treat(extra__who="seal of resource", extra="seal")
    given = record(extra={"who": {"name": "Patient"}, "note": "by the clerk"})
    out = sealed(given, personal, keys)
    assert mark(out["extra"]).token == keys.rows[ALICE].token
    assert Opener(keys, ORIGIN).opened(out)["extra"] == given["extra"]
    token = keys.rows[PATIENT].token
    keys.erase([token])
    opened = Opener(keys, ORIGIN, {token}).opened(out)["extra"]
    assert opened == {"who": f"erased ({token[:6]}…)", "note": "by the clerk"}


def test_a_long_text_is_sealed_whole() -> None:
    keys = MemoryKeys()
    longest = record(reason="\x01" * 2048, request__query="q" * 2048)
    out = sealed(longest, treat(reason="seal", request__query="seal"), keys)
    assert Opener(keys, ORIGIN).opened(out) == longest
    with pytest.raises(ValueError, match="not sealed"):
        Record.model_validate(record(reason="r" * 2049))


# --- whose ---------------------------------------------------------------------------------------------------------


def test_whose_key_is_taken() -> None:
    keys = MemoryKeys()
    personal = treat(
        user_id="seal", reason="seal", impact="seal of resource", resource__id="token", initiator_ip="token"
    )
    out = sealed(record(), personal, keys)
    assert mark(out["user_id"]).token == mark(out["reason"]).token == keys.rows[ALICE].token
    assert mark(out["impact"]["before"]).token == keys.rows[PATIENT].token
    assert out["resource"]["id"] == f"token.v1.{keys.rows[PATIENT].token}"
    assert mark(out["initiator_ip"]).token == keys.rows[Person("resource", "initiator_ip/192.0.2.7")].token
    assert Opener(keys, ORIGIN).opened(out) == record()


def test_one_address_is_one_token_whoever_sends() -> None:
    keys = MemoryKeys()
    both = [sealed(record(user_id=name), treat(initiator_ip="token"), keys) for name in ("alice", "bob")]
    assert both[0]["initiator_ip"] == both[1]["initiator_ip"]
    sealings = [sealed(record(), treat(initiator_ip="seal"), keys)["initiator_ip"] for _ in range(2)]
    assert sealings[0] != sealings[1]


@pytest.mark.parametrize(("name", "kind"), [("anonymous", "anonymous"), ("system", "system")])
def test_nobody_has_the_key_of_the_day(name: str, kind: str) -> None:
    keys = MemoryKeys()
    out = sealed(record(user_id=name, subject__type=kind), treat(user_id="seal", reason="seal"), keys)
    assert out["user_id"] == name
    assert mark(out["reason"]).token == keys.rows[Person("day", "2026-11-23")].token
    assert Person("user", name) not in keys.rows


def test_a_user_who_is_called_anonymous_is_a_user() -> None:
    keys = MemoryKeys()
    out = sealed(record(user_id="anonymous"), treat(user_id="seal"), keys)
    assert mark(out["user_id"]).token == keys.rows[Person("user", "anonymous")].token


def test_a_thing_without_a_name_has_the_key_of_the_day() -> None:
    keys = MemoryKeys()
    sealed(record(resource__id=None), treat(extra="seal of resource"), keys)
    assert list(keys.rows) == [Person("day", "2026-11-23")]


# --- copies --------------------------------------------------------------------------------------------------------


def test_inputs_follow_the_fields_they_were_read_from() -> None:
    keys = MemoryKeys()
    personal = treat(user_id="token", resource__id="token", initiator_ip="token", subject__properties__email="drop",
                     request__body__content__email="seal")  # fmt: skip
    out = sealed(record(), personal, keys)
    values = out["decision"]["inputs"]["values"]
    assert values["resource.id"] == out["resource"]["id"]
    assert values["resource.owner"] == out["user_id"]  # the user, under another name
    assert values["context.ip"] == out["initiator_ip"]
    assert values["subject.email"] == "[redacted]"
    assert mark(values["context.body.email"]).kind == "sealed"
    assert values["context.hour"] == 7


def test_the_path_and_its_kin_follow_the_resource() -> None:
    keys = MemoryKeys()
    out = sealed(record(), treat(resource__id="token"), keys)
    request, token = out["request"], keys.rows[PATIENT].token
    assert request["path_params"] == {"id": f"token.v1.{token}"}
    for value in (request["path"], request["query"], request["headers"]["referer"]):
        assert (mark(value).kind, mark(value).token) == ("sealed", token)
    assert Opener(keys, ORIGIN).opened(out) == record()
    listing = record(request__path="/patients", request__route="/patients", request__path_params={})
    assert sealed(listing, treat(resource__id="token"))["request"]["path"] == "/patients"


def test_what_says_the_users_id_follows_it() -> None:
    given = record(
        resource__type="user", resource__id="alice", request__path="/users/alice", request__route="/users/{id}",
        request__path_params={"id": "alice", "tab": "mail"}, request__query="to=%61lice", request__headers={},
    )  # fmt: skip
    keys = MemoryKeys()
    out = sealed(given, treat(user_id="token"), keys)
    assert out["resource"]["id"] == out["user_id"] == out["request"]["path_params"]["id"]
    assert out["request"]["path_params"]["tab"] == "mail"
    assert mark(out["request"]["path"])
    assert mark(out["request"]["query"])
    assert sealed(record(), treat(user_id="token"))["request"] == record()["request"]  # nothing says it there


def test_a_digest_of_a_treated_body_becomes_a_commitment() -> None:
    keys = MemoryKeys()
    out = sealed(record(), treat(request__body__content__email="drop"), keys)
    found = mark(out["request"]["digest"])
    assert found.kind == "commit"
    opener = Opener(keys, ORIGIN)
    assert opener.confirms(found, "ab" * 32, ACTION_ID, "request.digest")
    assert not opener.confirms(found, "ba" * 32, ACTION_ID, "request.digest")
    assert not opener.confirms(found, "ab" * 32, ACTION_ID, "request.path")
    assert sealed(record(), treat(reason="seal"))["request"]["digest"] == "ab" * 32


def test_an_amendment_is_covered_one_level_deeper() -> None:
    keys = MemoryKeys()
    extra = {"amends": ACTION_ID, "resource": {"id": "7", "properties": {"w": 1}}, "extra": {"note": "n", "x": 1}}
    given = record(kind="control", user_id="system", subject__type="system", resource__id=None, extra=extra)
    personal = treat(user_id="seal", resource__id="token", resource__properties="seal", extra__note="seal of resource",
                     reason="seal")  # fmt: skip
    whose = About("alice", "user", "patient", "7")
    out = Sealing(keys, ORIGIN).apply(given, personal, whose)
    assert out["user_id"] == "system"
    assert out["extra"]["amends"] == ACTION_ID
    assert out["extra"]["resource"]["id"] == f"token.v1.{keys.rows[PATIENT].token}"
    assert mark(out["extra"]["resource"]["properties"])
    assert out["extra"]["extra"]["x"] == 1
    assert mark(out["extra"]["extra"]["note"]).token == keys.rows[PATIENT].token
    assert mark(out["reason"]).token == keys.rows[ALICE].token
    assert Opener(keys, ORIGIN).opened(out) == given


def test_withheld_needs_no_keys_and_says_so() -> None:
    personal = treat(user_id="token", reason="seal", request__body="seal", resource__id="token")
    out = withheld(record(), Plan(personal), about(record()))
    assert out["flags"] == ["personal_withheld"]
    assert out["user_id"] == out["reason"] == out["resource"]["id"] == out["request"]["path"] == "[redacted]"
    assert out["request"]["digest"] == "[redacted]"
    Record.model_validate(out)
    nothing = record(extra={})
    assert withheld(nothing, Plan(treat(extra="seal")), about(nothing))["flags"] == []


# --- opening -------------------------------------------------------------------------------------------------------


def test_nothing_that_was_moved_or_changed_opens() -> None:
    keys = MemoryKeys()
    out = sealed(record(), treat(reason="seal", user_agent="seal"), keys)
    opener = Opener(keys, ORIGIN)
    swapped = out | {"reason": out["user_agent"], "user_agent": out["reason"]}
    elsewhere = out | {"action_id": ACTION_ID[:-1] + "2"}
    for moved in (swapped, elsewhere):
        found = opener.opened(moved)
        assert found["reason"].startswith("unreadable")
        assert found["user_agent"].startswith("unreadable")
    assert Opener(keys, "example.com/other").opened(out)["reason"].startswith("unreadable")
    content = mark(out["reason"]).content
    for at in range(len(content)):
        broken = bytes(byte ^ (1 if here == at else 0) for here, byte in enumerate(content))
        changed = text_of(mark(out["reason"])._replace(content=broken))
        assert opener.opened(out | {"reason": changed})["reason"].startswith("unreadable")
    for short in range(0, 28, 9):
        cut = text_of(mark(out["reason"])._replace(content=content[:short]))
        assert "asked" not in str(opener.opened(out | {"reason": cut})["reason"])


def test_states() -> None:
    keys = MemoryKeys()
    out = sealed(record(), treat(reason="seal", user_id="token"), keys)
    found = mark(out["reason"])
    assert Opener(keys, ORIGIN).state(found) == "sealed"
    assert Opener(None, ORIGIN).state(found) == "sealed"
    assert Opener(None, ORIGIN).opened(out)["reason"] == f"sealed ({found.token[:6]}…)"
    told = {found.token: commitment(keys.rows[ALICE].secret).hex()}
    assert Opener(keys, ORIGIN, commitments=told).opened(out) == record()
    assert Opener(keys, ORIGIN, commitments={found.token: "00" * 32}).state(found) == "unreadable"
    assert Opener(keys, ORIGIN, {found.token}).opened(out)["reason"] == f"erased ({found.token[:6]}…)"
    opener = Opener(keys, ORIGIN)
    opener.begin()
    assert opener.opened(out) == record()
    keys.erase([found.token])
    opener.begin()
    assert opener.state(found) == "unreadable"
    assert opener.opened(out)["user_id"] == f"unreadable ({found.token[:6]}…)"


def test_shown_without_keys() -> None:
    keys = MemoryKeys()
    out = sealed(record(), treat(user_id="token", reason="seal", subject__roles="seal", extra="commit"), keys)
    short = f"{keys.rows[ALICE].token[:6]}…"
    found = shown(out)
    assert found["user_id"] == f"token {short}"
    assert found["reason"] == f"sealed ({short})"
    assert found["subject"]["roles"] == [f"sealed ({short})"]
    assert found["extra"] == {"personal": f"committed ({short})"}
    assert shown(out, {keys.rows[ALICE].token})["reason"] == f"erased ({short})"
    assert shown(record()) == record()


def test_a_member_named_personal_is_no_object_in_disguise() -> None:
    keys = MemoryKeys()
    given = record(extra={"personal": "x"}, request__digest=None, request__body__content={"personal": ["y"]})
    for personal in (treat(extra="seal", request__body__content="seal"),
                     treat(extra__personal="seal", request__body__content__personal="seal")):  # fmt: skip
        assert Opener(keys, ORIGIN).opened(sealed(given, personal, keys)) == given


# --- keys kept in memory -------------------------------------------------------------------------------------------


def test_an_erased_key_is_forgotten_at_the_next_batch() -> None:
    keys = MemoryKeys()
    sealing = Sealing(keys, ORIGIN)
    sealing.begin()
    old = mark(sealing.apply(record(), treat(reason="seal"))["reason"]).token
    keys.erase([old])
    sealing.begin()
    assert mark(sealing.apply(record(), treat(reason="seal"))["reason"]).token != old


def test_few_keys_are_kept_and_asked_for_once() -> None:
    keys = MemoryKeys()
    sealing = Sealing(keys, ORIGIN, size=2)
    for name in ("a", "b", "a", "b", "c", "c", "a"):
        sealing.apply(record(user_id=name), treat(reason="seal"))
    assert keys.calls.count("of") == 4  # a was the one used longest ago when c came
