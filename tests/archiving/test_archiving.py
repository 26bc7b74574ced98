"""A log put into an archive: what is there, in which order, again and again, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from audit_middleware.errors import ArchiveConflict, ArchiveError, EntriesPruned, LogForked
from audit_middleware.evidence.anchors import keep_cosigned, keep_stamp
from audit_middleware.evidence.archive_objects import newest_archived
from audit_middleware.stores.journal import JournalStore
from tests.archiving.support import END, NOW, Bucket, archive_log, archiver, copy_of, found, grow, log_of, read_back
from tests.ledger_verify.witnesses import cosign
from tests.publish.support import numbered
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, new_journal, small

DATA = ["tile/0/000", "tile/0/001", "tile/entries/000", "tile/entries/001"]


@pytest.fixture
def store(tmp_path: Path) -> JournalStore:
    """600 entries: two full bundles and 88 more."""
    return log_of(tmp_path / "log", 600)


def names(bucket: Bucket, *, beside: bool = False) -> list[str]:
    return [name for name in bucket.names("") if beside or not name.startswith("trust/")]


def test_bundles_tiles_and_the_checkpoint_last(store: JournalStore) -> None:
    bucket = Bucket()
    done = archive_log(store, bucket)
    assert (done.checkpoint.size, done.objects) == (600, 6)
    assert names(bucket) == ["checkpoints/00000000000000000600", *DATA]
    assert bucket.puts.index("checkpoints/00000000000000000600") == 4, "after all that it stands for"
    assert {one.until for known in bucket.objects.values() for one in known if one} == {END}
    assert [name for name in names(bucket, beside=True) if name.startswith("trust/")], "the keys in config.json"
    report = read_back(bucket)
    assert report.holds
    assert (report.entries, report.newest, report.covered, report.objects, report.locked) == (512, 600, 0, 6, 6)
    assert any("partial bundle is not archived" in text for text in report.not_checked)


def test_what_fills_up_later_covers_earlier_checkpoints(store: JournalStore) -> None:
    bucket = Bucket()
    archive_log(store, bucket)
    grow(store, 300)
    assert archive_log(store, bucket).checkpoint.size == 900
    report = read_back(bucket)
    assert (report.holds, report.entries, report.covered, report.checkpoints) == (True, 768, 600, 2)
    whole = read_back(bucket, log=store)
    assert (whole.holds, whole.covered) == (True, 900)
    assert "each of these extends the one before it" in whole.claims[0]


def test_a_short_log_with_its_partial_bundle(tmp_path: Path) -> None:
    store, bucket = log_of(tmp_path / "log", 17), Bucket()
    archive_log(store, bucket, partial=True)
    grow(store, 3)
    archive_log(store, bucket, partial=True)
    assert "tile/entries/000.p/17" in bucket.objects
    report = read_back(bucket)
    assert (report.holds, report.covered) == (True, 20)
    assert report.objects == 5, "two checkpoints, two partial bundles, the keys"


def test_nothing_new_puts_nothing(store: JournalStore) -> None:
    bucket = Bucket()
    keeps = archiver(store, bucket)
    keeps.catch_up()
    before = bucket.first()
    assert keeps.catch_up().objects == 0
    assert archive_log(store, bucket).objects == 1, "another process asks once whether the keys are there"
    assert bucket.first() == before


def test_full_bundles_between_two_checkpoints(store: JournalStore) -> None:
    bucket = Bucket()
    keeps = archiver(store, bucket)
    keeps.catch_up()
    grow(store, 100)
    assert not keeps.pending
    grow(store, 100)
    assert keeps.pending
    assert keeps.put_full() == 2
    assert not keeps.pending
    assert "tile/entries/002" in bucket.objects
    newest = newest_archived(bucket, ORIGIN, VERIFIERS)
    assert newest is not None
    assert newest.checkpoint.size == 600
    assert keeps.catch_up().checkpoint.size == 800
    assert read_back(bucket, log=store).holds


def test_cosignatures_and_time_stamps_beside_the_log(store: JournalStore) -> None:
    bucket = Bucket()
    keeps = archiver(store, bucket)
    keep_cosigned(store.path, cosign(store.head().checkpoint, "a"))
    keeps.catch_up()
    assert b"witness" in bucket.first()["checkpoints/00000000000000000600"], "cosigned by then"
    assert "cosigned/00000000000000000600" not in bucket.objects, "not twice"
    grow(store, 1)
    keeps.catch_up()
    note = store.head().checkpoint
    keep_cosigned(store.path, cosign(note, "a", "b"))
    keep_stamp(store.path, 601, note, b"stamp")
    keeps.catch_up()
    keep_cosigned(store.path, cosign(note, "a", "b", "c"))
    keeps.catch_up()
    assert archive_log(store, bucket).checkpoint.size == 601, "another round of witnesses is no conflict"
    assert bucket.first()["cosigned/00000000000000000601"] == cosign(note, "a", "b")
    assert bucket.first()["timestamps/00000000000000000601.tsr"] == b"stamp"
    assert read_back(bucket, log=store).holds


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_log_that_was_rolled_back(store: JournalStore, tmp_path: Path) -> None:
    backup, bucket = copy_of(store, tmp_path / "backup"), Bucket()
    grow(store, 300)
    archive_log(store, bucket)
    older, before = JournalStore.open(backup), bucket.first()
    with pytest.raises(LogForked, match=r"checkpoint of size 900, signed by this log's key, but .* only 600 entries"):
        archive_log(older, bucket)
    older.append([small(7_000 + at) for at in range(500)], SEAL)  # and continued: two histories
    with pytest.raises(LogForked, match="there are two histories"):
        archive_log(older, bucket)
    assert bucket.first() == before


def test_another_history_before_the_first_checkpoint_of_a_bundle(store: JournalStore, tmp_path: Path) -> None:
    """The log is put back to what was archived, and goes on differently: the bundle in the archive says so."""
    bucket = Bucket()
    keeps = archiver(store, bucket)
    keeps.catch_up()
    backup = copy_of(store, tmp_path / "backup")
    grow(store, 300)
    keeps.put_full()
    older = JournalStore.open(backup)
    older.append([small(7_000 + at) for at in range(500)], SEAL)
    with pytest.raises(ArchiveConflict, match="tile/"):
        archive_log(older, bucket)


def test_another_logs_archive(store: JournalStore, tmp_path: Path) -> None:
    bucket = Bucket()
    bucket.put("checkpoints/00000000000000000001", b"of somebody else", None)
    with pytest.raises(ArchiveError, match="another log's archive"):
        archive_log(store, bucket)


def test_an_archive_that_begins_after_a_prune(store: JournalStore, tmp_path: Path) -> None:
    store.close_segment_at(300)
    store.prune(300, 400, "2026-01-01T00:00:00.000000Z")
    with pytest.raises(EntriesPruned, match="an archive begins with entry 0"):
        archive_log(store, Bucket())


def test_a_tile_that_was_altered_is_the_archives_fault(store: JournalStore) -> None:
    bucket = Bucket()
    archive_log(store, bucket)
    bucket.objects["tile/0/001"] = []
    grow(store, 1)
    with pytest.raises(ArchiveError, match="entries 512 to 599 do not lead to the newest archived checkpoint"):
        archive_log(store, bucket)


@pytest.mark.parametrize("name", ["tile/0/001", "checkpoints/00000000000000000600"])
def test_what_lies_on_top_stops_nobody(store: JournalStore, name: str) -> None:
    bucket = Bucket()
    archive_log(store, bucket)
    bucket.hide(name)
    bucket.cover(name, bytes(8192))
    bucket.cover("checkpoints/00000000000000999999", b"looks newer")
    grow(store, 200)
    assert archive_log(store, bucket).checkpoint.size == 800
    assert read_back(bucket, log=store).holds


# --- broken off -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
def test_any_beginning_of_the_puts_and_then_the_rest_is_the_same_archive(tmp_path: Path, after: bool) -> None:
    store = log_of(tmp_path / "log", 1100, 130)
    whole = Bucket()
    archive_log(store, whole, partial=True)
    for count in range(len(whole.puts) + 1):
        bucket = Bucket()

        def fails(name: str, bucket: Bucket = bucket, count: int = count) -> None:
            if len(bucket.puts) >= count:
                if after:  # taken, and reported as failed
                    bucket.fails = lambda name: None
                    bucket.put(name, whole.first()[name], END)
                raise ArchiveError("connection lost")

        bucket.fails = fails
        if count < len(whole.puts):
            with pytest.raises(ArchiveError, match="connection lost"):
                archive_log(store, bucket, partial=True)
            newest = newest_archived(bucket, ORIGIN, VERIFIERS)
            assert newest is None or read_back(bucket).holds, "a checkpoint implies its data"
        bucket.fails = lambda name: None
        archive_log(store, bucket, partial=True)
        assert bucket.first() == whole.first(), count


def test_broken_off_while_the_log_grows(tmp_path: Path) -> None:
    dice, bucket = random.Random(7), Bucket()
    store = new_journal(tmp_path / "log", numbered(0, 10))
    for _ in range(30):
        grow(store, dice.randint(1, 300))
        left = dice.randint(0, 6)

        def fails(name: str, until: int = len(bucket.puts) + left) -> None:
            if len(bucket.puts) >= until:
                raise ArchiveError("connection lost")

        bucket.fails = fails
        try:
            archive_log(store, bucket, partial=dice.random() < 0.5)
        except ArchiveError:
            pass
        else:
            assert read_back(bucket, log=store).holds
    bucket.fails = lambda name: None
    archive_log(store, bucket)
    report = read_back(bucket, log=store)
    assert (report.holds, report.covered) == (True, store.head().size)
    assert found(report) == []


def test_one_archiver_goes_on_after_an_error(store: JournalStore) -> None:
    bucket = Bucket()
    keeps = archiver(store, bucket)
    keeps.catch_up()
    grow(store, 300)

    def fails(name: str) -> None:
        raise ArchiveError("away")

    bucket.fails = fails
    with pytest.raises(ArchiveError, match="away"):
        keeps.catch_up()
    bucket.fails = lambda name: None
    assert keeps.catch_up().checkpoint.size == 900
    assert read_back(bucket, log=store, now=NOW).holds
