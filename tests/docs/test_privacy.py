"""docs/privacy.md: the commands about a person are run against a small log, and print what the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audit_middleware.evidence.keys import create_log
from tests.docs.test_auditing import ROOT, pattern
from tests.kit import Log
from tests.rights.support import serve
from tests.sealing.support import ACTIONS, HEAD, Sealed

PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
ORIGIN = "audit.example.com/privacy"


def commands() -> list[tuple[str, str]]:
    """Each command of the first part and what the page prints below it."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.split("## What is where")[0], re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log in which ann was recorded in clear once, and sealed twice."""
    sealed = Sealed(tmp_path, Log(tmp_path / "audit", create_log(tmp_path / "audit", ORIGIN))).make_keys()
    serve(sealed, ("ann", "7"), policy=HEAD + ACTIONS)
    serve(sealed, ("ann", "7"), ("bob", "7"), ("ann", "8"))
    command = tmp_path / "bin" / "audit-middleware"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m audit_middleware "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.mark.skipif(shutil.which("bash") is None, reason="the page's commands need a POSIX shell")
def test_the_commands_print_what_the_page_says(folder: Path) -> None:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    assert len(commands()) == 10
    for command, expected in commands():
        run = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, (command, run.stdout, run.stderr)
        assert pattern(expected).fullmatch(run.stdout), f"{command}\n{run.stdout}\nis not\n{expected}"
