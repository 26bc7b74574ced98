"""Loading is strict: every mistake is named with file, line, key and, where one is near, the valid name."""

from __future__ import annotations

from typing import Any

import pytest

from audit_middleware.persons import Treatment
from audit_middleware.policy import loads, schema
from audit_middleware.policy.channels import OPTIONS
from audit_middleware.policy.schema import Channel, Limit, Rate, Requirements
from tests.policy.samples import BILLING, problems

HEAD = "version: 1\nname: p\n"


def action(body: str) -> list[str]:
    """The findings about one action, whose body starts on line 5."""
    return problems(f"{HEAD}roles: {{viewer: {{}}, clerk: {{}}}}\nactions:\n  a.b: {body}\n")


def rule(body: str) -> list[str]:
    """The findings about the first allow rule of ``a.b``."""
    prefix = "5: actions.a.b.allow[0]"
    found = action(f"{{allow: [{body}]}}")
    assert all(line.startswith(prefix) for line in found)
    return [line.removeprefix(prefix) for line in found]


def test_the_design_s_policy_loads() -> None:
    policy = loads(BILLING, "billing.yaml")
    assert (policy.name, policy.version, policy.mode, policy.default) == ("billing", 1, "enforce", "deny")
    assert policy.roles == {
        "viewer": {"viewer"},
        "clerk": {"clerk", "viewer"},
        "admin": {"admin", "clerk", "viewer"},
        "contractor": {"contractor"},
    }
    delete, read = policy.actions["invoice.delete"], policy.actions["invoice.read"]
    assert (delete.event, delete.severity, delete.record) == ("INVOICE_DELETED", "high", "request")
    assert (read.event, read.severity, read.record) == ("INVOICE_READ", "low", "none")
    assert (read.mode, read.guarantee, read.on_log_failure) == ("enforce", "after", "deny")
    assert (read.require, read.limit, read.notify) == (None, None, ())
    assert [rule.name for rule in (*delete.allow, *delete.deny)] == ["owner-clerk", "admin", "guest-network"]
    assert policy.redact.keys == ("authorization", "card.*", "password", "token")
    assert policy.redact.patterns == ("card-number", "email")


