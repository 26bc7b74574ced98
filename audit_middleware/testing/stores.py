"""What every log store promises, as tests: for whoever writes a driver of `protocols.LogStore`.

::

    class TestMyStore(StoreConformance):
        def make(self, tmp_path):
            return MyStore.create(tmp_path / "log", self.origin, [self.vkey])

        def reopen(self, tmp_path):
            return MyStore.open(tmp_path / "log")

Each test begins with an empty store and ends with a verification of everything that is in it. Needs pytest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ..errors import LogUnavailable, RecordError
from ..ledger.canonical import MAX_ENTRY, encode
from ..ledger.note import format_vkey, parse_vkey
from ..ledger.report import Report
from ..ledger.verify import verify
from ..model import Head
from ..pipeline.append import make_sealer
from ..protocols import LogStore, Sealer
from ..signing import Ed25519Signer
from ..stores.frames import RawFrame, encode_frame, read_raw

_SIGNER = Ed25519Signer("audit.example.com/conformance", bytes(range(32)))


def small(number: int) -> bytes:
    """The smallest entry that still tells itself apart. It is no record, which is nothing to a store."""
    return b'{"n":%d}' % number


def entries_of(store: LogStore) -> list[bytes]:
    """All entries, by the store's own reading."""
    return [entry for frame in store.frames() for entry in frame.entries]


def raw_frames(store: LogStore) -> Iterator[RawFrame]:
    """A store's commits as a verifier reads them."""
    for frame in store.frames():
        yield read_raw(encode_frame(frame.first, frame.entries, frame.head), frame.where)


