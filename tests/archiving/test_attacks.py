"""Whoever changes the archive, or the log below it: what the verifications name."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.archives.folder import FolderArchive
from audit_middleware.cli import main
from audit_middleware.errors import LogDamaged, LogForked
from audit_middleware.evidence.heads import compare_heads
from audit_middleware.ledger.tiles import decode_bundle, encode_bundle
from audit_middleware.stores.journal import JournalStore
from tests.archives.flags import unlock
from tests.archiving.support import (
    END,
    NOW,
    Bucket,
    Version,
    archive_log,
    copy_of,
    found,
    grow,
    log_of,
    read_back,
)
from tests.stores.samples import SEAL, batches, new_journal

Verify = Callable[..., tuple[int, dict[str, Any]]]

NEWEST = "checkpoints/00000000000000000900"


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    """The archive of a log of 900 entries, with checkpoints at 600 and 900; the log is beside it."""
    made = Bucket()
    store = log_of(tmp_path / "log", 600)
    archive_log(store, made, partial=True)
    grow(store, 300)
    archive_log(store, made, partial=True)
    return made


# --- the archive by itself -------------------------------------------------------------------------------------------


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_each_object_flipped_cut_or_gone(bucket: Bucket) -> None:
    assert read_back(bucket).holds
    for name, data in bucket.first().items():
        for changed in (flipped(data), data[: len(data) // 2], None):
            kept = bucket.objects[name]
            bucket.objects[name] = [] if changed is None else [Version(changed, END, True, NOW)]
            report = read_back(bucket)
            if name.startswith(("trust/", "checkpoints/")) and changed is None:
                assert report.objects, "which checkpoints there were, nobody can tell: that is what locks are for"
            elif name.startswith(("trust/", "checkpoints/")):
                assert ("note", "not counted", name) in found(report)
            elif changed is None and ".p/" in name:
                assert report.covered == (900 if name.endswith(".p/88") else 600), "partial bundles need not be there"
                assert any("more than 600" in text for text in report.not_checked) == (report.covered == 600)
            else:
                assert not report.holds, name
                named = [where for _, _, where in found(report)] + [one.text for one in report.findings]
                assert any(name in text for text in named), (name, named)
            bucket.objects[name] = kept
    assert read_back(bucket).holds


def test_what_lies_on_top_is_named_and_the_one_below_counts(bucket: Bucket) -> None:
    bucket.hide(NEWEST)
    bucket.hide("tile/entries/001")
    bucket.cover("tile/0/002", bytes(8192))
    bucket.cover("checkpoints/00000000000000000600", b"foreign")
    report = read_back(bucket)
    assert (report.holds, report.covered) == (True, 900)
    assert sorted(found(report)) == [
        ("note", "hidden", "checkpoints/00000000000000000600"),
        ("note", "hidden", NEWEST),
        ("note", "hidden", "tile/0/002"),
        ("note", "hidden", "tile/entries/001"),
    ]
    texts = " ".join(one.text for one in report.findings)
    assert "a delete marker lies on top" in texts
    assert "a version with other bytes lies on top of it (1)" in texts


def test_an_entry_and_its_tile_changed_together(bucket: Bucket, tmp_path: Path) -> None:
    """Bundle and tile agree with each other; the next checkpoint does not."""
    other = Bucket()
    store = log_of(tmp_path / "other", 300)
    entries = [b'{"n":-1}', *[entry for frame in store.frames() for entry in frame.entries][1:]]
    archive_log(new_journal(tmp_path / "changed", entries), other)
    for name in ("tile/entries/000", "tile/0/000"):
        bucket.objects[name] = other.objects[name]
    report = read_back(bucket)
    assert {("error", "forked", NEWEST), ("error", "forked", "checkpoints/00000000000000000600")} <= set(found(report))


def test_an_object_without_a_lock_beside_locked_ones(bucket: Bucket) -> None:
    (one,) = bucket.objects["tile/entries/001"]
    (two,) = bucket.objects["tile/entries/002"]
    assert one is not None
    assert two is not None
    one.locked, one.until = False, None
    two.locked = False
    report = read_back(bucket)
    assert set(found(report)) == {("error", "not locked", f"tile/entries/00{n}") for n in (1, 2)}
    assert {one.text for one in report.findings} == {"has no lock", "has a lock that some accounts may take away"}


def test_an_archive_that_locks_nothing(tmp_path: Path) -> None:
    open_bucket = Bucket(locks=False)
    archive_log(log_of(tmp_path / "log", 300), open_bucket)
    report = read_back(open_bucket)
    assert (report.holds, report.locked) == (True, 0)
    assert any("no lock is in force" in text for text in report.not_checked)
    assert not read_back(open_bucket, require_lock=True).holds


def test_when_the_locks_are_over(bucket: Bucket) -> None:
    bucket.objects["tile/entries/000"] = []  # a rule of the bucket has removed it
    report = read_back(bucket, now=END + 1)
    assert (report.holds, report.locked, report.ended) == (True, 0, report.objects)
    assert found(report) == [("note", "missing", "tile/entries/000")]
    assert found(read_back(bucket)) == [("error", "missing", "tile/entries/000")], "while the lock is in force"


def test_without_bundle_and_tile_nothing_after_them_is_compared(bucket: Bucket) -> None:
    bucket.objects["tile/entries/001"] = bucket.objects["tile/0/001"] = []
    report = read_back(bucket)
    assert (report.holds, report.covered, report.claims) == (False, 0, ())


# --- the log against its archive -------------------------------------------------------------------------------------


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verify:
    """The command with --json, in this process: exit code and report."""

    def command(*arguments: object) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["audit-middleware", *map(str, arguments), "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, json.loads(captured.out) if captured.out else {"error": captured.err}

    return command


@pytest.fixture
def path(tmp_path: Path, folder: Path) -> Path:
    """A log of records, archived in the folder with checkpoints at 300 and 640; beside it a backup of the first 300."""
    groups = batches(*[20] * 32)
    store = new_journal(tmp_path / "log", *groups[:15])
    archive_log(store, FolderArchive.open(folder))
    copy_of(store, tmp_path / "backup")
    for group in groups[15:]:
        store.append(group, SEAL)
    archive_log(store, FolderArchive.open(folder))
    return tmp_path / "log"


def causes(report: dict[str, Any]) -> set[str]:
    return {one["cause"] for one in report["findings"] if one["level"] == "error"}


def test_a_log_and_its_archive_agree(path: Path, folder: Path, verify: Verify) -> None:
    code, report = verify("verify", path, "--archive", folder)
    assert (code, causes(report)) == (0, set())
    (claim,) = [one for one in report["claims"] if one["kind"] == "archived"]
    assert claim["size"] == 640
    assert f"archived in {folder}" in claim["text"]
    assert "agrees with 2 checkpoints there, up to size 640, which was there at" in claim["text"]
    assert claim["time"].endswith("Z")
    assert not any("--log" in text for text in report["not_checked"])


def test_rolled_back_to_a_backup(path: Path, folder: Path, tmp_path: Path, verify: Verify) -> None:
    code, report = verify("verify", tmp_path / "backup", "--archive", folder)
    assert (code, report["cause"]) == (1, "truncated")
    assert any(f"archived in {folder}" in one["text"] for one in report["findings"])
    with pytest.raises(LogDamaged, match=r"ends at size 300, but .* size 640, signed by this log's key: archived in"):
        compare_heads(JournalStore.open(tmp_path / "backup"), archive=str(folder))


def test_rolled_back_and_continued(path: Path, folder: Path, tmp_path: Path, verify: Verify) -> None:
    store = JournalStore.open(tmp_path / "backup")
    for group in batches(*[20] * 32, instance="process-2"):
        store.append(group, SEAL)
    assert verify("verify", store.path)[0] == 0, "by itself it holds"
    code, report = verify("verify", store.path, "--archive", folder)
    assert (code, causes(report)) == (1, {"forked"})
    with pytest.raises(LogForked, match="at size 640 the log has another root"):
        compare_heads(store, archive=str(folder))
    code, report = verify("archive", "put", store.path, folder, "--retain", "none", "--no-check")
    assert code == 1
    assert "there are two histories" in report["error"]


def test_rewritten_and_signed_again(path: Path, folder: Path, tmp_path: Path, verify: Verify) -> None:
    groups = batches(*[20] * 32)
    groups[0][0] = groups[0][0].replace(b"user-0", b"user-9")
    new_journal(tmp_path / "rewritten", *groups)
    assert verify("verify", tmp_path / "rewritten")[0] == 0, "by itself it holds"
    code, report = verify("verify", tmp_path / "rewritten", "--archive", folder)
    assert (code, causes(report)) == (1, {"forked"})


def test_a_bundle_replaced_in_the_folder(path: Path, folder: Path, verify: Verify) -> None:
    unlock(folder)
    bundle = folder / "tile" / "entries" / "001"
    entries = decode_bundle(bundle.read_bytes())
    entries[3] = entries[3].replace(b"invoice", b"voucher")
    bundle.chmod(0o600)
    bundle.write_bytes(encode_bundle(entries))
    for arguments in (("verify", path, "--archive", folder), ("archive", "verify", folder, "--log", path)):
        code, report = verify(*arguments)
        (finding,) = [one for one in report["findings"] if one["level"] == "error"]
        assert (code, finding["cause"], finding["index"]) == (1, "altered", 256 + 3)
        assert finding["where"] == f"{folder}: tile/entries/001"


def test_a_checkpoint_hidden_or_covered_in_a_bucket(
    path: Path, folder: Path, tmp_path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket()
    archive_log(JournalStore.open(path, writable=False), bucket)
    monkeypatch.setattr("audit_middleware.evidence.outside.open_archive", lambda place, writable: bucket)
    code, report = verify("verify", path, "--archive", "memory://bucket")
    assert code == 0
    (claim,) = [one for one in report["claims"] if one["kind"] == "archived"]
    assert "with its locks verified, the first until 2028" in claim["text"]
    bucket.hide("checkpoints/00000000000000000640")
    older = JournalStore.open(tmp_path / "backup")
    bucket.cover("checkpoints/00000000000000000640", older.head().checkpoint)
    code, report = verify("verify", tmp_path / "backup", "--archive", "memory://bucket")
    assert code == 1
    assert {"truncated", "hidden"} <= {one["cause"] for one in report["findings"]}


def test_an_archive_that_is_away_or_empty(path: Path, tmp_path: Path, verify: Verify) -> None:
    code, report = verify("verify", path, "--archive", "file:///not/there")
    assert code == 3
    assert "no directory is there" in report["error"]
    (tmp_path / "empty").mkdir()
    assert verify("verify", path, "--archive", f"file://{tmp_path / 'empty'}")[0] == 2
    (state,) = compare_heads(JournalStore.open(path), archive="/not/there")
    assert (state.state, state.size) == ("unknown", None)
    (state,) = compare_heads(JournalStore.open(path), archive=str(tmp_path / "empty"))
    assert state.state == "none"


def test_a_log_restored_from_its_archive(path: Path, folder: Path, tmp_path: Path, verify: Verify) -> None:
    code, report = verify("archive", "verify", folder)
    assert (code, report["covered"], report["newest"]) == (0, 300, 640)
    store = JournalStore.open(path)
    archive_log(store, FolderArchive.open(folder))
    shutil.rmtree(tmp_path / "backup")
    assert _run("archive", "restore", folder, tmp_path / "copy") == 0
    code, report = verify("verify", tmp_path / "copy", "--archive", folder)
    assert (code, causes(report), report["size"]) == (1, {"truncated"}, 300), "the tail is not in the archive"
    for group in batches(*[20] * 32, instance="process-3")[:7]:
        store.append(group, SEAL)
    archive_log(store, FolderArchive.open(folder))
    assert _run("archive", "restore", folder, tmp_path / "later") == 0
    restored, original = JournalStore.open(tmp_path / "later"), JournalStore.open(path)
    assert restored.head().size == 640
    entries = [entry for frame in original.frames() for entry in frame.entries]
    assert [entry for frame in restored.frames() for entry in frame.entries] == entries[:640]
    assert verify("verify", tmp_path / "later")[0] == 0


def _run(*arguments: object) -> int:
    sys.argv = ["audit-middleware", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
