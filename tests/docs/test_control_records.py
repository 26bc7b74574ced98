"""Every control record that the code can write is described, and every one described exists."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main
from typer.core import TyperGroup

from audit_middleware.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "control-records.md").read_text()


def test_the_page_lists_the_control_records_of_the_code() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "audit_middleware").rglob("*.py"))
    written = set(re.findall(r'"(audit\.[a-z_]+)"', code))
    described = re.findall(r"^\| `(audit\.[a-z_]+)` \|", PAGE, re.M)
    assert len(described) == len(set(described)) >= 17
    assert written == set(described)


def test_the_options_before_the_command_are_described() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    page = (ROOT / "docs" / "cli.md").read_text()
    for parameter in group.params:
        for option in parameter.opts:
            assert option == "--help" or f"`{option}" in page, option
