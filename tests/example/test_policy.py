"""The example's policy: its suite is complete, and notices whatever is broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from audit_middleware.policy import load
from tests.example.conftest import POLICY, ROOT


def command(*arguments: str) -> tuple[int, str]:
    """``audit-middleware policy ...``, as ``make policies`` and CI run it."""
    line = [sys.executable, "-m", "audit_middleware", "policy", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_every_rule_and_requirement_is_tested_both_ways() -> None:
    code, output = command("test", str(POLICY), "--coverage", "100")
    assert code == 0, output
    assert "exercised 100% of rules, 100% of conditions, 100% of requirements" in output


def test_whatever_is_broken_in_one_place_is_noticed() -> None:
    code, output = command("mutate", str(POLICY))
    assert code == 0, output
    found = re.search(r"(\d+) of (\d+) changes noticed", output)
    assert found is not None
    assert found[1] == found[2]
    assert int(found[1]) > 150


@pytest.mark.parametrize("gone", ["a reason that names no ticket is none", "nobody approves their own refund"])
def test_a_missing_test_is_missed(tmp_path: Path, gone: str) -> None:
    shutil.copy(POLICY, tmp_path)
    tests = POLICY.with_name("billing_test.yaml").read_text()
    one = re.compile(rf"^  - name: {gone}\n(?:    .*\n)*", re.MULTILINE)
    assert one.search(tests)
    (tmp_path / "billing_test.yaml").write_text(one.sub("", tests))
    code, output = command("mutate", str(tmp_path / "billing.yaml"))
    assert code == 1, output
    assert "change that no test notices" in output


def test_it_uses_every_guarantee_where_it_makes_sense() -> None:
    actions = load(POLICY).actions
    assert {name for name, action in actions.items() if action.guarantee == "before"} == {"payout.create"}
    assert {name for name, action in actions.items() if action.guarantee == "sealed"} == {"refund.approve"}
    assert {name for name, action in actions.items() if action.on_log_failure == "degrade"} == {"report.read"}
