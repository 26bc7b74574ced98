"""Policy tests as a product: what they express, what they report, and the exit code of each way to fail."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any
from xml.etree import ElementTree

import pytest

from audit_middleware.policy import CompiledAction
from audit_middleware.policy.suite import (
    EXIT_BROKEN_POLICY,
    EXIT_BROKEN_TESTS,
    EXIT_FAILED,
    EXIT_NO_TESTS,
    EXIT_OK,
    SuiteResult,
    run,
)
from tests.policy.samples import BILLING

FORMS = "expected allow, deny, {allow: rule}, {deny: rule or cause} or {deny: {missing: requirements}}"
NIGHT = "{name: office, when: {context.time: {between: '08:00-18:00', zone: Europe/Berlin}}}"
POLICY = BILLING.replace("  static.read:", f"  report.run: {{allow: [{NIGHT}]}}\n  static.read:")

FIXTURES = """\
now: 2026-01-05T09:00:00Z
subjects:
  ann: {id: u-1, roles: [clerk]}
  bob: {id: u-2, roles: [clerk], tenant: acme, session: s, type: service, properties: {team: sales}}
  eve: {id: u-3, roles: [admin]}
resources:
  own: {type: invoice, id: '1', properties: {owner: u-1}}
  foreign: {type: invoice, id: '2', properties: {owner: u-9}}
"""

COMPLETE = (
    FIXTURES
    + """\
tests:
  - name: deleting invoices
    subjects: [ann, bob, eve, nobody]
    actions: [invoice.delete]
    resources: [own, foreign]
    context: {ip: 192.0.2.1}
    expect:
      - {subject: ann, resource: own, actions: {invoice.delete: {allow: owner-clerk}}}
      - {subject: eve, actions: {invoice.delete: allow}}
      - {subject: [bob, nobody], actions: {invoice.delete: {deny: default}}}
  - name: guests delete nothing
    subjects: [eve]
    actions: [invoice.delete]
    context: {ip: 10.9.0.1}
    expect:
      - actions: {invoice.delete: {deny: guest-network}}
  - name: reports by day
    subjects: [nobody]
    actions: [report.run]
    expect: [{subject: nobody, actions: {report.run: allow}}]
  - name: reports by night
    now: 2026-01-05T02:00:00+01:00
    subjects: [nobody]
    actions: [report.run]
    expect: []
