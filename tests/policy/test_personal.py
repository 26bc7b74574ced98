"""Personal data in a policy: which fields there are, how they are compiled, and what is refused, found and compared."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.errors import PolicyError
from audit_middleware.model import NOBODY
from audit_middleware.persons import HOWS, Personal, Treatment
from audit_middleware.policy import Policy, loads
from audit_middleware.policy.diff import diff
from audit_middleware.policy.explain import explain
from audit_middleware.policy.fields import FIELDS, PARTS, READABLE, TOKENS, canonical_path, leaves, problem
from audit_middleware.policy.lint import lint
from audit_middleware.policy.personal import CLEAR, effective, merged, strength
from audit_middleware.policy.profiles import GDPR
from tests.policy.samples import NOWHERE, problems

HEAD = "version: 1\nname: p\nactions:\n  a.b: {allow: [anyone]}\n"
SEAL, TOKEN, DROP, COMMIT = Treatment("seal"), Treatment("token"), Treatment("drop"), Treatment("commit")
OF_RESOURCE = Treatment("seal", "resource")


def policy(personal: str, action: str = "") -> Policy:
    """A policy with ``personal: <personal>``, whose action ``a.b`` has ``action`` as its own."""
    own = f", personal: {action}" if action else ""
    return loads(f"version: 1\nname: p\nactions:\n  a.b: {{allow: [anyone]{own}}}\n  c.d: {{}}\npersonal: {personal}\n")


# --- the fields --------------------------------------------------------------------------------------------------


def places(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> dict[str, str]:
    """Every place of the record's published schema that can hold a text, with ``text``, ``list`` or ``any``."""
    options = [node, *node.get("anyOf", ())]
    reference = next((one["$ref"] for one in options if "$ref" in one), None)
    if reference is not None:
        node = schema["$defs"][reference.rpartition("/")[2]]
    if node.get("additionalProperties") is False:
        inner = [(f"{path}.{name}" if path else name, one) for name, one in node["properties"].items()]
        return {at: kind for name, one in inner for at, kind in places(schema, one, name).items()}
    kinds = {one.get("type", "any" if not set(one) & {"anyOf", "enum", "const"} else "") for one in options}
    closed = any(set(one) & {"enum", "const"} for one in options)
    return {} if closed or not kinds & {"string", "array", "object", "any"} else {path: "/".join(sorted(kinds))}


def test_every_place_for_text_in_a_record_can_be_treated_or_says_why_not() -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs" / "record.schema.json").read_text())
    found = set(places(schema, schema))
    readable = {path for path in found if any(path == one or path.startswith(f"{one}.") for one in READABLE)}
    assert found - readable == set(FIELDS)
    assert {one for one in READABLE if not any(path == one or path.startswith(f"{one}.") for path in found)} == set()
    assert set(FIELDS) >= {"user_id", "request.body.content", "decision.inputs.values", "extra", "forwarded.untrusted"}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("user_id", "user_id"),
        ("subject.id", "user_id"),
        ("subject.ip", "initiator_ip"),
        ("context.ip", "initiator_ip"),
        ("context.body.address.city", "request.body.content.address.city"),
        ("context.body", "request.body.content"),
        ("request.body", "request.body"),
        ("request.body.email", "request.body.content.email"),
        ("request.body.content", "request.body.content"),
        ("request.body.content.content", "request.body.content.content"),
        ("request.body.content_type", "request.body.content_type"),
        ("request.body.sizes", "request.body.content.sizes"),
        ("response.body.items.email", "response.body.content.items.email"),
        ("request.headers.Referer", "request.headers.referer"),
        ("request.path_params.patient_id", "request.path_params.patient_id"),
        ("subject.properties.e-mail", "subject.properties.e-mail"),
        ("resource.properties.owner", "resource.properties.owner"),
        ("impact", "impact"),
        ("impact.before.full name", "impact.before.full name"),
        ("extra.customer", "extra.customer"),
        ("decision.inputs", "decision.inputs"),
    ],
)
def test_a_field_is_a_path_in_the_record(text: str, path: str) -> None:
    assert canonical_path(text) == path
    assert canonical_path(path) == path
    assert set(leaves(path)) <= {*FIELDS, path}


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("user", "'user' is not a field of a record; did you mean 'user_id'?"),
        ("request.bdy", "'request.bdy' is not a field of a record; did you mean 'request.body'?"),
        ("service.nmae", "'service.nmae' is not a field of a record"),
        ("", "'' is not a field of a record"),
        ("subject.city", "'subject.city' is not a field of a record (a property is subject.properties.city)"),
        ("service.name", "service.name cannot be treated: it names the service, not a person"),
        (
            "decision.effect",
            "decision.effect cannot be treated: it is a number or one of a few words, and names nobody",
        ),
        ("context.time", "context.time cannot be treated: it says when"),
        ("request.method", "request.method cannot be treated: it says what was done"),
        ("decision.inputs.withheld.x", "decision.inputs.withheld.x cannot be treated: it names attributes"),
        ("request.body.size", "; for a member of the body write request.body.content.size"),
        ("user_id.name", "user_id.name: user_id is one text and has no members"),
        ("forwarded.untrusted.0", "forwarded.untrusted.0: forwarded.untrusted is one list and has no members"),
        ("extra..a", "extra..a: write the names of members with one dot between them"),
        ("extra. a", "extra. a: write the names of members with one dot between them"),
        ("request.headers.a b", "request.headers.a b: 'a b' is not the name of a header"),
        ("decision.inputs.values.resource.owner", "decision.inputs.values is treated as a whole"),
    ],
)
def test_what_is_no_field_is_told_what_it_is(text: str, finding: str) -> None:
    with pytest.raises(PolicyError) as caught:
        canonical_path(text)
    assert finding in str(caught.value)


