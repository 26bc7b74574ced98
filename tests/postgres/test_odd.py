"""What is rare and must work all the same: odd names, odd records, a full server, another encoding, a dump restored."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from audit_middleware.errors import ConfigError, LogUnavailable
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.stores.columns import Filters
from audit_middleware.stores.postgres import PostgresIndex, PostgresStore, initialise
from tests.kit import Run
from tests.postgres.commands import ORIGIN as LOG
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD, PostgresServer, binaries
from tests.stores.samples import CREATED, ORIGIN, SEAL, SIGNER, VKEY, assert_holds, entries_of, entry, small

ODD = "We \"ird' ü/n;--"


def test_a_database_and_roles_whose_names_need_quotes(database: Database, server_url: str) -> None:
    name, role = sql.Identifier(ODD), sql.Identifier(f'App-"x" ü {database.name}')
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD)))
        try:
            url = urlunsplit(urlsplit(server_url)._replace(path="/" + quote(ODD, safe="")))
            initialise(url, ORIGIN, [VKEY], CREATED, writers=[role._obj[0]], readers=[role._obj[0]])
            as_role = url.replace("//postgres:", f"//{quote(role._obj[0], safe='')}:")
            with closing(PostgresStore.open(as_role)) as store:
                assert store.append([small(1)], SEAL).size == 1
                assert entries_of(store) == [small(1)]
                assert ODD in store.place
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
            connection.execute(sql.SQL("DROP ROLE {}").format(role))


def odd_entries() -> list[bytes]:
    """JSON objects that the canonical form, the columns or PostgreSQL's types have trouble with."""
    digits = random.Random(7).choices("0123456789abcdef", k=50_000)  # cannot be compressed into an index
    return [
        entry(0, user_id="a\0b"),
        entry(1, user_id="\0" * 9000),
        entry(2, user_id="é" * 30_000),
        entry(3, user_id="".join(digits)),
        entry(4, user_id="a\\u0000b"),
        entry(5, user_id="\U0001f512 \u202e \ufeff \ufffd"),
        entry(2**53 - 1),
        b'{"user_id":"\\ud800x"}',  # a lone surrogate
        b'{"user_id":"\xed\xa0\x80"}',
        b'{"sequence":9223372036854775808}',
        b'{"sequence":-9223372036854775808}',
        b'{"sequence":1e300}',
        b'{"response":{"status":99999999999999999999999}}',
        b'{"timestamp":"\\u0000","kind":"\\u0000"}',
        b'{"timestamp":"' + b"9" * 5000 + b'"}',
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"{\xff\xfe}",
    ]


def test_odd_entries_are_kept_as_they_are_and_can_be_found(database: Database) -> None:
    entries = odd_entries()
    with closing(database.store()) as store:
        for one in entries[:8]:
            store.append([one], SEAL)
        store.append(entries[8:], SEAL)
        assert entries_of(store) == entries
        index = PostgresIndex(store)
        assert list(index.check(0, entries)) == []
        assert list(index.check(len(entries), [])) == []
        for number, user in enumerate(["a\0b", "\0" * 9000, "é" * 30_000]):
            assert list(index.find(Filters(user=user))) == [number]
        assert list(index.find(Filters(user="a\\u0000b"))) == [4]
        for nothing in (Filters(action="a\0*"), Filters(trace="\0"), Filters(resource="\0/\0")):
            assert list(index.find(nothing)) == []


def test_bytes_of_a_command_line_that_are_no_text(url: str, run: Run) -> None:
    for option in ("--user", "--action", "--resource", "--trace"):
        code, out, err = run("query", url, option, os.fsdecode(b"a\xff*"))
        assert (code, out, "is not Unicode text" in err) == (3, "", True), err
    code, _, err = run("query", f"{url}?origin=%00")
    assert (code, "is no name of a log" in err) == (3, True)


def test_init_again_changes_nothing_and_leaves_no_key_that_is_of_no_log(url: str, run: Run, tmp_path: Path) -> None:
    key = tmp_path / "state" / "signing.key"
    before = key.read_bytes()
    for other in (key, tmp_path / "other.key"):
        code, _, err = run("init", url, "--origin", LOG, "--key", other)
        assert (code, f"there is a log {LOG} already" in err) == (3, True), err
    assert key.read_bytes() == before
    assert not (tmp_path / "other.key").exists()
    code, _, err = run("init", url, "--origin", f"{LOG}/two", "--key", key)
    assert (code, "give another --key" in err) == (3, True), err
    assert run("init", url, "--origin", f"{LOG}/two", "--key", tmp_path / "other.key")[0] == 0
    code, _, err = run("query", url)
    assert (code, "several logs" in err) == (3, True), err
    code, _, err = run("verify", f"{url}?origin={LOG}")
    assert code == 0, err


