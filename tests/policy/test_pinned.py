"""What the tests of a policy expect of personal data: at least so strict, and noticed when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_middleware.policy import loads, suite
from audit_middleware.policy.mutate import mutate

HEAD = "version: 1\nname: p\nactions:\n  a.b: {allow: [anyone]}\n"
RECORDED = """\
version: 1
name: p
roles: {clerk: {}}
actions:
  visit.list: {allow: [clerk]}
  visit.note: {allow: [clerk], personal: {request.body: {as: seal, of: resource}, reason: drop}}
personal: {user_id: seal, reason: seal}
"""


def expecting(folder: Path, tests: str, text: str = RECORDED) -> suite.SuiteResult:
    (folder / "p.yaml").write_text(text)
    (folder / "p_test.yaml").write_text(tests)
    return suite.run(folder / "p.yaml")


@pytest.mark.parametrize(
    "tests",
    [
        "personal: {user_id: seal}",
        "personal: {user_id: token, subject.roles: clear}",
        "personal: {fields: {reason: drop, request.body.name: seal}, actions: visit.note}",
        "personal: [{reason: seal}, {fields: {request.body: {as: seal, of: resource}}, actions: ['*.note']}]",
    ],
)
def test_a_test_that_expects_as_much_or_less_passes(tmp_path: Path, tests: str) -> None:
    result = expecting(tmp_path, tests)
    assert (result.exit_code, result.failed) == (suite.EXIT_OK, 0), result.tree()


@pytest.mark.parametrize(
    ("tests", "violations"),
    [
        (
            "personal: {user_id: commit}",
            ["user_id is seal, expected commit or stricter: records without an action, visit.list, visit.note"],
        ),
        (
            "personal: {reason: drop}",
            ["reason is seal, expected drop or stricter: records without an action, visit.list"],
        ),
        (
            "personal: {fields: {reason: {as: seal, of: resource}}, actions: [visit.list, visit.note]}",
            ["reason is seal, expected seal of resource or stricter: visit.list"],
        ),
        (
            "personal: [{fields: {request.body.content: seal}, actions: 'visit.*'}]",
            ["request.body.content is clear, expected seal or stricter: visit.list"],
        ),
    ],
)
def test_a_test_that_expects_more_fails_and_names_it(tmp_path: Path, tests: str, violations: list[str]) -> None:
    result = expecting(tmp_path, tests)
    assert result.exit_code == suite.EXIT_FAILED
    assert [text for case in result.cases for text in case.violations] == violations
    assert violations[0] in result.tree()


def test_a_profile_as_a_whole_can_be_expected(tmp_path: Path) -> None:
    assert expecting(tmp_path, "personal: gdpr", f"{HEAD}personal: gdpr\n").exit_code == suite.EXIT_OK
    weaker = expecting(tmp_path, "personal: gdpr", f"{HEAD}personal: {{profile: gdpr, resource.properties: seal}}\n")
    text = "resource.properties is seal, expected seal of resource or stricter: records without an action, a.b"
    assert weaker.cases[0].violations == (text,)
    assert len(expecting(tmp_path, "personal: gdpr", HEAD).cases[0].violations) == len(
        loads(f"{HEAD}personal: gdpr\n").personal
    )


@pytest.mark.parametrize(
    ("tests", "finding"),
    [
        ("personal: ccpa", "1: personal: 'ccpa' is not one of gdpr"),
        ("personal: []", "1: personal: an empty list says nothing"),
        ("personal: {actions: visit.list}", "1: personal.fields: missing"),
        ("personal: [{fields: gdpr, actions: []}]", "1: personal[0].actions: an empty list says nothing"),
        ("personal: [{fields: gdpr, actions: 'visits.*'}]", "1: personal[0].actions: 'visits.*' matches no action"),
        ("personal: {fields: {usr_id: seal}}", "1: personal.fields.usr_id: 'usr_id' is not a field of a record; did"),
    ],
)
def test_mistakes_in_what_is_expected(tmp_path: Path, tests: str, finding: str) -> None:
    result = expecting(tmp_path, tests)
    assert result.exit_code == suite.EXIT_BROKEN_TESTS
    assert [problem for problem in result.problems if finding in problem], result.problems


def test_a_treatment_that_no_test_expects_survives(tmp_path: Path) -> None:
    expecting(tmp_path, "personal: {user_id: seal}\nnever: {roles: anyone, reach: '*'}\n")
    result = mutate(tmp_path / "p.yaml")
    fields = {(one.action, one.rule): one.caught_by for one in result.mutants if one.rule.startswith("personal ")}
    assert fields == {
        ("*", "personal user_id"): "personal: user_id in *",
        ("*", "personal reason"): None,
        ("visit.note", "personal request.body.content"): None,
        ("visit.note", "personal request.body.content_type"): None,
        ("visit.note", "personal reason"): None,
    }
    assert result.exit_code == 1
    whole = (
        "personal: [{user_id: seal, reason: seal}, {fields: {request.body: seal, reason: drop}, actions: visit.note}]"
    )
    expecting(tmp_path, f"{whole}\nnever: {{roles: anyone, reach: '*'}}\n")
    survivors = {one.rule for one in mutate(tmp_path / "p.yaml").survivors}
    assert not {rule for rule in survivors if rule.startswith("personal ")}