class ProcessStoreConformance:
    """The suite for stores that end with their process.

    Attributes may be overridden; a driver that must be told its keys gets ``vkey``.

    Attributes:
        origin: The log's name.
        vkey: The verifier key of what `seal` signs.
        seal: What the tests append with.
    """

    origin: str = _SIGNER.name
    vkey: str = format_vkey(_SIGNER.name, _SIGNER.public_key)
    seal: Sealer = staticmethod(make_sealer(_SIGNER.name, [_SIGNER]))

    def make(self, tmp_path: Path) -> LogStore:
        """Makes a new, empty log called ``origin`` and opens it for appending."""
        raise NotImplementedError("a subclass says how its store is made")

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LogStore]:
        """An empty store; afterwards everything in it is verified."""
        opened = self.make(tmp_path)
        yield opened
        self.assert_holds(opened)
        opened.close()

    def assert_holds(self, store: LogStore) -> Report:
        """Every hash, every signature, every index of the log."""
        report = verify(raw_frames(store), self.origin, [parse_vkey(self.vkey)])
        assert report.holds, report.findings
        assert report.entries == store.head().size
        return report

    # --- reading -------------------------------------------------------------------------------------------------

    def test_a_new_log_is_empty(self, store: LogStore) -> None:
        assert store.origin == self.origin
        assert store.head() == Head()
        assert list(store.frames()) == []

    def test_what_is_appended_comes_back(self, store: LogStore) -> None:
        groups = [[small(1)], [small(2), small(3), small(4)], [small(5), small(6)]]
        heads = [store.append(group, self.seal) for group in groups]
        assert [head.size for head in heads] == [1, 4, 6]
        assert store.head() == heads[-1]
        found = list(store.frames())
        assert [frame.first for frame in found] == [0, 1, 4]
        assert [list(frame.entries) for frame in found] == groups
        assert [frame.head for frame in found] == heads

    def test_a_log_of_which_nothing_was_pruned_has_no_base(self, store: LogStore) -> None:
        store.append([small(1)], self.seal)
        assert store.base == Head()
        assert [frame.first for frame in store.frames(None, 1)] == [frame.first for frame in store.frames(0, 1)] == [0]

    def test_frames_are_whole_and_overlap_what_was_asked(self, store: LogStore) -> None:
        for first, count in ((0, 2), (2, 3), (5, 1), (6, 4)):
            store.append([small(number) for number in range(first, first + count)], self.seal)
        asked = {
            (0, None): [0, 2, 5, 6], (1, None): [0, 2, 5, 6], (2, None): [2, 5, 6], (4, 5): [2], (4, 6): [2, 5],
            (9, 100): [6], (10, None): [], (3, 3): [], (50, 60): [],
        }  # fmt: skip
        for (start, stop), firsts in asked.items():
            assert [frame.first for frame in store.frames(start, stop)] == firsts, (start, stop)

    def test_frames_end_at_the_head_of_the_moment(self, store: LogStore) -> None:
        store.append([small(1)], self.seal)
        reading = iter(store.frames())
        assert next(reading).first == 0
        store.append([small(2)], self.seal)
        assert list(reading) == []
        assert len(entries_of(store)) == 2

    # --- sealing -------------------------------------------------------------------------------------------------

    def test_the_sealer_gets_the_head_and_the_batch(self, store: LogStore) -> None:
        seen: list[tuple[Head, list[bytes]]] = []

        def seal(head: Head, entries: Sequence[bytes]) -> Head:
            seen.append((head, list(entries)))
            return self.seal(head, entries)

        one = store.append([small(1)], seal)
        store.append([small(2), small(3)], seal)
        assert seen == [(Head(), [small(1)]), (one, [small(2), small(3)])]

    def test_a_sealer_that_raises_changes_nothing(self, store: LogStore) -> None:
        store.append([small(1)], self.seal)
        before = store.head()

        def seal(head: Head, entries: Sequence[bytes]) -> Head:
            raise ConnectionError("the signer does not answer")

        for _ in range(3):
            with pytest.raises(ConnectionError, match="the signer does not answer"):
                store.append([small(2)], seal)
        assert store.head() == before
        assert store.append([small(3)], self.seal).size == 2

    @pytest.mark.parametrize(
        "wrong",
        [Head(), Head(2, (bytes(32),)), Head(1, ()), Head(1, (bytes(32),), b"", bytes(3))],
        ids=["empty", "long", "peakless", "half a sum"],
    )
    def test_a_sealer_that_miscounts_is_refused(self, store: LogStore, wrong: Head) -> None:
        with pytest.raises(RecordError):
            store.append([small(1)], lambda head, entries: wrong)
        assert store.head() == Head()

    # --- entries -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "bad",
        [b"", b'{"n":"' + b"x" * (MAX_ENTRY - 7) + b'"}', b"[1]", b' {"n":1}', b'{"n":\n1}', b'{"n":1}\n'],
        ids=["nothing", "too-long", "array", "space", "newline-inside", "newline-at-end"],
    )
    def test_what_is_no_entry_is_refused_with_its_batch(self, store: LogStore, bad: bytes) -> None:
        with pytest.raises(RecordError):
            store.append([small(0), bad, small(1)], self.seal)
        assert store.head() == Head()
        assert entries_of(store) == []

    def test_a_batch_has_entries(self, store: LogStore) -> None:
        with pytest.raises(RecordError):
            store.append([], self.seal)

    def test_the_largest_entry_fits(self, store: LogStore) -> None:
        largest = b'{"n":"' + b"x" * (MAX_ENTRY - 8) + b'"}'
        assert len(largest) == MAX_ENTRY
        store.append([largest, small(1), largest], self.seal)
        assert entries_of(store) == [largest, small(1), largest]

    def test_every_kind_of_text_comes_back_byte_for_byte(self, store: LogStore) -> None:
        texts = ['{"commit":{"checkpoint":"', '"}\n{"commit":', ',"sha256":"', "\u2028 ÿ €  \U0001f600", "\x01\x7f'\\%"]
        tricky = [encode({"n": number, "text": text}) for number, text in enumerate(texts)]
        store.append(tricky, self.seal)
        store.append([small(99)], self.seal)
        assert entries_of(store) == [*tricky, small(99)]

    # --- several at once -----------------------------------------------------------------------------------------

    def test_threads_share_a_store(self, store: LogStore) -> None:
        self._append_at_once([lambda: store] * 4)
        self._assert_all_there(store)

    def _append_at_once(self, stores: Sequence[Callable[[], LogStore]]) -> None:
        failed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for step in range(20):
                    stores[number]().append([small(number * 1000 + step)], self.seal)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(stores))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed

    def _assert_all_there(self, store: LogStore) -> None:
        """Everything once, and what one thread appended in that thread's order."""
        found = entries_of(store)
        own = [[small(number * 1000 + step) for step in range(20)] for number in range(4)]
        assert sorted(found) == sorted(entry for entries in own for entry in entries)
        for entries in own:
            wanted = set(entries)
            assert [one for one in found if one in wanted] == entries

    # --- ending --------------------------------------------------------------------------------------------------

    def test_a_closed_store_takes_nothing_more(self, store: LogStore) -> None:
        store.append([small(1)], self.seal)
        store.close()
        store.close()
        with pytest.raises(LogUnavailable):
            store.append([small(2)], self.seal)
        assert entries_of(store) == [small(1)]


class StoreConformance(ProcessStoreConformance):
    """The suite for stores that are still there when they are opened again."""

    def reopen(self, tmp_path: Path) -> LogStore:
        """Opens the log that `make` made once more."""
        raise NotImplementedError("a subclass of StoreConformance says how its store is opened again")

    def test_two_stores_of_one_log_do_not_fork_it(self, store: LogStore, tmp_path: Path) -> None:
        other = self.reopen(tmp_path)
        self._append_at_once([lambda: store, lambda: other] * 2)
        assert other.head() == store.head()
        self._assert_all_there(store)
        other.close()

    def test_what_was_acknowledged_is_there_after_reopening(self, store: LogStore, tmp_path: Path) -> None:
        head = store.append([small(1), small(2)], self.seal)
        again = self.reopen(tmp_path)
        assert again.origin == self.origin
        assert again.head() == head
        assert entries_of(again) == [small(1), small(2)]
        assert again.append([small(3)], self.seal).size == 3
        assert store.head().size == 3
        again.close()
