"""``docs/checklist.md`` is a page that today's `review` writes: the same items, words and tables, other numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from audit_middleware.cli import app
from example_app.app import create_app, guard
from tests.example.conftest import serve
from tests.kit import Log
from tests.sealing.support import Sealed

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "checklist.md"
MAKE = (
    "python -m example_app.demo --keep var/example && audit-middleware review var/example/audit "
    "--policy policies/billing.yaml --app example_app.app:app --verify --out docs/checklist.md"
)


def structure(page: str) -> list[tuple[str, ...]]:
    """Each item's title, controls, question and boxes, and its statements without numbers and names."""
    introduction, *items = page.split("\n## ")
    found = [tuple(introduction.partition("| what |")[0].splitlines())]
    for item in items:
        lines = [re.sub(r"\d+%?|\*\*\(!\)\*\* ", "", line).partition(": ")[0] for line in item.splitlines()]
        kept = [line for line in lines if line and not line.startswith(("|", "- allowed without a known user"))]
        found.append(tuple(kept))
    return found


def test_the_page_is_what_the_command_writes(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    Sealed(tmp_path, log).make_keys()
    monkeypatch.setenv("AUDIT_LOG", str(log.path))
    monkeypatch.setenv("BILLING_DATA", str(tmp_path / "data"))
    with serve(guard(create_app(tmp_path / "data"))) as client:
        client.get("/v1/customers/1", headers=client.as_("clerk-1"))
        client.delete("/v1/invoices/1001", headers=client.as_("clerk-1"))
    arguments = [
        "review",
        str(log.path),
        "--policy",
        "policies/billing.yaml",
        "--app",
        "example_app.app:app",
        "--verify",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    should = structure(
        done.stdout.replace("Periodic review of example.com/test", "Periodic review of billing.example/audit")
    )
    assert structure(PAGE.read_text()) == should, f"run: {MAKE}"


def test_the_page_names_only_controls_that_were_checked() -> None:
    """Numbers of controls are never invented: this is the list that was checked against the frameworks."""
    known = {
        "SOC 2": {"CC2.1", "CC6.1", "CC6.2", "CC6.3", "CC6.8", "CC7.2", "CC7.3", "CC8.1"},
        "HIPAA": {
            "164.312(b)", "164.308(a)(1)(ii)(D)", "164.308(a)(5)(ii)(C)", "164.312(c)(1)", "164.316(b)(2)(i)",
        },
        "GDPR": {"5(1)(c)", "5(1)(e)", "25", "30", "32(1)(d)"},
        "PCI DSS": {
            "7.2", "7.3.3", "10.2.1", "10.2.1.2", "10.2.1.3", "10.2.1.4", "10.2.1.6", "10.2.2", "10.3.2", "10.3.4",
            "10.5.1", "10.6", "10.7.2", "10.7.3",
        },
    }  # fmt: skip
    named = {one for line in re.findall(r"^Evidence for: (.*)$", PAGE.read_text(), re.M) for one in line.split(" · ")}
    assert named == {f"{framework} {number}" for framework, numbers in known.items() for number in numbers}