def test_everything_wrong_is_reported_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        """\
        version: 2
        nam: x
        mode: enforced
        default: Deny
        roles:
          clerk: {inherit: [viewer]}
          boss: {inherits: [clark]}
        actions:
          invoice.read: {allow: [bos], record: metdata}
        routes:
          - {match: 'GET /x', action: invoice.raed}
        """
    )
    assert found == [
        "1: name: missing",
        "1: version: expected 1, the only version of the language, found 2",
        "2: nam: unknown key; did you mean 'name'?",
        "3: mode: 'enforced' is not one of enforce, monitor; did you mean 'enforce'?",
        "4: default: 'Deny' is not one of deny, allow; did you mean 'deny'?",
        "6: roles.clerk.inherit: unknown key; did you mean 'inherits'?",
        "7: roles.boss.inherits[0]: unknown role 'clark'; did you mean 'clerk'?",
        "9: actions.invoice.read.allow[0]: unknown role 'bos'; did you mean 'boss'?",
        "9: actions.invoice.read.record: 'metdata' is not one of none, metadata, request, response; "
        "did you mean 'metadata'?",
        "11: routes[0].action: unknown action 'invoice.raed'; did you mean 'invoice.read'?",
    ]


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("actions: {}", ["1: version: missing", "1: name: missing"]),
        (HEAD, ["1: actions: missing"]),
        (HEAD + "actions:\n", ["3: actions: expected a mapping, found nothing"]),
        ("version: '1'\nname: p\nactions: {}", ["1: version: expected 1, the only version of the language, found 1"]),
        (
            "version: true\nname: p\nactions: {}",
            ["1: version: expected 1, the only version of the language, found True"],
        ),
        (
            "version: 1\nname: a b\nactions: {}",
            ["2: name: 'a b' is not a name: letters, digits, dot, dash, underscore"],
        ),
        ("version: 1\nname: 7\nactions: {}", ["2: name: expected text, found a number: write '7' in quotes"]),
        ("version: 1\nname:\nactions: {}", ["2: name: expected text, found nothing"]),
        ("version: 1\nname: [p]\nactions: {}", ["2: name: expected text, found a list"]),
        (HEAD + "actions: {}\nroles: [viewer]\n", ["4: roles: expected a mapping, found a list"]),
        (HEAD + "actions: {}\nroles: {v: [x]}\n", ["4: roles.v: expected a mapping, found a list"]),
        (HEAD + "actions: {}\nroles: {anyone: {}}\n", ["4: roles.anyone: 'anyone' is built in and cannot be defined"]),
        (
            HEAD + "actions: {}\nroles: {authenticated: {}}\n",
            ["4: roles.authenticated: 'authenticated' is built in and cannot be defined"],
        ),
        (HEAD + "actions: {}\nroles: {' v': {}}\n", ["4: roles. v: ' v' is not a role name"]),
        (HEAD + 'actions: {}\nroles: {"a\\nb": {}}\n', ["4: roles.a\\nb: 'a\\nb' is not a role name"]),
        (HEAD + 'actions:\n  a.b: {allow: ["a\\nb"]}\n', ["4: actions.a.b.allow[0]: expected one line"]),
        (HEAD + "actions: {}\nroles: {'': {}}\n", ["4: roles.: '' is not a role name"]),
        (
            HEAD + "actions: {}\nroles: {v: {inherits: w}}\n",
            ["4: roles.v.inherits: expected a list, found text: write [w]"],
        ),
        (
            HEAD + "actions: {}\nroles: {v: {inherits: [anyone]}}\n",
            ["4: roles.v.inherits[0]: unknown role 'anyone'"],
        ),
        (
            HEAD + "actions: {}\nroles: {v: {}, w: {inherits: [v, v]}}\n",
            ["4: roles.w.inherits[1]: 'v' is listed twice"],
        ),
        (HEAD + "actions:\n  read: {}\n", ["4: actions.read: 'read' is not an action name such as invoice.delete"]),
        (HEAD + "actions:\n  A.b: {}\n", ["4: actions.A.b: 'A.b' is not an action name such as invoice.delete"]),
        (HEAD + "actions:\n  iam.*: {}\n", ["4: actions.iam.*: 'iam.*' is not an action name such as invoice.delete"]),
        (
            HEAD + "actions:\n  2fa.on: {}\n",
            ["4: actions.2fa.on.event: '2FA_ON' is not an event name such as INVOICE_DELETED"],
        ),
        (HEAD + "actions: {}\nredact: {key: []}\n", ["4: redact.key: unknown key; did you mean 'keys'?"]),
        (
            HEAD + "actions: {}\nredact: {patterns: [emial]}\n",
            [
                "4: redact.patterns[0]: unknown pattern 'emial' (a pattern of your own starts with re:); "
                "did you mean 'email'?"
            ],
        ),
        (
            HEAD + "actions: {}\nredact: {patterns: ['re:[']}\n",
            ["4: redact.patterns[0]: RE2 refuses the pattern: missing ]: ["],
        ),
    ],
)
def test_top_level_mistakes(text: str, findings: list[str]) -> None:
    assert problems(text) == findings


def test_an_action_without_a_body_has_no_rules() -> None:
    empty = loads(f"{HEAD}actions:\n  a.b:\n")
    assert (empty.actions["a.b"].allow, empty.actions["a.b"].deny) == ((), ())
    assert empty.digest == loads(f"{HEAD}actions: {{a.b: {{}}}}\n").digest


def test_text_is_bounded() -> None:
    head = f"{HEAD}actions: {{}}\nroutes: [{{match: 'GET /', exempt: "
    assert loads(f"{head}{'x' * 1024}}}]\n").routes[0].exempt == "x" * 1024
    assert problems(f"{head}{'x' * 1025}}}]\n") == ["4: routes[0].exempt: expected 1 to 1024 characters, found 1025"]


