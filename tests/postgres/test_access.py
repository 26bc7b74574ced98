"""Who may do what: writers cannot read, readers cannot write, nobody sees another log, and names are only names."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from audit_middleware.errors import ConfigError, LogNotFound, LogUnavailable
from audit_middleware.pipeline.append import Writer, make_sealer
from audit_middleware.stores.columns import Filters
from audit_middleware.stores.postgres import PostgresIndex, PostgresStore, grant
from audit_middleware.stores.postgres.setup import migrations
from audit_middleware.testing.faulty import Faults, FaultyStore
from tests.postgres.conftest import Database
from tests.servers.running import until
from tests.stores.samples import SEAL, SIGNER, VKEY, assert_holds, entries_of, entry, small

TABLES = ("entries", "commits", "heads", "logs", "vkeys", "bases", "search", "blocks", "access", "migrations", "kept")
SECRET = "hunter2-is-no-secret"


@pytest.fixture
def url(database: Database) -> str:
    """A log with one entry."""
    url = database.log()
    with closing(PostgresStore.open(url)) as store:
        store.append([small(0)], SEAL)
    return url


def test_a_writer_appends_and_reads_nothing_but_the_head(database: Database, url: str) -> None:
    writer = database.role("app", "audit_writer")
    with closing(PostgresStore.open(writer)) as store:
        head = store.append([small(1)], SEAL)
        assert store.head() == head
        assert store.has_commit(head)
        assert store.base.size == 0
        with pytest.raises(LogUnavailable, match="this role may not"):
            list(store.frames())
        with pytest.raises(LogUnavailable, match="this role may not"):
            list(PostgresIndex(store).find(Filters(user="user-1")))
    for table in TABLES:
        for statement in (f"SELECT * FROM audit.{table}", f"DELETE FROM audit.{table}", f"TRUNCATE audit.{table}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                database.run(statement, url=writer)
    for statement in (
        "INSERT INTO audit.entries VALUES (1, 99, '{}')",
        "UPDATE audit.heads SET size = 0",
        "UPDATE audit.entries SET entry = '{}'",
        "SELECT audit.prune(1, 1, 1, '')",
        "SELECT audit.add_log('other', '', 65536, '{}')",
        "SELECT audit.clear_index(1)",
        "SELECT audit.index_entries(1, 0, '[]')",
        "SELECT audit.extend(1, 1)",
        "SELECT * FROM audit.entries_1_0000000000000000000",
        "CREATE TABLE audit.mine (x int)",
        "SET ROLE audit_owner",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.run(statement, url=writer)


def test_a_reader_reads_everything_and_writes_nothing(database: Database, url: str) -> None:
    reader = database.role("auditor", "audit_reader")
    with closing(PostgresStore.open(reader)) as store:
        with pytest.raises(LogUnavailable, match="this role may not"):
            store.append([small(1)], SEAL)
        assert entries_of(store) == [small(0)]
        assert_holds(store)
        assert list(PostgresIndex(store).find(Filters())) == [0]
        assert store.vkeys == (VKEY,)
    for table in TABLES:
        for statement in (f"DELETE FROM audit.{table}", f"TRUNCATE audit.{table}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                database.run(statement, url=reader)
    for statement in (
        "SELECT * FROM audit.lock_head(1)",  # it could stop all writers
        "SELECT audit.append(1, 1, '', '', '', '', '{}', '[]')",
        "UPDATE audit.heads SET size = 0",
        "INSERT INTO audit.access VALUES (1, 'public', true)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.run(statement, url=reader)
    assert PostgresStore.open(url).head().size == 1


def test_a_stranger_finds_no_log(database: Database, url: str) -> None:
    with pytest.raises(LogUnavailable, match="this role may not"):
        PostgresStore.open(database.role("stranger"))


def test_each_role_sees_its_own_logs(database: Database) -> None:
    """Two logs in one schema: grants are per log, and row-level security holds for plain SQL as well."""
    roles = {name: database.role(name) for name in ("billing_app", "billing_auditor", "payroll_app", "payroll_auditor")}
    names = {name: url.split("//")[1].split(":")[0] for name, url in roles.items()}
    for log in ("billing", "payroll"):
        database.log(
            f"example.com/{log}", writers=[names[f"{log}_app"]], readers=[names[f"{log}_auditor"]]
        )  # fmt: skip
        with closing(PostgresStore.open(roles[f"{log}_app"])) as store:
            assert store.origin == f"example.com/{log}"
            seal = make_sealer(store.origin, [SIGNER])
            store.append([entry(number, user_id=log) for number in range(3)], seal)
    with closing(PostgresStore.open(roles["payroll_auditor"])) as store:
        assert [one for one in entries_of(store) if b"billing" in one.split(b"user_id")[1][:20]] == []
        assert len(entries_of(store)) == 3
    for table, column in (("entries", "log_id"), ("commits", "log_id"), ("search", "log_id"), ("logs", "log_id")):
        (found,) = database.run(f"SELECT array_agg(DISTINCT {column}) FROM audit.{table}", url=roles["payroll_auditor"])
        (both,) = database.run(f"SELECT array_agg(DISTINCT {column}) FROM audit.{table}")
        assert found == ([2],)
        assert both == ([1, 2],)
    for role in ("billing_auditor", "payroll_app"):
        with pytest.raises(LogNotFound, match="none for this role"):
            PostgresStore.open(
                roles[role], origin="example.com/billing" if "payroll" in role else "example.com/payroll"
            )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not write to this log"):
        database.run("SELECT * FROM audit.lock_head(1)", url=roles["payroll_app"])
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not write to this log"):
        database.run(
            "SELECT audit.append(1, 3, '', '', '', '', ARRAY['{}'::bytea], '[]')", url=roles["payroll_app"]
        )  # fmt: skip
    assert database.run("SELECT * FROM audit.newest(1)", url=roles["payroll_app"]) == []
    assert database.run("SELECT * FROM audit.commit_at(1, 3)", url=roles["payroll_auditor"]) == []

    grant(database.url, names["payroll_auditor"], "read", origin="example.com/billing")
    with closing(PostgresStore.open(roles["payroll_auditor"], origin="example.com/billing")) as store:
        assert len(entries_of(store)) == 3
    with pytest.raises(ConfigError, match=r"several logs \(example.com/billing, example.com/payroll\)"):
        PostgresStore.open(roles["payroll_auditor"])


def test_own_tables_and_functions_do_not_take_the_place_of_ours(database: Database, url: str) -> None:
    """A writer's search_path, temporary tables and operators must not reach into functions with the owner's rights."""
    writer = database.role("app", "audit_writer")
    database.run("CREATE SCHEMA mine; GRANT ALL ON SCHEMA mine TO public")
    with psycopg.connect(writer, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE heads AS SELECT 1 AS log_id, 0::bigint AS size")
        connection.execute("CREATE TEMP TABLE access AS SELECT 1 AS log_id, session_user AS role, true AS writes")
        connection.execute("CREATE FUNCTION mine.octet_length(bytea) RETURNS int LANGUAGE sql AS 'SELECT 32'")
        connection.execute("CREATE FUNCTION mine.may_write(int) RETURNS bool LANGUAGE sql AS 'SELECT true'")
        connection.execute("SET search_path = mine, pg_temp, pg_catalog")
        with pytest.raises(psycopg.errors.CheckViolation, match="no commit"):
            connection.execute("SELECT audit.append(1, 1, 'x', '', '', '', ARRAY['{}'::bytea], '[]')")
        assert connection.execute("SELECT size FROM audit.lock_head(1)").fetchone() == (1,)
    paths = database.run(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'audit'::regnamespace AND prosecdef"
    )
    assert len(paths) >= 10
    assert {str(config) for _, config in paths} == {"['search_path=audit, pg_temp']"}


def test_the_function_refuses_what_is_no_commit(database: Database, url: str) -> None:
    """Whatever a writer sends: dense indexes, whole commits, one head."""
    writer = database.role("app", "audit_writer")
    good = ["1", "1", f"'\\x{'00' * 32}'", "'x'", "''", f"'\\x{'00' * 32}'", "ARRAY['{}'::bytea]", "'[[]]'"]
    wrong: list[tuple[int, str, type[psycopg.Error]]] = [
        (1, "0", psycopg.errors.SerializationFailure),  # written over what is there
        (1, "2", psycopg.errors.SerializationFailure),  # a hole
        (1, "-1", psycopg.errors.SerializationFailure),
        (2, "'\\x00'", psycopg.errors.CheckViolation),
        (2, "NULL", psycopg.errors.NotNullViolation),
        (4, "'\\x0011'", psycopg.errors.CheckViolation),
        (5, "'\\x00'", psycopg.errors.CheckViolation),
        (6, "'{}'", psycopg.errors.CheckViolation),
        (6, "NULL", psycopg.errors.CheckViolation),
        (6, "ARRAY[NULL::bytea]", psycopg.errors.NotNullViolation),
        (6, "ARRAY[''::bytea]", psycopg.errors.CheckViolation),
        (6, "ARRAY[convert_to(repeat('x', 65536), 'UTF8')]", psycopg.errors.CheckViolation),
        (7, "'[]'", psycopg.errors.CheckViolation),  # columns for other entries than these
        (7, "'[[], []]'", psycopg.errors.CheckViolation),
    ]
    for position, value, error in wrong:
        values = [*good]
        values[position] = value
        with pytest.raises(error):
            database.run(f"SELECT audit.append({', '.join(values)})", url=writer)
    with closing(PostgresStore.open(url)) as store:
        assert store.head().size == 1
        assert_holds(store)


NASTY = [
    "x');DROP/**/TABLE/**/audit.entries;--",
    "a'b\"c\\d",
    "%s%(x)s{}",
    ':"schema"',
    "ünï/ćödé",
    "$1;select",
    "-" * 300,
]


@pytest.mark.parametrize("origin", NASTY)
def test_an_origin_is_only_a_name(database: Database, origin: str) -> None:
    database.log("example.com/first")
    database.log(origin)
    with closing(PostgresStore.open(database.url, origin=origin)) as store:
        assert store.origin == origin
        store.append([small(1)], make_sealer(origin, [SIGNER]))
        assert entries_of(store) == [small(1)]
    assert database.run("SELECT origin FROM audit.logs ORDER BY log_id") == [("example.com/first",), (origin,)]
    with closing(PostgresStore.open(database.url, origin="example.com/first")) as store:
        assert store.head().size == 0


def test_no_message_holds_a_password(database: Database, url: str, server_url: str) -> None:
    wrong = [
        database.as_role("postgres", SECRET),
        database.as_role("nobody_of_this_name", SECRET),
        database.as_role("postgres", SECRET, nonsense="1"),
        database.as_role("postgres", SECRET, sslmode=SECRET),
        database.as_role("postgres", SECRET).replace("127.0.0.1", "127.0.0.1:1,127.0.0.1"),  # two hosts
        f"postgresql://postgres:{SECRET}@127.0.0.1:1/nowhere",
        f"postgresql://postgres@127.0.0.1:1/nowhere?password={SECRET}",
        f"postgresql://postgres:{SECRET}@[::1/nowhere",
        f"postgresql://postgres:{SECRET}@127.0.0.1:port/nowhere",
        f"http://postgres:{SECRET}@127.0.0.1/nowhere",
        database.as_role("postgres", SECRET, schema="no'schema"),
    ]
    for given in wrong:
        with pytest.raises((LogUnavailable, ConfigError)) as caught:
            PostgresStore.open(given)
        shown: BaseException | None = caught.value
        while shown is not None:
            assert SECRET not in f"{shown!r} {shown.args}", given.replace(SECRET, "***")
            shown = (
                None if shown.__suppress_context__ and shown.__cause__ is None else shown.__cause__ or shown.__context__
            )
    with closing(PostgresStore.open(url)) as store:
        assert "not-a-secret" not in f"{store!r} {store.place} {store.tables!r} {vars(store.tables)!r}"


def test_a_writer_role_recovers_after_a_failure_without_reading(database: Database, url: str) -> None:
    """The writer opens the log anew after a failure and compares its history; the role may not read entries."""
    role = database.role("app", "audit_writer")
    faults = Faults()
    faults.lose_answer(2)
    opened: list[PostgresStore] = []

    def open_store() -> FaultyStore:
        opened.append(PostgresStore.open(role))
        return FaultyStore(opened[-1], faults)

    writer = Writer(open_store, SEAL, lambda item, sequence, now: small(int(item)))
    for number in range(1, 4):
        writer.submit(number)
        until(lambda: not writer.backlog, "the writer")
    assert writer.close(30) == 0
    with closing(PostgresStore.open(url)) as store:
        assert entries_of(store) == [small(0), small(1), small(2), small(2), small(3)]
        assert_holds(store)
    assert len(opened) == 2


def test_the_statements_are_files_that_can_be_read() -> None:
    numbers = [number for number, _, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))
    for _, name, text in migrations():
        assert text.startswith("-- "), name
