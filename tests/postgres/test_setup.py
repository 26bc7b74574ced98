"""Making logs: explicit, whole or not at all, without a superuser; versions; what a server must be set to."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import ConfigError, LogExists, LogNotFound, LogUnavailable, StoreError
from audit_middleware.evidence.signers import signers_of
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.stores.postgres import PostgresStore, initialise, migrate
from audit_middleware.stores.postgres import reading as reading_module
from audit_middleware.stores.postgres import setup as setting_up
from audit_middleware.stores.postgres.address import is_postgres_url, parse_url
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD, PostgresServer
from tests.servers.running import until
from tests.stores.samples import CREATED, ORIGIN, SEAL, SIGNER, VKEY, assert_holds, entries_of, small


def test_nothing_is_created_by_accident(database: Database) -> None:
    with pytest.raises(LogNotFound, match="audit-middleware init postgresql:"):
        PostgresStore.open(database.url)
    database.log()
    with pytest.raises(LogNotFound, match=r"example\.com/typo"):
        PostgresStore.open(database.url, origin="example.com/typo")
    with pytest.raises(LogNotFound, match="schema other"):
        PostgresStore.open(database.url, schema="other")
    with pytest.raises(LogExists, match=ORIGIN):
        database.log()
    assert database.run("SELECT count(*) FROM audit.logs") == [(1,)]


@pytest.mark.parametrize("origin", ["", "has space", "has+plus", "new\nline", "nul\0"])
def test_what_is_no_origin_is_refused(database: Database, origin: str) -> None:
    with pytest.raises(ConfigError, match="origin"):
        initialise(database.url, origin, [VKEY], CREATED)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 1000}, "multiple of 65536"),
        ({"width": 0}, "multiple of 65536"),
        ({"writers": ["nobody_at_all"]}, "no role nobody_at_all"),
        ({"readers": [""]}, "no name of a role"),
        ({"schema": 'a"b'}, "schema"),
        ({"schema": "Capital"}, "schema"),
    ],
)
def test_a_failed_set_up_leaves_nothing(database: Database, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        database.log(**options)
    assert database.run("SELECT nspname FROM pg_namespace WHERE nspname = 'audit'") == []


def test_a_role_that_is_no_superuser_can_set_up(database: Database) -> None:
    database.run("CREATE SCHEMA IF NOT EXISTS nothing")
    url = database.role("setter")
    name = url.split("//")[1].split(":")[0]
    database.run(f"ALTER ROLE {name} CREATEROLE")
    database.run(f"GRANT CREATE ON DATABASE {database.url.rpartition('/')[2]} TO {name}")
    initialise(url, ORIGIN, [VKEY], CREATED, schema=f"s_{name}")
    initialise(url, f"{ORIGIN}/two", [VKEY], CREATED, schema=f"s_{name}")
    app = database.role("app", f"s_{name}_writer", f"s_{name}_reader")
    with closing(PostgresStore.open(app, schema=f"s_{name}", origin=ORIGIN)) as store:
        store.append([small(1)], SEAL)
        assert_holds(store)


def test_whoever_may_connect_to_one_of_several_hosts_is_enough(database: Database) -> None:
    with closing(PostgresStore.open(database.log().replace("@127.0.0.1", "@127.0.0.1:1,127.0.0.1"))) as store:
        assert store.append([small(1)], SEAL).size == 1


def test_two_set_ups_at_once_make_one_log(database: Database) -> None:
    found: list[str] = []

    def work() -> None:
        try:
            initialise(database.url, ORIGIN, [VKEY], CREATED)
            found.append("made")
        except LogExists:
            found.append("exists")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["exists"] * 3 + ["made"]


def test_logs_in_one_schema_several_schemas_and_several_databases(database: Database, other_database: Database) -> None:
    places = [
        (database, "audit", "example.com/one"),
        (database, "audit", "example.com/two"),
        (database, "more", "example.com/one"),
        (other_database, "audit", "example.com/one"),
    ]
    stores = []
    for number, (where, schema, origin) in enumerate(places):
        where.log(origin, schema=schema)
        stores.append(PostgresStore.open(f"{where.url}?schema={schema}&origin={origin}"))
        for turn in range(number + 1):
            stores[-1].append([small(number * 10 + turn)], make_sealer(origin, [SIGNER]))
    for number, store in enumerate(stores):
        assert entries_of(store) == [small(number * 10 + turn) for turn in range(number + 1)]
        assert [raw.problem for raw in store.raw_frames()] == [None] * (number + 1)
        store.close()


def test_an_older_schema_is_migrated_by_hand(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    url = database.log()
    assert migrate(database.url) == 0
    database.run("DELETE FROM audit.migrations WHERE version = 4")
    with pytest.raises(StoreError, match="migrate it first"):
        PostgresStore.open(url)
    database.run("INSERT INTO audit.migrations VALUES (4, 'again'), (99, 'from the future')")
    with pytest.raises(StoreError, match="install a newer one"):
        PostgresStore.open(url)
    with pytest.raises(ConfigError, match="install a newer package"):
        migrate(database.url)
    database.run("DELETE FROM audit.migrations WHERE version = 99")

    more = (5, "0005_note.sql", 'SET LOCAL search_path = :"schema";\nCREATE TABLE note (x int);')
    files = setting_up.migrations()
    monkeypatch.setattr(setting_up, "migrations", lambda: [*files, more])
    monkeypatch.setattr(setting_up, "VERSION", 5)
    assert migrate(database.url) == 1
    assert database.run("SELECT tableowner FROM pg_tables WHERE tablename = 'note'") == [("audit_owner",)]
    broken = (6, "0006_broken.sql", more[2].replace("note", "half") + "SELECT 1 / 0;")
    monkeypatch.setattr(setting_up, "migrations", lambda: [*files, more, broken])
    with pytest.raises(LogUnavailable, match="division by zero"):
        migrate(database.url)
    assert database.run("SELECT max(version) FROM audit.migrations") == [(5,)]


@pytest.mark.parametrize("version", [2, 3])
def test_a_service_that_runs_while_the_schema_is_migrated(
    database: Database, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """It was to be ended first; nothing is lost if it was not, and the log of the older schema is whole."""
    with monkeypatch.context() as older:
        files = setting_up.migrations()
        older.setattr(setting_up, "migrations", lambda: files[:version])
        older.setattr(setting_up, "VERSION", version)
        older.setattr(reading_module, "VERSION", version)
        old = database.store()
        old.append([small(0)], SEAL)
        appending = threading.Thread(target=lambda: [old.append([small(one)], SEAL) for one in range(1, 60)])
        appending.start()
        until(lambda: old.head().size > 3, "the service's work")
    assert migrate(database.url) == reading_module.VERSION - version
    appending.join()
    with closing(old), closing(PostgresStore.open(database.url)) as new:
        new.append([small(60)], SEAL)
        new.shelf().write("value", b"1")
        old.append([small(61)], SEAL)
        assert entries_of(new) == [small(number) for number in range(62)]
        assert_holds(new)


OWNED = "CREATE SCHEMA audit AUTHORIZATION audit_owner; "


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        ("CREATE SCHEMA audit; GRANT ALL ON SCHEMA audit TO public", "belongs to postgres"),
        ("CREATE SCHEMA audit AUTHORIZATION {0}", "belongs to app_"),
        (OWNED + "GRANT CREATE ON SCHEMA audit TO public", "others may create"),
        (OWNED + "CREATE FUNCTION audit.format(text, name, integer) RETURNS text LANGUAGE sql AS 'SELECT $1'", "holds"),
        (OWNED + "CREATE TABLE audit.mine (x int)", "holds what belongs to others"),
    ],
)
def test_a_schema_in_which_others_may_create_is_refused(database: Database, statements: str, words: str) -> None:
    """Functions with the owner's rights look there for what they call: others' functions would run with them."""
    if database.run("SELECT 1 FROM pg_roles WHERE rolname = 'audit_owner'") == []:  # roles are the server's
        database.run("CREATE ROLE audit_owner")
    database.role("app")
    for statement in statements.format(database.roles[-1]).split("; "):
        database.run(statement)
    with pytest.raises(ConfigError, match=words):
        database.log()
    assert database.run("SELECT to_regclass('audit.heads')") == [(None,)]


def test_a_schema_that_was_opened_to_others_later_is_not_migrated(database: Database) -> None:
    database.log()
    database.run("GRANT CREATE ON SCHEMA audit TO public")
    with pytest.raises(ConfigError, match="others may create"):
        migrate(database.url)


@pytest.mark.parametrize(
    ("url", "place", "schema", "origin"),
    [
        ("postgresql://db.example.com/audit", "postgresql://db.example.com/audit", "audit", None),
        ("postgres://u:p@db:6543/x?origin=a.b/c&sslmode=require", "postgresql://db:6543/x", "audit", "a.b/c"),
        ("postgresql://u@/x?host=/run/pg&schema=log", "postgresql:///run/pg/x", "log", None),
        ("postgresql://u:p@a:1,b:2/x", "postgresql://a:1,b:2/x", "audit", None),
        ("postgresql://u:p%40q@[::1]:5432/x?origin=%C3%BC", "postgresql://[::1]:5432/x", "audit", "ü"),
    ],
)
def test_urls(url: str, place: str, schema: str, origin: str | None) -> None:
    assert is_postgres_url(url)
    address = parse_url(url)
    assert (address.place, address.schema, address.origin) == (place, schema, origin)
    assert parse_url(url, schema="mine", origin="o").schema == "mine"
    assert not {"schema", "origin"} & set(address.options)


def test_what_is_no_url_of_ours() -> None:
    for text in ("var/audit", "/postgresql", "postgresql", "sqlite:///x", "mysql://h/d"):
        assert not is_postgres_url(text)


def test_durability_is_checked_and_forced(database: Database) -> None:
    """Neither the role's nor the database's defaults make an acknowledged commit one that a power cut takes back."""
    url = database.log()
    app = database.role("app", "audit_writer")
    name = app.split("//")[1].split(":")[0]
    database.run(f"ALTER ROLE {name} SET synchronous_commit = off")
    database.run(f"ALTER ROLE {name} SET search_path = nowhere")
    database.run("CREATE TABLE seen (setting text); GRANT INSERT ON seen TO public")
    database.run(
        "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$"
    )
    database.run("CREATE TRIGGER watch BEFORE INSERT ON audit.commits FOR EACH ROW EXECUTE FUNCTION watch()")
    with closing(PostgresStore.open(app)) as store:
        store.append([small(1)], SEAL)
    log = f"'\\x{'00' * 32}'"
    database.run(f"SELECT audit.append(1, 1, {log}, 'x', '', {log}, ARRAY['{{}}'::bytea], '[[]]')", url=app)
    assert database.run("SELECT setting FROM seen") == [("on",), ("on",)]
    with closing(PostgresStore.open(url)) as store:
        assert store.head().size == 2


def test_a_server_without_fsync_is_refused(own_server: PostgresServer) -> None:
    url = own_server.url()
    initialise(url, ORIGIN, [VKEY], CREATED)
    own_server.kill()
    own_server.start(fsync="off")
    with pytest.raises(LogUnavailable, match="fsync=off"):
        PostgresStore.open(url)
    with closing(PostgresStore.open(url, force=True)) as store:
        store.append([small(1)], SEAL)
        assert_holds(store)


def test_the_password_may_stand_in_a_file(database: Database, tmp_path: Path) -> None:
    url = database.log()
    with closing(PostgresStore.open(url)) as store:
        store.append([small(1)], SEAL)
    secret = tmp_path / "pgpass"
    secret.write_text(f"*:*:*:postgres:{PASSWORD}\n")
    secret.chmod(0o600)
    bare = database.url.replace(f":{PASSWORD}@", "@")
    with closing(PostgresStore.open(f"{bare}?passfile={secret}")) as store:
        assert entries_of(store) == [small(1)]
    with pytest.raises(LogUnavailable):
        PostgresStore.open(bare)


def test_without_the_driver_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith("audit_middleware.stores.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'audit-middleware\[postgres\]'"):
        importlib.import_module("audit_middleware.stores.postgres")


def test_the_documented_set_up(database: Database, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "postgres.md").read_text()
    (code,) = re.findall(r"^```python set_up.py\n(.*?)^```", page, re.S | re.M)
    code = code.replace("postgresql://admin@db.example.com/audit", database.url)
    code = code.replace("postgresql://billing_app@db.example.com/audit", database.url)
    names: dict[str, Any] = {"key_file": tmp_path / "log.key"}
    exec(compile(code, "postgres.md", "exec"), names)
    with closing(names["store"]) as store:
        seal = make_sealer(store.origin, signers_of((tmp_path / "log.key").read_text()))
        assert store.append([small(1)], seal).size == 1
        assert store.vkeys == (names["vkey"],)