def test_inheritance_cycles_are_reported_once_each() -> None:
    found = problems(
        HEAD
        + """actions: {}
roles:
  a: {inherits: [b]}
  b: {inherits: [c, a]}
  c: {inherits: [a]}
  d: {inherits: [d]}
  e: {inherits: [a]}
"""
    )
    assert found == [
        "5: roles.a: inherits itself: a -> b -> a",
        "7: roles.c: inherits itself: c -> a -> b -> c",
        "8: roles.d: inherits itself: d -> d",
    ]


def test_longer_cycles_and_diamonds() -> None:
    found = problems(
        f"{HEAD}actions: {{}}\nroles: {{a: {{inherits: [b]}}, b: {{inherits: [c]}}, c: {{inherits: [a]}}}}\n"
    )
    assert found == ["4: roles.a: inherits itself: a -> b -> c -> a"]
    diamond = "{a: {inherits: [b, c]}, b: {inherits: [d]}, c: {inherits: [d]}, d: {}}"
    assert loads(f"{HEAD}actions: {{}}\nroles: {diamond}\n").roles["a"] == {"a", "b", "c", "d"}


def test_the_number_of_roles_is_bounded() -> None:
    roles = "".join(f"  r{n}:\n" for n in range(2001))
    assert problems(f"{HEAD}actions: {{}}\nroles:\n{roles}") == ["5: roles: 2001 roles are more than 2000"]
    assert len(loads(f"{HEAD}actions: {{}}\nroles:\n{roles.removesuffix('  r2000:' + chr(10))}").roles) == 2000


@pytest.mark.parametrize(
    ("body", "findings"),
    [
        ("{alow: [viewer]}", ["5: actions.a.b.alow: unknown key; did you mean 'allow'?"]),
        ("[viewer]", ["5: actions.a.b: expected a mapping, found a list"]),
        ("{allow: viewer}", ["5: actions.a.b.allow: expected a list, found text: write [viewer]"]),
        ("{allow: {viewer: {}}}", ["5: actions.a.b.allow: expected a list, found a mapping"]),
        ("{allow: [7]}", ["5: actions.a.b.allow[0]: expected text, found a number: write '7' in quotes"]),
        ("{event: invoice}", ["5: actions.a.b.event: 'invoice' is not an event name such as INVOICE_DELETED"]),
        (
            "{severity: hihg}",
            ["5: actions.a.b.severity: 'hihg' is not one of info, low, medium, high, critical; did you mean 'high'?"],
        ),
        ("{record: yes}", ["5: actions.a.b.record: 'yes' is not one of none, metadata, request, response"]),
        ("{mode: monitr}", ["5: actions.a.b.mode: 'monitr' is not one of enforce, monitor; did you mean 'monitor'?"]),
        (
            "{guarantee: befor}",
            ["5: actions.a.b.guarantee: 'befor' is not one of after, sealed, before; did you mean 'before'?"],
        ),
        ("{allow: [viewer, viewer]}", ["5: actions.a.b.allow[1]: duplicate rule name 'viewer', first on line 5"]),
        (
            "{allow: [viewer], deny: [{name: viewer, roles: [clerk]}]}",
            ["5: actions.a.b.deny[0].name: duplicate rule name 'viewer', first on line 5"],
        ),
    ],
)
def test_mistakes_in_an_action(body: str, findings: list[str]) -> None:
    assert action(body) == findings


@pytest.mark.parametrize(
    ("body", "findings"),
    [
        ("viewr", [": unknown role 'viewr'; did you mean 'viewer'?"]),
        ("{roles: [viewer]}", [".name: missing"]),
        ("{name: r}", [": rule 'r' needs roles or when: for every caller write roles: [anyone]"]),
        ("{name: r, roles: []}", [".roles: an empty list can never match"]),
        ("{name: r, roles: [authenticatd]}", [".roles[0]: unknown role 'authenticatd'; did you mean 'authenticated'?"]),
        ("{name: r, role: [viewer]}", [
            ".role: unknown key; did you mean 'roles'?",
            ": rule 'r' needs roles or when: for every caller write roles: [anyone]",
        ]),
        ("{name: r, roles: [viewer], when: resource.x}", [
            ".when: expected a mapping of attributes to conditions, or all, any, not, predicate"
        ]),
        ("[viewer]", [": expected a mapping, found a list"]),
    ],
)  # fmt: skip
def test_mistakes_in_a_rule(body: str, findings: list[str]) -> None:
    assert rule(body) == findings


