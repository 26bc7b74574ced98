"""``publish --follow`` as an operator runs it: it keeps up, stops on SIGTERM, and excludes a second one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.publish.support import numbered, read_back
from tests.stores.samples import SEAL, new_journal


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_following_until_a_signal(tmp_path: Path, ending: signal.Signals) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 3))
    arguments = ["publish", str(tmp_path / "log"), str(tmp_path / "dir"), "--follow", "--interval", "0.02", "--json"]
    command = [sys.executable, "-m", "audit_middleware", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["size"] == 3
        store.append(numbered(3, 300), SEAL)
        assert json.loads(process.stdout.readline())["size"] == 300
        second = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert second.returncode == 3
        assert b"another process publishes there" in second.stderr
    finally:
        os.kill(process.pid, ending)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, b"")
    assert read_back(tmp_path / "dir")[1] == numbered(0, 300)
