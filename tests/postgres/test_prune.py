"""Pruning: the log begins at a commit boundary, whole partitions go, and nobody is surprised in the middle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from audit_middleware.errors import EntriesPruned, LogBusy, LogUnavailable
from audit_middleware.stores.columns import Filters
from audit_middleware.stores.postgres import PostgresIndex, PostgresStore, rebuild_index
from audit_middleware.stores.postgres import reading as reading_module
from tests.postgres.conftest import Database, make_database
from tests.servers.running import until
from tests.stores.samples import SEAL, assert_holds, entries_of, entry, report_on, small

UNIT = 65_536
STEP = 10_000
AT = "2026-02-01T00:00:00.000000Z"


@pytest.fixture(scope="module")
def filled(server_url: str) -> Iterator[Database]:
    """14 commits of 10,000 entries: partitions of 65,536, of which the third is the last."""
    for made in make_database(server_url):
        with closing(PostgresStore.open(made.log(width=UNIT))) as opened:
            for turn in range(14):
                opened.append([small(turn * STEP + one) for one in range(STEP)], SEAL)
        yield made


@pytest.fixture
def database(server_url: str, filled: Database) -> Iterator[Database]:
    """A copy of it for each test."""
    yield from make_database(server_url, filled.name)


@pytest.fixture
def store(database: Database) -> Iterator[PostgresStore]:
    with closing(PostgresStore.open(database.url)) as opened:
        yield opened


def ranges(*firsts: int) -> dict[str, list[int]]:
    """What `partitions` returns where each table has the same."""
    return {table: list(firsts) for table in ("commits", "entries", "search")}


def partitions(database: Database) -> dict[str, list[int]]:
    """The first entries of each table's partitions."""
    found: dict[str, list[int]] = {"commits": [], "entries": [], "search": []}
    for (name,) in database.run("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1"):
        table, _, first = str(name).split("_")
        found[table].append(int(first))
    return found


def test_pruning(store: PostgresStore, database: Database) -> None:
    assert partitions(database) == ranges(0, UNIT, 2 * UNIT)
    before = report_on(store)
    at_70_000 = next(frame.head for frame in store.frames() if frame.head.size == 70_000)
    kept = [frame for frame in store.frames() if frame.first >= 70_000]

    # below a boundary of partitions: nothing can be dropped yet, and still nothing of it is part of the log
    assert store.prune(20_000, 139_999, AT) == 0
    assert store.base.size == 20_000
    assert [frame.first for frame in store.frames(None, 40_000)] == [20_000, 30_000]
    assert partitions(database)["entries"] == [0, UNIT, 2 * UNIT]

    assert store.prune(70_000, 139_999, AT) > 1_000_000
    assert partitions(database) == ranges(UNIT, 2 * UNIT)
    assert store.base == at_70_000
    assert list(store.frames()) == kept
    with pytest.raises(EntriesPruned, match=r"entry 69999 was pruned at 2026-02-01.*entry 139999 .* record of it"):
        next(iter(store.frames(69_999)))
    with pytest.raises(EntriesPruned):
        list(store.frames(0, 10))
    report = report_on(store, base=store.base)
    assert report.size == before.size
    assert [one.check for one in report.findings] == [15], "that no record of the log says so is all that is wrong"
    assert store.prune(70_000, 139_999, AT) == 0  # once more
    assert store.append([small(1)], SEAL).size == 140_001
    assert store.has_commit(kept[-1].head)


def test_what_is_left_verifies_with_the_record_of_it(other_database: Database) -> None:
    with closing(PostgresStore.open(other_database.log(width=UNIT))) as store:
        store.append([entry(0, kind="control", action="audit.retention_set", extra={"months": 12})], SEAL)
        for turn in range(7):
            store.append([small(turn * STEP + one) for one in range(STEP)], SEAL)
        base = store.append([small(1)], SEAL)
        extra = {"minimum": base.size, "previous": 0, "checkpoint": base.checkpoint.decode()}
        record = store.append([entry(1, kind="control", action="audit.pruned", extra=extra)], SEAL).size - 1
        assert store.prune(base.size, record, AT) > 0
        report = assert_holds(store, base=store.base)
        assert (report.pruned, report.entries) == (base.size, 1)
        assert report_on(store).cause == "missing", "without its base it is a log without its beginning"


