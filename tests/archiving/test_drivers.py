"""The same with real archives: a folder, an S3 server with Object Lock; processes that are killed; several at once."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.archives.folder import FolderArchive
from audit_middleware.archives.opening import open_archive
from audit_middleware.archives.s3 import S3Archive
from audit_middleware.errors import ArchiveError, LogForked
from audit_middleware.evidence.archived import ArchiveReader
from audit_middleware.evidence.outside import locked_outside
from audit_middleware.ledger import tree
from audit_middleware.model import Stored
from audit_middleware.protocols import Archive
from audit_middleware.stores.journal import JournalStore
from tests.archives.serving import Asked, Proxy, Server
from tests.archiving.support import archiver, copy_of, found, grow, log_of
from tests.publish.support import numbered
from tests.stores.children import finish, fork
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, new_journal


def run(store: JournalStore, archive: Archive) -> int:
    """Archives everything in a process's own way."""
    return archiver(store, archive, time.time() + 600).catch_up(partial=True).checkpoint.size


def holds(archive: Archive, log: JournalStore | None = None) -> int:
    """Reads it back; the size of the largest checkpoint that the entries lead to."""
    report = ArchiveReader(archive, ORIGIN, VERIFIERS, log=log).run()
    assert report.holds, report.findings
    return report.covered


def test_a_log_goes_into_an_archive_and_comes_back(place: str, tmp_path: Path) -> None:
    store = log_of(tmp_path / "log", 700)
    assert run(store, open_archive(place)) == 700
    grow(store, 300)
    assert run(store, open_archive(place)) == 1000, "another process goes on from the archive alone"
    archive = open_archive(place, writable=False)
    report = ArchiveReader(archive, ORIGIN, VERIFIERS).run()
    assert (report.holds, report.entries, report.covered, report.checkpoints) == (True, 768, 1000, 2)
    if isinstance(archive, S3Archive):
        assert report.locked == report.objects
        assert report.until is not None


def test_a_backup_is_refused(place: str, tmp_path: Path) -> None:
    store = log_of(tmp_path / "log", 300)
    backup = copy_of(store, tmp_path / "backup")
    grow(store, 300)
    run(store, open_archive(place))
    with pytest.raises(LogForked, match="rolled back or truncated"):
        run(JournalStore.open(backup), open_archive(place))


def test_what_is_put_on_top_in_a_bucket(url: str, tmp_path: Path) -> None:
    store = log_of(tmp_path / "log", 600)
    archive = S3Archive.open(url)
    run(store, archive)
    checkpoint, bundle = "checkpoints/00000000000000000600", "tile/entries/001"
    archive.client.delete_object(**archive.at(checkpoint))
    archive.client.put_object(**archive.at(bundle), Body=b"foreign")
    archive.client.put_object(**archive.at("tile/0/001"), Body=bytes(8192))
    report = ArchiveReader(archive, ORIGIN, VERIFIERS).run()
    assert (report.holds, report.covered) == (True, 600)
    assert sorted(found(report)) == [
        ("note", "hidden", checkpoint),
        ("note", "hidden", "tile/0/001"),
        ("note", "hidden", bundle),
    ]
    (anchor,) = locked_outside(url, ORIGIN, VERIFIERS).anchors
    assert (anchor.size, anchor.root) == (600, tree.root(store.head().peaks))
    assert "with its locks verified, the first until" in anchor.label
    assert abs((anchor.time or 0) - time.time()) < 3600, "the archive's clock"
    grow(store, 100)
    assert run(store, S3Archive.open(url)) == 700


