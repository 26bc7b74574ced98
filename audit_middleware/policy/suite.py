"""Runs policy tests: `run` loads a policy and its ``*_test.yaml`` files and evaluates every check.

Exit codes, so that a pipeline can tell a wrong policy from a wrong test run:

====  ==================================================================================
0     every test that ran passed
1     a test failed, or a generated one
3     no tests: no file, none that the filter selects, or none that is not skipped
4     the policy does not load; nothing ran
5     a test file does not load, or has no tests; nothing ran
====  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

from ..errors import PolicyError
from ..model import Resource
from .conditions import PredicateFunction
from .coverage import Coverage
from .evaluate import Policy
from .load import load
from .never import violations as reached
from .pinned import violations as weakened
from .requirements import decide
from .scenarios import ScenarioResult, run_scenarios
from .suite_file import NO_RESOURCE, Case, CaseFile, Check, read_case_file
from .suite_result import (
    EXIT_BROKEN_POLICY,
    EXIT_BROKEN_TESTS,
    EXIT_FAILED,
    EXIT_NO_TESTS,
    EXIT_OK,
    CaseResult,
    CheckResult,
    SuiteResult,
)

__all__ = [
    "EXIT_BROKEN_POLICY",
    "EXIT_BROKEN_TESTS",
    "EXIT_FAILED",
    "EXIT_NO_TESTS",
    "EXIT_OK",
    "CaseResult",
    "CheckResult",
    "SuiteResult",
    "run",
]

_NO_PREDICATES: Mapping[str, PredicateFunction] = MappingProxyType({})
_UNNAMED = Resource()


def run(
    policy_path: str | Path,
    test_paths: Iterable[str | Path] | None = None,
    *,
    only: str | None = None,
    scenarios: bool = False,
    predicates: Mapping[str, PredicateFunction] = _NO_PREDICATES,
) -> SuiteResult:
    """Runs a policy's tests.

    Args:
        policy_path: the policy.
        test_paths: test files; by default every ``*_test.yaml`` beside the policy that does not name another policy.
        only: runs the tests whose name contains this text, or matches it where it holds ``*`` or ``?``.
        scenarios: also runs the checks that are generated from the policy (`scenarios`).
        predicates: as for `load`.
    """
    path = Path(policy_path)
    try:
        policy = load(path, predicates=predicates)
    except PolicyError as error:
        return SuiteResult(path, EXIT_BROKEN_POLICY, problems=tuple(str(error).splitlines()))
    files, problems = case_files(path, policy, test_paths)
    if problems:
        return SuiteResult(path, EXIT_BROKEN_TESTS, policy.digest, problems=problems)
    coverage = Coverage(policy, predicates)
    selected = [(file, case) for file in files for case in file.cases if _selected(case, only)]
    cases = tuple(run_case(policy, file, case, coverage) for file, case in selected)
    generated = run_scenarios(policy) if scenarios else ()
    return SuiteResult(path, _exit_code(cases, generated), policy.digest, cases, coverage, scenarios=generated)


def case_files(
    path: Path, policy: Policy, test_paths: Iterable[str | Path] | None
) -> tuple[list[CaseFile], tuple[str, ...]]:
    """The test files of a policy, and the findings about those that do not load."""
    found = test_paths is None
    paths = _beside(path) if test_paths is None else [Path(test_path) for test_path in test_paths]
    files: list[CaseFile] = []
    problems: list[str] = []
    for test_path in paths:
        try:
            file = read_case_file(test_path, policy, path, found=found)
        except PolicyError as error:
            problems.extend(str(error).splitlines())
        else:
            files.extend([file] if file is not None else [])
    return files, tuple(problems)


def _beside(policy_path: Path) -> list[Path]:
    return sorted([*policy_path.parent.glob("*_test.yaml"), *policy_path.parent.glob("*_test.yml")])


def _selected(case: Case, only: str | None) -> bool:
    if only is None:
        return True
    return fnmatchcase(case.name, only) if any(sign in only for sign in "*?") else only in case.name


def run_case(policy: Policy, file: CaseFile, case: Case, coverage: Coverage) -> CaseResult:
    """Runs one test, and notes in ``coverage`` what it exercised."""
    if case.skip is not None:
        return CaseResult(file.path, case)
    checks = tuple(_run_check(policy, file, case, check, coverage) for check in case.checks)
    broken = reached(policy, case.never) if case.never is not None else ()
    broken += weakened(policy, case.pinned) if case.pinned is not None else ()
    return CaseResult(file.path, case, checks, broken)


def _run_check(policy: Policy, file: CaseFile, case: Case, check: Check, coverage: Coverage) -> CheckResult:
    subject = file.subjects[check.subject]
    resource = _UNNAMED if check.resource == NO_RESOURCE else file.resources[check.resource]
    decision = decide(policy, check.action, subject, resource, case.context, case.offer)
    coverage.note(policy.actions[check.action], subject, resource, case.context, decision)
    return CheckResult(check, decision)


def _exit_code(cases: tuple[CaseResult, ...], generated: tuple[ScenarioResult, ...]) -> int:
    statuses = {case.status for case in cases}
    if "failed" in statuses or any(scenario.failures for scenario in generated):
        return EXIT_FAILED
    return EXIT_OK if "passed" in statuses else EXIT_NO_TESTS
