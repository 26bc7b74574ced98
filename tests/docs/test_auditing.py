"""docs/auditing.md: its commands are run against a small log, and print what the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audit_middleware.ledger import report
from tests.ledger_verify.witnesses import cosign, heads_of, keep_cosigned, trust_text
from tests.stores.samples import batches, entry, new_journal

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "auditing.md").read_text(encoding="utf-8")
TOOLS = ["bash", "grep", "head", "sed"]


def commands() -> list[tuple[str, str]]:
    """Each command and what the page prints below it."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def pattern(expected: str) -> re.Pattern[str]:
    """``...`` on a line of its own: any lines; within a line: anything."""
    lines = [
        "(?:.*\n)*" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + "[ ]*\n"
        for line in expected.splitlines()
    ]
    return re.compile("".join(lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The log of the page, one that was written anew, an archive, and two trust files."""
    groups = batches(2, 3, 1, 4)
    heads = heads_of(groups)
    new_journal(tmp_path / "audit", *groups).close()
    keep_cosigned(tmp_path / "audit", cosign(heads[2].checkpoint, "a", "b"))
    changed = [groups[0], [entry(2, user_id="somebody-else"), *groups[1][1:]], *groups[2:]]
    new_journal(tmp_path / "rewritten", *changed).close()
    (tmp_path / "archive" / "checkpoints").mkdir(parents=True)
    (tmp_path / "archive" / "checkpoint").write_bytes(heads[3].checkpoint)
    (tmp_path / "archive" / "checkpoints" / "00000000000000000005").write_bytes(heads[1].checkpoint)
    (tmp_path / "trust.txt").write_text(trust_text("2 a b c"))
    (tmp_path / "strict.txt").write_text(trust_text("all a b c"))
    command = tmp_path / "bin" / "audit-middleware"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m audit_middleware "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason="the page's commands need POSIX tools")
def test_the_commands_print_what_the_page_says(folder: Path) -> None:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    assert len(commands()) == 15
    for command, expected in commands():
        run = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, (command, run.stdout, run.stderr)
        assert pattern(expected).fullmatch(run.stdout), f"{command}\n{run.stdout}\nis not\n{expected}"


def test_what_the_page_leaves_out_is_still_compared() -> None:
    assert pattern("a\n...\nb ... c\n").fullmatch("a\nx\ny\nb 1 c\n")
    assert not pattern("a\n...\nb ... c\n").fullmatch("a\nx\ny\nb 1 d\n")
    assert not pattern("a\n").fullmatch("a\nb\n")


def test_every_cause_is_explained() -> None:
    for name in report.Cause.__args__:  # type: ignore[attr-defined]
        if name not in ("torn", "repeated", "index column differs"):
            assert f"`{name}`" in PAGE, name
