"""The command, on a real log: what it finds, how it ends, what it leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.cli import main
from audit_middleware.evidence.control import ControlWriter, statement, write_control
from audit_middleware.evidence.signers import signers_of
from audit_middleware.signing import read_key_file
from tests.detectors.support import detection, write_rules
from tests.kit import Log, make_log

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process: exit code, output, errors."""

    def typed(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return typed


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """A log that tells of a gap and of a hold that was released."""
    monkeypatch.delenv("AUDIT_RECORD_READS", raising=False)
    made = make_log(tmp_path)
    writer = ControlWriter(signers_of(read_key_file(Path(f"{made.path}.key"))))
    told = [
        statement("audit.heartbeat", "info", {"interval_s": 60}),
        statement("audit.gap", "critical", {"count": 3, "from": None, "to": None, "cause": "disk full"}),
        statement("audit.hold_released", "high", {"name": "case", "reason": "over", "by": "ann"}),
    ]
    write_control(made.path, writer, told)
    return made


def test_findings_are_printed_with_their_entries(log: Log, command: Command) -> None:
    code, text, errors = command("detect", log.path)
    assert (code, errors) == (1, "")
    assert "Records could not be kept" in text
    assert "How the log is kept was changed" in text
    assert "2 findings by" in text


def test_findings_as_json_are_what_a_record_would_hold(log: Log, command: Command) -> None:
    code, text, _ = command("detect", log.path, "--json", "--level", "critical")
    (found,) = [json.loads(line) for line in text.splitlines()]
    assert code == 1
    assert (found["title"], found["level"], found["evidence"]) == ("Records could not be kept", "critical", [1])
    again = command("detect", log.path, "--json", "--level", "critical")
    assert again[:2] == (code, text)


def test_a_log_without_findings_is_exit_0(log: Log, command: Command) -> None:
    code, text, _ = command("detect", log.path, "--no-shipped")
    assert (code, text) == (0, "0 findings by 0 rules\n")
    assert command("detect", log.path, "--since", "2100-01-01")[0] == 0
    assert command("detect", log.path, "--since", "2000-01-01")[0] == 1


def test_reading_is_recorded_and_only_that_is_written(log: Log, command: Command) -> None:
    before = log.records()
    command("detect", log.path, "--since", "24h")
    after = log.records()
    assert after[: len(before)] == before
    (record,) = after[len(before) :]
    assert record["action"] == "audit.log_read"
    assert record["extra"]["command"] == "detect"
    assert record["extra"]["filters"] == {"since": "24h", "level": "low"}
    assert record["extra"]["records"] == 2


def test_rules_of_ones_own_are_evaluated(log: Log, command: Command, tmp_path: Path) -> None:
    text = detection("one: {event.action: audit.heartbeat}\ncondition: one").replace(", category: request", "")
    folder = write_rules(tmp_path / "rules", mine=text)
    code, printed, _ = command("detect", log.path, "--no-shipped", "--rules", folder, "--json")
    assert code == 1
    assert [json.loads(line)["title"] for line in printed.splitlines()] == ["Rule 1"]


def test_rules_that_cannot_be_read_are_exit_3_and_nothing_is_read(log: Log, command: Command, tmp_path: Path) -> None:
    folder = write_rules(tmp_path / "rules", mine="title: x\n")
    before = log.records()
    code, text, errors = command("detect", log.path, "--rules", folder)
    assert (code, text) == (3, "")
    assert f"{folder / 'mine.yml'}:1: id: missing" in errors
    assert log.records() == before


def test_rules_are_checked_without_a_log(command: Command, tmp_path: Path) -> None:
    code, text, _ = command("detect", "--check")
    assert code == 0
    assert "role_granted" in text
    code, text, _ = command("detect", "--check", "--json")
    assert (code, json.loads(text)["holds"]) == (0, True)
    assert {"id", "name", "title", "level", "group_by", "file"} == set(json.loads(text)["rules"][0])
    folder = write_rules(tmp_path / "rules", mine="title: x\n")
    code, text, errors = command("detect", "--check", "--rules", folder)
    assert (code, text) == (1, "")
    assert "mine.yml:1: id: missing" in errors
    code, text, _ = command("detect", "--check", "--rules", folder, "--json")
    assert (code, json.loads(text)["holds"]) == (1, False)


def test_wrong_use_is_exit_2(log: Log, command: Command) -> None:
    assert command("detect")[0] == 2
    assert command("detect", log.path, "--check")[0] == 2
    assert command("detect", log.path, "--level", "grave")[0] == 2
    assert command("detect", log.path, "--since", "yesterday")[0] == 2


def test_no_log_there_is_exit_3(command: Command, tmp_path: Path) -> None:
    code, _, errors = command("detect", tmp_path / "nothing")
    assert code == 3
    assert "nothing" in errors