def test_a_connection_that_breaks(url: str, shared_s3: Server, proxy: Proxy, tmp_path: Path) -> None:
    """The server takes a request and the answer is lost; then nothing works; then it is back, and the rest follows."""
    store = log_of(tmp_path / "log", 600)
    archive = S3Archive.open(url.replace(shared_s3.url, proxy.url), tries=1, timeout=120)
    left = [3]

    def rule(asked: Asked) -> None:
        if asked.method == "PUT":
            left[0] -= 1
            asked.cut = left[0] == 0  # stored, and reported as failed
            asked.answer = (503, "ServiceUnavailable") if left[0] < 0 else None

    proxy.rule = rule
    with pytest.raises(ArchiveError):
        run(store, archive)
    assert left[0] < 1
    assert run(store, S3Archive.open(url)) == 600
    assert holds(S3Archive.open(url)) == 600


# --- killed, and several at once --------------------------------------------------------------------------------------


class Dying:
    """An archive in a folder whose process is killed at the n-th put, before or after it."""

    def __init__(self, archive: FolderArchive, number: int) -> None:
        self._archive = archive
        self._left = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)

    def put(self, name: str, data: bytes, end: float | None) -> Stored:
        self._left -= 1
        if self._left == 0:
            if len(name) % 2:
                self._archive.put(name, data, end)
            os._exit(9)
        return self._archive.put(name, data, end)


def test_killed_at_each_put(folder: Path, tmp_path: Path) -> None:
    store = log_of(tmp_path / "log", 1000, 250)
    number, code = 1, 9
    while code == 9:

        def work(tell: Callable[[bytes], int], number: int = number) -> None:
            reader = JournalStore.open(store.path, writable=False)
            run(reader, Dying(FolderArchive.open(folder), number))

        child = fork(work)
        code = child.wait()
        assert code in (0, 9)
        if (folder / "checkpoints").is_dir():
            holds(FolderArchive.open(folder))
        number += 1
    assert number > 5
    assert holds(FolderArchive.open(folder)) == 1000


def test_killed_at_random_times_while_the_log_grows(folder: Path, tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 10))
    dice, size = random.Random(5), 0

    def work(tell: Callable[[bytes], int]) -> None:
        reader = JournalStore.open(store.path, writable=False)
        tell(b"x")
        while True:
            run(reader, FolderArchive.open(folder))

    for _ in range(6):
        child = fork(work)
        os.read(child.pipe, 1)
        for _ in range(dice.randint(1, 4)):
            grow(store, dice.randint(1, 200))
            time.sleep(dice.random() * 0.05)
        child.kill()
        assert child.wait() == -9
        if (folder / "checkpoints").is_dir():
            report = ArchiveReader(FolderArchive.open(folder), ORIGIN, VERIFIERS, log=store).run()
            # A folder's lock is a step of its own: the kill may have come before it, and the next run makes up for it.
            assert {one.cause for one in report.findings} <= {"not locked"}
            assert report.covered >= size, "a kill took back what was archived"
            size = report.covered
    assert run(store, FolderArchive.open(folder)) == store.head().size
    assert holds(FolderArchive.open(folder)) == store.head().size


def test_several_at_once_make_the_same_archive(place: str, tmp_path: Path) -> None:
    store = log_of(tmp_path / "log", 900)

    def work(tell: Callable[[bytes], int]) -> None:
        run(JournalStore.open(store.path, writable=False), open_archive(place))

    finish(*(fork(work) for _ in range(3)))
    archive = open_archive(place, writable=False)
    assert holds(archive) == 900
    for name in archive.names(""):
        # Servers that look and store in two steps may keep a version of each writer; they are the same.
        assert len({archive.get(name, one.version) for one in archive.versions(name)}) == 1, name


def test_an_entry_that_changes_in_the_log_below_the_archive(place: str, tmp_path: Path) -> None:
    """Written anew and signed with the real key, longer than what is archived."""
    run(log_of(tmp_path / "log", 300), open_archive(place))
    other = new_journal(tmp_path / "other", [b'{"n":-1}', *numbered(1, 300)])
    other.append(numbered(300, 500), SEAL)
    with pytest.raises(LogForked, match="two histories"):
        run(other, open_archive(place))
