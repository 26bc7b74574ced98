"""Persons' keys in PostgreSQL: what its files hold, roles, schemas, and what goes wrong with connections."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from audit_middleware.errors import ConfigError, SubjectKeysError
from audit_middleware.persons import Person
from audit_middleware.privacy.keys import create_keys, open_keys, renew, rotate_master
from audit_middleware.privacy.keys_postgres import PostgresRows
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD, PATIENCE, PostgresServer
from tests.privacy.keying import ORIGIN, Place, found_in, master, row_of, user

CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND datname = current_database()"
)


@pytest.fixture
def store(database: Database) -> Iterator[Place]:
    made = Place("postgres", database.url).make()
    yield made
    made.close()


def cut(database: Database) -> None:
    """Ends every other connection, and waits until they are gone."""
    database.run(CUT)
    deadline = time.monotonic() + PATIENCE
    while database.run(CUT):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_erasure_leaves_no_copy_in_the_tables_files(own_server: PostgresServer) -> None:
    """But for the server's write-ahead log, which expires."""
    place = Place("postgres", own_server.url()).make()
    keys = place.open()
    people = [user(number) for number in range(400)]
    made = {person: keys.of(person) for person in people}
    keys.commit()
    gone = people[::40]
    rows = [row_of(keys, person) for person in gone]
    searched = [piece for row in rows for piece in (row.lookup, row.name, row.secrets, row.token.encode())]
    wrapped = keys._rows.meta().wrapped
    clear = [piece for key in list(made.values())[:5] for piece in (key.secret, key.salt)]
    reader = psycopg.connect(own_server.url())  # an old snapshot keeps what it sees from VACUUM
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    reader.execute("SELECT 1")
    with psycopg.connect(own_server.url()) as connection:
        ((database,),) = connection.execute("SELECT oid FROM pg_database WHERE datname = 'postgres'").fetchall()
    files = own_server.data / "base" / str(database)

    def on_disk(what: list[bytes]) -> list[str]:
        with psycopg.connect(own_server.url(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        return found_in(files, what)

    assert on_disk(searched)
    assert on_disk([wrapped])
    assert keys.erase([row.token for row in rows]) == len(gone)
    assert on_disk(searched) == []
    rotate_master(keys, master(2))
    assert on_disk([wrapped]) == []
    kept = row_of(keys, people[1])
    renew(keys)
    assert on_disk([kept.lookup, kept.name, kept.secrets]) == []
    assert found_in(own_server.data, clear) == []
    assert {person: keys.find(person) for person in people} == {
        person: None if person in gone else key for person, key in made.items()
    }
    reader.close()
    place.close()


def test_a_server_that_is_killed_keeps_what_was_committed(own_server: PostgresServer) -> None:
    place = Place("postgres", own_server.url()).make()
    keys = place.open()
    one = keys.of(user(1))
    keys.commit()
    keys.of(user(2))
    generation = keys.generation()
    own_server.kill()
    with pytest.raises(SubjectKeysError):
        keys.commit()
    with pytest.raises(SubjectKeysError, match="postgresql://127"):
        keys.find(user(1))
    own_server.start()
    assert keys.find(user(1)) == one
    assert keys.find(user(2)) is None
    assert keys.generation() > generation
    place.close()


def test_a_lost_connection_is_replaced_where_nothing_was_begun(database: Database, store: Place) -> None:
    keys = store.open()
    one = keys.of(user(1))
    keys.commit()
    for find in (keys.find, keys.of):
        cut(database)
        assert find(user(1)) == one
    cut(database)
    assert keys.generation() == 0
    cut(database)
    keys.told([one.token])
    cut(database)
    keys.restrict(one.token, True)
    cut(database)
    assert keys.erased_to(7) == 7


def test_a_connection_that_is_lost_with_new_keys_voids_them(database: Database, store: Place) -> None:
    keys = store.open()
    calls: list[Callable[[], object]] = [
        keys.commit, keys.generation, lambda: keys.of(user(2)), lambda: keys.find(user(1)),
    ]  # fmt: skip
    for call in calls:
        void = keys.of(user(1))
        generation = keys.generation()
        cut(database)
        with pytest.raises(SubjectKeysError):
            call()
        assert keys.generation() > generation, "who keeps keys in memory is told"
        assert keys.named(void.token) is None


def test_who_dawdles_in_a_transaction_loses_it_and_keeps_nobody_waiting(
    store: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_middleware.privacy.keys_postgres._IDLE", 0.2)
    slow = store.open()
    slow.of(user(1))
    made = store.open().of(user(2))  # waits until the server has ended the other one
    assert made.token
    with pytest.raises(SubjectKeysError):
        slow.commit()
    assert slow.find(user(1)) is None


def test_a_lock_that_does_not_come_free(store: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit_middleware.privacy.keys_postgres.TIMEOUT", 0.5)
    one, two = store.open(), store.open()
    key = one.of(user(1))
    with pytest.raises(SubjectKeysError, match="other processes had it locked all the time"):
        two.of(user(2))
    assert two.find(user(1)) is None  # who only looks waits for nobody
    one.commit()
    assert two.find(user(1)) == key


def test_a_server_that_answers_nothing_keeps_nobody_for_ever(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("postgres", own_server.url()).make()
    keys = place.open()
    monkeypatch.setattr("audit_middleware.privacy.keys_postgres._GRACE", 0.2)
    monkeypatch.setattr("audit_middleware.privacy.keys_postgres.CONNECT_TIMEOUT", 1)
    ((backend,),) = keys._rows._run("SELECT pg_backend_pid()")  # type: ignore[attr-defined]
    assert own_server.process is not None
    stopped = [int(backend), own_server.process.pid]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(PostgresRows._run, "__kwdefaults__", {"timeout": 0.3})
        with pytest.raises(SubjectKeysError, match=r"no answer in time|timeout"):
            keys.find(user(1))
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    keys.close()


# --- places and roles ------------------------------------------------------------------------------------------------


def test_each_log_has_a_schema_of_its_own(database: Database, store: Place) -> None:
    url = f"{database.url}?schema=audit_subjects_two"
    with pytest.raises(SubjectKeysError, match="in schema audit_subjects_two; it is made once, by hand"):
        open_keys(url, "audit.example.com/two", master(1, "audit.example.com/two"))
    create_keys(url, "audit.example.com/two", master(1, "audit.example.com/two"))
    two = open_keys(url, "audit.example.com/two", master(1, "audit.example.com/two"))
    assert two.of(user(1)) != store.open().of(user(1))
    two.close()
    with pytest.raises(SubjectKeysError, match="another \\?schema="):
        open_keys(url, ORIGIN, master())
    schemas = {name for (name,) in database.run("SELECT schemaname FROM pg_tables WHERE schemaname LIKE 'audit%'")}
    assert schemas == {"audit_subjects", "audit_subjects_two"}


def test_the_roles_of_the_documentation_suffice(database: Database) -> None:
    """The statements in docs/privacy.md, run by a superuser; then everything as those roles."""
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
    statements = page.split("```sql keys\n")[1].split("```")[0]
    keeper, service = (database.role(name).split("//")[1].split(":")[0] for name in ("keeper", "service"))
    for statement in filter(str.strip, statements.split(";\n")):
        statement = statement.replace("CREATE ROLE audit_keeper NOLOGIN", f"ALTER ROLE {keeper} NOLOGIN")
        statement = statement.replace("audit_keeper", keeper).replace("billing_app", service)
        database.run(statement.replace("DATABASE audit ", f"DATABASE {database.name} "))
    url = database.as_role(service, options=f"-crole%3D{keeper}")
    create_keys(url, ORIGIN, master())
    plain = database.as_role(service)
    keys = open_keys(plain, ORIGIN, master())
    one = keys.of(user(1))
    keys.commit()
    keys.told([one.token])
    assert renew(keys) == 1
    assert keys.erase([one.token]) == 1
    keys.close()
    stranger = database.role("stranger")
    with pytest.raises(SubjectKeysError, match=r"this role may not do that \(.*; see docs/privacy.md") as refused:
        open_keys(stranger, ORIGIN, master())
    assert PASSWORD not in str(refused.value)
    database.run(f"DROP OWNED BY {keeper} CASCADE")


def test_a_role_that_may_not_make_a_schema(database: Database) -> None:
    with pytest.raises(SubjectKeysError, match="this role may not do that"):
        create_keys(database.role("nobody_much"), ORIGIN, master())


def test_messages_hold_no_password(database: Database) -> None:
    wrong = database.as_role("postgres", "a-wrong-password")
    with pytest.raises(SubjectKeysError) as refused:
        open_keys(wrong, ORIGIN, master())
    assert "a-wrong-password" not in str(refused.value)
    assert "password authentication failed" in str(refused.value)
    with pytest.raises(ConfigError) as problem:
        open_keys("postgresql://u:secret@h/d?no_such_parameter=1", ORIGIN, master())
    assert "secret" not in str(problem.value)


def test_a_long_name_is_a_row_like_others(store: Place) -> None:
    keys = store.open()
    person = Person("resource", "file/" + "x" * 50_000)
    key = keys.of(person)
    keys.commit()
    assert store.open().named(key.token) == (person, key)
    assert keys.erase([key.token]) == 1
