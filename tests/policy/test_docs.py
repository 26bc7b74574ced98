"""``docs/policy.md``: every example loads, and every word of the language is in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from audit_middleware.persons import HOWS
from audit_middleware.policy import Policy, loads, schema, suite
from audit_middleware.policy.channels import OPTIONS
from audit_middleware.policy.fields import ALIASES, TOKENS
from audit_middleware.policy.lint import CODES
from audit_middleware.policy.operators import OPERATORS
from audit_middleware.policy.patterns import MAX_PROGRAM
from audit_middleware.policy.personal import TREATMENT_KEYS, WHOSE, in_words
from audit_middleware.policy.pinned import PINNED_KEYS
from audit_middleware.policy.profiles import GDPR, PROFILES
from audit_middleware.policy.suite_file import CASE_KEYS, EXPECT_KEYS, FILE_KEYS, SUBJECT_KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
FENCES = re.findall(r"^```(\w+) ?(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROLES = "roles: {viewer: {}, clerk: {inherits: [viewer]}, admin: {inherits: [clerk]}}"


def blocks(kind: str) -> list[str]:
    return [body for language, word, body in FENCES if (language, word) == ("yaml", kind)]


def whole(actions: str, routes: str = "") -> str:
    return f"version: 1\nname: docs\n{ROLES}\nactions:\n{indent(actions, '  ')}{routes}"


def predicate(request: Mapping[str, Any]) -> bool:
    return True


def load(text: str) -> Policy:
    return loads(text, "docs/policy.md", predicates={"on_call": predicate})


def test_every_yaml_block_says_what_it_is() -> None:
    kinds = [word for language, word, _ in FENCES if language == "yaml"]
    assert set(kinds) == {"policy", "actions", "routes", "tests", "required"}
    assert len(kinds) == PAGE.count("```yaml") >= 8


@pytest.mark.parametrize("text", blocks("policy"))
def test_policies_load(text: str) -> None:
    assert load(text).version == 1


@pytest.mark.parametrize("text", blocks("actions"))
def test_actions_load(text: str) -> None:
    (action,) = load(whole(text)).actions.values()
    assert action.allow


@pytest.mark.parametrize("text", blocks("routes"))
def test_routes_load(text: str) -> None:
    actions = "".join(f"{name}: {{}}\n" for name in ("static.read", "legacy.call", "feed.open"))
    assert len(load(whole(actions, f"routes:\n{indent(text, '  ')}")).routes) == 6


def test_the_tests_pass_against_the_first_policy(tmp_path: Path) -> None:
    path = tmp_path / "billing.yaml"
    path.write_text(blocks("policy")[0])
    for number, tests in enumerate(blocks("tests")):
        (tmp_path / f"billing{number}_test.yaml").write_text(tests)
    result = suite.run(path)
    assert (result.exit_code, result.passed, result.skipped) == (suite.EXIT_OK, 4, 1), result.tree()


def test_the_tests_of_requirements_pass_against_their_action(tmp_path: Path) -> None:
    (tests,) = blocks("required")
    action = PAGE.partition(tests)[0].rpartition("```yaml actions\n")[2].partition("```")[0]
    (tmp_path / "p.yaml").write_text(whole(action))
    (tmp_path / "p_test.yaml").write_text(tests)
    result = suite.run(tmp_path / "p.yaml")
    assert (result.exit_code, result.passed) == (suite.EXIT_OK, 2), result.tree()
    assert result.coverage is not None
    assert result.coverage.requirement_ratio == 1


def test_the_profile_is_documented_field_by_field() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([a-z ]+) \| .* \| [^|]+ \|$", PAGE, re.MULTILINE))
    told = {path: in_words(entry.treatment) for path, entry in GDPR.items()}
    assert {path: rows.get(path) for path in told} == told
    for path, entry in GDPR.items():
        assert f"| `{path}` | {in_words(entry.treatment)} | {entry.why} | {entry.article} |" in PAGE


@pytest.mark.parametrize(
    "words",
    [
        *(schema.NOTIFY_KEYS, schema.OUTCOMES, *(tuple(options) for options in OPTIONS.values())),
        *(schema.POLICY_KEYS, schema.ACTION_KEYS, schema.RULE_KEYS, schema.REQUIRE_KEYS, schema.LIMIT_KEYS),
        *(schema.SEVERITIES, schema.LEVELS, schema.MODES, schema.DEFAULTS, schema.GUARANTEES, schema.LOG_FAILURES),
        *(schema.BUILT_IN_ROLES, schema.REDACT_PATTERNS, schema.CHANNEL_TYPES, schema.PERS, tuple(schema.UNITS)),
        *(("all", "any", "not", "predicate"), ("match", "action", "resource", "exempt", "until")),
        *(FILE_KEYS, CASE_KEYS, EXPECT_KEYS, SUBJECT_KEYS, tuple(OPERATORS)),
        *(HOWS, WHOSE, TREATMENT_KEYS, PINNED_KEYS, ("profile", *PROFILES), TOKENS, tuple(ALIASES)),
    ],
)
def test_every_word_of_the_language_is_documented(words: tuple[str, ...]) -> None:
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    said = {word for code in re.findall(r"`([^`]+)`", prose) for word in re.findall(r"[\w.-]+", code)}
    assert set(words) <= {*said, *(word.lstrip(".") for word in said)}


def test_exit_codes_and_bounds_are_documented() -> None:
    for name in suite.__all__:
        if name.startswith("EXIT_"):
            assert f"\n| {getattr(suite, name)} | " in PAGE
    assert f"at most {MAX_PROGRAM:,} instructions" in PAGE


def test_every_finding_of_lint_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy-analysis.md").read_text()
    for code, (level, _) in CODES.items():
        assert f"| `{code}` | {level} | " in page