# --- the profile -------------------------------------------------------------------------------------------------


def test_the_profile_speaks_of_every_field_and_leaves_two_clear() -> None:
    assert set(GDPR) == set(FIELDS)
    assert [path for path, entry in GDPR.items() if entry.treatment == CLEAR] == ["subject.roles", "response.error"]
    assert [path for path, entry in GDPR.items() if problem(path, entry.treatment) is not None] == []


def test_a_profile_is_spelled_out() -> None:
    short, long = policy("gdpr"), policy("{profile: gdpr}")
    assert dict(short.personal) == {path: e.treatment for path, e in GDPR.items() if e.treatment != CLEAR}
    assert short.digest == long.digest
    again = loads(short.canonical.decode())
    assert (again.personal, again.digest, again.profile) == (short.personal, short.digest, None)
    assert short.profile == "gdpr"


def test_fields_beside_a_profile_win_also_when_they_are_weaker() -> None:
    found = policy("{profile: gdpr, request.headers: clear, request.headers.referer: drop, impact: commit}").personal
    assert found["request.headers.referer"] == DROP
    assert "request.headers" not in found
    assert (found["impact.before"], found["impact.after"]) == (COMMIT, COMMIT)
    assert found["user_id"] == SEAL


# --- what is compiled --------------------------------------------------------------------------------------------


def test_parts_stand_for_what_is_in_them_and_named_fields_win() -> None:
    found = policy("{subject.session: token, subject: seal, resource.id: token, response.body: {as: commit}}").personal
    assert dict(found) == {
        **dict.fromkeys(("subject.roles", "subject.tenant", "subject.properties"), SEAL),
        "subject.session": TOKEN,
        "resource.id": Treatment("token", "resource"),
        **dict.fromkeys(("response.body.content", "response.body.content_type"), COMMIT),
    }


def test_members_come_first_and_only_where_they_differ() -> None:
    personal = """
  extra: seal
  extra.a.b: drop
  extra.a: {as: seal, of: resource}
  extra.c: seal
  reason: clear
"""
    assert list(policy(personal).personal.items()) == [("extra.a.b", DROP), ("extra.a", OF_RESOURCE), ("extra", SEAL)]


def test_it_cannot_be_changed_and_is_the_same_object_each_time() -> None:
    found = policy("gdpr", "{user_id: commit}")
    with pytest.raises(TypeError):
        found.personal["user_id"] = CLEAR  # type: ignore[index]  # that is what is tried
    assert found.personal_of("a.b") is found.personal_of("a.b")
    assert found.personal_of("a.b")["user_id"] == COMMIT
    assert found.personal_of("c.d") is found.personal_of(None) is found.personal_of("no.such") is found.personal
    assert found.personal["user_id"] == SEAL


def test_without_it_nothing_changes() -> None:
    plain = loads(HEAD)
    assert dict(plain.personal) == {}
    assert plain.personal_of("a.b") is plain.personal
    assert b"personal" not in plain.canonical
    assert loads(f"{HEAD}personal: {{reason: clear}}\n").digest == plain.digest


def test_an_action_says_only_what_is_stricter() -> None:
    found = policy("{reason: seal, extra.a: seal}", "{reason: seal, extra: commit, request.body.x: drop}")
    body = json.loads(found.canonical)
    assert body["actions"]["a.b"]["personal"] == {"extra": "commit", "request.body.content.x": "drop"}
    assert "personal" not in body["actions"]["c.d"]
    expected = {"request.body.content.x": DROP, "extra": COMMIT, "reason": SEAL}
    assert dict(found.personal_of("a.b")) == expected, (
        "a member that was sealed is not sealed again before a commitment"
    )
    again = loads(found.canonical.decode())
    assert (again.digest, again.personal_of("a.b")) == (found.digest, found.personal_of("a.b"))


