"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit import Log, make_log


@pytest.fixture(autouse=True)
def _no_audit_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own AUDIT_* settings must not reach the tests."""
    for name in list(os.environ):
        if name.startswith("AUDIT_") and not name.startswith("AUDIT_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A fresh log."""
    return make_log(tmp_path)
