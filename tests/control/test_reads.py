"""Who reads, exports or verifies a log stands in the log."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.cli import main
from audit_middleware.cli.reading import reader
from audit_middleware.evidence.keys import new_key
from tests.control.support import app_for, run, until
from tests.kit import ORIGIN, Log, call, make_log
from tests.middleware.support import check_log, journal_bytes

Command = Callable[..., tuple[int, str, str]]
READS = ("audit.log_read", "audit.log_exported", "audit.log_verified")
NOT_RECORDED = "this reading is not recorded: "


@pytest.fixture
def filled(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """A log with three requests; from here on commands leave records."""

    async def drive(app: Any) -> None:
        for _ in range(3):
            await call(app, "GET", "/")

    assert run(app_for(log, tmp_path), drive) is None
    monkeypatch.delenv("AUDIT_RECORD_READS")
    return log


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


def reads(log: Log) -> list[dict[str, Any]]:
    """All that commands wrote, of a log that holds."""
    check_log(log)
    return [record for record in log.records() if record["action"] in READS]


def test_a_query_is_recorded_with_what_was_asked_and_shown(filled: Log, command: Command) -> None:
    code, out, err = command("query", filled.path, "--action", "doc.*", "--limit", "2", "--json")
    assert (code, len(out.splitlines()), err) == (0, 2, "")
    (record,) = reads(filled)
    user = pwd.getpwuid(os.getuid()).pw_name
    assert (record["action"], record["event"], record["severity"]) == ("audit.log_read", "AUDIT_LOG_READ", "info")
    assert (record["user_id"], record["subject"]["type"], record["source"]["method"]) == (user, "os_user", "os")
    assert (record["outcome"], record["service"]["name"], record["sequence"]) == ("success", "audit-middleware", 0)
    said = record["extra"]
    assert (said["command"], said["records"], said["phase"], said["verdict"]) == ("query", 2, "whole", None)
    assert said["filters"] == {"action": "doc.*", "limit": 2}
    assert said["reader"] == reader(None)
    assert said["reader"]["uid"] == os.getuid()
    assert said["reader"]["os_user"] == user


def test_each_command_leaves_its_kind(filled: Log, command: Command, tmp_path: Path) -> None:
    number = 4
    kept = tmp_path / "kept"
    kept.write_text(command("checkpoint", filled.path)[1])
    assert command("show", filled.path, number)[0] == 0
    assert command("tail", filled.path, "-n", "3")[0] == 0
    assert command("verify", filled.path, "--since", kept)[0] == 0
    assert command("prove", filled.path, number, "--out", tmp_path / "proof")[0] == 0
    assert command("consistency", filled.path, kept)[0] == 0
    assert command("publish", filled.path, tmp_path / "published", "--json")[0] == 0
    assert command("keys", "list", filled.path)[0] == 0
    assert command("query", filled.path, "--user", "nobody at all")[0] == 1
    found = [(one["action"], one["extra"]["command"], one["extra"]["records"]) for one in reads(filled)]
    size = [one["action"] for one in filled.records()].index("audit.stopped") + 1
    assert found == [
        ("audit.log_exported", "checkpoint", None),
        ("audit.log_read", "show", 1),
        ("audit.log_read", "tail", 3),
        ("audit.log_verified", "verify", size + 3),
        ("audit.log_exported", "prove", 1),
        ("audit.log_verified", "consistency", None),
        ("audit.log_exported", "publish", size + 6),
        ("audit.log_read", "keys list", None),
        ("audit.log_read", "query", 0),
    ]
    verdicts = [one["extra"]["verdict"] for one in reads(filled) if one["action"] == "audit.log_verified"]
    assert verdicts[0] == {"holds": True, "size": size + 3, "findings": 0}
    assert verdicts[1]["holds"] is True
    assert {one["outcome"] for one in reads(filled)} == {"success"}


def test_who_reads_may_say_so_and_it_is_marked_as_said(
    filled: Log, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "operator-7")
    assert command("--as", "Ann of the auditors\x1b", "tail", filled.path)[0] == 0
    monkeypatch.setenv("AUDIT_READER", "ben")
    assert command("tail", filled.path)[0] == 0
    first, second = (one["extra"]["reader"] for one in reads(filled))
    assert first["claimed"].startswith("Ann of the auditors")
    assert second["claimed"] == "ben"
    assert first["sudo_user"] == "operator-7"
    assert {one["user_id"] for one in reads(filled)} == {pwd.getpwuid(os.getuid()).pw_name}, "not what they say"


# --- what cannot be recorded -------------------------------------------------------------------------------------


def test_without_a_key_it_is_read_and_said_not_to_be_recorded(filled: Log, command: Command) -> None:
    Path(f"{filled.path}.key").unlink()
    before = journal_bytes(filled)
    code, out, err = command("query", filled.path, "--json")
    assert code == 0
    assert [json.loads(line)["index"] for line in out.splitlines()]
    assert err.count(f"{NOT_RECORDED}no signing key here") == 1
    assert journal_bytes(filled) == before


def test_the_key_may_come_from_the_settings(
    filled: Log, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = Path(f"{filled.path}.key")
    monkeypatch.setenv("AUDIT_KEY", str(key.rename(tmp_path / "elsewhere.key")))
    assert command("tail", filled.path)[2] == ""
    monkeypatch.delenv("AUDIT_KEY")
    monkeypatch.setenv("AUDIT_SIGNING_KEY", (tmp_path / "elsewhere.key").read_text())
    assert command("tail", filled.path)[2] == ""
    assert len(reads(filled)) == 2


def test_the_key_of_another_log_signs_nothing(filled: Log, command: Command, tmp_path: Path) -> None:
    Path(f"{filled.path}.key").unlink()
    new_key("example.com/other", Path(f"{filled.path}.key"))
    before = journal_bytes(filled)
    code, _, err = command("tail", filled.path)
    assert code == 0
    assert f"{NOT_RECORDED}the signing key is for 'example.com/other'" in err
    assert journal_bytes(filled) == before
    assert ORIGIN != "example.com/other"


def test_records_can_be_switched_off(filled: Log, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_RECORD_READS", "0")
    before = journal_bytes(filled)
    assert command("tail", filled.path)[2] == ""
    assert journal_bytes(filled) == before
    code, out, err = command("--require-record", "tail", filled.path)
    assert (code, out) == (2, "")
    assert "AUDIT_RECORD_READS=0" in err


def test_required_it_is_recorded_before_anything_is_shown(filled: Log, command: Command) -> None:
    code, out, _ = command("--require-record", "query", filled.path, "--json", "--oldest-first")
    assert code == 0
    begin, end = reads(filled)
    assert (begin["extra"]["phase"], begin["extra"]["records"]) == ("begin", None)
    assert (end["extra"]["phase"], end["extra"]["records"]) == ("end", len(out.splitlines()))
    assert (begin["sequence"], end["sequence"]) == (0, 1)
    assert begin["service"]["instance"] == end["service"]["instance"]
    assert json.loads(out.splitlines()[-1])["record"]["action_id"] == begin["action_id"], "it sees itself"


@pytest.mark.parametrize("arguments", [("tail",), ("query", "--json"), ("verify",), ("checkpoint",), ("prove",)])
def test_required_and_not_possible_nothing_is_shown(filled: Log, command: Command, arguments: tuple[str, ...]) -> None:
    Path(f"{filled.path}.key").unlink()
    name, *more = arguments
    given = [*more, "0"] if name == "prove" else more
    code, out, err = command("--require-record", name, filled.path, *given)
    assert (code, out) == (3, "")
    assert "--require-record asks for it: no signing key here" in err


def test_a_log_that_does_not_hold_is_left_as_it_is(filled: Log, command: Command, tmp_path: Path) -> None:
    """Not covered by new entries, and not continued: it might sign a second history."""
    kept = tmp_path / "kept"
    assert command("tail", filled.path)[0] == 0
    kept.write_text(command("checkpoint", filled.path)[1])
    older = make_log(tmp_path / "other")
    for path in (older.path, Path(f"{older.path}.key")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(filled.path, older.path)
    shutil.copy(f"{filled.path}.key", f"{older.path}.key")
    (segment,) = (older.path / "journal").iterdir()
    data = segment.read_bytes()
    segment.write_bytes(data[: data.rindex(b'\n{"action":"audit.log_read"') + 1])
    (older.path / "index.sqlite").unlink(missing_ok=True)
    before = journal_bytes(older)
    code, out, err = command("verify", older.path, "--since", kept)
    assert code == 1, out
    assert f"{NOT_RECORDED}the log does not hold, and is left as it is" in err
    assert journal_bytes(older) == before
    code, _, err = command("consistency", older.path, kept)
    assert code == 1
    assert NOT_RECORDED in err
    assert journal_bytes(older) == before


def test_a_log_of_others_cannot_be_written_and_is_read(filled: Log, command: Command) -> None:
    """Read-only for who reads: the store's refusal is said, the reading goes on."""
    (filled.path / ".state" / "lock").unlink()
    (filled.path / ".state" / "lock").mkdir()
    code, _, err = command("tail", filled.path, "-n", "1")
    assert code == 0
    assert NOT_RECORDED in err


