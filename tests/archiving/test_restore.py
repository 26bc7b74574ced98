"""A log made anew from its archive: large ones, and archives in which something is missing."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from audit_middleware.archives.folder import FolderArchive
from audit_middleware.errors import ArchiveConflict, ArchiveError
from audit_middleware.evidence.archive_objects import checkpoint_name
from audit_middleware.evidence.growing import CHUNK, CHUNK_BYTES
from audit_middleware.evidence.restore import Restored, restore
from audit_middleware.ledger.tiles import Bundle
from audit_middleware.stores.frames import MAX_FRAME
from audit_middleware.stores.journal import JournalStore
from tests.archives.flags import unlock
from tests.archiving.support import END, Bucket, archive_log, archiver, grow, log_of, read_back
from tests.archiving.test_commands import Command, command
from tests.ledger_verify.witnesses import cosign
from tests.stores.samples import ORIGIN, VERIFIERS, new_journal

__all__ = ["command"]


def sizes(bucket: Bucket) -> list[int]:
    """Of the archived checkpoints."""
    return [int(name.rpartition("/")[2]) for name in bucket.names("checkpoints")]


def test_a_log_that_was_archived_late_comes_back_whole(tmp_path: Path) -> None:
    """Its first round has more than a commit may hold, so there must be checkpoints on the way."""
    large = [b'{"n":"%04d%s"}' % (n, b"x" * 40_000) for n in range(1700)]
    assert sum(map(len, large)) > MAX_FRAME
    store = new_journal(tmp_path / "log", *(large[at : at + 50] for at in range(0, 1700, 50)))
    bucket = Bucket()
    archive_log(store, bucket, partial=True)
    assert read_back(bucket).holds
    assert restore(bucket, ORIGIN, VERIFIERS, tmp_path / "copy") == Restored(1700, 1700)
    frames = list(JournalStore.open(tmp_path / "copy", writable=False).frames())
    assert [entry for frame in frames for entry in frame.entries] == large
    assert max(sum(map(len, frame.entries)) for frame in frames) <= 5 * CHUNK_BYTES


@pytest.mark.parametrize("rounds", ["one", "full bundles only"])
def test_checkpoints_are_never_far_apart(tmp_path: Path, rounds: str) -> None:
    store, bucket = log_of(tmp_path / "log", 300), Bucket()
    keeps = archiver(store, bucket)
    keeps.catch_up()
    for _ in range(18):
        for _ in range(5):
            grow(store, 200)
        if rounds != "one":
            keeps.put_full()
    keeps.catch_up()
    found = sizes(bucket)
    assert found[-1] == store.head().size == 18_300
    assert max(later - sooner for sooner, later in pairwise(found)) < 2 * CHUNK
    assert len(found) <= 2 + 18_000 // CHUNK
    assert read_back(bucket, log=store).covered == 18_300


def test_a_partial_bundle_asked_for_after_its_checkpoint(tmp_path: Path) -> None:
    store, bucket = log_of(tmp_path / "log", 100), Bucket()
    archive_log(store, bucket)
    with pytest.raises(ArchiveError, match="--partial"):
        restore(bucket, ORIGIN, VERIFIERS, tmp_path / "copy")
    archive_log(store, bucket, partial=True)
    assert sizes(bucket) == [100]
    assert restore(bucket, ORIGIN, VERIFIERS, tmp_path / "copy") == Restored(100, 100)
    keeps, before = archiver(store, bucket), len(bucket.puts)
    keeps.catch_up(partial=True)
    again = len(bucket.puts)
    assert again > before, "another process puts it again, and finds it"
    keeps.catch_up(partial=True)
    assert len(bucket.puts) == again, "one process does so once"


def test_two_archivers_that_know_other_cosignatures(tmp_path: Path) -> None:
    store, bucket = log_of(tmp_path / "log", 600), Bucket()
    note, name = store.head().checkpoint, checkpoint_name(600)

    def fails(asked: str) -> None:
        if asked == name and name not in bucket.objects:  # another one is faster
            bucket.fails = lambda name: None
            bucket.put(name, cosign(note, "a"), END)

    bucket.fails = fails
    assert archive_log(store, bucket).checkpoint.size == 600
    assert bucket.first()[name] == cosign(note, "a")
    assert read_back(bucket, log=store).holds


def test_what_else_stands_under_the_name_of_a_checkpoint_is_a_conflict(tmp_path: Path) -> None:
    store, bucket = log_of(tmp_path / "log", 300), Bucket()
    archive_log(store, bucket)
    bucket.put(checkpoint_name(600), b"of somebody else", END)
    grow(store, 300)
    with pytest.raises(ArchiveConflict):
        archive_log(store, bucket)


def test_what_is_missing_is_said_and_no_success(tmp_path: Path, folder: Path, command: Command) -> None:
    store = log_of(tmp_path / "log", 600)
    for _ in range(3):
        archive_log(store, FolderArchive(folder), partial=True)
        grow(store, 300)
    unlock(folder)
    _, told, errors = command("archive", "restore", folder, tmp_path / "whole", "--json")
    assert json.loads(told) == {
        "place": str(folder), "log": str(tmp_path / "whole"), "size": 1200, "newest": 1200, "missing": None,
    }  # fmt: skip
    assert "not restored" not in errors
    shutil.rmtree(folder / f"{Bundle(4).path}.p")
    code, told, errors = command("archive", "restore", folder, tmp_path / "shorter")
    assert (code, "900 entries" in told) == (0, True)
    assert "not restored: entries 900 to 1199" in errors
    (folder / Bundle(3).path).unlink()
    shutil.rmtree(folder / f"{Bundle(3).path}.p")
    code, told, errors = command("archive", "restore", folder, tmp_path / "damaged")
    assert code == 1, "somebody removed what had been archived"
    assert "tile/entries/003 is not there" in errors
    (folder / Bundle(0).path).unlink()
    code, _, errors = command("archive", "restore", folder, tmp_path / "none")
    assert (code, "there is no whole tile/entries/000" in errors) == (3, True)
    assert not (tmp_path / "none").exists()
