"""The database refuses changes, also to the owner; what a superuser does all the same, the verifier names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from audit_middleware.errors import LogDamaged, LogForked
from audit_middleware.ledger.report import Cause
from audit_middleware.stores.postgres import PostgresStore
from tests.postgres.conftest import Database
from tests.stores.samples import SEAL, assert_holds, batches, entries_of, entry, report_on, small

PARTITION = "audit.entries_1_0000000000000000000"
REFUSED = (psycopg.errors.RestrictViolation, psycopg.errors.ForeignKeyViolation)


@pytest.fixture
def store(database: Database) -> Iterator[PostgresStore]:
    """Commits of 3, 1, 4 and 2 entries."""
    with closing(database.store()) as opened:
        for group in batches(3, 1, 4, 2):
            opened.append(group, SEAL)
        yield opened


CHANGES = [
    "UPDATE audit.entries SET entry = entry WHERE idx = 4",
    "DELETE FROM audit.entries",
    "TRUNCATE audit.entries",
    f"UPDATE {PARTITION} SET idx = 99 WHERE idx = 4",
    f"DELETE FROM {PARTITION} WHERE idx = 4",
    f"TRUNCATE {PARTITION}",
    "UPDATE audit.commits SET checkpoint = 'x' WHERE first = 3",
    "DELETE FROM audit.commits WHERE first = 3",
    "TRUNCATE audit.commits",
    "UPDATE audit.heads SET size = 3",
    "UPDATE audit.heads SET checkpoint = 'x'",
    "DELETE FROM audit.heads",
    "TRUNCATE audit.logs CASCADE",
    "UPDATE audit.logs SET origin = 'example.com/other'",
    "DELETE FROM audit.vkeys",
    "MERGE INTO audit.entries USING (SELECT 4) ON idx = 4 WHEN MATCHED THEN DELETE",
    "INSERT INTO audit.entries SELECT * FROM audit.entries WHERE idx = 4 ON CONFLICT (log_id, idx) DO UPDATE "
    "SET entry = '{}'",
]


def test_changes_are_refused(store: PostgresStore, database: Database) -> None:
    before = entries_of(store)
    owner = database.role("dba", "audit_owner")
    for statement in CHANGES:
        for url in (database.url, owner):
            with pytest.raises(REFUSED):
                database.run(statement, url=url)
        replica = "-c session_replication_role=replica"  # where ordinary triggers do not fire
        with psycopg.connect(database.url, options=replica) as connection, pytest.raises(REFUSED):
            connection.execute(statement.encode())
    assert entries_of(store) == before
    assert_holds(store)


def test_new_partitions_are_guarded_as_well(database: Database) -> None:
    url = database.log(width=65_536)
    with closing(PostgresStore.open(url)) as store:
        for _ in range(33):
            store.append([small(number) for number in range(2000)], SEAL)
        parts = database.run("SELECT relname FROM pg_class WHERE relname LIKE 'entries\\_1\\_%' AND relkind = 'r'")
        assert sorted(str(name) for (name,) in parts) == [
            f"entries_1_{first:019d}" for first in (0, 65_536)
        ]  # fmt: skip
        for name in parts:
            for statement in ("DELETE FROM audit.{}", "TRUNCATE audit.{}", "UPDATE audit.{} SET entry = '{{}}'"):
                with pytest.raises(psycopg.errors.RestrictViolation):
                    database.run(statement.format(*name))
        assert_holds(store)


# --- what a superuser, or the owner with ALTER TABLE, can do ---------------------------------------------------------

EDIT = "UPDATE audit.entries SET entry = convert_to(replace(convert_from(entry, 'UTF8'), '{}', '{}'), 'UTF8') "


@pytest.mark.parametrize(
    ("statement", "cause", "index"),
    [
        (EDIT.format("192.0.2.7", "192.0.2.8") + "WHERE idx = 5", "altered", 5),
        ("DELETE FROM audit.entries WHERE idx = 5", "missing", 5),
        ("DELETE FROM audit.entries WHERE idx BETWEEN 4 AND 7", "missing", 4),
        ("UPDATE audit.entries SET idx = CASE idx WHEN 5 THEN 105 ELSE 5 END WHERE idx IN (5, 6)", None, None),
        ("DELETE FROM audit.commits WHERE first = 4", "altered", 4),
        ("DELETE FROM audit.commits WHERE first = 8", "altered", None),
        ("DELETE FROM audit.commits WHERE first = 8; DELETE FROM audit.entries WHERE idx >= 8", "altered", 8),
        ("UPDATE audit.commits SET checkpoint = convert_to('nothing', 'UTF8') WHERE first = 4", None, 4),
        ("UPDATE audit.commits SET checkpoint = '\\xff' WHERE first = 4", "altered", 4),
        ("UPDATE audit.commits SET peaks = set_byte(peaks, 3, get_byte(peaks, 3) # 1) WHERE first = 4", "altered", 4),
        ("UPDATE audit.commits SET peaks = peaks || '\\x00' WHERE first = 4", "altered", 4),
        ("UPDATE audit.commits SET size = 7, count = 3 WHERE first = 4", None, None),
        ("UPDATE audit.commits SET size = 9000000000000000000 WHERE first = 4", "altered", 4),
        ("UPDATE audit.commits SET size = first, count = 0 WHERE first = 4", "altered", 4),
        ("UPDATE audit.commits SET first = 5, size = 5, count = 0 WHERE first = 4", "altered", 4),
        ("UPDATE audit.commits SET sha256 = sha256(sha256) WHERE first = 4", "altered", 4),
        ("UPDATE audit.heads SET size = 8", "altered", None),
        ("UPDATE audit.heads SET checkpoint = 'x'", "altered", None),
        ("INSERT INTO audit.entries VALUES (1, 10, '{}')", "altered", 10),
    ],
)  # fmt: skip
def test_the_verifier_names_what_a_superuser_did(
    store: PostgresStore, database: Database, statement: str, cause: Cause | None, index: int | None
) -> None:
    assert_holds(store)
    with psycopg.connect(database.url, autocommit=True) as connection:
        for table in ("entries", "commits", "heads"):
            connection.execute(f"ALTER TABLE audit.{table} DISABLE TRIGGER ALL".encode())
        connection.execute("ALTER TABLE audit.commits DROP CONSTRAINT commits_pkey")
        connection.execute(statement.encode())
    report = report_on(store)
    assert not report.holds
    errors = [one for one in report.findings if one.level == "error"]
    assert cause is None or cause in {one.cause for one in errors}, errors
    assert index is None or index in {one.index for one in errors}, errors
    assert any(store.place in one.where for one in errors), errors


def test_readers_refuse_what_was_altered(store: PostgresStore, database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE audit.entries DISABLE TRIGGER ALL")
        connection.execute("UPDATE audit.entries SET entry = '{}' WHERE idx = 5")
    assert [frame.first for frame in store.frames(0, 4)] == [0, 3]
    assert [frame.first for frame in store.frames(8)] == [8]
    with pytest.raises(LogDamaged, match="commit 4"):
        list(store.frames())
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE audit.commits DISABLE TRIGGER ALL")
        connection.execute("DELETE FROM audit.commits WHERE first = 4")
    with pytest.raises(LogDamaged, match=r"without a commit|should follow"):
        list(store.frames())
    with pytest.raises(LogDamaged, match=r"missing|without a commit|should follow"):
        list(store.frames(4, 6))


def test_a_dropped_partition_is_named(store: PostgresStore, database: Database) -> None:
    database.run(f"DROP TABLE {PARTITION}")
    report = report_on(store)
    assert not report.holds
    assert {one.cause for one in report.findings if one.level == "error"} >= {"missing"}


def test_a_second_head_row_would_be_no_second_history(store: PostgresStore, database: Database) -> None:
    """Whoever continues from an older head is refused by the entries that are there."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE audit.heads DISABLE TRIGGER ALL")
        connection.execute(
            "UPDATE audit.heads h SET size = c.size, peaks = c.peaks, checkpoint = c.checkpoint "
            "FROM audit.commits c WHERE c.first = 3"
        )
    with pytest.raises(LogDamaged, match="replaced by an older copy"):  # who has seen more knows
        store.append([entry(50)], SEAL)
    with closing(PostgresStore.open(database.url)) as fresh, pytest.raises(Exception, match="duplicate key"):
        fresh.append([entry(50)], SEAL)
    assert not report_on(store).holds


