"""Reading single entries by the search index: the same bytes as by whole commits, whatever the index says."""

from __future__ import annotations

import random
import sqlite3
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_middleware.errors import LogDamaged, StoreError
from audit_middleware.ledger import tree
from audit_middleware.model import Frame
from audit_middleware.stores.index import SearchIndex
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.memory import MemoryStore
from tests.stores.samples import ORIGIN, SEAL, assert_holds, batches, entries_of, new_journal, segments_of

SIZES = (3, 1, 40, 7, 2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JournalStore]:
    """Five commits in several segments."""
    opened = new_journal(tmp_path / "log", *batches(*SIZES), segment_bytes=20_000)
    assert len(segments_of(tmp_path / "log")) > 1
    yield opened
    opened.close()


@pytest.fixture
def index(store: JournalStore) -> Iterator[SearchIndex]:
    """Its index, caught up."""
    opened = SearchIndex(store.layout.index, store)
    opened.catch_up()
    yield opened
    opened.close()


def no_commits(self: JournalStore, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
    """In the place of `JournalStore.frames`."""
    raise AssertionError(f"the commit of entry {start} was read as a whole")


def test_entries_are_read_as_lines(store: JournalStore, index: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = entries_of(store)
    monkeypatch.setattr(JournalStore, "frames", no_commits)
    asked = list(range(len(entries))) * 2
    random.Random(3).shuffle(asked)
    assert list(index.read(asked)) == [(at, entries[at]) for at in asked]
    monkeypatch.undo()
    assert_holds(store, check_index=index.check)


def test_a_commit_that_is_read_as_a_whole_is_read_once(
    store: JournalStore, index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, whole, read = entries_of(store), JournalStore.frames, []

    def frames(self: JournalStore, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        read.append(start)
        return whole(self, start, stop)

    _tamper(store, "DELETE FROM place")
    monkeypatch.setattr(JournalStore, "frames", frames)
    assert list(index.read(range(len(entries)))) == list(enumerate(entries))
    assert len(read) == len(SIZES)


def test_an_entry_that_is_not_there(index: SearchIndex) -> None:
    with pytest.raises(StoreError, match="no entry 53"):
        list(index.read([sum(SIZES)]))


def test_a_store_without_files(tmp_path: Path) -> None:
    inner = MemoryStore(ORIGIN)
    for group in batches(*SIZES):
        inner.append(group, SEAL)
    index = SearchIndex(tmp_path / "index.sqlite", inner)
    index.catch_up()
    assert list(index.read([4, 0, 52])) == [(at, entries_of(inner)[at]) for at in (4, 0, 52)]


@pytest.mark.parametrize("part", ["entry", "commit"])
def test_a_changed_log_is_refused(store: JournalStore, index: SearchIndex, part: str) -> None:
    path = segments_of(store.path)[0]
    data = path.read_bytes()
    old, new = {
        "entry": (b'"path":"/invoices/1"', b'"path":"/invoices/7"'),
        "commit": (b'"count":3', b'"count":2'),
    }[part]
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(LogDamaged):
        list(index.read([1]))


def test_a_changed_sum_in_the_commit_line_is_refused(store: JournalStore, index: SearchIndex) -> None:
    path = segments_of(store.path)[0]
    data = bytearray(path.read_bytes())
    at = data.index(b'"leaves":"') + 10
    data[at] = ord("A") if data[at] != ord("A") else ord("B")
    path.write_bytes(data)
    with pytest.raises(LogDamaged):
        list(index.read([0]))


ROW = "FROM place AS other WHERE other.first = 44"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE place SET segment = segment + 1",
        "UPDATE place SET segment = -1",
        "UPDATE place SET segment = 1e300",
        "UPDATE place SET offset = offset + 1",
        "UPDATE place SET offset = offset - 1",
        "UPDATE place SET offset = 9223372036854775807",
        "UPDATE place SET offset = NULL",
        "UPDATE place SET lengths = NULL",
        "UPDATE place SET lengths = x'01'",
        "UPDATE place SET lengths = lengths || lengths",
        "UPDATE place SET lengths = substr(lengths, 3)",
        "UPDATE place SET leaves = zeroblob(length(leaves))",
        "UPDATE place SET leaves = ''",
        "UPDATE place SET first = first + 1 WHERE first = 51",
        f"UPDATE place SET (segment, offset, lengths, leaves) = (SELECT segment, offset, lengths, leaves {ROW})",
        "DELETE FROM place WHERE first > 0",
        "DROP TABLE place",
    ],
)
def test_whatever_the_index_says_the_entry_is_that_of_the_log(
    store: JournalStore, index: SearchIndex, statement: str
) -> None:
    _tamper(store, statement)
    entries = entries_of(store)
    assert list(index.read(range(len(entries)))) == list(enumerate(entries))


def test_an_entry_in_anothers_place(store: JournalStore, index: SearchIndex) -> None:
    """The row is made up so that entry 1 stands where entry 0 should, the commit line where it is, all hashes right."""
    first, second, third = entries_of(store)[:3]
    lengths = array("H", [len(second), len(third) - 1, 0]).tobytes()
    leaf = tree.leaf_hash(second)
    _tamper(store, f"UPDATE place SET offset = {len(first) + 1}, lengths = x'{lengths.hex()}' WHERE first = 0")
    _tamper(store, f"UPDATE place SET leaves = x'{leaf.hex()}' || leaves WHERE first = 0")
    assert next(index.read([0])) == (0, first)


def _tamper(store: JournalStore, statement: str) -> None:
    with sqlite3.connect(store.layout.index, isolation_level=None) as database:
        database.execute(statement)
    database.close()
