"""What every store promises, over every store: the suite of `protocols.LogStore`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from audit_middleware.errors import LogUnavailable, RecordError
from audit_middleware.ledger.examine import RawFrame
from audit_middleware.model import Head
from audit_middleware.protocols import LogStore
from audit_middleware.stores.memory import MemoryStore
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


def test_a_new_log_is_empty(store: Store) -> None:
    assert store.origin == ORIGIN
    assert store.head() == Head()
    assert list(store.frames()) == []
    assert list(store.raw_frames()) == []


def test_what_is_appended_comes_back(store: Store) -> None:
    groups = batches(1, 3, 2)
    heads = [store.append(group, SEAL) for group in groups]
    assert [head.size for head in heads] == [1, 4, 6]
    assert store.head() == heads[-1]
    found = list(store.frames())
    assert [frame.first for frame in found] == [0, 1, 4]
    assert [list(frame.entries) for frame in found] == groups
    assert [frame.head for frame in found] == heads
    assert len({frame.where for frame in found}) == 3


def test_frames_are_whole_and_overlap_what_was_asked(store: Store) -> None:
    for group in batches(2, 3, 1, 4):
        store.append(group, SEAL)

    def firsts(start: int, stop: int | None = None) -> list[int]:
        return [frame.first for frame in store.frames(start, stop)]

    assert firsts(0) == [0, 2, 5, 6]
    assert firsts(1) == [0, 2, 5, 6]
    assert firsts(2) == [2, 5, 6]
    assert firsts(4, 5) == [2]
    assert firsts(4, 6) == [2, 5]
    assert firsts(9, 100) == [6]
    assert firsts(10) == []
    assert firsts(3, 3) == []
    assert firsts(50, 60) == []


def test_frames_end_at_the_head_of_the_moment(store: Store) -> None:
    store.append([small(1)], SEAL)
    reading = store.frames()
    first = next(reading)
    store.append([small(2)], SEAL)
    assert first.first == 0
    assert list(reading) == []
    assert len(entries_of(store)) == 2


def test_the_sealer_gets_the_head_and_the_batch(store: Store) -> None:
    seen: list[tuple[Head, list[bytes]]] = []

    def seal(head: Head, entries: Sequence[bytes]) -> Head:
        seen.append((head, list(entries)))
        return SEAL(head, entries)

    one = store.append([small(1)], seal)
    store.append([small(2), small(3)], seal)
    assert seen == [(Head(), [small(1)]), (one, [small(2), small(3)])]


class SealError(Exception):
    """The signer has a problem."""


def test_a_sealer_that_raises_changes_nothing(store: Store) -> None:
    store.append([small(1)], SEAL)
    before = store.head()

    def seal(head: Head, entries: Sequence[bytes]) -> Head:
        raise SealError

    for _ in range(3):
        with pytest.raises(SealError):
            store.append([small(2)], seal)
    assert store.head() == before
    assert store.append([small(3)], SEAL).size == 2


def test_a_sealer_that_miscounts_is_refused(store: Store) -> None:
    for wrong in (Head(), Head(2, (bytes(32),)), Head(1, ())):
        with pytest.raises(RecordError, match="sealer"):
            store.append([small(1)], lambda head, entries, wrong=wrong: wrong)  # type: ignore[misc]
    assert store.head() == Head()


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
def test_what_is_no_entry_is_refused_and_named(store: Store, bad: bytes, words: str) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        store.append([small(0), bad, small(1)], SEAL)
    assert "entry 1 of the batch" in str(caught.value)
    assert store.head() == Head()


def test_a_batch_has_entries_and_a_bound(store: Store) -> None:
    with pytest.raises(RecordError, match="at least one"):
        store.append([], SEAL)
    with pytest.raises(RecordError, match="split"):
        store.append([b"{" + b"x" * 65_533 + b"}"] * 1025, SEAL)


def test_the_largest_entry_fits(store: Store) -> None:
    largest = b'{"n":"' + b"x" * (65_535 - 8) + b'"}'
    assert len(largest) == 65_535
    store.append([largest, small(1), largest], SEAL)
    assert entries_of(store) == [largest, small(1), largest]


def test_entries_with_every_kind_of_text(store: Store) -> None:
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


def test_threads_share_a_store(store: Store) -> None:
    def work(number: int) -> None:
        for step in range(20):
            store.append([small(number * 1000 + step)], SEAL)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = entries_of(store)
    assert sorted(found) == sorted(small(number * 1000 + step) for number in range(4) for step in range(20))
    for number in range(4):  # each thread's own order is kept
        own = [one for one in found if one in {small(number * 1000 + step) for step in range(20)}]
        assert own == [small(number * 1000 + step) for step in range(20)]


def test_closed(store: Store) -> None:
    store.append([small(1)], SEAL)
    store.close()
    store.close()
    with pytest.raises(LogUnavailable, match="closed"):
        store.append([small(2)], SEAL)
    assert entries_of(store) == [small(1)]


def test_the_samples_are_what_they_say(tmp_path: Path) -> None:
    from tests.stores.samples import check_record

    check_record(entry(0))
    with pytest.raises(RecordError):
        check_record(entry(0, severity="loud"))
    with pytest.raises(RecordError):
        check_record(entry(0) + b" ")
    assert VKEY.startswith(ORIGIN)
    assert CREATED
