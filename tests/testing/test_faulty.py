"""The faulty store, alone and below a writer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import LogBusy, LogUnavailable, StoreError
from audit_middleware.pipeline.append import Writer
from audit_middleware.protocols import LogStore
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.memory import MemoryStore
from audit_middleware.testing import Faults, FaultyStore
from audit_middleware.testing.stores import ProcessStoreConformance, entries_of, small
from tests.stores.samples import ORIGIN, SEAL, VKEY, assert_holds, new_journal


class TestWithoutFaults(ProcessStoreConformance):
    """A faulty store whose plan is empty keeps every promise."""

    def make(self, tmp_path: Path) -> LogStore:
        return FaultyStore(MemoryStore(self.origin), Faults())


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def store(faults: Faults) -> FaultyStore:
    return FaultyStore(MemoryStore(ORIGIN), faults)


def test_a_call_fails_before_it_does_anything(store: FaultyStore, faults: Faults) -> None:
    faults.fail(2, 4, error=LogBusy("not now"))
    assert store.append([small(1)], SEAL).size == 1
    with pytest.raises(LogBusy, match="not now"):
        store.append([small(2)], SEAL)
    assert store.append([small(3)], SEAL).size == 2
    with pytest.raises(LogBusy):
        store.append([small(4)], SEAL)
    assert entries_of(store) == [small(1), small(3)]
    assert faults.calls == {"append": 4, "head": 0, "frames": 1}


def test_an_answer_is_lost_after_the_work(store: FaultyStore, faults: Faults) -> None:
    faults.lose_answer(1)
    with pytest.raises(LogUnavailable, match="answer is lost"):
        store.append([small(1)], SEAL)
    assert entries_of(store) == [small(1)]


def test_reading_fails_as_well(store: FaultyStore, faults: Faults) -> None:
    faults.fail(1, method="head")
    faults.fail(1, method="frames", error=OSError("the disk is gone"))
    with pytest.raises(LogUnavailable):
        store.head()
    with pytest.raises(OSError, match="the disk is gone"):
        store.frames()
    assert store.head().size == 0
    assert list(store.frames()) == []


def test_all_calls_fail_until_it_heals(store: FaultyStore, faults: Faults) -> None:
    faults.fail()
    assert faults.failing
    for number in range(3):
        with pytest.raises(LogUnavailable):
            store.append([small(number)], SEAL)
    faults.heal()
    assert not faults.failing
    assert store.append([small(3)], SEAL).size == 1


def test_a_delay_is_only_a_delay(store: FaultyStore, faults: Faults) -> None:
    faults.delay(0.05, 1)
    began = time.monotonic()
    assert store.append([small(1)], SEAL).size == 1
    assert time.monotonic() - began >= 0.05
    assert not faults.failing


@pytest.mark.parametrize("plan", ["fail", "lose_answer"])
def test_a_writer_loses_nothing(tmp_path: Path, faults: Faults, plan: str) -> None:
    """Below the writer, over all stores that it opens: everything is in the log, in order, some of it perhaps twice."""
    new_journal(tmp_path / "log").close()
    opened: list[FaultyStore] = []

    def open_store() -> LogStore:
        opened.append(FaultyStore(JournalStore.open(tmp_path / "log"), faults))
        return opened[-1]

    def encode(item: Any, sequence: int, recorded_at_ns: int) -> bytes:
        return small(item)

    getattr(faults, plan)(1, 3)
    writer = Writer(open_store, SEAL, encode, linger_ms=0)
    for number in range(4):
        try:
            writer.submit_wait(number, 30)
        except StoreError:
            assert faults.calls["append"] in (1, 3)
    assert writer.close(60) == 0
    store = JournalStore.open(tmp_path / "log", writable=False)
    found = entries_of(store)
    assert list(dict.fromkeys(found)) == [small(number) for number in range(4)]
    assert len(found) == (4 if plan == "fail" else 6)
    assert len(opened) == 3
    assert_holds(store)
    assert VKEY.startswith(store.origin)
