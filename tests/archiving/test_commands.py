"""``archive put``, ``verify``, ``restore`` and ``check --log`` as they are run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from audit_middleware.archives.folder import FolderArchive
from audit_middleware.cli import main
from audit_middleware.evidence.archive_rounds import MemoryFile, Teller, remember_check
from audit_middleware.evidence.prune import plan_prune
from audit_middleware.evidence.retention import set_retention
from tests.archives.flags import unlock
from tests.archives.serving import Server, make_bucket
from tests.archiving.support import Bucket, archive_log, grow, log_of
from tests.archiving.test_service import signers
from tests.control.support import until
from tests.kit import Log
from tests.stores.samples import SEAL, VKEY, entry, new_journal

Command = Callable[..., tuple[int, str, str]]

_numbers = count()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command in this process: exit code, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def written(log: Log) -> Log:
    """A log with a key beside it and some records."""
    for months in range(1, 6):
        set_retention(log.path, Path(f"{log.path}.key"), months, "somebody")
    return log


def test_a_folder_is_not_called_immutable(written: Log, folder: Path, command: Command) -> None:
    code, _, errors = command("archive", "put", written.path, folder)
    assert code == 1
    assert "holds nothing against the administrator" in errors
    assert "--no-check" in errors
    assert list(FolderArchive(folder).names("")) == [], "nothing was archived"
    code, told, errors = command("archive", "put", written.path, folder, "--no-check", "--partial")
    assert code == 0
    assert "5 entries archived" in told
    assert "not shown to be immutable" in told
    assert "stands in the records in clear" in errors
    assert [one["extra"]["size"] for one in written.controls("audit.archived")] == [5]
    code, _, errors = command("archive", "put", written.path, folder, "--no-check")
    assert code == 0
    assert "personal data" not in errors, "said once"
    code, told, _ = command("archive", "verify", folder)
    assert code == 0
    assert "the first 5 entries are what the signed checkpoint says" in told
    assert "not checked: that the keys that the archive names are the operator's" in told


def test_json_manifest_and_keys(written: Log, folder: Path, tmp_path: Path, command: Command) -> None:
    code, told, _ = command("archive", "put", written.path, folder, "--no-check", "--retain", "40d", "--json")
    assert code == 0
    assert json.loads(told) == {"place": str(folder), "size": 5, "objects": 2, "shown_immutable": False}
    listing = tmp_path / "listing"
    code, told, _ = command("archive", "verify", folder, "--vkey", written.vkey, "--manifest", listing, "--json")
    assert (code, json.loads(told)["newest"]) == (0, 5)
    listed = [json.loads(line) for line in listing.read_text().splitlines()]
    assert {one["name"]: one["sha256"] for one in listed} == {
        name: sha256((folder / name).read_bytes()).hexdigest() for name in FolderArchive(folder).names("")
    }
    trust = tmp_path / "trust"
    trust.write_text(f"log {written.vkey}\nquorum none\n")
    assert command("archive", "verify", folder, "--trust", trust)[0] == 0
    assert command("archive", "verify", folder, "--vkey", VKEY)[0] == 3, "another log's key"
    assert command("archive", "verify", tmp_path)[0] == 2, "whose archive?"
    assert command("archive", "verify", tmp_path / "none")[0] == 3


def test_a_log_without_a_key_here_is_archived_all_the_same(tmp_path: Path, folder: Path, command: Command) -> None:
    log_of(tmp_path / "log", 300)
    code, told, errors = command("archive", "put", tmp_path / "log", folder, "--no-check", "--retain", "40d")
    assert code == 0
    assert "300 entries archived" in told
    assert "not recorded in the log" in errors
    assert command("archive", "put", tmp_path / "log", folder, "--no-check")[0] == 3, "how long, nobody says"


def test_restore_refuses_what_is_there_and_what_is_not(tmp_path: Path, folder: Path, command: Command) -> None:
    store = log_of(tmp_path / "log", 300)
    archive_log(store, FolderArchive(folder))
    code, _, errors = command("archive", "restore", folder, tmp_path / "copy")
    assert code == 3
    assert "do not reach the smallest checkpoint (size 300)" in errors
    grow(store, 300)
    archive_log(store, FolderArchive(folder), partial=True)
    code, told, _ = command("archive", "restore", folder, tmp_path / "copy")
    assert code == 0
    assert "600 entries" in told
    assert command("archive", "restore", folder, tmp_path / "copy")[0] == 3, "there is one already"


def test_one_process_archives_a_log_in_a_place(tmp_path: Path, folder: Path, command: Command) -> None:
    store = log_of(tmp_path / "log", 300)
    with MemoryFile.of(store.path, str(folder)).lock.held(0):
        code, _, errors = command("archive", "put", store.path, folder, "--no-check", "--retain", "40d")
    assert code == 3
    assert "another process archives" in errors


def test_following_outlasts_an_archive_that_is_away(tmp_path: Path, folder: Path) -> None:
    store = log_of(tmp_path / "log", 300)
    options = ["--no-check", "--retain", "40d", "--follow", "--interval", "0.2"]
    command = [sys.executable, "-m", "audit_middleware", "archive", "put", str(store.path), str(folder), *options]
    moved = tmp_path / "moved"
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=errors)
    try:
        until(lambda: (folder / "checkpoints" / f"{300:020}").exists(), "the first round")
        unlock(folder)
        folder.rename(moved)
        folder.write_text("not a directory any more")
        grow(store, 100)
        until(lambda: b"will be tried again" in (tmp_path / "errors").read_bytes(), "it says so")
        folder.unlink()
        moved.rename(folder)
        until(lambda: (folder / "checkpoints" / f"{400:020}").exists(), "the rest")
    finally:
        process.terminate()
        assert process.wait(300) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_root_keeps_beside_a_log_is_the_logs_owners(log: Log) -> None:
    for path in (log.path, *log.path.rglob("*")):
        os.chown(path, 65534, 65534)
    for above in log.path.parents:
        if above.stat().st_uid == 0 and above.name.startswith(("pytest", "popen-", "test_")):
            above.chmod(above.stat().st_mode | 0o011)
    file = MemoryFile.of(log.path, "s3://bucket")
    with file.lock.held(0):
        file.write(file.read())
    owners = {path.stat().st_uid for path in file.path.parent.parent.rglob("*")}
    assert owners == {65534}
    assert os.geteuid() == 0


def test_an_examination_is_remembered_and_told(
    written: Log, shared_s3: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_bucket(shared_s3.url, f"checked-{next(_numbers)}")
    code, told, errors = command("archive", "put", written.path, url, "--retain", "1d")
    assert code == 0, errors
    assert "not shown to be immutable" not in told
    (checked,) = written.controls("audit.archive_checked")
    assert checked["severity"] == "info"
    assert (checked["extra"]["immutable"], checked["extra"]["failed"]) == ("yes", [])
    assert "endpoint_url" not in checked["extra"]["place"], "the place, no settings"
    (archived,) = written.controls("audit.archived")
    assert archived["extra"]["shown_immutable"] is True
    assert command("archive", "put", written.path, url, "--retain", "1d")[0] == 0
    assert len(written.controls("audit.archive_checked")) == 1, "not again"
    file = MemoryFile.of(written.path, checked["extra"]["place"])
    memory = file.read()
    memory.checked -= 91 * 86_400
    file.write(memory)
    assert command("archive", "check", url, "--log", written.path)[0] == 0
    assert len(written.controls("audit.archive_checked")) == 2
    code, told, _ = command("archive", "verify", url, "--log", written.path, "--require-lock")
    assert code == 0
    assert "objects are locked, the first of them until" in told


def test_an_examination_that_failed_is_an_alarm_in_the_log(written: Log) -> None:
    teller = Teller(written.path, lambda: signers(written), pytest.fail)
    remember_check(written.path, "s3://weak", 1_800_000_000, "no", {"delete": "no", "shorten": "yes"}, teller)
    (checked,) = written.controls("audit.archive_checked")
    assert (checked["severity"], checked["extra"]["failed"]) == ("high", ["delete"])


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_a_prune_stops_at_what_the_archive_holds(tmp_path: Path) -> None:
    old = datetime.now(UTC) - timedelta(days=100)
    moment = old.isoformat(timespec="microseconds").replace("+00:00", "Z")
    entries = [entry(number, timestamp=moment, recorded_at=moment) for number in range(600)]
    store, bucket = new_journal(tmp_path / "log", entries[:300], entries[300:]), Bucket()
    extra = {"months": 1, "by": "somebody"}
    store.append([entry(600, kind="control", action="audit.retention_set", extra=extra)], SEAL)
    assert plan_prune(store).minimum == 512
    plan = plan_prune(store, [bucket])
    assert (plan.minimum, plan.stopped_by) == (0, "the archive memory://bucket holds only 0 entries in full bundles")
    archive_log(store, bucket)
    assert plan_prune(store, [bucket]).minimum == 512