def test_the_index_leaves_with_the_entries(store: PostgresStore, database: Database) -> None:
    store.prune(70_000, 139_999, AT)
    index = PostgresIndex(store)
    assert next(iter(index.find(Filters(), newest_first=False))) == 70_000
    assert sum(1 for _ in index.find(Filters())) == 70_000
    assert rebuild_index(database.url) == 70_000
    assert sum(1 for _ in index.find(Filters())) == 70_000


@pytest.mark.parametrize(("base", "words"), [(70_001, "no commit ends"), (150_000, "ends at"), (5, "no commit ends")])
def test_only_at_a_commit_within_the_log(store: PostgresStore, base: int, words: str) -> None:
    with pytest.raises(LogUnavailable, match=words):
        store.prune(base, 1, AT)
    store.prune(30_000, 1, AT)
    with pytest.raises(LogUnavailable, match="begins at entry 30000"):
        store.prune(20_000, 1, AT)
    assert store.base.size == 30_000


def test_only_the_owner_prunes(store: PostgresStore, database: Database) -> None:
    with closing(PostgresStore.open(database.role("clerk", "audit_writer", "audit_reader"))) as clerk:
        with pytest.raises(LogUnavailable, match="this role may not"):
            clerk.prune(70_000, 1, AT)
        assert store.base.size == 0
    owner = database.role("dba", "audit_owner")  # and nothing else
    with closing(PostgresStore.open(owner)) as dba:
        assert dba.prune(70_000, 1, AT) > 0
        assert next(iter(dba.frames())).first == 70_000
        with pytest.raises(LogUnavailable, match="this role may not"):
            dba.append([small(1)], SEAL)
    assert rebuild_index(owner) == 70_000


def test_a_reader_in_the_middle_is_told(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "COMMITS", 2)
    reading, raw = store.frames(), store.raw_frames()
    assert next(reading).first == next(raw).commit.first == 0  # type: ignore[union-attr]
    store.prune(70_000, 139_999, AT)
    with pytest.raises(EntriesPruned):
        list(reading)
    with pytest.raises(EntriesPruned):
        list(raw)
    assert next(iter(store.frames())).first == 70_000


def test_a_long_transaction_in_the_way_stops_it_and_nothing_else(store: PostgresStore, database: Database) -> None:
    """A dump reads all tables for as long as it takes; pruning waits only so long, and changes nothing then."""
    with psycopg.connect(database.url) as dump:
        dump.execute("SELECT count(*) FROM audit.entries")
        with closing(PostgresStore.open(database.url, lock_timeout=0.3)) as owner, pytest.raises(LogBusy):
            owner.prune(70_000, 1, AT)
        assert store.base.size == 0
        assert store.append([small(1)], SEAL).size == 140_001
    assert store.prune(70_000, 1, AT) > 0


def test_an_append_to_another_log_is_not_caught_in_between(store: PostgresStore, database: Database) -> None:
    """It locks entries, then commits; a prune that holds commits and waits for entries would be a deadlock."""
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audit.entries'::regclass"
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE audit.entries IN ROW EXCLUSIVE MODE")
        pruning = threading.Thread(target=store.prune, args=(70_000, 139_999, AT))
        pruning.start()
        until(lambda: database.run(waits) == [(1,)], "the prune's wait")
        other.execute("LOCK TABLE audit.commits IN ROW EXCLUSIVE MODE NOWAIT")
    pruning.join()
    assert store.base.size == 70_000


def test_writers_and_readers_beside_it(store: PostgresStore, database: Database) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []

    def work(turn: int) -> None:
        try:
            with closing(PostgresStore.open(database.url)) as other:
                while not stop.is_set():
                    if turn % 2:
                        other.append([small(turn)], SEAL)
                    else:
                        entries_of_newest = [one for frame in other.frames(135_000) for one in frame.entries]
                        assert len(entries_of_newest) >= 10_000
        except BaseException as problem:
            failed.append(problem)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    try:
        for base in (10_000, 70_000, 100_000, 130_000):
            store.prune(base, 1, AT)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failed == []
    assert store.base.size == 130_000
    assert [raw.problem for raw in store.raw_frames() if raw.problem] == []
    assert len(entries_of(store)) == store.head().size - 130_000


def test_nothing_was_pruned_to_begin_with(store: PostgresStore) -> None:
    assert store.base.size == 0
    assert_holds(store)