"""
)


def project(tmp_path: Path, tests: str | None, policy: str = POLICY) -> Path:
    """A policy with one test file beside it."""
    path = tmp_path / "billing.yaml"
    path.write_text(policy)
    if tests is not None:
        (tmp_path / "billing_test.yaml").write_text(tests)
    return path


def suite(tmp_path: Path, tests: str, **options: Any) -> SuiteResult:
    """Runs the fixtures with these tests."""
    return run(project(tmp_path, FIXTURES + dedent(tests)), **options)


def single(tmp_path: Path, body: str) -> SuiteResult:
    """Runs one test, given as the inside of a flow mapping."""
    return suite(tmp_path, f"tests:\n  - {{name: t, {body}}}\n")


def test_a_complete_suite_passes(tmp_path: Path) -> None:
    result = run(project(tmp_path, COMPLETE))
    assert result.exit_code == EXIT_OK
    assert (result.tests, result.passed, result.failed, result.skipped) == (4, 4, 0, 0)
    assert [len(case.checks) for case in result.cases] == [8, 1, 1, 1]
    # Unlisted is expected to be denied, whatever the cause.
    unlisted = [
        check for check in result.cases[0].checks if (check.check.subject, check.check.resource) == ("ann", "foreign")
    ]
    assert [(check.check.expected.effect, check.check.expected.by) for check in unlisted] == [("deny", None)]


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (
            "subjects: [eve], actions: [invoice.read], expect: []",
            "eve invoice.read: expected deny, got allow (rule viewer)",
        ),
        (
            "subjects: [nobody], actions: [invoice.read], expect: [{actions: {invoice.read: allow}}]",
            "nobody invoice.read: expected allow, got deny (default)",
        ),
        (
            "subjects: [eve], actions: [invoice.read], expect: [{actions: {invoice.read: deny}}]",
            "eve invoice.read: expected deny, got allow (rule viewer)",
        ),
        (
            "subjects: [bob], actions: [invoice.delete], resources: [own], context: {ip: 192.0.2.1}, "
            "expect: [{actions: {invoice.delete: {deny: guest-network}}}]",
            "bob invoice.delete own: expected deny (guest-network), got deny (default, "
            "nearly: owner-clerk: resource.owner same_as subject.id)",
        ),
        (
            "subjects: [ann], actions: [invoice.delete], context: {ip: 192.0.2.1}, "
            "expect: [{actions: {invoice.delete: {deny: default}}}]",
            "ann invoice.delete: expected deny (default), got deny (error owner-clerk, "
            "owner-clerk: resource.owner is missing)",
        ),
        (
            "subjects: [eve], actions: [invoice.delete], resources: [own], context: {ip: 192.0.2.1}, "
            "expect: [{actions: {invoice.delete: {allow: owner-clerk}}}]",
            "eve invoice.delete own: expected allow (owner-clerk), got allow (rule admin)",
        ),
    ],
)
def test_failures_name_the_cell_and_the_decision(tmp_path: Path, body: str, failure: str) -> None:
    result = single(tmp_path, body)
    assert result.exit_code == EXIT_FAILED
    assert (result.passed, result.failed) == (0, 1)
    assert f"billing_test.yaml:10: {failure}\n" in result.tree()


@pytest.mark.parametrize(
    "expected",
    ["deny", "{deny: error}", "{deny: owner-clerk}"],
)
def test_a_denial_by_error_can_be_expected(tmp_path: Path, expected: str) -> None:
    expect = f"expect: [{{actions: {{invoice.delete: {expected}}}}}]"
    body = f"subjects: [ann], actions: [invoice.delete], context: {{ip: '::1'}}, {expect}"
    assert single(tmp_path, body).exit_code == EXIT_OK


def test_time_comes_from_the_file_only(tmp_path: Path) -> None:
    expect = "expect: [{actions: {report.run: {deny: error}}}]"
    body = f"tests: [{{name: t, subjects: [nobody], actions: [report.run], {expect}}}]"
    assert run(project(tmp_path, body)).exit_code == EXIT_OK
    assert run(project(tmp_path, f"now: 2026-01-05T09:00:00Z\n{body}")).exit_code == EXIT_FAILED


def test_subjects_and_resources_carry_what_the_file_says(tmp_path: Path) -> None:
    conditions = (
        "{subject.id: u-2, subject.type: service, subject.tenant: acme, subject.session: s, subject.team: sales, "
        "subject.roles: {contains: clerk}, resource.type: invoice, resource.id: '1', resource.owner: u-1, "
        "context.list: {contains: 2}, context.deep.er: true}"
    )
    policy = POLICY.replace("  static.read:", f"  a.b: {{allow: [{{name: r, when: {conditions}}}]}}\n  static.read:")
    tests = """\
tests:
  - name: t
    subjects: [bob, ann]
    actions: [a.b]
    resources: [own, foreign]
    context: {list: [1, 2], deep: {er: true}}
    expect: [{subject: bob, resource: own, actions: {a.b: allow}}]