def test_an_action_may_take_another_key() -> None:
    found = policy("gdpr", "{request.body: {as: seal, of: resource}}")
    assert found.personal_of("a.b")["request.body.content"] == OF_RESOURCE
    assert found.personal["request.body.content"] == SEAL


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        ("{user_id: redact}", "user_id: 'redact' is not one of clear, token, seal, commit, drop; did you mean 'drop'?"),
        ("{user_id: seel}", "user_id: 'seel' is not one of clear, token, seal, commit, drop; did you mean 'seal'?"),
        ("{user_id: {of: subject}}", "user_id.as: missing"),
        ("{user_id: {as: seal, for: subject}}", "user_id.for: unknown key"),
        ("{user_id: {as: seal, of: tenant}}", "user_id.of: 'tenant' is not one of subject, resource"),
        ("{user_id: [seal]}", "user_id: expected text, found a list"),
        ("{user_id: drop}", "user_id: a record that does not say who asked is none: token, seal or commit"),
        ("{user_id: {as: seal, of: resource}}", "user_id: user_id is data of who asks, not of what was acted on"),
        ("{reason: token}", f"reason: reason identifies nobody by its whole value: token is for {', '.join(TOKENS)}"),
        ("{resource: token}", "resource: resource.properties identifies nobody by its whole value: token is for "),
        ("{resource.id: {as: token, of: subject}}", "resource.id: the token of resource.id is of what was acted on"),
        ("{extra: {as: drop, of: resource}}", "extra: of: is for seal and commit, drop takes nobody's key"),
        ("{initiator_ip: {as: token, of: resource}}", "initiator_ip: of: is for seal and commit, token takes nobody's"),
        ("{user_id: seal, subject.id: token}", "subject.id: user_id is treated on line 6 already"),
        ("{extra: seal, extra.a: token}", "extra.a: extra.a identifies nobody by its whole value"),
        ("{extra: commit, extra.a: seal}", "extra.a: seal is weaker than commit of extra, which hides all of it: name"),
        ("{request.size: seal}", "request.size: request.size cannot be treated: it is a number"),
        ("{}", "nothing is declared: remove it, or name a field"),
    ],
)
def test_mistakes_are_found_in_policies_and_in_actions(said: str, finding: str) -> None:
    places = {
        "personal": f"{HEAD}\npersonal: {said}\n",
        "actions.a.b.personal": f"version: 1\nname: p\nactions:\n  a.b:\n    allow: [anyone]\n    personal: {said}\n",
    }
    for path, text in places.items():
        where = f"6: {path}: " if finding.startswith("nothing") else f"6: {path}."
        assert [one for one in problems(text) if one.startswith(where + finding)], problems(text)


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        ("ccpa", "5: personal: 'ccpa' is not one of gdpr"),
        ("[user_id]", "5: personal: expected a profile (gdpr) or a mapping of fields to treatments, found a list"),
        ("{profile: gdrp}", "5: personal.profile: 'gdrp' is not one of gdpr; did you mean 'gdpr'?"),
        (
            "{profile: gdpr, request.body.amount: clear}",
            "5: personal.request.body.amount: clear is weaker than seal of request.body.content by the profile gdpr,"
            " which hides all of it: name members instead",
        ),
    ],
)
def test_mistakes_in_a_policy(said: str, finding: str) -> None:
    assert problems(f"{HEAD}personal: {said}\n") == [finding]


@pytest.mark.parametrize(
    ("policys", "own", "finding"),
    [
        ("gdpr", "{user_id: token}", "user_id: token is weaker than the policy's seal of user_id"),
        ("gdpr", "{request: clear}", "request: clear is weaker than the policy's seal of request.path"),
        ("{extra: seal}", "{extra.a.b: clear}", "extra.a.b: clear is weaker than the policy's seal of extra"),
        (
            "{extra.a: drop, extra: seal}",
            "{extra.a: commit}",
            "extra.a: commit is weaker than the policy's drop of ext",
        ),
        ("{extra.a.b: drop}", "{extra: clear}", "extra: clear is weaker than the policy's drop of extra.a.b"),
        ("{extra: seal}", "{profile: gdpr}", "profile: a profile is of the whole policy: name fields here"),
    ],
)
def test_an_action_may_only_be_stricter(policys: str, own: str, finding: str) -> None:
    text = f"version: 1\nname: p\npersonal: {policys}\nactions:\n  a.b:\n    personal:\n      {own}\n"
    found = problems(text)
    assert found[0].startswith(f"7: actions.a.b.personal.{finding}")


