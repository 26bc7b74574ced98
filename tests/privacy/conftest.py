"""Fixtures: a store of persons' keys in a folder, and one in a database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres.conftest import Database, database, own_server, server_url, shared_database
from tests.privacy.keying import Place

__all__ = ["database", "own_server", "server_url", "shared_database"]


@pytest.fixture(params=["folder", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty store of each kind."""
    if request.param == "folder":
        made = Place("folder", str(tmp_path / "log.subjects"))
    else:
        given: Database = request.getfixturevalue("database")
        made = Place("postgres", given.url)
    yield made.make()
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Place]:
    """An empty store in a folder."""
    made = Place("folder", str(tmp_path / "log.subjects")).make()
    yield made
    made.close()