NOT_A_CONDITION = "expected a mapping of attributes to conditions, or all, any, not, predicate"


@pytest.mark.parametrize(
    ("when", "findings"),
    [
        ("{}", [f": {NOT_A_CONDITION}"]),
        ("{al: []}", [".al: not an attribute or a condition; did you mean 'all'?"]),
        ("{all: {resource.x: 1}}", [".all: expected a list, found a mapping"]),
        ("{all: []}", [".all: an empty list says nothing"]),
        ("{any: []}", [".any: an empty list says nothing"]),
        ("{any: [resource.x]}", [f".any[0]: {NOT_A_CONDITION}"]),
        ("{not: [{resource.x: 1}]}", [f".not: {NOT_A_CONDITION}"]),
        ("{subjct.id: x}", [
            ".subjct.id: 'subjct' is not an attribute root (subject, resource, context); did you mean 'subject'?"
        ]),
        ("{resource.: x}", [".resource.: 'resource.' is not an attribute: write resource.<name>"]),
        ("{resource.a b: x}", [".resource.a b: 'resource.a b' is not an attribute: write resource.<name>"]),
        ("{resource.x: [1]}", [".resource.x: expected an operator, found a list: write {in: [...]}"]),
        ("{resource.x: {}}", [".resource.x: expected an operator, found an empty mapping"]),
        ("{resource.x: }", [".resource.x: expected a value, found nothing: to ask for absence write exists: false"]),
        ("{resource.x: {same: subject.id}}", [".resource.x.same: unknown operator; did you mean 'same_as'?"]),
        ("{resource.x: {same_as: id}}", [
            ".resource.x.same_as: 'id' is not an attribute root (subject, resource, context)"
        ]),
        ("{resource.x: {same_as: subject}}", [
            ".resource.x.same_as: 'subject' is not an attribute: write subject.<name>"
        ]),
        ("{resource.x: {equals: [1]}}", [".resource.x.equals: expected a single value, found a list: use in"]),
        ("{resource.x: {equals: {a: 1}}}", [".resource.x.equals: expected a single value, found a mapping"]),
        ("{resource.x: {in: 1}}", [".resource.x.in: expected a list, found a number: write [1]"]),
        ("{resource.x: {in: []}}", [".resource.x.in: an empty list can never hold"]),
        ("{resource.x: {not_in: []}}", [".resource.x.not_in: an empty list can never hold"]),
        ("{resource.x: {in: [1, a, true]}}", [
            ".resource.x.in: values of different types (a boolean, a number, text)"
        ]),
        ("{resource.x: {lt: '5'}}", [".resource.x.lt: expected a number"]),
        ("{resource.x: {gte: true}}", [".resource.x.gte: expected a number"]),
        ("{resource.x: {exists: 1}}", [".resource.x.exists: expected true or false, found a number"]),
        ("{resource.x: {starts_with: 1}}", [".resource.x.starts_with: expected non-empty text"]),
        ("{resource.x: {ends_with: ''}}", [".resource.x.ends_with: expected non-empty text"]),
        ("{resource.x: {matches: 1}}", [".resource.x.matches: expected non-empty text"]),
        ("{resource.x: {matches: '(a)\\1'}}", [
            ".resource.x.matches: RE2 refuses the pattern: invalid escape sequence: \\1 (RE2 has no backreferences)"
        ]),
        ("{resource.x: {matches: 'a(?=b)'}}", [
            ".resource.x.matches: RE2 refuses the pattern: invalid perl operator: (?= (RE2 has no lookaround)"
        ]),
        ("{resource.x: {matches: 'a\\Z'}}", [
            ".resource.x.matches: RE2 refuses the pattern: invalid escape sequence: \\Z (write \\z or $)"
        ]),
        ("{resource.x: {matches: '.{300}'}}", [
            ".resource.x.matches: the pattern compiles to more than 2000 instructions: simplify its repetitions"
        ]),
        ("{resource.x: {matches: '\\pL{200}'}}", [
            ".resource.x.matches: RE2 refuses the pattern: pattern too large - compile failed"
        ]),
        ("{context.ip: {in_cidr: 10.9.0.1/16}}", [
            ".context.ip.in_cidr: '10.9.0.1/16' has address bits beyond its prefix; did you mean '10.9.0.0/16'?"
        ]),
        ("{context.ip: {in_cidr: [10.0.0.0/8, home]}}", [
            ".context.ip.in_cidr[1]: 'home' is not a network such as 10.9.0.0/16 or 2001:db8::/32"
        ]),
        ("{context.ip: {in_cidr: []}}", [".context.ip.in_cidr: an empty list can never hold"]),
        ("{context.time: {between: 8-18, zone: UTC}}", [
            ".context.time.between: '8-18' is not a time window such as 08:00-18:00"
        ]),
        ("{context.time: {between: '08:00-24:01', zone: UTC}}", [
            ".context.time.between: '08:00-24:01' is not a time window such as 08:00-18:00"
        ]),
        ("{context.time: {between: '08:00-08:00', zone: UTC}}", [".context.time.between: '08:00-08:00' is empty"]),
        ("{context.time: {between: '08:00-18:00'}}", [
            ".context.time.zone: missing: between needs one, such as zone: UTC"
        ]),
        ("{context.time: {between: '08:00-18:00', zone: Europe/Berln}}", [
            ".context.time.zone: 'Europe/Berln' is not a time zone; did you mean 'Europe/Berlin'?"
        ]),
        ("{context.time: {between: '08:00-18:00', zone: ../UTC}}", [
            ".context.time.zone: '../UTC' is not a time zone; did you mean 'UTC'?"
        ]),
        ("{context.time: {between: '08:00-18:00', zone: Europa/Berlin}}", [
            ".context.time.zone: 'Europa/Berlin' is not a time zone; did you mean 'Europe/Berlin'?"
        ]),
        ("{context.time: {equals: x, zone: UTC}}", [
            ".context.time.zone: zone belongs to between, which is missing"
        ]),
        ("{predicate: weekday}", [".predicate: no predicate 'weekday' is registered; did you mean 'weekdays'?"]),
        ("{predicate: slow}", [".predicate: predicate 'slow' is async: a decision does not wait"]),
        ("{predicate: [weekdays]}", [".predicate: expected text, found a list"]),
        ("{resource.x: '${HOME}'}", [
            ".resource.x: ${HOME} would not be expanded: placeholders work in channels only"
        ]),
    ],
)  # fmt: skip
def test_mistakes_in_a_condition(when: str, findings: list[str]) -> None:
    async def slow(request: Any) -> bool:
        return True

    text = f"{HEAD}actions:\n  a.b: {{allow: [{{name: r, when: {when}}}]}}\n"
    found = problems(text, predicates={"weekdays": lambda request: True, "slow": slow})
    assert found == [f"4: actions.a.b.allow[0].when{finding}" for finding in findings]


