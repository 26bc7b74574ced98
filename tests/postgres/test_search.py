"""Queries: the same answers as the journal's index gives, in pages; and the check of its columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from audit_middleware.errors import LogUnavailable
from audit_middleware.stores.columns import Filters
from audit_middleware.stores.index import SearchIndex
from audit_middleware.stores.postgres import PostgresIndex, PostgresStore, rebuild_index
from audit_middleware.stores.postgres import search as search_module
from tests.postgres.conftest import Database
from tests.stores.samples import SEAL, assert_holds, entry, new_journal, report_on, small

LONG = "user-" + "x" * 2000


def entries() -> list[bytes]:
    """Records of every kind, times that jump, texts that a database might choke on, and entries that are no records."""
    found = []
    for number in range(120):
        changes: dict[str, Any] = {}
        if number % 10 == 3:
            changes |= {"kind": "intent", "outcome": "unknown"}
        if number % 20 == 4:
            changes |= {"intent_id": f"019b76da-a800-7000-8000-{_number(number - 1):012x}"}
        if number % 7 == 5:
            changes |= {"severity": "info", "user_id": LONG, "action": "invoice.read"}
        if number % 11 == 6:
            changes |= {"outcome": "denied", "user_id": "a\0b'; DROP TABLE audit.entries; --"}
        if number == 50:
            changes |= {"timestamp": "2020-01-01T00:00:00.000000Z"}  # the clock jumped
        if number == 51:
            changes |= {"timestamp": "2031-01-01T00:00:00.000000Z", "action": "invoice.delete.all"}
        found.append(entry(number, **changes))
    return [*found, small(1), entry(120, resource={"type": "invoice", "id": None, "properties": {}})]


def _number(sequence: int) -> int:
    return crc32(b"process-1") * 2**16 + sequence


ASKED = [
    Filters(),
    Filters(user="user-3"),
    Filters(user=LONG),
    Filters(user=LONG + "y"),
    Filters(user="a\0b'; DROP TABLE audit.entries; --"),
    Filters(action="invoice.delete"),
    Filters(action="invoice.*"),
    Filters(action="invoice.d*", user="user-1"),
    Filters(action="*"),
    Filters(action="nothing.*"),
    Filters(decision="allow"),
    Filters(decision="deny"),
    Filters(outcome="denied"),
    Filters(severity="info"),
    Filters(severity="high", outcome="success"),
    Filters(kind="intent"),
    Filters(kind="outcome"),
    Filters(resource="invoice"),
    Filters(resource="invoice/17"),
    Filters(resource="invoice/%"),
    Filters(trace=f"{_number(9):032x}"),
    Filters(trace="c-9"),
    Filters(action_id=f"019b76da-a800-7000-8000-{_number(12):012x}"),
    Filters(since="2026-01-01T00:01:00.000000Z"),
    Filters(until="2026-01-01T00:00:30.000000Z"),
    Filters(since="2026-01-01T00:00:10.000000Z", until="2026-01-01T00:00:20.000000Z", user="user-3"),
    Filters(since="2030-01-01T00:00:00.000000Z"),
    Filters(until="2019-01-01T00:00:00.000000Z"),
    Filters(unfinished=True),
    Filters(unfinished=True, user="user-3"),
]


@pytest.fixture
def store(database: Database) -> Iterator[PostgresStore]:
    with closing(database.store()) as opened:
        for group in _batched(entries(), 17):
            opened.append(group, SEAL)
        yield opened


def _batched(values: list[bytes], size: int) -> Iterator[list[bytes]]:
    for at in range(0, len(values), size):
        yield values[at : at + size]


def test_every_query_answers_as_the_journals_index_does(
    store: PostgresStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "FIRST_PAGE", 2)
    monkeypatch.setattr(search_module, "PAGE", 7)
    journal = new_journal(tmp_path / "log", *_batched(entries(), 17))
    answers = 0
    with closing(SearchIndex(tmp_path / "index.sqlite", journal)) as index:
        ours = PostgresIndex(store)
        assert ours.catch_up() == index.catch_up() == len(entries())
        for filters, newest, limit in itertools.product(ASKED, (True, False), (None, 3)):
            expected = list(index.find(filters, newest_first=newest, limit=limit))
            assert list(ours.find(filters, newest_first=newest, limit=limit)) == expected, filters
            answers += len(expected)
        assert answers > 1000
        assert list(ours.unfinished()) == list(index.unfinished()) != []
        known = f"019b76da-a800-7000-8000-{_number(12):012x}"
        assert ours.with_action_id(known) == index.with_action_id(known) == [12]
    assert_holds(store, check_index=PostgresIndex(store).check)
    journal.close()


def test_a_query_sees_what_was_acknowledged(store: PostgresStore) -> None:
    index = PostgresIndex(store)
    assert list(index.find(Filters(user="late"))) == []
    head = store.append([entry(500, user_id="late")], SEAL)
    assert list(index.find(Filters(user="late"))) == [head.size - 1]


@pytest.mark.parametrize(
    ("damage", "index", "words"),
    [
        ("UPDATE audit.search SET user_id = 'someone-else' WHERE idx = 5", 5, "something else in user_id"),
        ("UPDATE audit.search SET status = 500, outcome = NULL WHERE idx = 6", 6, "something else in outcome, status"),
        ("DELETE FROM audit.search WHERE idx = 7", 7, "no row"),
        (
            "INSERT INTO audit.search (log_id, idx, user_id) SELECT log_id, 1000, 'ghost' FROM audit.logs",
            1000,
            "not in the log",
        ),
    ],
)
def test_every_difference_is_named(
    store: PostgresStore, database: Database, damage: str, index: int, words: str
) -> None:
    database.run(damage)
    ours = PostgresIndex(store)
    size = store.head().size
    found = [*ours.check(0, [one for frame in store.frames() for one in frame.entries]), *ours.check(size, [])]
    assert [at for at, _ in found] == [index]
    assert words in found[0][1]
    rebuild_index(database.url)
    found = [*ours.check(0, [one for frame in store.frames() for one in frame.entries]), *ours.check(size, [])]
    assert found == []


def test_wrong_times_are_named(database: Database) -> None:
    with closing(database.store()) as store:
        store.append([entry(number) for number in range(1100)], SEAL)
        ours = PostgresIndex(store)
        assert list(ours.check(1100, [])) == []
        database.run("UPDATE audit.blocks SET low = '2026-01-01T00:05:00.000000Z' WHERE first = 0")
        assert [at for at, _ in ours.check(1100, [])] == [0]
        assert rebuild_index(database.url) == 1100
        assert list(ours.check(1100, [])) == []


@pytest.mark.parametrize(
    "damage",
    ["UPDATE audit.blocks SET high = ''", "UPDATE audit.blocks SET low = 'x'", "DELETE FROM audit.blocks"],
)
def test_what_would_hide_the_newest_entries_from_a_query_is_named(
    store: PostgresStore, database: Database, damage: str
) -> None:
    """The last block is never whole; a query for a span leaves it out where its times say so."""
    ours, span = PostgresIndex(store), Filters(since="2026-01-01T00:00:30.000000Z", until="2026-01-01T00:01:00.000000Z")
    assert list(ours.find(span)) != []
    database.run(damage)
    assert list(ours.find(span)) == []
    assert [at for at, _ in ours.check(store.head().size, [])] == [0]
    assert not report_on(store, check_index=ours.check).holds


def test_times_are_checked_in_pieces_from_the_base_on(
    store: PostgresStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the log is, no statement takes long; what was pruned of a block may have made it wider."""
    monkeypatch.setattr(search_module, "CHECKED", 1024)
    for at in range(0, 3000, 500):
        store.append([entry(1000 + at + number) for number in range(500)], SEAL)
    ours, size = PostgresIndex(store), store.head().size
    store.prune(122 + 500, size - 1, "2026-02-01T00:00:00.000000Z")
    assert list(ours.check(size, [])) == []
    database.run("UPDATE audit.blocks SET high = '2026-01-01T00:00:00.000000Z' WHERE first = 2048")
    assert [at for at, _ in ours.check(size, [])] == [2048]
    database.run("UPDATE audit.blocks SET low = 'x' WHERE first = 0")
    assert next(at for at, _ in ours.check(size, [])) == 0


def test_only_the_owner_rebuilds(store: PostgresStore, database: Database) -> None:
    with pytest.raises(LogUnavailable, match="may not"):
        rebuild_index(database.role("clerk", "audit_reader", "audit_writer"))
    assert len(list(PostgresIndex(store).find(Filters()))) == len(entries())