# --- commands that go on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arguments", [("tail", "-f", "--json"), ("publish", "--follow", "--json")])
def test_following_is_recorded_at_both_ends(
    filled: Log, tmp_path: Path, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    name, *more = arguments
    place = [str(tmp_path / "published")] if name == "publish" else []
    line = [sys.executable, "-m", "audit_middleware", name, str(filled.path), *place, *more]
    environment = {key: value for key, value in os.environ.items() if key != "AUDIT_RECORD_READS"}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        env=environment | {"PYTHONUNBUFFERED": "1"},
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stdout.readline()
        (begin,) = until(lambda: reads(filled), "the first record")
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    assert "Traceback" not in err
    begin, end = reads(filled)
    assert (begin["extra"]["phase"], end["extra"]["phase"]) == ("begin", "end")
    assert end["extra"]["records"] >= 1
    assert end["extra"]["filters"]["follow"] is True
    assert end["outcome"] == "success"


def test_a_reader_that_stops_reading_is_recorded(filled: Log) -> None:
    """``| head -1``"""
    environment = {key: value for key, value in os.environ.items() if key != "AUDIT_RECORD_READS"}
    line = f"{sys.executable} -m audit_middleware query {filled.path} --json | head -1"
    subprocess.run(["bash", "-c", line], check=True, cwd=Path(__file__).parents[2], env=environment, timeout=60)
    (record,) = reads(filled)
    assert record["outcome"] == "success"
    assert record["extra"]["records"] >= 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_root_reads_makes_no_file_of_root_in_anothers_log(filled: Log, command: Command) -> None:
    """A segment or lock of root would keep the service from its own log."""
    owner = 65534
    for path in (filled.path, *filled.path.rglob("*")):
        os.chown(path, owner, owner)
    filled.path.parent.chmod(0o755)
    for above in filled.path.parents:
        if above.stat().st_uid == 0 and above.name.startswith(("pytest", "popen-", "test_")):
            above.chmod(above.stat().st_mode | 0o011)
    (filled.path / ".state" / "lock").unlink()
    assert command("verify", filled.path)[2] == ""
    assert len(reads(filled)) == 1
    assert (filled.path / ".state" / "lock").stat().st_uid == owner
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_a_wrong_use_leaves_no_record(filled: Log, command: Command) -> None:
    before = journal_bytes(filled)
    assert command("query", filled.path, "--since", "yesterday")[0] == 2
    assert command("query", filled.path.parent / "none")[0] == 3
    assert journal_bytes(filled) == before


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no memory file system to put a log on")
def test_a_doubtful_file_system_is_not_told_to_each_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own: there, a warning that nobody handles is printed."""
    monkeypatch.delenv("AUDIT_RECORD_READS")
    folder = Path("/dev/shm") / f"audit-test-{os.getpid()}"
    try:
        folder.mkdir()
        kept = make_log(folder)
        line = [sys.executable, "-m", "audit_middleware", "tail", str(kept.path), "-n", "5"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        assert done.stderr == ""
        assert len(reads(kept)) == 1
    finally:
        shutil.rmtree(folder)