"""
    result = run(project(tmp_path, FIXTURES + tests, policy))
    assert result.exit_code == EXIT_OK, result.tree()


# --- what is wrong with a file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "findings"),
    [
        ("subjects: [an], actions: [invoice.read], expect: []", [
            ".subjects[0]: unknown subject 'an'; did you mean 'ann'?"
        ]),
        ("subjects: [], actions: [invoice.read], expect: []", [".subjects: nothing to test"]),
        ("actions: [invoice.read], expect: []", [".subjects: missing"]),
        ("subjects: [ann], actions: [invoice.raed], expect: []", [
            ".actions[0]: unknown action 'invoice.raed'; did you mean 'invoice.read'?"
        ]),
        ("subjects: [ann], actions: [invoice.read]", [".expect: missing"]),
        ("subjects: [ann], actions: [invoice.read], resources: [owm], expect: []", [
            ".resources[0]: unknown resource 'owm'; did you mean 'own'?"
        ]),
        ("subjects: [ann], actions: [invoice.read], expected: []", [
            ".expected: unknown key; did you mean 'expect'?", ".expect: missing"
        ]),
        ("subjects: [ann, ann], actions: [invoice.read], expect: []", [".subjects[1]: 'ann' is listed twice"]),
        ("subjects: [ann], actions: [invoice.read], skip: '', expect: []", [
            ".skip: expected 1 to 1024 characters, found 0"
        ]),
        ("subjects: [ann], actions: [invoice.read], skip: true, expect: []", [
            ".skip: expected text, found true: write 'true' in quotes"
        ]),
        ("subjects: [ann], actions: [invoice.read], now: 2026-01-05T09:00:00, expect: []", [
            ".now: '2026-01-05T09:00:00' is not a time with a zone such as 2026-01-05T09:00:00Z"
        ]),
        ("subjects: [ann], actions: [invoice.read], now: noon, expect: []", [
            ".now: 'noon' is not a time with a zone such as 2026-01-05T09:00:00Z"
        ]),
        ("subjects: [ann], actions: [invoice.read], context: {time: 1}, expect: []", [
            ".context.time: write now: beside context instead"
        ]),
        ("subjects: [ann], actions: [invoice.read], context: {x: no}, expect: []", [
            ".context.x: no is read as text by some and as a boolean by others: write true or false, or quote it"
        ]),
        ("subjects: [ann], actions: [invoice.read], expect: [{subject: bob, actions: {invoice.read: allow}}]", [
            ".expect[0].subject: unknown subject of this test 'bob'"
        ]),
        ("subjects: [ann], actions: [invoice.read], expect: [{resource: own, actions: {invoice.read: allow}}]", [
            ".expect[0].resource: unknown resource of this test 'own'"
        ]),
        ("subjects: [ann], actions: [invoice.read], expect: [{actions: {invoice.delete: allow}}]", [
            ".expect[0].actions.invoice.delete: unknown action of this test 'invoice.delete'; "
            "did you mean 'invoice.read'?"
        ]),
        ("subjects: [ann], actions: [invoice.read], expect: [{subject: ann}]", [".expect[0].actions: missing"]),
        ("subjects: [ann], actions: [invoice.read], expect: [{actions: {invoice.read: alow}}]", [
            ".expect[0].actions.invoice.read: 'alow' is not one of allow, deny; did you mean 'allow'?"
        ]),
        ("subjects: [ann], actions: [invoice.read], expect: [{actions: {invoice.read: {deny: defualt}}}]", [
            ".expect[0].actions.invoice.read.deny: unknown rule or cause 'defualt'; did you mean 'default'?"
        ]),
        ("subjects: [ann], actions: [invoice.delete], expect: [{actions: {invoice.delete: {allow: guest-network}}}]", [
            ".expect[0].actions.invoice.delete.allow: unknown rule or cause 'guest-network'"
        ]),
        ("subjects: [ann], actions: [invoice.read], expect: [{actions: {invoice.read: {}}}]",
         [f".expect[0].actions.invoice.read: {FORMS}"]),
        (
            "subjects: [ann], actions: [invoice.read], "
            "expect: [{actions: {invoice.read: {deny: default, allow: viewer}}}]",
            [f".expect[0].actions.invoice.read: {FORMS}"],
        ),
        (
            "subjects: [ann, bob], actions: [invoice.read], "
            "expect: [{actions: {invoice.read: allow}}, {subject: bob, actions: {invoice.read: deny}}]",
            [".expect[1].actions.invoice.read: 'bob invoice.read' is expected already on line 10"],
        ),
    ],
)  # fmt: skip
def test_mistakes_in_a_test(tmp_path: Path, body: str, findings: list[str]) -> None:
    result = single(tmp_path, body)
    prefix = f"{tmp_path / 'billing_test.yaml'}:10: tests[0]"
    assert list(result.problems) == [prefix + finding for finding in findings]
    assert (result.exit_code, result.cases, result.coverage) == (EXIT_BROKEN_TESTS, (), None)
    assert "nothing ran: the tests could not be loaded" in result.tree()


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("subjects: {ann: {id: a}}\n", ["1: tests: missing"]),
        ("tests: []\n", ["1: tests: there are no tests: an empty file proves nothing"]),
        ("tests:\n", ["1: tests: expected a list, found nothing"]),
        ("tests: [{}]\nsubject: {}\n", [
            "1: tests[0].name: missing", "1: tests[0].subjects: missing", "1: tests[0].actions: missing",
            "1: tests[0].expect: missing", "2: subject: unknown key; did you mean 'subjects'?",
        ]),
        ("subjects: {nobody: {id: x}}\ntests: [{name: t, subjects: [nobody], actions: [invoice.read], expect: []}]\n", [
            "1: subjects.nobody: 'nobody' is built in and cannot be defined"
        ]),
        (
            "subjects: {ann: {roles: [clark]}}\n"
            "tests: [{name: t, subjects: [ann], actions: [invoice.read], expect: []}]\n",
            ["1: subjects.ann.id: missing", "1: subjects.ann.roles[0]: unknown role 'clark'; did you mean 'clerk'?"],
        ),
        ("resources: {own: {tint: x}}\ntests: [{name: t, subjects: [nobody], actions: [invoice.read], expect: []}]\n", [
            "1: resources.own.tint: unknown key"
        ]),
        ("tests:\n- &t {name: t, subjects: [nobody], actions: [invoice.read], expect: []}\n", [
            "2: tests[0]: anchors and aliases are not part of the language: write the value out"
        ]),
        (
            "tests:\n- {name: t, subjects: [nobody], actions: [invoice.read], expect: []}\n"
            "- {name: t, subjects: [nobody], actions: [invoice.read], expect: []}\n",
            ["3: tests[1].name: duplicate test 't', first on line 2"],
        ),
        ("policy: other.yaml\ntests: [{name: t, subjects: [nobody], actions: [invoice.read], expect: []}]\n", [
            "1: policy: there is no file 'other.yaml'"
        ]),
    ],
)  # fmt: skip
def test_mistakes_in_a_file(tmp_path: Path, text: str, findings: list[str]) -> None:
    result = run(project(tmp_path, text))
    problems = [problem.removeprefix(f"{tmp_path / 'billing_test.yaml'}:") for problem in result.problems]
    assert sorted(problems) == sorted(dict.fromkeys(findings))
    assert result.exit_code == EXIT_BROKEN_TESTS


def test_a_matrix_is_bounded(tmp_path: Path) -> None:
    names = [f"s{n}" for n in range(101)]
    subjects = "".join(f"  {name}: {{id: {name}}}\n" for name in names)
    resources = "".join(f"  {name}: {{}}\n" for name in names)
    lists = f"subjects: [{', '.join(names)}], resources: [{', '.join(names)}]"
    actions = (
        "actions: [invoice.read, invoice.create, invoice.delete, report.run, static.read, a.a, a.b, a.c, a.d, a.e]"
    )
    policy = POLICY.replace("  static.read:", "".join(f"  a.{letter}: {{}}\n" for letter in "abcde") + "  static.read:")
    text = f"subjects:\n{subjects}resources:\n{resources}tests: [{{name: t, {lists}, {actions}, expect: []}}]\n"
    result = run(project(tmp_path, text, policy))
    assert [problem.rpartition(": ")[2] for problem in result.problems] == ["102010 combinations are more than 100000"]


# --- what runs ---------------------------------------------------------------------------------------------------

TWO = """\
tests:
  - {name: reads are open, subjects: [ann], actions: [invoice.read], expect: [{actions: {invoice.read: allow}}]}
  - {name: reads fail, subjects: [ann], actions: [invoice.read], expect: []}
  - {name: later, skip: waits for the loader, subjects: [ann], actions: [invoice.read], expect: []}