def test_a_directory_of_the_zone_database_is_not_a_zone() -> None:
    rule = "{name: r, when: {context.t: {between: '08:00-18:00', zone: Asia}}}"
    (found,) = problems(f"{HEAD}actions:\n  a.b: {{allow: [{rule}]}}\n")
    assert "context.t.zone: 'Asia' is not a time zone" in found


def test_the_line_is_that_of_the_value_that_is_wrong() -> None:
    found = problems(
        HEAD
        + """actions:
  a.b:
    allow:
      - name: r
        when:
          all:
            - resource.x:
                in:
                  - 1
                  - yes
"""
    )
    assert found[0].startswith("12: actions.a.b.allow[0].when.all[0].resource.x.in[1]: yes is read as text")


# --- the whole schema, enforced or not ---------------------------------------------------------------------------

FULL = """\
version: 1
name: billing
actions:
  invoice.delete:
    allow: [anyone]
    require: {mfa: true, acr: [gold, silver], auth_age: 15m, reason: {matches: '^[A-Z]+-\\d+'}, confirm: true}
    limit: {rate: 10/minute, concurrent: 2, per: tenant, on_limit_error: allow}
    guarantee: before
    on_log_failure: degrade
    notify: [security]
channels:
  security: {type: webhook, url: '${SECURITY_WEBHOOK_URL}', secret: '${SECURITY_WEBHOOK_SECRET}'}
personal: {subject.id: seal, resource.properties: {as: seal, of: resource}}
"""


