"""Fixtures of the middleware's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.middleware.support")  # before it is imported

from tests.kit import Log  # noqa: E402
from tests.middleware.service import Service  # noqa: E402
from tests.middleware.support import Twins  # noqa: E402


@pytest.fixture
def twins(tmp_path: Path, log: Log) -> Twins:
    """An application bare and guarded."""
    return Twins(tmp_path, log)


@pytest.fixture
def service(tmp_path: Path, log: Log) -> Service:
    """A guarded service with users."""
    return Service(tmp_path, log)
