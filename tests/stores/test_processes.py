"""Many processes on one journal: dense indexes, no forks, no deadlock after a fork, none lost when some are killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from audit_middleware.errors import LogBusy
from audit_middleware.model import Head
from audit_middleware.stores.journal import JournalStore
from tests.stores.children import Child, finish, fork
from tests.stores.samples import SEAL, Overtaken, assert_holds, entries_of, entry, new_journal, small


def _hammer(path: Path, processes: int, appends: int, lock_timeout: float | None) -> None:
    new_journal(path).close()

    def write(number: int, tell: Callable[[bytes], int]) -> None:
        store = JournalStore.open(path, lock_timeout=lock_timeout, segment_bytes=100_000)
        sequence = 0
        for step in range(appends):
            group = [entry(sequence + one, f"process-{number}") for one in range(1 + step % 5)]
            sequence += len(group)
            head = store.append(group, SEAL)
            tell(b"%d %d\n" % (head.size - len(group), len(group)))
            if step % 7 == 0:
                assert store.head().size >= head.size

    children = [fork(lambda tell, number=number: write(number, tell)) for number in range(processes)]  # type: ignore[misc]
    told = finish(*children)
    ranges = sorted(tuple(map(int, line.split())) for text in told for line in text.splitlines())
    expected = 0
    for first, count in ranges:  # what was promised to the processes is dense and disjoint
        assert first == expected
        expected += count
    store = JournalStore.open(path)
    report = assert_holds(store)
    assert report.entries == expected
    assert {one.cause for one in report.findings} <= {"clock"}, "the samples have no clock to speak of"


@pytest.mark.parametrize("lock_timeout", [30.0, None])
def test_four_processes(tmp_path: Path, lock_timeout: float | None) -> None:
    _hammer(tmp_path / "log", 4, 25, lock_timeout)


@pytest.mark.slow
@pytest.mark.parametrize("lock_timeout", [60.0, None])
def test_eight_processes_for_longer(tmp_path: Path, lock_timeout: float | None) -> None:
    _hammer(tmp_path / "log", 8, 500, lock_timeout)


def _kill_among_writers(path: Path, processes: int, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    new_journal(path).close()
    serial = iter(range(10**6))
    acknowledged: set[bytes] = set()

    def start() -> Child:
        number = next(serial)

        def write(tell: Callable[[bytes], int]) -> None:
            store = JournalStore.open(path, segment_bytes=50_000)
            for step in range(100_000):
                group = [small(number * 10**6 + step * 10 + one) for one in range(1 + step % 5)]
                store.append(group, SEAL)
                tell(b"".join(one + b"\n" for one in group))

        return fork(write)

    running = [start() for _ in range(processes)]

    def end(child: Child) -> None:
        child.kill()
        told = child.read()
        assert child.wait() == -signal.SIGKILL
        acknowledged.update(told[: told.rfind(b"\n") + 1].split())

    for _ in range(kills):
        time.sleep(chance.uniform(0.005, 0.05))
        end(running.pop(chance.randrange(len(running))))
        running.append(start())
    for child in running:
        end(child)
    store = JournalStore.open(path)
    assert acknowledged <= set(entries_of(store))
    assert_holds(store)


def test_killing_one_of_several(tmp_path: Path) -> None:
    _kill_among_writers(tmp_path / "log", 3, 5, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 5))
def test_killing_many_of_several(tmp_path: Path, seed: int) -> None:
    _kill_among_writers(tmp_path / "log", 4, 60, seed)


def test_parent_and_children_share_a_store_opened_before_the_fork(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", [small(0)])

    def write(tell: Callable[[bytes], int]) -> None:
        for number in range(10):
            store.append([small(os.getpid() * 100 + number)], SEAL)

        def nested(tell: Callable[[bytes], int]) -> None:
            for number in range(10, 20):
                store.append([small(os.getpid() * 100 + number)], SEAL)

        finish(fork(nested))

    children = [fork(write) for _ in range(3)]
    for number in range(1, 11):
        store.append([small(number)], SEAL)
    finish(*children)
    assert store.head().size == 11 + 3 * 20
    assert_holds(store)


def test_parent_and_child_exclude_each_other(tmp_path: Path) -> None:
    """flock belongs to the open file description, which a fork shares: the child must not think it holds the lock."""
    path = tmp_path / "log"
    store = new_journal(path, [small(0)], lock_timeout=0.3)
    sealing, go_on = threading.Event(), threading.Event()

    def slow(head: Head, entries: Sequence[bytes]) -> Head:
        sealing.set()
        go_on.wait(20)
        return SEAL(head, entries)

    thread = threading.Thread(target=store.append, args=([small(1)], slow))
    thread.start()
    sealing.wait(20)

    def write(tell: Callable[[bytes], int]) -> None:
        try:
            store.append([small(2)], SEAL)
        except LogBusy:
            tell(b"busy")
        tell(b".")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                store.append([small(3)], SEAL)
                return
            except LogBusy:
                continue
        raise AssertionError("the lock never came free")

    child = fork(write)
    assert os.read(child.pipe, 100).startswith(b"busy")
    go_on.set()
    thread.join()
    finish(child)
    assert entries_of(store) == [small(0), small(1), small(3)]
    assert_holds(store)


def test_a_child_that_ends_does_not_free_the_parents_lock(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, [small(0)])
    other = JournalStore.open(path, lock_timeout=0.2)

    def seal(head: Head, entries: Sequence[bytes]) -> Head:
        finish(fork(lambda tell: store.close()))  # closes its own descriptors only
        with pytest.raises(LogBusy):
            other.append([small(2)], SEAL)
        return SEAL(head, entries)

    store.append([small(1)], seal)
    other.append([small(3)], SEAL)
    assert entries_of(store) == [small(0), small(1), small(3)]
    assert_holds(store)


def test_what_needs_no_head_is_done_before_the_lock(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", lock_timeout=0.1)
    store.append([small(1)], Overtaken(store))
    assert entries_of(store) == [small(9), small(1)]
    assert_holds(store)


def test_threads_wait_only_so_long(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", lock_timeout=0.1)

    def seal(head: Head, entries: Sequence[bytes]) -> Head:
        outcome: list[type[Exception]] = []

        def other() -> None:
            try:
                store.append([small(2)], SEAL)
            except LogBusy as error:
                outcome.append(type(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(20)
        assert outcome == [LogBusy]
        return SEAL(head, entries)

    store.append([small(1)], seal)
    assert_holds(store)


def test_a_busy_log_cannot_be_opened_for_writing_but_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, [small(0)])

    def seal(head: Head, entries: Sequence[bytes]) -> Head:
        with pytest.raises(LogBusy):
            JournalStore.open(path, lock_timeout=0.05)
        assert entries_of(JournalStore.open(path, writable=False)) == [small(0)]
        return SEAL(head, entries)

    store.append([small(1)], seal)
    assert_holds(store)


def test_a_reader_beside_a_writer(tmp_path: Path) -> None:
    """Every look at a log that is being written shows whole commits only."""
    path = tmp_path / "log"
    new_journal(path).close()

    def write(tell: Callable[[bytes], int]) -> None:
        store = JournalStore.open(path, segment_bytes=30_000)
        for step in range(150):
            store.append([small(step * 10 + one) for one in range(1 + step % 9)], SEAL)

    child = fork(write)
    reader = JournalStore.open(path, writable=False)
    sizes = [0]
    while not sizes[-1] >= sum(1 + step % 9 for step in range(150)):
        report = assert_holds(reader)
        size = reader.head().size
        assert report.size <= size
        assert len(entries_of(reader)) >= size
        sizes.append(size)
    finish(child)
    assert sizes == sorted(sizes)
    assert_holds(reader)