def test_what_is_not_enforced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "ENFORCED", frozenset(schema.FEATURES) - {"personal", "guarantee: before"})
    assert problems(FULL) == [
        "8: actions.invoice.delete.guarantee: 'before' is not supported by this version",
        "13: personal: not supported by this version",
    ]


def test_a_guarantee_is_one_of_a_record() -> None:
    for guarantee in ("sealed", "before"):
        found = problems(HEAD + f"actions: {{a.b: {{guarantee: {guarantee}, record: none}}}}\n")
        assert found == [f"3: actions.a.b.guarantee: '{guarantee}' waits for a record, but record: none leaves it out"]


def test_what_is_always_kept_may_be_written_out() -> None:
    spelled = loads(HEAD + "actions: {a.b: {guarantee: after, on_log_failure: deny}}\n")
    assert spelled.digest == loads(HEAD + "actions: {a.b: {}}\n").digest


@pytest.fixture
def everything_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "ENFORCED", frozenset(schema.FEATURES))


@pytest.mark.usefixtures("everything_enforced")
def test_the_whole_schema_loads_and_is_exposed() -> None:
    policy = loads(FULL)
    delete = policy.actions["invoice.delete"]
    assert delete.limit == Limit(Rate(10, 60), 2, "tenant", "allow")
    assert (delete.guarantee, delete.on_log_failure, delete.notify) == ("before", "degrade", ("security",))
    assert isinstance(delete.require, Requirements)
    assert (delete.require.mfa, delete.require.acr, delete.require.auth_age) == (True, ("gold", "silver"), 900)
    assert delete.require.confirm
    assert not isinstance(delete.require.reason, bool)
    assert delete.require.reason.search("ABC-1", "reason")
    assert not delete.require.reason.search("because", "reason")
    options = {"url": "${SECURITY_WEBHOOK_URL}", "secret": "${SECURITY_WEBHOOK_SECRET}"}
    assert policy.channels == {"security": Channel("webhook", options)}
    assert policy.personal == {"user_id": Treatment("seal"), "resource.properties": Treatment("seal", "resource")}
    assert loads(policy.canonical.decode()).canonical == policy.canonical


@pytest.mark.usefixtures("everything_enforced")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mfa: true, ", ""),
        ("[gold, silver]", "[gold]"),
        ("15m", "16m"),
        ("reason: {matches: '^[A-Z]+-\\d+'}", "reason: true"),
        ("reason: {matches: '^[A-Z]+-\\d+'}, ", ""),
        (", confirm: true", ""),
        ("rate: 10/minute, ", ""),
        ("10/minute", "10/hour"),
        ("10/minute", "11/minute"),
        ("concurrent: 2, ", ""),
        ("per: tenant", "per: address"),
        (", on_limit_error: allow", ""),
        ("guarantee: before", "guarantee: sealed"),
        ("on_log_failure: degrade", "on_log_failure: deny"),
        ("notify: [security]", "notify: []"),
        ("type: webhook, url: '${SECURITY_WEBHOOK_URL}', secret:", "type: slack, url:"),
        ("notify: [security]", "notify: {channels: [security], outcomes: [denied]}"),
        ("{SECURITY_WEBHOOK_SECRET}", "{OTHER_SECRET}"),
        ("_SECRET}'}", "_SECRET}', timeout: 5}"),
        ("subject.id: seal", "subject.id: token"),
    ],
)
def test_the_digest_depends_on_what_comes_later(old: str, new: str) -> None:
    assert old in FULL
    changed = loads(FULL.replace(old, new))
    assert changed.digest != loads(FULL).digest
    assert loads(changed.canonical.decode()).digest == changed.digest


def test_equal_requirements_have_one_form(everything_enforced: None) -> None:
    assert loads(FULL.replace("15m", "900s").replace("[gold, silver]", "[silver, gold]")).digest == loads(FULL).digest


