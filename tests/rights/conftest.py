"""Fixtures: a command in this process, and a log in which two persons asked for things, in clear and sealed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit import Log
from tests.postgres.conftest import database, own_server, server_url, shared_database
from tests.rights.support import fill
from tests.sealing.support import Sealed

__all__ = ["database", "own_server", "server_url", "shared_database"]


@pytest.fixture
def sealed(tmp_path: Path, log: Log) -> Sealed:
    """Two records in clear, then four that are sealed: alice's two and bob's two, on notes 7 and 8."""
    return fill(Sealed(tmp_path, log).make_keys())
