"""Fixtures of the middleware's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit import Log
from tests.middleware.service import Service
from tests.middleware.support import Twins


@pytest.fixture
def twins(tmp_path: Path, log: Log) -> Twins:
    """An application bare and guarded."""
    return Twins(tmp_path, log)


@pytest.fixture
def service(tmp_path: Path, log: Log) -> Service:
    """A guarded service with users."""
    return Service(tmp_path, log)