@pytest.mark.usefixtures("everything_enforced")
@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ("{require: {}}", "require: nothing is required: remove it, or name a requirement"),
        ("{require: {mfa: false}}", "require: nothing is required: remove it, or name a requirement"),
        ("{require: {mfaa: true}}", "require.mfaa: unknown key; did you mean 'mfa'?"),
        ("{require: {mfa: x, confirm: true}}", "require.mfa: expected true or false, found text"),
        (
            "{require: {auth_age: 15 minutes}}",
            "require.auth_age: '15 minutes' is not a duration such as 15m (s, m, h, d)",
        ),
        ("{require: {reason: {matches: '['}}}", "require.reason.matches: RE2 refuses the pattern: missing ]: ["),
        ("{require: {reason: {match: x}}}", "require.reason.match: unknown key; did you mean 'matches'?"),
        ("{require: {reason: maybe}}", "require.reason: expected true or false, found text"),
        ("{limit: {per: subject}}", "limit: expected rate, concurrent or both"),
        (
            "{limit: {rate: 0/minute}}",
            "limit.rate: '0/minute' is not a rate such as 10/minute (second, minute, hour, day)",
        ),
        ("{limit: {rate: 10/min}}", "limit.rate: '10/min' is not a rate such as 10/minute (second, minute, hour, day)"),
        ("{limit: {concurrent: 0}}", "limit.concurrent: expected 1 to 1000000, found 0"),
        ("{limit: {concurrent: 1.5}}", "limit.concurrent: expected a whole number, found a number"),
        ("{limit: {concurrent: true}}", "limit.concurrent: expected a whole number, found true"),
        (
            "{limit: {concurrent: 1, per: ip}}",
            "limit.per: 'ip' is not one of subject, tenant, address, action",
        ),
        ("{notify: [securty]}", "notify[0]: unknown channel 'securty'; did you mean 'security'?"),
        ("{notify: security}", "notify: expected a list, found text: write [security]"),
        ("{notify: {outcomes: [denied]}}", "notify.channels: missing"),
        ("{notify: {channels: []}}", "notify.channels: lists no channel"),
        (
            "{notify: {channels: [security], outcomes: []}}",
            "notify.outcomes: lists no outcome: leave it out to hear of all",
        ),
        (
            "{notify: {channels: [security], outcomes: [deny]}}",
            "notify.outcomes[0]: 'deny' is not one of success, failure, denied, error, aborted; did you mean 'denied'?",
        ),
        ("{notify: {channels: [securty]}}", "notify.channels[0]: unknown channel 'securty'; did you mean 'security'?"),
        ("{notify: {channel: [security]}}", "notify.channel: unknown key; did you mean 'channels'?"),
    ],
)
def test_mistakes_in_what_comes_later(body: str, finding: str) -> None:
    text = f"{HEAD}channels: {{security: {{type: webhook}}}}\nactions:\n  a.b: {body}\n"
    assert f"5: actions.a.b.{finding}" in problems(text)


@pytest.mark.usefixtures("everything_enforced")
def test_mistakes_in_channels_and_personal() -> None:
    text = HEAD + "actions: {}\nchannels:\n  a: {type: webhok}\n  b: {url: x}\npersonal: [mail]\n"
    assert problems(text) == [
        "5: channels.a.type: 'webhok' is not one of webhook, slack, pagerduty, email, apprise; did you mean 'webhook'?",
        "6: channels.b.type: missing",
        "7: personal: expected a profile (gdpr) or a mapping of fields to treatments, found a list",
    ]


def test_every_feature_that_is_known_is_carried_out() -> None:
    # A feature that nobody checks would be a promise that nobody keeps.
    assert set(schema.FEATURES) == schema.ENFORCED
    assert loads(FULL)


@pytest.mark.usefixtures("everything_enforced")
@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259_200)])
def test_durations(text: str, seconds: int) -> None:
    require = loads(FULL.replace("15m", text)).actions["invoice.delete"].require
    assert require is not None
    assert require.auth_age == seconds


# --- channels ----------------------------------------------------------------------------------------------------

