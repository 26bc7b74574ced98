"""What a run of policy tests found, and the same as text, JSON and JUnit XML."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..model import Decision
from .coverage import Coverage
from .scenarios import ScenarioResult
from .suite_file import Case, Check

__all__ = [
    "EXIT_BROKEN_POLICY",
    "EXIT_BROKEN_TESTS",
    "EXIT_FAILED",
    "EXIT_NO_TESTS",
    "EXIT_OK",
    "CaseResult",
    "CheckResult",
    "SuiteResult",
]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_NO_TESTS = 3
EXIT_BROKEN_POLICY = 4
EXIT_BROKEN_TESTS = 5


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check and the decision it got."""

    check: Check
    decision: Decision

    @property
    def passed(self) -> bool:
        """Whether the decision was the one expected."""
        return self.check.expected.met(self.decision)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One test and its checks; none when it was skipped. ``violations`` are what breaks an assertion."""

    path: Path
    case: Case
    checks: tuple[CheckResult, ...] = ()
    violations: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """``passed``, ``failed`` or ``skipped``."""
        if self.case.skip is not None:
            return "skipped"
        return "failed" if self.failures() else "passed"

    def failures(self) -> list[tuple[int, str]]:
        """Line and text of everything that failed."""
        broken = [(self.case.line, text) for text in self.violations]
        return [*broken, *((check.check.line, _failure(check)) for check in self.checks if not check.passed)]


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What a run found. ``problems`` are the findings about broken files; then nothing ran and nothing is covered.
    ``scenarios`` are the generated checks; they count as no tests."""

    policy_path: Path
    exit_code: int
    digest: str | None = None
    cases: tuple[CaseResult, ...] = ()
    coverage: Coverage | None = None
    problems: tuple[str, ...] = ()
    scenarios: tuple[ScenarioResult, ...] = ()

    def count(self, status: str) -> int:
        """How many tests ``passed``, ``failed`` or were ``skipped``."""
        return sum(case.status == status for case in self.cases)

    @property
    def tests(self) -> int:
        """How many tests were selected."""
        return len(self.cases)

    @property
    def passed(self) -> int:
        """How many tests passed."""
        return self.count("passed")

    @property
    def failed(self) -> int:
        """How many tests failed."""
        return self.count("failed")

    @property
    def skipped(self) -> int:
        """How many tests were skipped."""
        return self.count("skipped")

    def tree(self) -> str:
        """The run as indented text, failed checks with line, expectation and decision."""
        return _tree(self)

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON."""
        return _to_dict(self)

    def junit(self) -> str:
        """The run as JUnit XML: one suite a file, one case a test."""
        return _junit(self)


# --- text --------------------------------------------------------------------------------------------------------

_MARKS = {"passed": "ok     ", "failed": "FAILED ", "skipped": "skipped"}


def _tree(result: SuiteResult) -> str:
    lines = [f"{result.policy_path}  {result.digest or 'broken'}", *(f"  {problem}" for problem in result.problems)]
    for path, cases in groupby(result.cases, key=lambda case: case.path):
        lines.append(f"  {path.name}")
        for case in cases:
            lines.extend(f"    {line}" for line in _case_lines(case))
    if result.scenarios:
        lines.append("  generated")
    for scenario in result.scenarios:
        lines.append(f"    {_MARKS[scenario.status]} {scenario.name} ({scenario.checks} checks)")
        lines.extend(f"      {failure}" for failure in scenario.failures)
    lines.append(_summary(result))
    if result.coverage is not None and result.cases:
        lines.extend(f"  {line}" for line in result.coverage.missing())
    return "\n".join(lines) + "\n"


def _case_lines(result: CaseResult) -> list[str]:
    if result.case.skip is not None:
        return [f"{_MARKS['skipped']} {result.case.name}: {result.case.skip}"]
    failed = [f"  {result.path.name}:{line}: {text}" for line, text in result.failures()]
    count = "" if result.case.never or result.case.pinned else f" ({len(result.checks)} checks)"
    return [f"{_MARKS[result.status]} {result.case.name}{count}", *failed]


def _failure(result: CheckResult) -> str:
    check = result.check
    cell = " ".join(filter(None, (check.subject, check.action, check.resource)))
    return f"{cell}: expected {check.expected}, got {_decision(result.decision)}"


def _decision(decision: Decision) -> str:
    parts = [decision.cause if decision.rule is None else f"{decision.cause} {decision.rule}"]
    parts.extend([decision.detail] if decision.detail else [])
    parts.extend([f"nearly: {'; '.join(decision.near_misses)}"] if decision.near_misses else [])
    return f"{decision.effect} ({', '.join(parts)})"


def _summary(result: SuiteResult) -> str:
    if result.problems:
        broken = "the policy" if result.exit_code == EXIT_BROKEN_POLICY else "the tests"
        return f"nothing ran: {broken} could not be loaded"
    counts = f"{result.passed} passed, {result.failed} failed, {result.skipped} skipped"
    if result.exit_code == EXIT_NO_TESTS:
        return f"no tests ran: {counts}"
    coverage = result.coverage
    return f"{counts}; exercised {coverage.summary() if coverage else ''}"


# --- JSON --------------------------------------------------------------------------------------------------------


def _to_dict(result: SuiteResult) -> dict[str, Any]:
    return {
        "policy": str(result.policy_path),
        "digest": result.digest,
        "exit_code": result.exit_code,
        "passed": result.passed,
        "failed": result.failed,
        "skipped": result.skipped,
        "problems": list(result.problems),
        "tests": [_case_dict(case) for case in result.cases],
        "scenarios": [
            {"name": one.name, "status": one.status, "checks": one.checks, "failures": list(one.failures)}
            for one in result.scenarios
        ],
        "coverage": result.coverage.to_dict() if result.coverage is not None else None,
    }


def _case_dict(result: CaseResult) -> dict[str, Any]:
    return {
        "file": str(result.path),
        "line": result.case.line,
        "name": result.case.name,
        "status": result.status,
        "skip": result.case.skip,
        "checks": [_check_dict(check) for check in result.checks],
        "violations": list(result.violations),
    }


def _check_dict(result: CheckResult) -> dict[str, Any]:
    check, decision = result.check, result.decision
    return {
        "subject": check.subject,
        "action": check.action,
        "resource": check.resource or None,
        "line": check.line,
        "expected": {
            "effect": check.expected.effect,
            "by": check.expected.by,
            "missing": sorted(check.expected.missing) if check.expected.missing is not None else None,
        },
        "decision": {
            "effect": decision.effect,
            "cause": decision.cause,
            "rule": decision.rule,
            "near_misses": list(decision.near_misses),
            "detail": decision.detail,
            "missing": list(decision.missing),
        },
        "passed": result.passed,
    }


# --- JUnit -------------------------------------------------------------------------------------------------------


def _junit(result: SuiteResult) -> str:
    """JUnit's common subset; without times, so that equal runs give equal bytes."""
    broken = {"errors": "1"} if result.problems else {"errors": "0"}
    broken_scenarios = sum(scenario.status == "failed" for scenario in result.scenarios)
    totals = {
        "tests": str(result.tests + len(result.scenarios)),
        "failures": str(result.failed + broken_scenarios),
        "skipped": str(result.skipped),
    }
    root = ElementTree.Element("testsuites", {"name": str(result.policy_path), **totals, **broken})
    if result.problems:
        suite = ElementTree.SubElement(root, "testsuite", {"name": str(result.policy_path), "tests": "1", **broken})
        case = ElementTree.SubElement(suite, "testcase", {"name": "load", "classname": result.policy_path.stem})
        ElementTree.SubElement(case, "error", {"message": result.problems[0]}).text = "\n".join(result.problems)
    for path, cases in groupby(result.cases, key=lambda case: case.path):
        _junit_suite(root, path, list(cases))
    _junit_scenarios(root, result.scenarios)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _junit_suite(root: ElementTree.Element, path: Path, cases: list[CaseResult]) -> None:
    failed = sum(case.status == "failed" for case in cases)
    skipped = sum(case.status == "skipped" for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failed), "skipped": str(skipped), "errors": "0"}
    suite = ElementTree.SubElement(root, "testsuite", {"name": path.name, "file": str(path), **counts})
    for result in cases:
        names = {"name": result.case.name, "classname": path.stem, "file": str(path), "line": str(result.case.line)}
        case = ElementTree.SubElement(suite, "testcase", names)
        failures = [text for _, text in result.failures()]
        if result.case.skip is not None:
            ElementTree.SubElement(case, "skipped", {"message": result.case.skip})
        elif failures:
            ElementTree.SubElement(case, "failure", {"message": failures[0]}).text = "\n".join(failures)


def _junit_scenarios(root: ElementTree.Element, scenarios: tuple[ScenarioResult, ...]) -> None:
    if not scenarios:
        return
    failed = sum(scenario.status == "failed" for scenario in scenarios)
    counts = {"tests": str(len(scenarios)), "failures": str(failed), "skipped": "0", "errors": "0"}
    suite = ElementTree.SubElement(root, "testsuite", {"name": "generated", **counts})
    for scenario in scenarios:
        case = ElementTree.SubElement(suite, "testcase", {"name": scenario.name, "classname": "generated"})
        if scenario.failures:
            failure = ElementTree.SubElement(case, "failure", {"message": scenario.failures[0]})
            failure.text = "\n".join(scenario.failures)