@pytest.mark.parametrize("origin", ["x/\ud800", "x/" + "y" * 1100])
def test_what_postgresql_cannot_hold_as_an_origin(database: Database, origin: str) -> None:
    with pytest.raises(ConfigError, match="origin"):
        initialise(database.url, origin, [VKEY], CREATED)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_name_is_refused(server_url: str, encoding: str) -> None:
    """Else one user's name would stop the log for all."""
    name = sql.Identifier(f"encoded_{encoding.lower()}_{os.getpid()}")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 LOCALE 'C' ENCODING {}").format(name, sql.Literal(encoding))
        )
        try:
            url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name._obj[0]}"))
            with pytest.raises(ConfigError, match=f"encoding {encoding}.*UTF8"):
                initialise(url, ORIGIN, [VKEY], CREATED)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def take_all(stack: ExitStack, url: str) -> None:
    """Connections, until there are no more."""
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            stack.enter_context(psycopg.connect(url))


def test_a_server_without_a_free_connection(own_server: PostgresServer) -> None:
    url = own_server.url()
    initialise(url, ORIGIN, [VKEY], CREATED)
    own_server.kill()
    own_server.start(max_connections="5", superuser_reserved_connections="0")
    with closing(PostgresStore.open(url)) as store:
        with ExitStack() as stack:
            take_all(stack, url)
            with pytest.raises(LogUnavailable, match="too many clients") as caught:
                store.append([small(1)], SEAL)
            with pytest.raises(LogUnavailable, match="too many clients"):
                PostgresStore.open(url)
            assert PASSWORD not in str(caught.value)
            assert "may be in the log" not in str(caught.value)
        for _ in range(2):
            store.append([small(2)], SEAL)
        assert entries_of(store) == [small(2), small(2)]
        assert_holds(store)


def test_a_role_that_reads_only_by_default(database: Database) -> None:
    url = database.log()
    app = database.role("app", "audit_writer", "audit_reader")
    database.run(f"ALTER ROLE {urlsplit(app).username} SET default_transaction_read_only = on")
    with closing(PostgresStore.open(app)) as store, pytest.raises(LogUnavailable, match="read-only"):
        store.append([small(1)], SEAL)
    with closing(PostgresStore.open(url)) as store:
        assert store.head().size == 0


def test_a_dump_that_was_restored_is_the_log(database: Database, other_database: Database) -> None:
    """With everything that refuses changes; and it goes on there."""
    for origin in (ORIGIN, "example.com/two"):
        with closing(PostgresStore.open(database.log(origin))) as store:
            for number in range(3):
                store.append([entry(number), small(number)], make_sealer(origin, [SIGNER]))
    environment = os.environ | {"PGPASSWORD": PASSWORD}
    dump = subprocess.run(
        [str(binaries() / "pg_dump"), database.url.replace(f":{PASSWORD}@", "@")], env=environment, capture_output=True
    )
    assert dump.returncode == 0, dump.stderr
    psql = [str(binaries() / "psql"), "-q", "-v", "ON_ERROR_STOP=1", other_database.url.replace(f":{PASSWORD}@", "@")]
    restored = subprocess.run(psql, env=environment, input=dump.stdout, capture_output=True)
    assert restored.returncode == 0, restored.stderr
    with (
        closing(PostgresStore.open(database.url, origin=ORIGIN)) as old,
        closing(PostgresStore.open(other_database.url, origin=ORIGIN)) as new,
    ):
        assert new.head() == old.head()
        assert entries_of(new) == entries_of(old)
        assert list(PostgresIndex(new).check(0, entries_of(new))) == []
        new.append([small(9)], SEAL)
        assert [raw.problem for raw in new.raw_frames() if raw.problem] == []
    for statement in ("UPDATE audit.entries SET idx = 9", "DELETE FROM audit.commits", "TRUNCATE audit.heads"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            other_database.run(statement)
    initialise(other_database.url, "example.com/three", [VKEY], CREATED)
    assert other_database.run("SELECT count(*) FROM audit.logs") == [(3,)]
