"""The page on testing: its files are written down and run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from audit_middleware.testing import AuditLog
from tests.testing.conftest import PLUGIN

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
FILES = dict(re.findall(r"^```(?:python|yaml) (\S+)\n(.*?)^```", PAGE, re.S | re.M))


def test_the_examples_run(pytester: pytest.Pytester) -> None:
    assert sorted(FILES) == ["policy.yaml", "service.py", "test_faulty.py", "test_service.py", "test_store.py"]
    for name, text in FILES.items():
        (pytester.path / name).write_text(text)
    pytester.makeini("[pytest]\npythonpath = .\nfilterwarnings =\n    ignore:Using `httpx` with\n")
    result = pytester.runpytest_subprocess(*PLUGIN, "-p", "no:cacheprovider", "-rA", timeout=100)
    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"passed"}
    assert outcomes["passed"] > 25
    result.stdout.fnmatch_lines(["*test_service.py::test_a_viewer_is_refused*"])


def test_the_failure_shown_is_the_one_that_comes(pytester: pytest.Pytester) -> None:
    for name in ("service.py", "policy.yaml"):
        (pytester.path / name).write_text(FILES[name])
    pytester.makepyfile(
        test_failure="""
        from starlette.testclient import TestClient
        from service import app

        def test(audit_log):
            TestClient(app).delete("/invoices/7", headers={"X-User": "bob"})
            audit_log.assert_audited("invoice.delete", outcome="success", user="bob")
        """
    )
    pytester.makeini("[pytest]\npythonpath = .\n")
    result = pytester.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider")
    shown = [line.removeprefix("E").strip() for line in result.outlines if line.startswith("E  ")]
    [block] = re.findall(r"^```text\n(no record matches.*?)^```", PAGE, re.S | re.M)
    assert shown == [*_first(block), *(line.strip() for line in block.splitlines()[1:])]


def _first(block: str) -> list[str]:
    return [f"AssertionError: {block.splitlines()[0]}"]


def test_everything_the_fixture_has_is_on_the_page(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    public = {name for name in (*vars(log), *vars(AuditLog)) if not name.startswith("_")} - {"redirected"}
    assert len(public) >= 14
    for name in public:
        assert re.search(rf"`{name}(\(|`)", PAGE), f"{name} is not on the page"
    for option in ("--audit-policy", "--audit-coverage-min", "audit_policy", "audit_coverage_min"):
        assert option in PAGE