CHANNELS = {
    "webhook": "type: webhook, url: 'https://hooks.example.com/a', secret: '${SECRET}', allow_private: true",
    "slack": "type: slack, url: 'file:/etc/slack', detail: full, timeout: 5",
    "pagerduty": "type: pagerduty, routing_key: '${PD}', url: 'https://events.eu.pagerduty.com/v2/enqueue'",
    "email": "type: email, host: mail.example.com, port: 465, security: tls, from: a@example.com, "
    "to: [b@example.com, c@example.com], username: '${USER}', password: '${PASSWORD}'",
    "apprise": "type: apprise, url: '${APPRISE}'",
}


def channel(body: str) -> str:
    return f"{HEAD}actions: {{}}\nchannels:\n  one: {{{body}}}\n"


@pytest.mark.parametrize("kind", CHANNELS)
def test_a_channel_of_each_type_loads_and_keeps_its_references(kind: str) -> None:
    policy = loads(channel(CHANNELS[kind]))
    assert policy.channels["one"].type == kind
    assert loads(policy.canonical.decode()).digest == policy.digest
    for key, option in OPTIONS[kind].items():
        if option.kind == "secret" and key in policy.channels["one"].options:
            assert str(policy.channels["one"].options[key]) in policy.canonical.decode(), "the reference's text"


def test_every_type_is_tried() -> None:
    assert set(CHANNELS) == set(schema.CHANNEL_TYPES)


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ("type: slack, urll: '${X}'", "channels.one.urll: unknown key; did you mean 'url'?"),
        ("type: slack", "channels.one.url: missing"),
        ("type: slack, url: '${X}', secret: '${X}'", "channels.one.secret: unknown key"),
        ("type: slack, url: '${X}', timeout: 90", "channels.one.timeout: expected 1 to 60, found 90"),
        ("type: slack, url: '${X}', detail: all", "channels.one.detail: 'all' is not one of thin, full"),
        (
            "type: webhook, url: 'ftp://x', secret: '${X}'",
            "channels.one.url: is no http or https URL with a host",
        ),
        (
            "type: webhook, url: 'https://u:p@x', secret: '${X}'",
            "channels.one.url: holds a user or password: give them by the settings that are made for secrets",
        ),
        (
            "type: email, host: 'a b', from: a@b.example, to: [c@b.example]",
            "channels.one.host: is no name of a host",
        ),
        (
            'type: email, host: a, from: "A <a@b.example>", to: [c@b.example]',
            "channels.one.from: is no plain e-mail address such as security@example.com",
        ),
        (
            'type: email, host: a, from: a@b.example, to: ["c@b.example, d@b.example"]',
            "channels.one.to[0]: is no plain e-mail address such as security@example.com",
        ),
        ("type: email, host: a, from: a@b.example, to: []", "channels.one.to: lists no address"),
        (
            "type: email, host: a, from: a@b.example, to: [c@b.example], username: '${X}'",
            "channels.one: username and password go together",
        ),
        (
            "type: email, host: a, from: a@b.example, to: [c@b.example], username: '${X}', password: '${X}', "
            "security: none",
            "channels.one.security: security: none would send the password in the clear",
        ),
    ],
)
def test_mistakes_in_a_channel(body: str, finding: str) -> None:
    assert f"5: {finding}" in problems(channel(body))


def test_a_channels_name_becomes_a_files_name() -> None:
    text = channel(CHANNELS["slack"]).replace("  one:", "  ../one:")
    assert problems(text) == [
        "5: channels.../one: is no name: at most 40 small letters, digits, - and _; it becomes a file's name"
    ]


@pytest.mark.parametrize(
    "secret", ["s3cr3t-of-mine", "7391846250", "[s3cr3t-of-mine]", "{a: s3cr3t-of-mine}", "${a b}"]
)
@pytest.mark.parametrize("kind", CHANNELS)
def test_a_secret_that_is_written_out_is_refused_and_not_repeated(kind: str, secret: str) -> None:
    for key, option in OPTIONS[kind].items():
        if option.kind == "secret":
            text = channel(f"type: {kind}, {key}: {secret if secret[0] != '$' else repr(secret)}")
            said = "\n".join(problems(text))
            assert f"channels.one.{key}: a secret does not stand in this file" in said
            assert "s3cr3t" not in said
            assert "7391846250" not in said