def test_the_line_is_that_of_the_field() -> None:
    text = (
        "version: 1\nname: p\npersonal:\n  reason: seal\n  subject:\n    as: token\nactions: {a.b: {personal: seal}}\n"
    )
    assert problems(text) == [
        f"5: personal.subject: subject.roles identifies nobody by its whole value: token is for {', '.join(TOKENS)}",
        "7: actions.a.b.personal: expected a mapping, found text",
    ]


# --- what always holds -------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [*FIELDS, *PARTS, "request.body.a", "request.body.a.b", "extra.a", "extra.a.b", "extra.a.b.c", "subject.id"]
)
WORDS: dict[str, Treatment] = {how: Treatment(how) for how in HOWS if how != "token"} | {"of": OF_RESOURCE}
MAPPINGS = st.dictionaries(NAMES, st.sampled_from(["seal", "seal", "commit", "drop", "clear", "of"]), max_size=4)


def text_of(said: dict[str, str], own: dict[str, str], profile: bool) -> str:
    everywhere, action = (
        {name: {"as": "seal", "of": "resource"} if word == "of" else word for name, word in one.items()}
        for one in (said, own)
    )
    everywhere |= {"profile": "gdpr"} if profile else {}
    body = {"version": 1, "name": "p", "actions": {"a.b": {"personal": action} if action else {}}}
    return json.dumps({**body, "personal": everywhere} if everywhere else body)


def wanted(said: dict[str, str], leaf: str) -> Treatment:
    """What a mapping says of a field, by its most special name."""
    words = {len(leaves(canonical_path(name))): word for name, word in said.items() if leaf in whole(name)}
    return WORDS[words[min(words)]]


def whole(name: str) -> tuple[str, ...]:
    return leaves(canonical_path(name))


def checked(found: Policy, said: dict[str, str], own: dict[str, str]) -> None:
    again = loads(found.canonical.decode())
    assert again.digest == found.digest
    assert (again.personal, again.personal_of("a.b")) == (found.personal, found.personal_of("a.b"))
    for personal in (found.personal, found.personal_of("a.b")):
        seen: list[str] = []
        for path, treatment in personal.items():
            assert problem(path, treatment) is None
            assert treatment != CLEAR
            assert not any(path.startswith(f"{one}.") for one in seen), "members come first"
            assert effective(personal, path) == treatment, "what it lies in is not stricter"
            seen.append(path)
    for path in found.personal:
        assert strength(effective(found.personal_of("a.b"), path)) >= strength(found.personal[path])
    for mapping in (said, own):
        for leaf in (leaf for name in mapping for leaf in whole(name)):
            assert strength(effective(found.personal_of("a.b"), leaf)) >= strength(wanted(mapping, leaf))


def test_what_loads_keeps_its_promises() -> None:
    loaded = 0

    @settings(deadline=None, max_examples=400, derandomize=True)
    @given(MAPPINGS, MAPPINGS, st.booleans())
    def keeps(said: dict[str, str], own: dict[str, str], profile: bool) -> None:
        nonlocal loaded
        try:
            found = loads(text_of(said, own, profile))
        except PolicyError:
            return
        loaded += bool(said and own)
        checked(found, said, own)

    keeps()
    assert loaded > 40, "too few of them load to show anything"


def test_the_strictest_of_what_covers_a_path_counts() -> None:
    personal: Personal = {"extra.a": DROP, "extra": SEAL}
    assert [effective(personal, path) for path in ("extra.a.b", "extra.b", "extra", "reason")] == [
        *(DROP, SEAL, SEAL, CLEAR),
    ]
    assert merged(personal, {}) is personal


