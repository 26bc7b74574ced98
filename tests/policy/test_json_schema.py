"""The schemas for editors: what loads is valid, typical mistakes are not, and what is published is what is made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from audit_middleware.errors import PolicyError
from audit_middleware.policy import loads, schema, suite
from audit_middleware.policy.document import ListNode, MapNode, Node, compose, typed
from audit_middleware.policy.fields import ALIASES, FIELDS, PARTS
from audit_middleware.policy.findings import Findings
from audit_middleware.policy.json_schema import policy_schema, policy_test_schema
from audit_middleware.policy.operators import OPERATORS
from audit_middleware.policy.pinned import PINNED_KEYS
from audit_middleware.policy.suite_file import CASE_KEYS, EXPECT_KEYS, FILE_KEYS, NEVER_KEYS, SUBJECT_KEYS
from tests.policy.generated import policies
from tests.policy.samples import BILLING

ROOT = Path(__file__).parents[2]
POLICY, TESTS = Draft202012Validator(policy_schema()), Draft202012Validator(policy_test_schema())
PAGES = [page.read_text() for page in sorted((ROOT / "docs").glob("policy*.md"))]
HEAD = "version: 1\nname: p\n"


def plain(node: Node) -> Any:
    """The tree as an editor sees it: YAML 1.2 values."""
    if isinstance(node, MapNode):
        return {key: plain(pair.value) for key, pair in node.items.items()}
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return typed(node)


def valid(validator: Draft202012Validator, text: str) -> bool:
    return bool(validator.is_valid(plain(compose(text, Findings("p.yaml")))))


def blocks(kind: str) -> list[str]:
    return [text for page in PAGES for text in re.findall(rf"^```yaml {kind}\n(.*?)^```$", page, re.M | re.S)]


def wrapped(kind: str, text: str) -> str:
    if kind == "routes":
        return f"{HEAD}actions: {{}}\nroutes:\n" + "".join(f"  {line}\n" for line in text.splitlines())
    return f"{HEAD}actions:\n" + "".join(f"  {line}\n" for line in text.splitlines()) if kind == "actions" else text


@pytest.mark.parametrize("name", ["policy", "policy-test"])
def test_the_published_schemas_are_those_made(name: str) -> None:
    made = policy_schema() if name == "policy" else policy_test_schema()
    Draft202012Validator.check_schema(made)
    published = json.loads((ROOT / "docs" / f"{name}.schema.json").read_text())
    assert published == made, f"run: audit-middleware schema {name} > docs/{name}.schema.json"


def test_every_word_of_the_language_is_in_them() -> None:
    parts = {name: set(body.get("properties", ())) for name, body in policy_schema()["$defs"].items()}
    assert set(policy_schema()["properties"]) == set(schema.POLICY_KEYS)
    assert parts["action"] == set(schema.ACTION_KEYS)
    personal = {*FIELDS, *PARTS, *(alias for alias, path in ALIASES.items() if path in FIELDS)}
    assert set(policy_schema()["$defs"]["action"]["properties"]["personal"]["properties"]) == personal
    assert parts["require"] == set(schema.REQUIRE_KEYS)
    assert parts["limit"] == set(schema.LIMIT_KEYS)
    assert parts["operators"] == {*OPERATORS, "zone"}
    assert set(policy_schema()["$defs"]["rule"]["anyOf"][1]["properties"]) == set(schema.RULE_KEYS)
    tests = {name: set(body.get("properties", ())) for name, body in policy_test_schema()["$defs"].items()}
    assert set(policy_test_schema()["properties"]) == set(FILE_KEYS)
    assert tests["test"] == set(CASE_KEYS)
    assert tests["expect"] == set(EXPECT_KEYS)
    assert tests["subject"] == set(SUBJECT_KEYS)
    assert tests["never"] == set(NEVER_KEYS)
    assert set(policy_test_schema()["$defs"]["personal"]["anyOf"][1]["properties"]) == set(PINNED_KEYS)


def test_what_loads_is_valid() -> None:
    kinds = ("policy", "actions", "routes")
    texts = [wrapped(kind, text) for kind in kinds for text in blocks(kind)]
    texts += [BILLING, (ROOT / "policies" / "billing.yaml").read_text(), loads(BILLING).canonical.decode()]
    texts += [f"{HEAD}actions: {{a.b:, c.d: {{allow: ['7']}}}}\nroles: {{viewer:, a b: {{}}}}\n"]
    assert len(texts) > 8
    for text in texts:
        assert valid(POLICY, text), [error.message for error in POLICY.iter_errors(plain(compose(text, Findings("p"))))]
    tests = [*blocks("tests"), (ROOT / "policies" / "billing_test.yaml").read_text()]
    tests += ["personal: gdpr", "personal: [gdpr, {user_id: seal}, {fields: {reason: drop}, actions: [a.b]}]"]
    assert len(tests) >= 4
    for text in tests:
        assert valid(TESTS, text), [error.message for error in TESTS.iter_errors(plain(compose(text, Findings("p"))))]


@settings(deadline=None)
@given(policies)
def test_generated_policies_are_valid(source: dict[str, Any]) -> None:
    assert POLICY.is_valid(json.loads(loads(json.dumps(source)).canonical))
    assert POLICY.is_valid(source)


MISTAKES = [
    "name: p\nactions: {}",
    "version: 2\nname: p\nactions: {}",
    "version: '1'\nname: p\nactions: {}",
    "version: 1\nname: a b\nactions: {}",
    "version: 1\nname: p\naction: {}",
    f"{HEAD}actions: []",
    f"{HEAD}actions: {{read: {{}}}}",
    f"{HEAD}actions: {{a.b: {{alow: [anyone]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: anyone}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [7]}}}}",
    f"{HEAD}actions: {{a.b: {{severity: hihg}}}}",
    f"{HEAD}actions: {{a.b: {{record: all}}}}",
    f"{HEAD}actions: {{a.b: {{event: deleted}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{roles: [anyone]}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, roles: []}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, roles: [anyone, anyone]}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{owner: x}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{user.id: x}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{resource.a: {{eq: x}}}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{resource.a: [x]}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{resource.a: {{in: []}}}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{resource.a: {{in: [1, x]}}}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{resource.a: {{lt: x}}}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{resource.a: {{exists: 'true'}}}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{context.t: {{between: '08:00-18:00'}}}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{context.t: {{between: '8-18', zone: UTC}}}}}}]}}}}",
    f"{HEAD}actions: {{a.b: {{allow: [{{name: r, when: {{any: []}}}}]}}}}",
    f"{HEAD}roles: {{anyone: {{}}}}\nactions: {{}}",
    f"{HEAD}roles: {{v: [x]}}\nactions: {{}}",
    f"{HEAD}actions: {{}}\nroutes: [{{match: GET /x}}]",
    f"{HEAD}actions: {{}}\nroutes: [{{match: FETCH /x, exempt: why}}]",
    f"{HEAD}actions: {{}}\nroutes: [{{match: GET x, exempt: why}}]",
    f"{HEAD}actions: {{}}\nroutes: [{{match: GET /x, exempt: why, action: a.b}}]",
    f"{HEAD}actions: {{}}\nroutes: [{{match: GET /x, exempt: why, until: soon}}]",
    f"{HEAD}actions: {{}}\nroutes: [{{match: GET /x, exempt: why, resource: x}}]",
    f"{HEAD}actions: {{}}\nredact: {{patterns: [emial]}}",
    f"{HEAD}actions: {{}}\nredact: [password]",
    f"{HEAD}actions: {{}}\npersonal: ccpa",
    f"{HEAD}actions: {{}}\npersonal: [user_id]",
    f"{HEAD}actions: {{}}\npersonal: {{}}",
    f"{HEAD}actions: {{}}\npersonal: {{user_id: redact}}",
    f"{HEAD}actions: {{}}\npersonal: {{user: seal}}",
    f"{HEAD}actions: {{}}\npersonal: {{user_id.name: seal}}",
    f"{HEAD}actions: {{}}\npersonal: {{request.size: seal}}",
    f"{HEAD}actions: {{}}\npersonal: {{reason: token}}",
    f"{HEAD}actions: {{}}\npersonal: {{reason: {{as: seal, of: tenant}}}}",
    f"{HEAD}actions: {{a.b: {{personal: gdpr}}}}",
    f"{HEAD}actions: {{a.b: {{personal: {{profile: gdpr}}}}}}",
    f"{HEAD}actions: {{a.b: {{notify: ops}}}}",
    f"{HEAD}actions: {{a.b: {{notify: {{outcomes: [denied]}}}}}}",
    f"{HEAD}actions: {{a.b: {{notify: {{channels: [ops], outcomes: [deny]}}}}}}\n"
    "channels: {ops: {type: slack, url: '${A}'}}",
    f"{HEAD}actions: {{}}\nchannels: {{ops: {{type: slack}}}}",
    f"{HEAD}actions: {{}}\nchannels: {{ops: {{type: slack, url: https://hooks.example.com/secret}}}}",
    f"{HEAD}actions: {{}}\nchannels: {{ops: {{type: slack, url: '${{A}}', routing_key: '${{A}}'}}}}",
    f"{HEAD}actions: {{}}\nchannels: {{Ops: {{type: slack, url: '${{A}}'}}}}",
    f"{HEAD}actions: {{}}\nchannels: {{ops: {{type: pagerduty, routing_key: '${{A}}', timeout: 61}}}}",
    f"{HEAD}actions: {{}}\nchannels: {{ops: {{type: email, host: a, from: a, to: [b@c.example]}}}}",
]


@pytest.mark.parametrize("text", MISTAKES)
def test_typical_mistakes_in_policies_are_seen_by_both(text: str) -> None:
    assert not valid(POLICY, text)
    with pytest.raises(PolicyError):
        loads(text)


TEST_MISTAKES = [
    "{}",
    "tests: []",
    "test: []",
    "now: 2026-01-05\nnever: {roles: r, reach: a.b}",
    "tests: [{subjects: [nobody], actions: [a.b], expect: []}]",
    "tests: [{name: t, subjects: [], actions: [a.b], expect: []}]",
    "tests: [{name: t, subjects: nobody, actions: [a.b], expect: []}]",
    "tests: [{name: t, subjects: [nobody], actions: [a.b], expect: [{a.b: allow}]}]",
    "tests: [{name: t, subjects: [nobody], actions: [a.b], expect: [{actions: {a.b: yes please}}]}]",
    "tests: [{name: t, subjects: [nobody], actions: [a.b], expect: [{actions: {a.b: {allow: r, deny: r}}}]}]",
    "tests: [{name: t, subjects: [nobody], actions: [a.b], skip: true, expect: []}]",
    "tests: [{name: t, subjects: [nobody], actions: [a.b], context: {time: x}, expect: []}]",
    "subjects: {ann: {roles: [r]}}\nnever: {roles: r, reach: a.b}",
    "subjects: {nobody: {id: x}}\nnever: {roles: r, reach: a.b}",
    "subjects: {ann: {id: 7}}\nnever: {roles: r, reach: a.b}",
    "never: {roles: r}",
    "never: []",
    "never: {roles: [], reach: a.b}",
    "never: {role: r, reach: a.b}",
    "personal: ccpa",
    "personal: []",
    "personal: {}",
    "personal: {user: seal}",
    "personal: {actions: a.b}",
    "personal: {fields: gdpr, actions: []}",
    "personal: {fields: gdpr, in: a.b}",
    "personal: [{fields: {user_id: redact}}]",
]


@pytest.mark.parametrize("text", TEST_MISTAKES)
def test_typical_mistakes_in_tests_are_seen_by_both(text: str, tmp_path: Path) -> None:
    assert not valid(TESTS, text)
    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}roles: {{r: {{}}}}\nactions: {{a.b: {{allow: [{{name: r, roles: [r]}}]}}}}\n")
    (tmp_path / "p_test.yaml").write_text(text)
    assert suite.run(path).exit_code == suite.EXIT_BROKEN_TESTS