"""


@pytest.mark.parametrize(
    ("only", "names", "code"),
    [
        (None, ["reads are open", "reads fail", "later"], EXIT_FAILED),
        ("reads", ["reads are open", "reads fail"], EXIT_FAILED),
        ("open", ["reads are open"], EXIT_OK),
        ("reads*", ["reads are open", "reads fail"], EXIT_FAILED),
        ("*open", ["reads are open"], EXIT_OK),
        ("*fai", [], EXIT_NO_TESTS),
        ("READS", [], EXIT_NO_TESTS),
        ("later", ["later"], EXIT_NO_TESTS),
    ],
)
def test_filters_by_name(tmp_path: Path, only: str | None, names: list[str], code: int) -> None:
    result = suite(tmp_path, TWO, only=only)
    assert [case.case.name for case in result.cases] == names
    assert result.exit_code == code


def test_skipped_tests_do_not_run_and_say_why(tmp_path: Path) -> None:
    result = suite(tmp_path, TWO)
    assert [case.status for case in result.cases] == ["passed", "failed", "skipped"]
    assert result.cases[2].checks == ()
    assert (result.passed, result.failed, result.skipped) == (1, 1, 1)
    assert "skipped later: waits for the loader\n" in result.tree()


def test_only_skipped_tests_are_no_tests(tmp_path: Path) -> None:
    result = single(tmp_path, "skip: later, subjects: [ann], actions: [invoice.read], expect: []")
    assert result.exit_code == EXIT_NO_TESTS
    assert "no tests ran: 0 passed, 0 failed, 1 skipped" in result.tree()


def test_no_test_files(tmp_path: Path) -> None:
    assert run(project(tmp_path, None)).exit_code == EXIT_NO_TESTS
    assert run(project(tmp_path, COMPLETE), []).exit_code == EXIT_NO_TESTS


def test_a_broken_policy_runs_nothing(tmp_path: Path) -> None:
    result = run(project(tmp_path, COMPLETE, POLICY.replace("record: none", "record: nothing")))
    assert result.exit_code == EXIT_BROKEN_POLICY
    assert result.problems == (
        f"{tmp_path / 'billing.yaml'}:10: actions.invoice.read.record: 'nothing' is not one of none, metadata, "
        "request, response",
    )
    assert (result.digest, result.cases, result.coverage) == (None, (), None)
    assert "nothing ran: the policy could not be loaded" in result.tree()


def test_the_exit_codes_are_different() -> None:
    assert [EXIT_OK, EXIT_FAILED, EXIT_NO_TESTS, EXIT_BROKEN_POLICY, EXIT_BROKEN_TESTS] == [0, 1, 3, 4, 5]


def test_test_files_are_found_beside_the_policy(tmp_path: Path) -> None:
    path = project(tmp_path, COMPLETE)
    (tmp_path / "more_test.yml").write_text(f"policy: billing.yaml\n{FIXTURES}{TWO}")
    (tmp_path / "not_a_test.yaml.bak").write_text("broken: [")
    (tmp_path / "other.yaml").write_text("version: 1\nname: other\nactions: {}\n")
    (tmp_path / "other_test.yaml").write_text("policy: other.yaml\ntests: anything\n")
    result = run(path)
    assert [case.path.name for case in result.cases] == ["billing_test.yaml"] * 4 + ["more_test.yml"] * 3
    # Named, a file for another policy is a mistake rather than something to leave out.
    named = run(path, [tmp_path / "other_test.yaml"])
    assert named.exit_code == EXIT_BROKEN_TESTS
    assert "other_test.yaml:1: policy: 'other.yaml' is not the policy under test" in named.problems[0]


def test_named_test_files(tmp_path: Path) -> None:
    path = project(tmp_path, "broken: [")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "cases.yaml").write_text(COMPLETE)
    assert run(str(path), [str(elsewhere / "cases.yaml")]).exit_code == EXIT_OK
    assert run(path, [elsewhere / "missing.yaml"]).problems == (
        f"{elsewhere / 'missing.yaml'}: cannot be read: No such file or directory",
    )


def test_every_broken_file_is_reported(tmp_path: Path) -> None:
    path = project(tmp_path, "tests: []\n")
    (tmp_path / "a_test.yaml").write_text("tests: {}\n")
    assert [problem.partition(":")[0][-17:] for problem in run(path).problems] == [
        str(tmp_path / "a_test.yaml")[-17:],
        str(tmp_path / "billing_test.yaml")[-17:],
    ]


def test_predicates_are_passed_on(tmp_path: Path) -> None:
    policy = "version: 1\nname: p\nactions:\n  a.b: {allow: [{name: r, when: {predicate: even}}]}\n"
    tests = "tests: [{name: t, subjects: [nobody], actions: [a.b], expect: [{actions: {a.b: allow}}]}]\n"
    path = project(tmp_path, tests, policy)
    assert run(path, predicates={"even": lambda request: True}).exit_code == EXIT_OK
    assert run(path, predicates={"even": lambda request: False}).exit_code == EXIT_FAILED
    assert run(path).exit_code == EXIT_BROKEN_POLICY


# --- coverage ----------------------------------------------------------------------------------------------------


def test_coverage_counts_rules_that_decided_and_conditions_with_both_outcomes(tmp_path: Path) -> None:
    coverage = run(project(tmp_path, COMPLETE)).coverage
    assert coverage is not None
    assert coverage.actions == {
        "invoice.read": 0, "invoice.create": 0, "invoice.delete": 9, "report.run": 2, "static.read": 0
    }  # fmt: skip
    decided = {key: rule.decided for key, rule in coverage.rules.items()}
    assert decided == {
        ("invoice.read", "viewer"): 0,
        ("invoice.create", "contractor"): 0,
        ("invoice.create", "clerk"): 0,
        ("invoice.delete", "guest-network"): 1,
        ("invoice.delete", "owner-clerk"): 1,
        ("invoice.delete", "admin"): 2,
        ("report.run", "office"): 1,
        ("static.read", "anyone"): 0,
    }
    assert coverage.rule_ratio == 4 / 8
    assert coverage.condition_ratio == 1.0
    assert coverage.missing() == (
        "action invoice.read: not tested",
        "action invoice.create: not tested",
        "action static.read: not tested",
        "rule invoice.read/viewer: decided nothing",
        "rule invoice.create/contractor: decided nothing",
        "rule invoice.create/clerk: decided nothing",
        "rule static.read/anyone: decided nothing",
    )


def test_coverage_of_conditions_counts_only_where_the_roles_matched(tmp_path: Path) -> None:
    policy = """\
