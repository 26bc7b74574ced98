"""Fixtures of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit import Log
from tests.sealing.support import Sealed


@pytest.fixture
def sealed(tmp_path: Path, log: Log) -> Sealed:
    """A log with keys."""
    return Sealed(tmp_path, log).make_keys()
