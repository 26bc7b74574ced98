"""Breaking a policy in one place at a time: what the tests notice, and what they do not."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from audit_middleware.errors import PolicyError
from audit_middleware.policy.mutate import mutate
from audit_middleware.policy.suite import EXIT_BROKEN_TESTS, EXIT_NO_TESTS

POLICY = """\
version: 1
name: p
roles: {clerk: {}, admin: {}}
actions:
  a.b:
    allow:
      - {name: own, roles: [clerk], when: {resource.owner: {same_as: subject.id}, resource.open: true}}
      - {name: staff, roles: [admin]}
    deny:
      - {name: closed, when: {resource.state: closed}}
"""
TESTS = """\
subjects:
  ann: {id: u-1, roles: [clerk]}
  eve: {id: u-2, roles: [admin]}
  zoe: {id: u-1}
resources:
  own: {properties: {owner: u-1, open: true, state: new}}
  other: {properties: {owner: u-9, open: true, state: new}}
  shut: {properties: {owner: u-1, open: false, state: new}}
  closed: {properties: {owner: u-1, open: true, state: closed}}
tests:
  - name: deciding
    subjects: [ann, eve, zoe, nobody]
    actions: [a.b]
    resources: [own, other, shut, closed]
    expect:
      - {subject: ann, resource: own, actions: {a.b: allow}}
      - {subject: eve, resource: [own, other, shut], actions: {a.b: allow}}
"""


def project(folder: Path, tests: str | None, policy: str = POLICY) -> Path:
    path = folder / "p.yaml"
    path.write_text(policy)
    if tests is not None:
        (folder / "p_test.yaml").write_text(dedent(tests))
    return path


def test_a_complete_suite_notices_everything(tmp_path: Path) -> None:
    result = mutate(project(tmp_path, TESTS))
    assert (result.survivors, result.problem, result.exit_code) == ((), None, 0)
    changes = {(mutant.rule, mutant.change) for mutant in result.mutants}
    assert {
        ("own", "left out"),
        ("own", "turned into deny"),
        ("own", "for every caller"),
        ("own", "without its condition"),
        ("own", 'without {"resource.open": {"equals": true}}'),
        ("staff", "left out"),
        ("closed", "left out"),
        ("closed", "turned into allow"),
        ("closed", 'not: {"resource.state": {"equals": "closed"}}'),
    } <= changes
    assert {mutant.caught_by for mutant in result.mutants} == {"deciding"}


def test_what_no_test_notices_survives(tmp_path: Path) -> None:
    weaker = TESTS.replace("resources: [own, other, shut, closed]", "resources: [own, other, shut]")
    result = mutate(project(tmp_path, weaker))
    assert result.exit_code == 1
    assert ("closed", "left out") in {(mutant.rule, mutant.change) for mutant in result.survivors}
    assert all(mutant.rule == "closed" for mutant in result.survivors)
    body = result.to_dict()
    assert body["caught"] + len(body["survivors"]) == body["mutants"] == len(result.mutants)


def test_changes_that_change_no_decision_are_not_held_against_the_tests(tmp_path: Path) -> None:
    doubled = POLICY.replace("- {name: staff", "- {name: chief, roles: [admin]}\n      - {name: staff")
    result = mutate(project(tmp_path, TESTS, doubled))
    assert result.survivors == ()
    assert result.alike == 2, "leaving out either of two equal rules changes nothing"


@pytest.mark.parametrize(
    ("tests", "code", "text"),
    [
        (None, EXIT_NO_TESTS, "no tests found"),
        ("tests: []\n", EXIT_BROKEN_TESTS, "there are no tests"),
        (TESTS.replace("a.b: allow", "a.b: deny"), 1, "the test 'deciding' fails on the policy itself"),
    ],
)
def test_nothing_is_broken_before_the_tests_pass(tmp_path: Path, tests: str | None, code: int, text: str) -> None:
    result = mutate(project(tmp_path, tests))
    assert (result.mutants, result.exit_code) == ((), code)
    assert text in str(result.problem)


def test_a_broken_policy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        mutate(project(tmp_path, TESTS, "version: 2\n"))
