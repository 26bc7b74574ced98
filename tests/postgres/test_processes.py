"""Many processes on one log: dense indexes, no forks; killed writers and a killed server lose nothing acknowledged."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest

from audit_middleware.errors import StoreError
from audit_middleware.model import Head
from audit_middleware.pipeline.append import Writer, make_sealer
from audit_middleware.stores.columns import Filters
from audit_middleware.stores.postgres import PostgresIndex, PostgresStore
from tests.postgres.conftest import Database
from tests.postgres.server import PostgresServer
from tests.servers.running import until
from tests.stores.children import Child, finish, fork
from tests.stores.samples import SEAL, SIGNER, assert_holds, entries_of, entry, report_on, small


def _hammer(database: Database, processes: int, appends: int) -> None:
    url = database.log()

    def write(number: int, tell: Callable[[bytes], int]) -> None:
        with closing(PostgresStore.open(url, lock_timeout=None)) as store:
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
    with closing(PostgresStore.open(url)) as store:
        report = assert_holds(store)
    assert report.entries == expected
    assert {one.cause for one in report.findings} <= {"clock"}, "the samples have no clock to speak of"


def test_eight_processes(database: Database) -> None:
    _hammer(database, 8, 10)


@pytest.mark.slow
def test_eight_processes_for_longer(database: Database) -> None:
    _hammer(database, 8, 200)


def _kill_among_writers(url: str, processes: int, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    serial = iter(range(10**6))
    acknowledged: set[bytes] = set()

    def start() -> Child:
        number = next(serial)

        def write(tell: Callable[[bytes], int]) -> None:
            store = PostgresStore.open(url, lock_timeout=None)
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

    try:
        for _ in range(kills):
            time.sleep(chance.uniform(0.02, 0.1))
            end(running.pop(chance.randrange(len(running))))
            running.append(start())
    finally:
        for child in running:
            end(child)
    with closing(PostgresStore.open(url, lock_timeout=None)) as store:
        store.append([small(0)], SEAL)  # which waits for whatever the dead left
        assert acknowledged
        assert acknowledged <= set(entries_of(store))
        assert_holds(store)


def test_killing_one_of_several(database: Database) -> None:
    _kill_among_writers(database.log(), 3, 6, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_killing_many_of_several(database: Database, seed: int) -> None:
    _kill_among_writers(database.log(), 6, 80, seed)


def test_a_store_opened_before_a_fork(database: Database) -> None:
    with closing(PostgresStore.open(database.log())) as store:
        store.append([small(0)], SEAL)
        held = threading.Thread(target=store.append, args=([small(1)], _slow))
        held.start()  # the lock of the store is taken at the moment of the fork

        def write(tell: Callable[[bytes], int]) -> None:
            for number in range(5):
                store.append([small(os.getpid() * 100 + number)], SEAL)
            assert len(entries_of(store)) >= 6

        children = [fork(write) for _ in range(3)]
        for number in range(2, 7):
            store.append([small(number)], SEAL)
        finish(*children)
        held.join()
        assert store.head().size == 7 + 3 * 5
        assert_holds(store)


def _slow(head: Head, entries: Sequence[bytes]) -> Head:
    time.sleep(0.3)
    return SEAL(head, entries)


# --- the server is killed --------------------------------------------------------------------------------------------


def _kill_server(server: PostgresServer, kills: int, seed: int) -> None:
    """Writers go on through restarts; whatever was acknowledged is there, once, and everything verifies."""
    chance = random.Random(seed)
    database = Database(server.url())
    url = database.log()
    stop = threading.Event()
    acknowledged: list[bytes] = []
    doubtful: set[bytes] = set()

    def write(number: int) -> None:
        with closing(PostgresStore.open(url, lock_timeout=None)) as store:
            step = 0
            while not stop.is_set():
                group = [entry(step * 3 + one, f"process-{number}") for one in range(3)]
                try:
                    store.append(group, SEAL)
                    acknowledged.extend(group)
                except StoreError as problem:
                    if "may be in the log" in str(problem):
                        doubtful.update(group)
                    time.sleep(0.05)
                step += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(kills):
            before = len(acknowledged)
            until(lambda before=before: len(acknowledged) > before + 30, "the writers")  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.05))
            server.kill()
            time.sleep(chance.uniform(0, 0.5))
            server.start()
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 30, "the writers")
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    with closing(PostgresStore.open(url)) as store:
        found = entries_of(store)
        assert len(found) == len(set(found)), "nothing was sent again that was there"
        assert set(acknowledged) <= set(found)
        assert set(found) <= set(acknowledged) | doubtful
        problems = [raw.problem for raw in store.raw_frames() if raw.problem is not None]
        assert problems == []
        report = assert_holds_but_for_refused(store)
        assert report == len(found)


def assert_holds_but_for_refused(store: PostgresStore) -> int:
    """Batches that were refused in the outage leave holes in a process's own count; nothing else may be found."""
    report = report_on(store)
    assert {one.check for one in report.findings if one.level == "error"} <= {7}, report.findings
    return report.entries