version: 1
name: p
roles: {admin: {}}
actions:
  a.b:
    allow:
      - {name: r, roles: [admin], when: {context.x: 1, any: [{context.y: 1}, {not: {context.z: 1}}]}}
"""
    tests = """\
subjects: {eve: {id: e, roles: [admin]}}
tests:
  - {name: one, subjects: [nobody], actions: [a.b], context: {x: 1, y: 1, z: 1}, expect: []}
"""
    path = project(tmp_path, tests, policy)
    coverage = run(path).coverage
    assert coverage is not None
    assert coverage.missing() == (
        "rule a.b/r: decided nothing",
        "rule a.b/r: context.x equals 1: never true or false",
        "rule a.b/r: context.y equals 1: never true or false",
        "rule a.b/r: context.z equals 1: never true or false",
    )
    more = "  - {name: two, subjects: [eve], actions: [a.b], context: {x: 1, y: 2}, expect: [{actions: {a.b: deny}}]}\n"
    project(tmp_path, tests + more, policy)
    coverage = run(path).coverage
    assert coverage is not None
    assert coverage.missing() == (
        "rule a.b/r: decided nothing",
        "rule a.b/r: context.x equals 1: never false",
        "rule a.b/r: context.y equals 1: never true",
        "rule a.b/r: context.z equals 1: never true or false",
    )
    assert (coverage.rule_ratio, coverage.condition_ratio) == (0.0, 0.0)


def test_a_policy_without_rules_is_covered(tmp_path: Path) -> None:
    tests = "tests: [{name: t, subjects: [nobody], actions: [a.b], expect: []}]\n"
    coverage = run(project(tmp_path, tests, "version: 1\nname: p\nactions: {a.b: {}}\n")).coverage
    assert coverage is not None
    assert (coverage.rule_ratio, coverage.condition_ratio, coverage.missing()) == (1.0, 1.0, ())


# --- reports -----------------------------------------------------------------------------------------------------


def test_the_tree(tmp_path: Path) -> None:
    result = suite(tmp_path, TWO)
    assert result.tree() == (
        f"{tmp_path / 'billing.yaml'}  {result.digest}\n"
        "  billing_test.yaml\n"
        "    ok      reads are open (1 checks)\n"
        "    FAILED  reads fail (1 checks)\n"
        "      billing_test.yaml:11: ann invoice.read: expected deny, got allow (rule viewer)\n"
        "    skipped later: waits for the loader\n"
        "1 passed, 1 failed, 1 skipped; exercised 12% of rules, 0% of conditions\n"
        "  action invoice.create: not tested\n"
        "  action invoice.delete: not tested\n"
        "  action report.run: not tested\n"
        "  action static.read: not tested\n"
        "  rule invoice.create/contractor: decided nothing\n"
        "  rule invoice.create/clerk: decided nothing\n"
        "  rule invoice.delete/guest-network: decided nothing\n"
        '  rule invoice.delete/guest-network: context.ip in_cidr ["10.9.0.0/16"]: never true or false\n'
        "  rule invoice.delete/owner-clerk: decided nothing\n"
        "  rule invoice.delete/owner-clerk: resource.owner same_as subject.id: never true or false\n"
        "  rule invoice.delete/admin: decided nothing\n"
        "  rule report.run/office: decided nothing\n"
        "  rule report.run/office: context.time between 08:00-18:00 Europe/Berlin: never true or false\n"
        "  rule static.read/anyone: decided nothing\n"
    )


def test_json(tmp_path: Path) -> None:
    result = suite(tmp_path, TWO)
    found = json.loads(json.dumps(result.to_dict()))
    assert {
        key: found[key] for key in ("policy", "digest", "exit_code", "passed", "failed", "skipped", "problems")
    } == {
        "policy": str(tmp_path / "billing.yaml"),
        "digest": result.digest,
        "exit_code": 1,
        "passed": 1,
        "failed": 1,
        "skipped": 1,
        "problems": [],
    }
    assert found["tests"][1] == {
        "file": str(tmp_path / "billing_test.yaml"),
        "line": 11,
        "name": "reads fail",
        "status": "failed",
        "skip": None,
        "checks": [
            {
                "subject": "ann",
                "action": "invoice.read",
                "resource": None,
                "line": 11,
                "expected": {"effect": "deny", "by": None, "missing": None},
                "decision": {
                    "effect": "allow",
                    "cause": "rule",
                    "rule": "viewer",
                    "near_misses": [],
                    "detail": None,
                    "missing": [],
                },
                "passed": False,
            }
        ],
        "violations": [],
    }
    assert found["tests"][2]["skip"] == "waits for the loader"
    assert found["coverage"]["rule_ratio"] == 1 / 8
    assert found["coverage"]["rules"][0] == {
        "action": "invoice.read", "rule": "viewer", "effect": "allow", "decided": 2, "conditions": []
    }  # fmt: skip
    broken = run(project(tmp_path, "tests: []\n")).to_dict()
    assert (broken["exit_code"], broken["tests"], broken["coverage"], len(broken["problems"])) == (5, [], None, 1)


def test_junit(tmp_path: Path) -> None:
    tests = TWO.replace("reads fail", "'<reads> & \"fail\"'")
    text = suite(tmp_path, tests).junit()
    assert text.startswith("<?xml version='1.0' encoding='utf-8'?>\n")
    root = ElementTree.fromstring(text)
    (suite_element,) = root.findall("testsuite")
    for element in (root, suite_element):
        assert {key: element.get(key) for key in ("tests", "failures", "skipped", "errors")} == {
            "tests": "3", "failures": "1", "skipped": "1", "errors": "0"
        }  # fmt: skip
    cases = suite_element.findall("testcase")
    assert [case.get("name") for case in cases] == ["reads are open", '<reads> & "fail"', "later"]
    assert [[child.tag for child in case] for case in cases] == [[], ["failure"], ["skipped"]]
    assert cases[1][0].get("message") == "ann invoice.read: expected deny, got allow (rule viewer)"
    assert cases[2][0].get("message") == "waits for the loader"
    assert (cases[1].get("line"), cases[1].get("classname")) == ("11", "billing_test")


def test_junit_of_a_broken_run_is_an_error(tmp_path: Path) -> None:
    root = ElementTree.fromstring(run(project(tmp_path, "tests: {}\n")).junit())
    assert root.get("errors") == "1"
    (error,) = root.findall("testsuite/testcase/error")
    assert error.get("message", "").endswith("1: tests: expected a list, found a mapping")
    assert error.text == error.get("message")


# --- assertions and generated checks -----------------------------------------------------------------------------


def never(tmp_path: Path, body: str, policy: str = POLICY) -> SuiteResult:
    return run(project(tmp_path, f"never: {body}\n", policy))


@pytest.mark.parametrize(
    "body",
    [
        "{roles: [viewer], reach: 'invoice.delete'}",
        "{roles: viewer, reach: [invoice.create, invoice.delete]}",
        "[{roles: [anyone, authenticated], reach: 'invoice.*'}, {roles: contractor, reach: 'invoice.*'}]",
    ],
)
def test_an_assertion_that_is_proven_passes(tmp_path: Path, body: str) -> None:
    result = never(tmp_path, body)
    assert (result.exit_code, result.failed) == (EXIT_OK, 0), result.tree()
    assert result.cases[0].case.name.startswith("never: ")


def test_an_assertion_names_every_way_round_it(tmp_path: Path) -> None:
    result = never(tmp_path, "{roles: [clerk, viewer], reach: 'invoice.*'}")
    assert result.exit_code == EXIT_FAILED
    (case,) = result.cases
    assert case.violations == (
        "clerk reaches invoice.read by rule viewer: allow",
        "clerk reaches invoice.create by rule clerk: allow",
        "clerk reaches invoice.delete by rule owner-clerk: if resource.owner same_as subject.id, "
        'not if context.ip in_cidr ["10.9.0.0/16"]',
        "viewer reaches invoice.read by rule viewer: allow",
    )
    assert f"billing_test.yaml:1: {case.violations[0]}" in result.tree()
    assert result.to_dict()["tests"][0]["violations"] == list(case.violations)
    assert ElementTree.fromstring(result.junit()).get("failures") == "1"


def test_what_cannot_be_proven_fails_and_says_so(tmp_path: Path) -> None:
    # No text both starts with b and matches ^a, but patterns are not looked into.
    rule = "{name: r, roles: [viewer], when: {resource.p: {matches: '^a', starts_with: b}}}"
    policy = POLICY.replace("  static.read:", f"  a.b: {{allow: [{rule}]}}\n  static.read:")
    (case,) = never(tmp_path, "{roles: viewer, reach: a.b}", policy).cases
    (violation,) = case.violations
    assert violation.startswith("viewer may reach a.b, it cannot be excluded: if ")


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ("{roles: [clark], reach: 'invoice.*'}", "never.roles[0]: unknown role 'clark'; did you mean 'clerk'?"),
        ("{roles: clerk, reach: 'invoices.*'}", "never.reach: 'invoices.*' matches no action"),
        ("{roles: clerk}", "never.reach: missing"),
        ("{roles: [], reach: invoice.read}", "never.roles: an empty list says nothing"),
        ("[{roles: clerk, reach: invoice.read, when: x}]", "never[0].when: unknown key"),
        ("clerk", "never: expected a mapping, found text"),
        ("[]", "never: an empty list says nothing"),
    ],
)
def test_an_assertion_is_read_strictly(tmp_path: Path, body: str, finding: str) -> None:
    result = never(tmp_path, body)
    assert result.exit_code == EXIT_BROKEN_TESTS
    assert any(finding in problem for problem in result.problems), result.problems


def test_generated_checks_run_beside_the_tests_but_do_not_count_as_tests(tmp_path: Path) -> None:
    result = run(project(tmp_path, COMPLETE), scenarios=True)
    assert (result.exit_code, result.tests, len(result.scenarios)) == (EXIT_OK, 4, 4)
    assert "  generated\n    ok      malformed actions are denied (" in result.tree()
    assert [one["status"] for one in result.to_dict()["scenarios"]] == ["passed"] * 4
    suites = ElementTree.fromstring(result.junit()).findall("testsuite")
    assert [one.get("name") for one in suites] == ["billing_test.yaml", "generated"]
    (tmp_path / "billing_test.yaml").unlink()
    assert run(tmp_path / "billing.yaml", scenarios=True).exit_code == EXIT_NO_TESTS


def test_a_generated_check_that_fails_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompiledAction, "_refusal", lambda *request: None)
    tests = FIXTURES + "tests:\n  - {name: t, subjects: [nobody], actions: [invoice.read], expect: []}\n"
    result = run(project(tmp_path, tests), scenarios=True)
    assert (result.exit_code, result.failed) == (EXIT_FAILED, 0)
    assert "FAILED  edge values" in result.tree()
    cases = ElementTree.fromstring(result.junit()).iter("testcase")
    (case,) = [case for case in cases if case.find("failure") is not None]
    assert case.get("classname") == "generated"
