"""Decisions: deny overrides, then allow, then default; who matches a rule; what a denial explains; the digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest

from audit_middleware.model import NOBODY, Decision, Resource, Subject
from audit_middleware.policy import Policy, loads
from tests.policy.samples import BILLING, NOWHERE, one_rule, subject

POLICY = loads(BILLING, "billing.yaml")
OWN = Resource("invoice", "7", {"owner": "u-1"})
OTHER = Resource("invoice", "8", {"owner": "u-2"})
INSIDE = {"ip": "192.0.2.1"}
GUEST = {"ip": "10.9.3.4"}


def policy_of(actions: str, head: str = "") -> Policy:
    roles = "roles: {viewer: {}, clerk: {inherits: [viewer]}, admin: {inherits: [clerk]}}"
    return loads(f"version: 1\nname: p\n{head}\n{roles}\nactions:\n  {actions}\n", "p.yaml")


def summary(decision: Decision) -> tuple[str, str, str | None]:
    return decision.effect, decision.cause, decision.rule


@pytest.mark.parametrize(
    ("action", "caller", "resource", "context", "expected"),
    [
        ("invoice.read", subject("viewer"), NOWHERE, {}, ("allow", "rule", "viewer")),
        ("invoice.read", subject("admin"), NOWHERE, {}, ("allow", "rule", "viewer")),
        ("invoice.read", subject(), NOWHERE, {}, ("deny", "default", None)),
        ("invoice.read", subject("VIEWER", "root", ""), NOWHERE, {}, ("deny", "default", None)),
        ("invoice.read", NOBODY, NOWHERE, {}, ("deny", "default", None)),
        ("invoice.create", subject("viewer"), NOWHERE, {}, ("deny", "default", None)),
        ("invoice.create", subject("clerk"), NOWHERE, {}, ("allow", "rule", "clerk")),
        ("invoice.create", subject("clerk", "contractor"), NOWHERE, {}, ("deny", "rule", "contractor")),
        ("invoice.create", subject("contractor"), NOWHERE, {}, ("deny", "rule", "contractor")),
        ("invoice.delete", subject("clerk"), OWN, INSIDE, ("allow", "rule", "owner-clerk")),
        ("invoice.delete", subject("clerk"), OTHER, INSIDE, ("deny", "default", None)),
        ("invoice.delete", subject("clerk"), OWN, GUEST, ("deny", "rule", "guest-network")),
        ("invoice.delete", subject("admin"), OTHER, INSIDE, ("allow", "rule", "admin")),
        ("invoice.delete", subject("admin"), NOWHERE, INSIDE, ("allow", "rule", "admin")),
        ("invoice.delete", subject("admin"), OTHER, GUEST, ("deny", "rule", "guest-network")),
        ("invoice.delete", subject("admin"), OTHER, {}, ("deny", "error", "guest-network")),
        ("invoice.delete", subject("clerk"), NOWHERE, INSIDE, ("deny", "error", "owner-clerk")),
        ("invoice.delete", subject("viewer"), OWN, INSIDE, ("deny", "default", None)),
        ("static.read", NOBODY, NOWHERE, {}, ("allow", "rule", "anyone")),
        ("invoice.raed", subject("admin"), NOWHERE, {}, ("deny", "unknown_action", None)),
    ],
)
def test_decisions(action: str, caller: Subject, resource: Resource, context: dict[str, Any], expected: Any) -> None:
    decision = POLICY.evaluate(action, caller, resource, context)
    assert summary(decision) == expected
    assert decision.policy_digest == POLICY.digest
    assert decision.mode == "enforce"
    assert decision.refused is (decision.effect == "deny")


def test_built_in_roles() -> None:
    policy = policy_of(
        "a.b: {allow: [authenticated]}\n  a.c: {allow: [anyone]}\n  a.d: {deny: [anyone], allow: [viewer]}"
    )
    impostor = Subject(id="anonymous", type="anonymous", roles=("authenticated",))
    claimed = subject("anyone", "authenticated")
    assert policy.evaluate("a.b", subject(), NOWHERE, {}).rule == "authenticated"
    assert policy.evaluate("a.b", claimed, NOWHERE, {}).rule == "authenticated"
    assert policy.evaluate("a.b", NOBODY, NOWHERE, {}).cause == "default"
    assert policy.evaluate("a.b", impostor, NOWHERE, {}).cause == "default"
    assert policy.evaluate("a.c", NOBODY, NOWHERE, {}).rule == "anyone"
    assert summary(policy.evaluate("a.d", subject("admin"), NOWHERE, {})) == ("deny", "rule", "anyone")


def test_built_in_roles_with_conditions() -> None:
    policy = policy_of("a.b: {allow: [{name: r, roles: [authenticated], when: {context.x: 1}}]}")
    assert policy.evaluate("a.b", subject(), NOWHERE, {"x": 1}).rule == "r"
    assert policy.evaluate("a.b", NOBODY, NOWHERE, {"x": 1}).cause == "default"


def test_a_rule_without_roles_is_for_every_caller_its_condition_admits() -> None:
    policy = one_rule("{context.x: 1}")
    assert policy.evaluate("a.b", NOBODY, NOWHERE, {"x": 1}).effect == "allow"
    assert policy.evaluate("a.b", NOBODY, NOWHERE, {"x": 2}).effect == "deny"


def test_of_several_rules_that_decide_alike_the_first_in_the_file_is_named() -> None:
    policy = policy_of("a.b: {allow: [admin, authenticated, viewer, anyone], deny: []}")
    assert policy.evaluate("a.b", subject("viewer", "admin"), NOWHERE, {}).rule == "admin"
    assert policy.evaluate("a.b", subject("clerk"), NOWHERE, {}).rule == "authenticated"
    assert policy.evaluate("a.b", NOBODY, NOWHERE, {}).rule == "anyone"
    later = policy_of("a.b: {allow: [viewer, authenticated]}")
    assert later.evaluate("a.b", subject("viewer"), NOWHERE, {}).rule == "viewer"
    two = "{name: one, roles: [viewer], when: {context.x: 1}}, {name: two, roles: [clerk], when: {context.x: 1}}"
    assert policy_of(f"a.b: {{allow: [{two}]}}").evaluate("a.b", subject("clerk"), NOWHERE, {"x": 1}).rule == "one"
    denying = policy_of(f"a.b: {{deny: [{two}]}}")
    assert denying.evaluate("a.b", subject("clerk"), NOWHERE, {"x": 1}).rule == "one"


def test_an_error_is_not_outvoted_by_another_rule_with_a_condition() -> None:
    good = "{name: good, when: {context.x: 1}}"
    bad = "{name: bad, when: {context.y: 1}}"
    for rules in (f"{good}, {bad}", f"{bad}, {good}"):
        decision = policy_of(f"a.b: {{allow: [{rules}]}}").evaluate("a.b", NOBODY, NOWHERE, {"x": 1})
        assert summary(decision) == ("deny", "error", "bad")
        assert decision.detail == "bad: context.y is missing"


def test_a_rule_without_a_condition_needs_no_other_rule_s_attributes() -> None:
    rules = "{name: owner, roles: [viewer], when: {resource.owner: {same_as: subject.id}}}, admin"
    decision = policy_of(f"a.b: {{allow: [{rules}]}}").evaluate("a.b", subject("admin"), NOWHERE, {})
    assert summary(decision) == ("allow", "rule", "admin")


def test_a_deny_rule_that_holds_is_named_before_one_that_fails() -> None:
    bad, good = "{name: bad, when: {context.y: 1}}", "{name: good, when: {context.x: 1}}"
    for rules in (f"{good}, {bad}", f"{bad}, {good}"):
        policy = policy_of(f"a.b: {{deny: [{rules}], allow: [anyone]}}")
        assert summary(policy.evaluate("a.b", NOBODY, NOWHERE, {"x": 1})) == ("deny", "rule", "good")
        assert summary(policy.evaluate("a.b", NOBODY, NOWHERE, {"x": 2})) == ("deny", "error", "bad")
        assert summary(policy.evaluate("a.b", NOBODY, NOWHERE, {"x": 2, "y": 2})) == ("allow", "rule", "anyone")


def test_conditions_of_rules_for_other_roles_are_not_looked_at() -> None:
    rules = "allow: [viewer], deny: [{name: d, roles: [admin], when: {context.x: 1}}]"
    assert policy_of(f"a.b: {{{rules}}}").evaluate("a.b", subject("viewer"), NOWHERE, {}).effect == "allow"


def test_default_allow() -> None:
    policy = policy_of("a.b: {deny: [viewer], allow: [{name: r, when: {context.x: 1}}]}", head="default: allow")
    assert summary(policy.evaluate("a.b", NOBODY, NOWHERE, {"x": 2})) == ("allow", "default", None)
    assert summary(policy.evaluate("a.b", subject("viewer"), NOWHERE, {"x": 1})) == ("deny", "rule", "viewer")
    # An error still denies, and so does an action that the policy does not know.
    assert summary(policy.evaluate("a.b", NOBODY, NOWHERE, {})) == ("deny", "error", "r")
    assert summary(policy.evaluate("a.c", NOBODY, NOWHERE, {})) == ("deny", "unknown_action", None)


def test_monitor_mode_of_the_policy_or_of_one_action() -> None:
    whole = policy_of("a.b: {allow: [viewer], mode: enforce}", head="mode: monitor")
    assert whole.mode == "monitor"
    for action in ("a.b", "a.unknown"):
        decision = whole.evaluate(action, NOBODY, NOWHERE, {})
        assert (decision.effect, decision.mode, decision.refused) == ("deny", "monitor", False)
    assert whole.evaluate("a.b", subject("viewer"), NOWHERE, {}).mode == "monitor"
    single = policy_of(
        "a.b: {mode: monitor, allow: [{name: r, when: {context.x: 1}}]}\n"
        "  a.c: {}\n"
        "  a.d: {mode: monitor, deny: [anyone]}"
    )
    assert not single.evaluate("a.b", NOBODY, NOWHERE, {"x": 2}).refused
    assert not single.evaluate("a.b", NOBODY, NOWHERE, {}).refused
    assert not single.evaluate("a.d", NOBODY, NOWHERE, {}).refused
    assert single.evaluate("a.c", NOBODY, NOWHERE, {}).refused


# --- near misses -------------------------------------------------------------------------------------------------


def test_near_misses_name_the_condition_or_the_roles_that_failed() -> None:
    denied = POLICY.evaluate("invoice.delete", subject("clerk"), OTHER, INSIDE)
    assert denied.near_misses == ("owner-clerk: resource.owner same_as subject.id",)
    roleless = POLICY.evaluate("invoice.delete", subject("viewer"), OWN, INSIDE)
    assert roleless.near_misses == ("owner-clerk: roles clerk",)
    both = POLICY.evaluate("invoice.delete", subject("viewer"), OTHER, INSIDE)
    assert both.near_misses == ()
    unknown = POLICY.evaluate("invoice.delete", subject("viewer"), NOWHERE, INSIDE)
    assert (unknown.cause, unknown.near_misses) == ("default", ())


def test_near_misses_only_where_no_rule_decided() -> None:
    assert POLICY.evaluate("invoice.delete", subject("clerk"), OTHER, GUEST).near_misses == ()
    assert POLICY.evaluate("invoice.delete", subject("clerk"), NOWHERE, INSIDE).near_misses == ()
    assert POLICY.evaluate("invoice.delete", subject("clerk"), OWN, INSIDE).near_misses == ()


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("{context.a: 1, context.b: 1}", "r: context.b equals 1"),
        ("{all: [{context.a: 1}, {not: {context.a: 1}}]}", "r: not (context.a equals 1)"),
        ("{any: [{context.b: 1}, {context.a: {gt: 5}}]}", "r: context.a gt 5 or context.b equals 1"),
        (
            "{context.a: 1, any: [{context.b: 1}, {all: [{context.b: 3}, {context.a: 1}]}]}",
            "r: context.b equals 1 or (context.a equals 1 and context.b equals 3)",
        ),
        ("{context.missing: 1, context.b: {in: [1, 3]}}", "r: context.b in [1, 3]"),
        ("{context.t: {between: '08:00-18:00', zone: UTC}}", "r: context.t between 08:00-18:00 UTC"),
        ("{context.s: {matches: '^x+$'}}", "r: context.s matches ^x+$"),
        ("{context.s: {exists: false}}", "r: context.s exists false"),
        ("{predicate: never}", "r: predicate never"),
    ],
)
def test_near_misses_name_the_first_part_that_failed(when: str, expected: str) -> None:
    policy = one_rule(when, predicates={"never": lambda request: False})
    context = {"a": 1, "b": 2, "t": "2026-01-05T03:00:00Z", "s": "y"}
    decision = policy.evaluate("a.b", NOBODY, NOWHERE, context)
    assert (decision.cause, decision.near_misses) == ("default", (expected,))


def test_near_misses_are_bounded() -> None:
    long = "z" * 500
    rules = ", ".join(f"{{name: r{n}, when: {{context.a: {long}}}}}" for n in range(9))
    decision = policy_of(f"a.b: {{allow: [{rules}]}}").evaluate("a.b", NOBODY, NOWHERE, {"a": "x"})
    assert [miss.partition(":")[0] for miss in decision.near_misses] == ["r0", "r1", "r2", "r3", "r4"]
    assert {len(miss) for miss in decision.near_misses} == {200}


def test_predicates_are_not_called_for_callers_without_the_role() -> None:
    def unexpected(request: Any) -> bool:
        raise AssertionError("called")

    rule = "{name: r, roles: [admin], when: {predicate: p}}"
    text = f"version: 1\nname: p\nroles: {{admin: {{}}}}\nactions:\n  a.b: {{allow: [{rule}]}}\n"
    policy = loads(text, predicates={"p": unexpected})
    assert policy.evaluate("a.b", NOBODY, NOWHERE, {}).near_misses == ()


@pytest.mark.parametrize("roles", [("x", ["y"]), ({"a": 1},), None, 7, "admin", "viewer"])
def test_roles_that_are_no_sequence_of_names_deny_with_an_error(roles: Any) -> None:
    decision = POLICY.evaluate("invoice.delete", Subject(id="u", roles=roles), OWN, INSIDE)
    assert summary(decision) == ("deny", "error", None)
    assert decision.detail == "subject.roles is not a sequence of names"


def test_the_letters_of_a_role_are_not_roles() -> None:
    policy = loads("version: 1\nname: p\nroles: {a: {}}\nactions: {a.b: {allow: [a]}}\n")
    assert policy.evaluate("a.b", Subject(id="u", roles="bar"), NOWHERE, {}).effect == "deny"  # type: ignore[arg-type] # the mistake under test


# --- canonical form ----------------------------------------------------------------------------------------------


def test_the_digest_is_over_the_canonical_form_which_loads_again() -> None:
    assert POLICY.digest == "sha256:" + hashlib.sha256(POLICY.canonical).hexdigest()
    again = loads(POLICY.canonical.decode(), "archived.json")
    assert again.canonical == POLICY.canonical
    assert json.loads(POLICY.canonical)["name"] == "billing"


REORDERED = """\
# The same policy, written by someone else.
redact:
  patterns: [email, card-number]
  keys: ["card.*", authorization, token, password]
