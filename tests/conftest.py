"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

# How long an example takes is the machine's affair: no test depends on absolute time.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")
pytest.register_assert_rewrite("tests.middleware.support")  # before it is imported

from tests.kit import Log, Run, make_log  # noqa: E402

pytest_plugins = ["pytester"]  # runs of pytest in runs of pytest, for our own plugin
# Commands leave records of themselves; where a test is not about them, it counts without them. Set here as well, for
# fixtures that outlive one test.
os.environ["AUDIT_RECORD_READS"] = "0"


@pytest.fixture(autouse=True)
def _no_audit_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own AUDIT_* settings must not reach the tests."""
    for name in list(os.environ):
        if name.startswith("AUDIT_") and not name.startswith("AUDIT_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AUDIT_RECORD_READS", "0")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A fresh log."""
    return make_log(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process: exit code, output, errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        from audit_middleware.cli import main  # here: most tests need no command

        monkeypatch.setattr(sys, "argv", ["audit-middleware", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else (0 if end.code is None else 1)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