@pytest.mark.parametrize("connected", [False, True])
def test_a_database_that_went_back_and_on_is_refused(store: PostgresStore, database: Database, connected: bool) -> None:
    """A restored backup, or a replica that had not got everything, continued by others: longer than what we know.
    Or a superuser did it on the running server."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        for table in ("entries", "commits", "heads"):
            connection.execute(f"ALTER TABLE audit.{table} DISABLE TRIGGER ALL".encode())
        connection.execute("DELETE FROM audit.commits WHERE first >= 4")
        connection.execute("DELETE FROM audit.entries WHERE idx >= 4")
        connection.execute("DELETE FROM audit.search WHERE idx >= 4")
        connection.execute(
            "UPDATE audit.heads h SET size = c.size, peaks = c.peaks, checkpoint = c.checkpoint "
            "FROM audit.commits c WHERE c.first = 3"
        )
    with closing(PostgresStore.open(database.url)) as other:
        other.append([entry(number, "process-2") for number in range(20)], SEAL)
        assert_holds(other)
    known = store._appender.seen if store._appender is not None else None
    assert known is not None
    assert not store.has_commit(known)
    assert store._appender is not None
    if not connected:
        store._appender._session.drop()  # as the restart of the server did
    with pytest.raises(LogForked, match="continued"):
        store.append([entry(50)], SEAL)


def test_a_log_that_is_cut_everywhere_is_found_by_who_kept_a_checkpoint(
    store: PostgresStore, database: Database
) -> None:
    """The limit of every log without a copy elsewhere: cut evenly, it is a shorter log that holds."""
    kept = store.head()
    with psycopg.connect(database.url, autocommit=True) as connection:
        for table in ("entries", "commits", "heads"):
            connection.execute(f"ALTER TABLE audit.{table} DISABLE TRIGGER ALL".encode())
        connection.execute("DELETE FROM audit.commits WHERE first >= 8")
        connection.execute("DELETE FROM audit.entries WHERE idx >= 8")
        connection.execute(
            "UPDATE audit.heads h SET size = c.size, peaks = c.peaks, checkpoint = c.checkpoint "
            "FROM audit.commits c WHERE c.first = 4"
        )
    assert report_on(store).holds
    assert report_on(store, since=kept.checkpoint).cause == "truncated"
    with pytest.raises(LogDamaged, match="older copy"):
        store.append([entry(50)], SEAL)