def test_a_killed_server_loses_nothing(own_server: PostgresServer) -> None:
    _kill_server(own_server, 1, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_a_server_killed_many_times(own_server: PostgresServer, seed: int) -> None:
    _kill_server(own_server, 8, seed)


def test_the_writer_goes_on_when_the_server_is_back(own_server: PostgresServer) -> None:
    """The committer of a service: nothing it was given is lost, in the order in which it was given."""
    database = Database(own_server.url())
    url = database.log()
    writer = Writer(lambda: PostgresStore.open(url), SEAL, lambda item, sequence, now: small(int(item)))
    for number in range(20):
        writer.submit(number)
    until(lambda: not writer.backlog, "the writer")
    own_server.kill()
    for number in range(20, 40):
        writer.submit(number)
    until(lambda: not writer.available, "the outage")
    own_server.start()
    until(lambda: not writer.backlog, "the writer")
    assert writer.close(30) == 0
    with closing(PostgresStore.open(url)) as store:
        seen = list(dict.fromkeys(entries_of(store)))  # without what was sent twice
        assert seen == [small(number) for number in range(40)]
        assert_holds(store)


def test_two_logs_do_not_wait_for_each_other(database: Database) -> None:
    """Each has its own head: while one writer holds one, the other log takes records."""
    database.log("example.com/one")
    database.log("example.com/two")
    with (
        closing(PostgresStore.open(database.url, origin="example.com/one")) as one,
        closing(PostgresStore.open(database.url, origin="example.com/two", lock_timeout=0.5)) as two,
    ):
        seal = make_sealer(two.origin, [SIGNER])

        def slow(head: Head, entries: Sequence[bytes]) -> Head:
            two.append([small(1)], seal)
            return make_sealer(one.origin, [SIGNER])(head, entries)

        one.append([small(1)], slow)
        assert one.head().size == two.head().size == 1
        assert one.head().checkpoint != two.head().checkpoint


def test_clocks_may_jump(database: Database) -> None:
    """Order is the sequence: times that go back, forward and nowhere change nothing but what queries for times find."""
    days = ["2026-01-01", "2031-01-01", "1999-01-01", "2026-01-02", "2026-01-01"]
    with closing(PostgresStore.open(database.log())) as store:
        for number, day in enumerate(days):
            now = f"{day}T00:00:00.000000Z"
            store.append([entry(0, f"process-{number}", recorded_at=now, timestamp=now)], SEAL)
        report = assert_holds(store)
        assert report.entries == 5
        assert {one.cause for one in report.findings} == {"clock"}
        found = PostgresIndex(store).find(Filters(since="2026-01-01T12:00:00.000000Z"), newest_first=False)
        assert list(found) == [1, 3]