# --- diff, lint, explain -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (("{reason: clear}", ""), ("{reason: seal}", ""), [("recording", "personal: reason clear -> seal")]),
        (("{reason: seal}", ""), ("{reason: clear}", ""), [("weakening", "personal: reason seal -> clear")]),
        (
            ("{user_id: seal, reason: seal, extra: seal}", ""),
            ("{user_id: token, reason: drop, extra: {as: seal, of: resource}}", ""),
            [
                ("weakening", "personal: user_id seal -> token"),
                ("recording", "personal: extra seal -> seal of resource, reason seal -> drop"),
            ],
        ),
        (("{extra: seal}", ""), ("{extra.a: seal}", ""), [("weakening", "personal: extra seal -> clear")]),
        (("{extra.a: seal}", ""), ("{extra: seal}", ""), [("recording", "personal: extra clear -> seal")]),
        (
            ("{reason: seal}", "{reason: drop}"),
            ("{reason: seal}", ""),
            [("weakening", "a.b: personal: reason drop -> seal")],
        ),
        (
            ("{reason: seal}", ""),
            ("{reason: seal}", "{user_id: token}"),
            [("recording", "a.b: personal: user_id clear -> token")],
        ),
        (("gdpr", ""), ("{profile: gdpr}", "{reason: seal}"), []),
    ],
)
def test_what_is_treated_otherwise_is_a_change(
    old: tuple[str, str], new: tuple[str, str], expected: list[tuple[str, str]]
) -> None:
    found = diff(policy(*old), policy(*new))
    assert [(change.kind, change.text) for change in found.changes] == expected
    assert found.weakened is any(kind == "weakening" for kind, _ in expected)
    assert not found.widened


def found_by_lint(folder: Path, text: str) -> list[tuple[str, str, int, str]]:
    path = folder / "p.yaml"
    path.write_text(text)
    findings = lint(path, date(2026, 3, 2)).findings
    return [(one.code, one.level, one.line, one.message) for one in findings if one.code != "unreachable-action"]


def test_lint_notes_a_policy_without_it(tmp_path: Path) -> None:
    text = "nothing is declared to be personal data: 1 actions record everything in clear"
    assert found_by_lint(tmp_path, HEAD) == [("personal-undeclared", "note", 1, text)]
    assert found_by_lint(tmp_path, f"{HEAD}personal: {{user_id: clear}}\n") == [], "it was thought of"
    assert found_by_lint(tmp_path, HEAD.replace("[anyone]", "[anyone], record: none")) == []
    assert found_by_lint(tmp_path, f"{HEAD}personal: gdpr\n") == []


def test_lint_notes_what_is_weaker_than_the_profile(tmp_path: Path) -> None:
    text = f"{HEAD}personal:\n  profile: gdpr\n  subject.ip: token\n  user_id: commit\n  forwarded: clear\n"
    assert found_by_lint(tmp_path, text) == [
        (
            *("profile-weakened", "note", 7),
            "initiator_ip is token; the profile gdpr has seal: an online identifier",
        ),
        (
            *("profile-weakened", "note", 9),
            "forwarded.untrusted is clear; the profile gdpr has seal: addresses that proxies or clients claim",
        ),
    ]


def test_lint_finds_what_names_the_person_anyway(tmp_path: Path) -> None:
    text = f"{HEAD}personal:\n  reason: seal\n"
    all_clear = (
        "user_id, initiator_ip, forwarded.untrusted are clear: what else is treated is known to be of this person"
    )
    assert found_by_lint(tmp_path, text) == [("person-in-clear", "warning", 5, all_clear)]
    some = f"{text}  user_id: seal\n  forwarded: seal\n"
    assert found_by_lint(tmp_path, some) == [
        ("person-in-clear", "warning", 5, "initiator_ip is clear: it tells who asked")
    ]
    assert found_by_lint(tmp_path, f"{some}  initiator_ip: clear\n") == [], "it was meant"


def test_lint_finds_bodies_in_clear(tmp_path: Path) -> None:
    base = "version: 1\nname: p\npersonal: {user_id: seal, initiator_ip: seal, forwarded: seal%s}\nactions:\n"
    actions = "  a.a: {allow: [anyone]}\n  a.b: {allow: [anyone], record: request}\n"
    actions += "  a.c: {allow: [anyone], record: response}\n  a.d:\n    allow: [anyone]\n    record: request\n"
    actions += "    personal: {request.body.iban: drop}\n"
    assert found_by_lint(tmp_path, base % "" + actions) == [
        (
            "body-in-clear",
            "warning",
            6,
            "record: request, and request.body.content in clear: declare what of it is personal",
        ),
        (
            *("body-in-clear", "warning", 7),
            "record: response, and request.body.content and response.body.content in clear:"
            " declare what of it is personal",
        ),
    ]
    assert found_by_lint(tmp_path, base % ", request.body.a: seal, response.body: clear" + actions) == []


def test_an_explanation_tells_how_the_action_is_recorded() -> None:
    found = policy("{reason: seal, resource.properties: {as: seal, of: resource}}", "{reason: drop}")
    told = [explain(found, action, NOBODY, NOWHERE, {}).to_dict()["personal"] for action in ("a.b", "c.d", "no.such")]
    assert told == [
        {"reason": "drop", "resource.properties": "seal of resource"},
        *([{"reason": "seal", "resource.properties": "seal of resource"}] * 2),
    ]
