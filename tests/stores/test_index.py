"""The search index: answers like a scan of the log, is made anew whenever it does not fit, and never trusted."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_middleware.errors import LogDamaged, StoreError
from audit_middleware.ledger import canonical
from audit_middleware.protocols import LogStore
from audit_middleware.stores import columns, index
from audit_middleware.stores.index import COLUMNS, Filters, SearchIndex, row_of
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.memory import MemoryStore
from tests.stores.children import finish, fork
from tests.stores.samples import ORIGIN, SEAL, assert_holds, entries_of, entry, new_journal, report_on, small

DAY = "2026-01-01T"
TOKENS = [letter * 26 for letter in "abc"]
USERS = [*(f"user-{number}" for number in range(5)), *(f"token.v1.{one}" for one in TOKENS)]


def _sealed(chance: random.Random, user: str) -> str:
    """Every second token stands in front of a ciphertext, which differs from record to record."""
    if not user.startswith("token") or chance.random() < 0.5:
        return user
    return f"sealed{user.removeprefix('token')}.{chance.randrange(2**32):08x}"


def varied(number: int, instance: str = "process-1") -> bytes:
    """A record that differs from its neighbours in everything that can be asked for."""
    chance = random.Random(number)
    effect = chance.choice(["allow", "allow", "allow", "deny", "not_applicable"])
    kind = chance.choice(["outcome", "outcome", "outcome", "intent", "control"])
    late = chance.randrange(40)
    decision = dict(canonical.decode(entry(0))["decision"], effect=effect)
    return entry(
        number,
        instance,
        timestamp=f"{DAY}10:{max(0, number - late) // 60 % 60:02}:{max(0, number - late) % 60:02}.000000Z",
        user_id=_sealed(chance, chance.choice(USERS)),
        action=chance.choice(["invoice.read", "invoice.delete", "invoices.list", "order.read", "käse.ess", None]),
        severity=chance.choice(["info", "info", "low", "high", "critical"]),
        outcome=chance.choice(["success", "success", "failure", "denied", "error", "aborted"]),
        kind=kind,
        resource={
            "type": chance.choice(["invoice", "order", None]),
            "id": chance.choice([*"0123", f"token.v1.{TOKENS[0]}"]),
            "properties": {},
        },
        decision=decision,
        trace=dict(
            canonical.decode(entry(0))["trace"],
            trace_id=f"{chance.randrange(30):032x}",
            correlation_id=f"{chance.randrange(30):032x}" if chance.random() < 0.5 else None,
        ),
    )


def _stands_for(text: str, clear: str | None, token: str | None) -> bool:
    if clear is None and token is None:
        return True
    return text == clear or (token is not None and token in text.split("."))


def matches(record: dict[str, Any], filters: Filters) -> bool:
    """The meaning of a query, written down once more without SQL."""
    kind, _, name = (filters.resource or "").partition("/")
    start = filters.action[:-1] if filters.action and filters.action.endswith("*") else None
    action = record["action"]
    return all(
        (
            _stands_for(record["user_id"], filters.user, filters.user_token),
            filters.action in (None, action)
            or (start is not None and (start == "" or (action is not None and action.startswith(start)))),
            filters.decision in (None, record["decision"]["effect"]),
            filters.outcome in (None, record["outcome"]),
            filters.severity in (None, record["severity"]),
            filters.kind in (None, record["kind"]),
            filters.resource is None or kind == record["resource"]["type"],
            _stands_for(
                record["resource"]["id"], name if "/" in (filters.resource or "") else None, filters.resource_token
            ),
            filters.trace in (None, record["trace"]["trace_id"]) or filters.trace == record["trace"]["correlation_id"],
            filters.action_id in (None, record["action_id"]),
            filters.since is None or record["timestamp"] >= filters.since,
            filters.until is None or record["timestamp"] < filters.until,
        )
    )


COUNT = 3000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SearchIndex, list[dict[str, Any]]]]:
    """An index over three thousand varied records, several blocks long."""
    path = tmp_path_factory.mktemp("index") / "log"
    store = new_journal(path, *[[varied(n) for n in range(at, at + 100)] for at in range(0, COUNT, 100)])
    opened = SearchIndex(path / "index.sqlite", store)
    assert opened.catch_up() == COUNT
    yield opened, [canonical.decode(one) for one in entries_of(store)]
    assert_holds(store, check_index=opened.check)
    opened.close()


def maybe(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str | None]:
    return st.none() | st.none() | strategy


moments = st.builds(
    lambda minute, second: f"{DAY}10:{minute:02}:{second:02}.000000Z", st.integers(0, 59), st.integers(0, 59)
)
questions = st.builds(
    Filters,
    user=maybe(st.sampled_from(["user-1", "user-4", "nobody"])),
    user_token=maybe(st.sampled_from([*TOKENS[:2], "d" * 26])),
    resource_token=maybe(st.sampled_from(TOKENS[:2])),
    action=maybe(
        st.sampled_from(
            ["invoice.read", "invoice.*", "invoice*", "*", "i*", "nothing.*", "k*", "käse.ess", "INVOICE.READ"]
        )
    ),
    decision=maybe(st.sampled_from(["allow", "deny", "not_applicable", "maybe"])),
    outcome=maybe(st.sampled_from(["success", "failure", "denied"])),
    severity=maybe(st.sampled_from(["info", "low", "critical"])),
    kind=maybe(st.sampled_from(["outcome", "intent", "control"])),
    resource=maybe(st.sampled_from(["invoice", "invoice/2", "order/", "order/3", "/1", ""])),
    trace=maybe(st.integers(0, 31).map(lambda number: f"{number:032x}")),
    since=maybe(moments),
    until=maybe(moments),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions, st.booleans(), st.none() | st.integers(0, 60))
def test_a_query_answers_like_a_scan(
    large: tuple[SearchIndex, list[dict[str, Any]]], filters: Filters, newest_first: bool, limit: int | None
) -> None:
    opened, records = large
    expected = [at for at, record in enumerate(records) if matches(record, filters)]
    if newest_first:
        expected.reverse()
    assert list(opened.find(filters, newest_first=newest_first, limit=limit)) == expected[:limit]


def test_no_query_scans_or_sorts(large: tuple[SearchIndex, list[dict[str, Any]]]) -> None:
    opened, _ = large
    for filters in (
        Filters(user="user-1"),
        Filters(user="user-1", decision="deny", since=f"{DAY}10:10"),
        Filters(action="invoice.*", kind="control"),
        Filters(decision="deny"),
        Filters(severity="critical", outcome="success"),
        Filters(kind="intent"),
        Filters(resource="invoice/2"),
        Filters(resource="order"),
        Filters(trace="0" * 32, user="user-1"),
        Filters(action_id="x"),
    ):
        plans: list[str] = []
        database = opened._database()
        database.set_trace_callback(plans.append)
        list(opened.find(filters, limit=1))
        database.set_trace_callback(None)
        for statement in [text for text in plans if text.startswith("SELECT idx")]:
            steps = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert all(step.startswith("SEARCH") and "USING" in step for step in steps), (filters, statement, steps)


def test_results_stream(large: tuple[SearchIndex, list[dict[str, Any]]]) -> None:
    opened, _ = large
    one, two = opened.find(Filters()), opened.find(Filters(action="invoice.*"))
    assert (next(one), next(one)) == (COUNT - 1, COUNT - 2)
    assert next(two) >= next(two)
    assert next(one) == COUNT - 3


# --- other questions ---------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(ORIGIN)


@pytest.fixture
def opened(store: MemoryStore, tmp_path: Path) -> Iterator[SearchIndex]:
    opened = SearchIndex(tmp_path / "index.sqlite", store)
    yield opened
    opened.close()
    assert_holds(store)


def test_an_empty_log(opened: SearchIndex) -> None:
    assert opened.catch_up() == 0
    assert opened.catch_up() == 0
    assert list(opened.find(Filters())) == []
    assert list(opened.find(Filters(since="2026"))) == []
    assert list(opened.unfinished()) == []


def test_intents_without_an_outcome(store: MemoryStore, opened: SearchIndex) -> None:
    intents = [entry(number, kind="intent", outcome="success") for number in range(4)]
    names = [canonical.decode(one)["action_id"] for one in intents]
    store.append(intents, SEAL)
    store.append([entry(4, kind="outcome", intent_id=names[1]), entry(5, kind="control", intent_id=names[2])], SEAL)
    store.append([entry(6, kind="outcome", intent_id=names[3])], SEAL)
    opened.catch_up()
    assert list(opened.unfinished()) == [0, 2]


def test_an_action_id_that_was_sent_twice(store: MemoryStore, opened: SearchIndex) -> None:
    store.append([entry(0), entry(1)], SEAL)
    store.append([entry(1), entry(2)], SEAL)
    opened.catch_up()
    assert opened.with_action_id(canonical.decode(entry(1))["action_id"]) == [1, 2]
    assert opened.with_action_id("none") == []


def test_entries_that_are_no_records(store: MemoryStore, opened: SearchIndex) -> None:
    odd = [
        small(1),
        b"{",
        b'{"user_id":7}',
        b'{"response":{"status":99999999999999999999}}',
        b'{"response":{"status":9223372036854775808}}',
        b'{"user_id":"\xff"}',
        b'{"resource":[]}',
        b'{"a":' * 5000,
    ]
    store.append(odd, SEAL)
    assert opened.catch_up() == len(odd)
    for number, one in enumerate(odd):
        assert row_of(number, one)[1:] == (None,) * (len(COLUMNS) - 1)
    assert list(opened.find(Filters(), newest_first=False)) == list(range(len(odd)))
    assert report_on(store, check_index=opened.check).holds


def test_every_action_of_many(store: MemoryStore, opened: SearchIndex) -> None:
    store.append([entry(number, action=f"a.{number:03}") for number in range(100)], SEAL)
    opened.catch_up()
    assert list(opened.find(Filters(action="a.*"), newest_first=False)) == list(range(100))
    assert list(opened.find(Filters(action="a.00*"), newest_first=False)) == list(range(10))


# --- keeping up --------------------------------------------------------------------------------------------------


def test_a_query_sees_what_was_acknowledged(
    store: MemoryStore, opened: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_BATCH", 7)
    for step in range(20):
        size = store.head().size
        size = store.append([varied(size + one) for one in range(1 + step % 4)], SEAL).size
        if step % 3:
            assert opened.catch_up() == size
            assert list(opened.find(Filters(), newest_first=False)) == list(range(size))
    opened.catch_up()
    assert report_on(store, check_index=opened.check).holds


def _rows(path: Path) -> list[Any]:
    database = sqlite3.connect(path)
    try:
        return [
            database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in ("entry", "block", "place", "meta")
        ]
    finally:
        database.close()


def test_a_rebuilt_index_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    store = new_journal(path)
    monkeypatch.setattr(index, "_BATCH", 50)
    grown = SearchIndex(path / "index.sqlite", store)
    for at in range(0, 1200, 60):
        store.append([varied(number) for number in range(at, at + 60)], SEAL)
        grown.catch_up()
    first = _rows(path / "index.sqlite")
    grown.close()
    SearchIndex.remove(path / "index.sqlite")
    assert not list(path.glob("index.sqlite"))
    assert not list(path.glob("index.sqlite-wal"))
    monkeypatch.setattr(index, "_BATCH", 100_000)
    rebuilt = SearchIndex(path / "index.sqlite", store)
    assert rebuilt.catch_up() == 1200
    assert _rows(path / "index.sqlite") == first
    assert_holds(store, check_index=rebuilt.check)
    rebuilt.close()


def test_deleted_while_it_is_open(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", [varied(0)])
    opened = SearchIndex(tmp_path / "log" / "index.sqlite", store)
    opened.catch_up()
    SearchIndex.remove(tmp_path / "log" / "index.sqlite")
    store.append([varied(1)], SEAL)
    assert opened.catch_up() == 2
    assert list(opened.find(Filters())) == [1, 0]
    assert_holds(store, check_index=opened.check)


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = new_journal(tmp_path / "log", [varied(1)])
        SearchIndex(tmp_path / "log" / "index.sqlite", store).catch_up()
    finally:
        os.umask(before)
    for found in (tmp_path / "log").glob("index.sqlite*"):
        assert stat.S_IMODE(found.stat().st_mode) == 0o600, found


def _tamper(path: Path, statement: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET origin = 'another.example/log'",
        "UPDATE meta SET version = 1",
        "UPDATE meta SET last = 'x'",
        "UPDATE meta SET size = 99",
        "UPDATE meta SET size = 'x'",
        "DELETE FROM meta",
        "DROP TABLE meta",
        "DROP INDEX by_user_id",
        "CREATE TRIGGER hide AFTER INSERT ON entry BEGIN DELETE FROM entry WHERE user_id = 'user-1'; END",
        "ALTER TABLE entry RENAME TO hidden",
        "CREATE VIEW shown AS SELECT * FROM entry",
    ],
)
def test_what_does_not_fit_is_made_anew(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "log"
    store = new_journal(path, [varied(number) for number in range(5)])
    SearchIndex(path / "index.sqlite", store).catch_up()
    _tamper(path / "index.sqlite", statement)
    store.append([varied(5)], SEAL)
    opened = SearchIndex(path / "index.sqlite", store)
    assert opened.catch_up() == 6
    assert list(opened.find(Filters())) == [5, 4, 3, 2, 1, 0]
    assert_holds(store, check_index=opened.check)


@pytest.mark.parametrize("content", [b"", b"no database" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log"
    store = new_journal(path, [varied(number) for number in range(5)])
    (path / "index.sqlite").write_bytes(content)
    opened = SearchIndex(path / "index.sqlite", store)
    assert opened.catch_up() == 5
    assert_holds(store, check_index=opened.check)


def test_a_database_that_is_damaged_somewhere(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, [varied(number) for number in range(400)])
    opened = SearchIndex(path / "index.sqlite", store)
    opened.catch_up()
    opened.close()
    healthy = (path / "index.sqlite").read_bytes()
    for page in range(1, len(healthy) // 4096, 3):
        at = page * 4096
        (path / "index.sqlite").write_bytes(healthy[:at] + b"\xa5" * 4096 + healthy[at + 4096 :])
        opened = SearchIndex(path / "index.sqlite", store)
        opened.catch_up()
        report = report_on(store, check_index=opened.check)
        opened.close()
        if not report.holds:
            assert {finding.cause for finding in report.findings} == {"index column differs"}
        SearchIndex.remove(path / "index.sqlite")


def test_a_log_that_was_replaced(tmp_path: Path) -> None:
    one = new_journal(tmp_path / "one", [varied(number) for number in range(6)])
    SearchIndex(tmp_path / "index.sqlite", one).catch_up()
    for count in (6, 3, 9):
        other = new_journal(tmp_path / f"other-{count}", [varied(number, "other") for number in range(count)])
        opened = SearchIndex(tmp_path / "index.sqlite", other)
        assert opened.catch_up() == count
        assert_holds(other, check_index=opened.check)
        opened.close()


def test_where_the_log_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    store = new_journal(path, [varied(0)])
    monkeypatch.setattr(os, "access", lambda *_: False)
    opened = SearchIndex(path / "index.sqlite", JournalStore.open(path, writable=False))
    assert opened.catch_up() == 1
    assert list(opened.find(Filters())) == [0]
    assert not list(path.glob("index*"))
    folder = opened._path.parent
    opened.close()
    assert not folder.exists()
    assert_holds(store)


def test_a_damaged_log_cannot_be_indexed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, [varied(1)], [varied(2)], [varied(3)])
    segment = next((path / "journal").glob("*.jsonl"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    opened = SearchIndex(path / "index.sqlite", store)
    with pytest.raises(LogDamaged):
        opened.catch_up()


def test_a_place_without_room_for_a_database(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises((StoreError, OSError)):
        SearchIndex(tmp_path / "index.sqlite", MemoryStore(ORIGIN))


def test_several_processes_catch_up_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    new_journal(path).close()

    def write(tell: Callable[[bytes], int]) -> None:
        store = JournalStore.open(path)
        for step in range(40):
            store.append([varied(step * 10 + one) for one in range(10)], SEAL)

    def read(tell: Callable[[bytes], int]) -> None:
        store = JournalStore.open(path, writable=False)
        opened = SearchIndex(path / "index.sqlite", store)
        size = 0
        while size < 400:
            head = store.head().size
            size = opened.catch_up()
            assert size >= head
            assert list(opened.find(Filters(), newest_first=False))[:head] == list(range(head))
        opened.close()

    finish(*(fork(work) for work in (write, read, read, read)))
    store = JournalStore.open(path)
    opened = SearchIndex(path / "index.sqlite", store)
    assert opened.catch_up() == 400
    assert_holds(store, check_index=opened.check)


# --- never trusted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", COLUMNS[1:])
def test_every_column_is_compared_with_the_log(tmp_path: Path, column: str) -> None:
    path = tmp_path / "log"
    store = new_journal(path, [varied(number) for number in range(5)], [varied(number) for number in range(5, 9)])
    opened = SearchIndex(path / "index.sqlite", store)
    opened.catch_up()
    assert_holds(store, check_index=opened.check)
    for value in ("'x'", "NULL", "''"):
        _tamper(path / "index.sqlite", f"UPDATE entry SET {column} = {value} WHERE idx = 6")
        expected = {"'x'": "x", "NULL": None, "''": ""}[value]
        if row_of(6, varied(6))[COLUMNS.index(column)] == expected:
            continue
        report = report_on(store, check_index=opened.check)
        assert (report.holds, report.cause) == (False, "index column differs")
        assert column in next(finding.text for finding in report.findings if finding.index == 6)


@pytest.mark.parametrize(
    ("statement", "at"),
    [
        ("DELETE FROM entry WHERE idx = 3", 3),
        ("INSERT INTO entry (idx) VALUES (9)", 9),
        ("INSERT INTO entry (idx) VALUES (-1)", -1),
        ("UPDATE block SET high = '2025'", 0),
        ("DELETE FROM block", 0),
        ("UPDATE place SET lengths = NULL", 0),
        ("UPDATE place SET lengths = x''", 0),
        ("UPDATE place SET lengths = lengths || x'0101'", 0),
        ("UPDATE place SET leaves = zeroblob(288)", 0),
        ("INSERT INTO place VALUES (9, 0, 0, x'0101', zeroblob(32))", 9),
        ("UPDATE place SET first = -1", -1),
    ],
)
def test_rows_and_blocks_are_compared_too(tmp_path: Path, statement: str, at: int) -> None:
    path = tmp_path / "log"
    store = new_journal(path, [varied(number) for number in range(9)])
    opened = SearchIndex(path / "index.sqlite", store)
    opened.catch_up()
    _tamper(path / "index.sqlite", statement)
    report = report_on(store, check_index=opened.check)
    assert (report.holds, report.cause, report.index) == (False, "index column differs", at)


def test_an_index_that_hides_rows_from_queries(tmp_path: Path) -> None:
    """The table is right, but the structure that queries use is not."""
    path = tmp_path / "log"
    store = new_journal(path, [varied(number) for number in range(9)])
    opened = SearchIndex(path / "index.sqlite", store)
    opened.catch_up()
    opened.close()
    database = sqlite3.connect(path / "index.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode=DELETE")
    (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'by_user_id'").fetchone()
    database.close()
    data = bytearray((path / "index.sqlite").read_bytes())
    page = (root - 1) * 4096
    data[page + 3 : page + 5] = (int.from_bytes(data[page + 3 : page + 5], "big") - 1).to_bytes(2, "big")
    (path / "index.sqlite").write_bytes(data)
    opened = SearchIndex(path / "index.sqlite", store)
    opened.catch_up()
    report = report_on(store, check_index=opened.check)
    assert (report.holds, report.cause) == (False, "index column differs")


def test_an_index_that_finds_something_else(tmp_path: Path) -> None:
    """Whole in itself and of the right size, but filled with another column's values."""
    path = tmp_path / "log"
    store = new_journal(path, [varied(number) for number in range(300)])
    opened = SearchIndex(path / "index.sqlite", store)
    opened.catch_up()
    opened.close()
    true = columns.SCHEMA["by_user_id"]
    for statement in (true.replace("(user_id)", "(instance)"), true):
        database = sqlite3.connect(path / "index.sqlite", isolation_level=None)
        database.execute("PRAGMA writable_schema=ON")
        database.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'by_user_id'", [statement])
        database.close()
        if statement != true:
            _tamper(path / "index.sqlite", "REINDEX by_user_id")
    opened = SearchIndex(path / "index.sqlite", store)
    assert opened.catch_up() == 300
    assert list(opened.find(Filters(user="user-1"))) == []
    assert opened._database().execute("PRAGMA quick_check").fetchone() == ("ok",)
    report = report_on(store, check_index=opened.check)
    assert (report.holds, report.cause) == (False, "index column differs")
    assert "by_user_id" in report.findings[0].text
    opened.close()


def test_a_check_that_is_given_up(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", [varied(number) for number in range(3)])
    opened = SearchIndex(tmp_path / "log" / "index.sqlite", store)
    opened.catch_up()
    assert list(opened.check(0, [varied(0)])) == []
    assert opened._inspection is not None
    opened.close()
    assert not [one for one in threading.enumerate() if one.name == "audit-index-check"]


def test_the_schema_is_what_sqlite_keeps(tmp_path: Path) -> None:
    inner: LogStore = MemoryStore(ORIGIN)
    opened = SearchIndex(tmp_path / "index.sqlite", inner)
    opened.catch_up()
    kept = opened._database().execute("SELECT name, sql FROM sqlite_master").fetchall()
    assert dict(kept) == columns.SCHEMA
