"""Fixtures: a command in this process, and a log in which two persons asked for things, in clear and sealed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_middleware.cli import main
from tests.kit import Log
from tests.postgres.conftest import database, own_server, server_url, shared_database
from tests.rights.support import fill
from tests.sealing.support import Sealed

__all__ = ["database", "own_server", "server_url", "shared_database"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process: exit code, output, errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else (0 if end.code is None else 1)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def sealed(tmp_path: Path, log: Log) -> Sealed:
    """Two records in clear, then four that are sealed: alice's two and bob's two, on notes 7 and 8."""
    return fill(Sealed(tmp_path, log).make_keys())