routes:
  - until: "2027-06-30"
    match: "GET /healthz"
    exempt: liveness probe, touches no data
  - {action: static.read, match: GET /static/{path}}
actions:
  static.read:
    severity: info
    allow:
      - anyone
  invoice.delete:
    deny: [{when: {context.ip: {in_cidr: 10.9.0.0/16}}, name: guest-network, roles: [anyone]}]
    mode: enforce
    allow:
      - when: {all: [{resource.owner: {same_as: subject.id}}]}
        roles: [clerk]
        name: owner-clerk
      - {roles: [admin], name: admin}
    severity: high
    event: INVOICE_DELETED
    record: request
  invoice.read: {record: none, allow: [{name: viewer, roles: [viewer]}], event: INVOICE_READ}
  invoice.create:
    deny: [contractor]
    allow: [clerk]
    severity: low
    record: metadata
roles:
  contractor:
  admin: {inherits: [clerk]}
  clerk: {inherits: [viewer]}
  viewer: {inherits: []}
name: billing
version: 1
""".replace(", roles: [anyone]}]", "}]").replace("GET /static/{path}", "'GET /static/{path}'")  # fmt: skip


def test_the_digest_does_not_depend_on_how_the_policy_is_written() -> None:
    assert loads(REORDERED).canonical == POLICY.canonical
    assert loads(REORDERED).digest == POLICY.digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: billing", "name: billing2"),
        ("default: deny", "default: allow"),
        ("default: deny", "mode: monitor"),
        ("clerk: {inherits: [viewer]}", "clerk: {}"),
        ("contractor: {}", "contractor: {}\n  extra: {}"),
        ("record: none", "record: metadata"),
        ("severity: high", "severity: critical"),
        ("event: INVOICE_DELETED", "event: INVOICE_GONE"),
        ("record: request", "mode: monitor"),
        ("name: owner-clerk", "name: owner"),
        ("roles: [clerk], when", "roles: [viewer], when"),
        ("same_as: subject.id", "same_as: subject.tenant"),
        ("same_as: subject.id", "equals: subject.id"),
        ("resource.owner:", "resource.creator:"),
        ("10.9.0.0/16", "10.8.0.0/16"),
        ("deny: [contractor]", "deny: []"),
        ("allow: [anyone]", "allow: [authenticated]"),
        ("GET /static/", "GET|POST /static/"),
        ("/static/{path:path}", "/static2/{path:path}"),
        ("/static/{path:path}", "/static/{file:path}"),
        ("action: static.read", "action: invoice.read"),
        ("action: static.read", "action: static.read, resource: 'file/{path}'"),
        ("liveness probe", "readiness probe"),
        ("2027-06-30", "2027-07-01"),
        (", until: 2027-06-30", ""),
        ("[password, token", "[token"),
        ("[card-number, email]", "[email]"),
    ],
)
def test_the_digest_depends_on_everything_the_policy_means(old: str, new: str) -> None:
    assert old in BILLING
    assert loads(BILLING.replace(old, new, 1)).digest != POLICY.digest


def test_equal_conditions_have_one_form() -> None:
    forms = [
        "{resource.a: {gt: 1, lt: 5}, resource.b: x}",
        "{resource.b: {equals: x}, resource.a: {lt: 5, gt: 1}}",
        "{all: [{resource.a: {lt: 5}}, {resource.b: x}, {resource.a: {gt: 1}}, {resource.b: x}]}",
        "{resource.b: x, all: [{all: [{resource.a: {lt: 5}}]}, {resource.a: {gt: 1}}]}",
        "{any: [{all: [{resource.b: x}, {resource.a: {gt: 1, lt: 5}}]}]}",
    ]
    assert len({one_rule(form).digest for form in forms}) == 1
    different = ["{any: [{resource.a: {gt: 1, lt: 5}}, {resource.b: x}]}", "{not: {resource.a: 1}}", "{resource.a: 1}"]
    assert len({one_rule(form).digest for form in different}) == 3
    assert one_rule("{resource.a: {in: [b, a, b]}}").digest == one_rule("{resource.a: {in: [a, b]}}").digest


def test_the_policy_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        POLICY.default = "allow"  # type: ignore[misc] # the mistake under test
    with pytest.raises(TypeError):
        POLICY.actions["x.y"] = POLICY.actions["invoice.read"]  # type: ignore[index] # the mistake under test
    with pytest.raises(TypeError):
        POLICY.roles["x"] = frozenset()  # type: ignore[index] # the mistake under test
    with pytest.raises(AttributeError):
        POLICY.actions["invoice.read"].allow = ()  # type: ignore[misc] # the mistake under test
