"""The public conformance suite over our own stores, and what these promise beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from audit_middleware.errors import RecordError
from audit_middleware.ledger.examine import RawFrame
from audit_middleware.protocols import LogStore
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.memory import MemoryStore
from audit_middleware.testing.stores import ProcessStoreConformance, StoreConformance
from tests.stores.samples import (
    CREATED,
    ORIGIN,
    SEAL,
    VKEY,
    assert_holds,
    batches,
    entries_of,
    entry,
    new_journal,
    small,
)


class TestJournal(StoreConformance):
    """The journal; every segment holds many commits."""

    segment_bytes = 2**26

    def make(self, tmp_path: Path) -> LogStore:
        JournalStore.create(tmp_path / "log", self.origin, [self.vkey], CREATED).close()
        return JournalStore.open(tmp_path / "log", segment_bytes=self.segment_bytes)

    def reopen(self, tmp_path: Path) -> LogStore:
        return JournalStore.open(tmp_path / "log", segment_bytes=self.segment_bytes)


class TestJournalOfSmallSegments(TestJournal):
    """The journal with one commit in each segment."""

    segment_bytes = 1


class TestMemory(ProcessStoreConformance):
    """The store that ends with its process."""

    def make(self, tmp_path: Path) -> LogStore:
        return MemoryStore(self.origin)


class Store(LogStore, Protocol):
    """A log store that a verifier can read."""

    def raw_frames(self, start: int = 0) -> Iterator[RawFrame]:
        """Everything that is there."""
        ...


@pytest.fixture(params=["journal", "journal-small-segments", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store
    if request.param == "memory":
        opened = MemoryStore(ORIGIN)
    else:
        opened = new_journal(tmp_path / "log", segment_bytes=1 if "small" in request.param else 2**26)
    yield opened
    assert_holds(opened)
    opened.close()


def test_a_verifier_reads_what_a_reader_reads(store: Store) -> None:
    assert list(store.raw_frames()) == []
    for group in batches(1, 3, 2):
        store.append(group, SEAL)
    read = [(frame.where, list(frame.entries)) for frame in store.frames()]
    assert [(raw.where, list(raw.entries)) for raw in store.raw_frames()] == read
    assert len({where for where, _ in read}) == 3


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"", "1 to 65535"),
        (b"{" + b"x" * 65_534 + b"}", "65536"),
        (b"[1]", "start with {"),
        (b' {"n":1}', "start with {"),
        (b'{"n":\n1}', "newline"),
        (b'{"n":1}\n', "newline"),
        (b'{"commit":{}}', "commit line"),
    ],
)
def test_what_is_no_entry_is_named(store: Store, bad: bytes, words: str) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        store.append([small(0), bad, small(1)], SEAL)
    assert "entry 1 of the batch" in str(caught.value)


def test_a_batch_has_a_bound(store: Store) -> None:
    with pytest.raises(RecordError, match="at least one"):
        store.append([], SEAL)
    with pytest.raises(RecordError, match="split"):
        store.append([b"{" + b"x" * 65_533 + b"}"] * 1025, SEAL)


def test_records_with_every_kind_of_text(store: Store) -> None:
    tricky = [
        entry(0, user_id='{"commit":{"checkpoint":"'),
        entry(1, user_id='"}\n{"commit":'),
        entry(2, user_id=',"sha256":"' + "0" * 64 + '"}'),
        entry(3, user_id="\u2028 ÿ €  \U0001f600"),
        entry(4, extra={"commit": {"checkpoint": "x", "peaks": ["y"]}, "sha256": "0" * 64}),
    ]
    store.append(tricky, SEAL)
    store.append([small(5)], SEAL)
    assert entries_of(store) == [*tricky, small(5)]


def test_the_samples_are_what_they_say() -> None:
    from tests.stores.samples import check_record

    check_record(entry(0))
    with pytest.raises(RecordError):
        check_record(entry(0, severity="loud"))
    with pytest.raises(RecordError):
        check_record(entry(0) + b" ")
    assert VKEY.startswith(ORIGIN)
