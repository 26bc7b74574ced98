"""Persons' keys in PostgreSQL (14 or newer), for the services of many hosts. Needs the extra ``postgres`` (psycopg 3).

``postgresql://user@host/database?schema=audit_subjects``: a schema of its own, with two tables, and one store in it.
Who runs ``subject init`` owns them; services connect as that role, or as members of it, because whoever erases must
rewrite the tables. docs/privacy.md has the statements.

* The row of ``meta``, locked, is the store's write lock. A client that is gone frees it: the server ends a
  transaction in which nothing happens for three seconds.
* After an erasure the tables are filled anew (``TRUNCATE``, then the rows that were kept), because what PostgreSQL
  deletes stays in its pages, and ``VACUUM`` only marks the place as free. What is left then are the server's
  write-ahead log and backups, which expire by themselves.
* A connection that a parent process made is left alone in a child, which makes its own.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..errors import ConfigError, SubjectKeysError

try:
    import psycopg
    from psycopg import sql
except ImportError as problem:
    raise ConfigError("persons' keys in PostgreSQL need psycopg: pip install 'audit-middleware[postgres]'") from problem

from ..databases import CONNECT_TIMEOUT, LATE, LIBPQ, Address, Bounded, parse_address
from .key_rows import TIMEOUT, Found, Meta
from .wrapping import Row

DEFAULT_SCHEMA = "audit_subjects"
OLDEST_SERVER = 14

_GRACE = 2.0  # seconds for the server's own time limit to be told before we drop the connection
_SCRUB = 600.0  # seconds
_IDLE = 3.0  # seconds
_LOCK = 0x7375626A  # the advisory lock of set-ups

_TABLES = """
CREATE TABLE {meta} (
    id integer PRIMARY KEY CHECK (id = 1), version integer NOT NULL, origin text NOT NULL, master text NOT NULL,
    wrapped bytea NOT NULL, lookup_key bytea NOT NULL, epoch bigint NOT NULL, generation bigint NOT NULL,
    cleaned bigint NOT NULL, erased_to bigint NOT NULL
);
CREATE TABLE {persons} (
    token text PRIMARY KEY, lookup bytea NOT NULL UNIQUE, name bytea NOT NULL, secrets bytea NOT NULL,
    told boolean NOT NULL, restricted boolean NOT NULL, created text NOT NULL
);
REVOKE ALL ON {meta}, {persons} FROM PUBLIC;
"""
_FILLED_ANEW = """
LOCK TABLE {meta}, {persons} IN ACCESS EXCLUSIVE MODE;
CREATE UNLOGGED TABLE {kept_meta} AS SELECT * FROM {meta};
CREATE UNLOGGED TABLE {kept_persons} AS SELECT * FROM {persons};
TRUNCATE {meta}, {persons};
INSERT INTO {meta} SELECT * FROM {kept_meta};
INSERT INTO {persons} SELECT * FROM {kept_persons};
DROP TABLE {kept_meta}, {kept_persons};
"""
_META = """
    SELECT version, origin, master, wrapped, lookup_key, epoch, generation, cleaned, erased_to FROM {meta}"""
_NEW_META = "INSERT INTO {meta} VALUES (1, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_SET_META = """
    UPDATE {meta} SET version = %s, origin = %s, master = %s, wrapped = %s, lookup_key = %s, epoch = %s,
    generation = %s, cleaned = %s, erased_to = %s"""
_BY_LOOKUP = """
    SELECT m.epoch, p.token, p.lookup, p.name, p.secrets, p.told, p.restricted, p.created
    FROM {meta} m LEFT JOIN {persons} p ON p.lookup = %s"""
_NAMED = """
    SELECT m.epoch, p.token, p.lookup, p.name, p.secrets, p.told, p.restricted, p.created
    FROM {meta} m LEFT JOIN {persons} p ON p.token = %s"""
_PAGE = """
    SELECT p.token, p.lookup, p.name, p.secrets, p.told, p.restricted, p.created
    FROM {persons} p WHERE p.token > %s ORDER BY p.token LIMIT %s"""
_INSERT = "INSERT INTO {persons} VALUES (%s, %s, %s, %s, %s, %s, %s)"
_REPLACE = """
    UPDATE {persons} SET token = %s, lookup = %s, name = %s, secrets = %s, told = %s, restricted = %s, created = %s
    WHERE token = %s"""
_AWAY = ("08", "57P")  # SQLSTATE classes of a connection that is of no use any more
_BUSY = ("55P03", "40P01", "40001", "57014")  # no lock in time, deadlock, serialization, statement_timeout
_ABSENT = ("3F000", "42P01", "3D000")  # no schema, no table, no database
_orphans: list[object] = []  # connections of a parent process: closing them here would end them there


class PostgresRows:
    """One connection to a store in a database; see `key_rows.Rows`."""

    def __init__(self, url: str) -> None:
        """Connects nothing yet. Raises `ConfigError` for no such URL."""
        self._address = _address(url)
        self._connection: Bounded | None = None
        self._process = os.getpid()
        self._begun = False
        self._names = _names(self._address.schema)
        self._ready: dict[str, sql.Composed] = {}

    @classmethod
    def create(cls, url: str, meta: Meta) -> None:
        """Makes the schema and a store in it, in one transaction. Raises `SubjectKeysError` where there is one."""
        rows = cls(url)
        schema = rows._address.schema
        try:
            rows._run("BEGIN")
            rows._run("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if rows._run("SELECT to_regclass(%s) IS NOT NULL", (f"{schema}.meta",)) == [(True,)]:
                raise SubjectKeysError(f"{rows.place}: there is a store of persons' keys already, in schema {schema}")
            if rows._run("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (schema,)) == [(0,)]:
                rows._run("CREATE SCHEMA {schema}")
            for statement in _TABLES.strip().split(";\n"):
                rows._run(statement.rstrip(";"))
            rows._run(_NEW_META, meta)
            rows._run("COMMIT")
        finally:
            rows.close()

    @property
    def place(self) -> str:
        """Without user, password and parameters."""
        return self._address.place

    @property
    def writing(self) -> bool:
        """Whether this process has a transaction open, as far as it knows."""
        return self._begun and self._process == os.getpid()

    # --- transactions --------------------------------------------------------------------------------------------

    def begin(self, *, durable: bool = True) -> Meta:
        """Locks the row of ``meta``. What is not durable may be lost when the server crashes."""
        self._ready_to_talk()
        self._run("BEGIN")
        self._begun = True
        if not durable:
            self._run("SET LOCAL synchronous_commit = off")
        return self._one_meta(self._run(_META + " FOR UPDATE"))

    def commit(self) -> None:
        """Durable when it returns."""
        self._run("COMMIT")
        self._begun = False

    def roll_back(self) -> None:
        """Frees the lock; drops the connection where that fails."""
        connection, ours = self._connection, self._process == os.getpid()
        self._begun = False
        if not ours or connection is None or connection.closed:
            return
        try:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.deadline = time.monotonic() + _GRACE
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self.close()

    # --- reading -------------------------------------------------------------------------------------------------

    def meta(self) -> Meta:
        """The one row."""
        return self._one_meta(self._read(_META))

    def _one_meta(self, rows: list[Any]) -> Meta:
        if len(rows) != 1:
            raise self._damaged()
        return Meta(*rows[0])

    def generation(self) -> int:
        """One round trip."""
        rows = self._read("SELECT generation FROM {meta}")
        if len(rows) != 1:
            raise self._damaged()
        return int(rows[0][0])

    def by_lookup(self, lookup: bytes) -> Found:
        """A person's row."""
        return self._found(self._read(_BY_LOOKUP, (lookup,)))

    def by_token(self, token: str) -> Found:
        """A token's row."""
        return self._found(self._read(_NAMED, (token,)))

    def _found(self, rows: list[Any]) -> Found:
        if len(rows) != 1:
            raise self._damaged()
        epoch, *cells = rows[0]
        return Found(epoch, None if cells[0] is None else Row(*cells))

    def page(self, after: str, limit: int) -> list[Row]:
        """In order of tokens."""
        return [Row(*cells) for cells in self._run(_PAGE, (after, limit))]

    # --- writing -------------------------------------------------------------------------------------------------

    def set_meta(self, meta: Meta) -> None:
        """All of it."""
        self._run(_SET_META, meta)

    def insert(self, row: Row) -> None:
        """One row."""
        self._run(_INSERT, row)

    def replace(self, rows: Iterable[Row]) -> None:
        """By token."""
        with self._talking() as connection:
            connection.cursor().executemany(self._statement(_REPLACE), [(*row, row.token) for row in rows])

    def set_told(self, tokens: Iterable[str]) -> None:
        """A flag."""
        self._run("UPDATE {persons} SET told = true WHERE token = ANY(%s)", (list(tokens),))

    def set_restricted(self, token: str, restricted: bool) -> bool:
        """A flag."""
        statement = "UPDATE {persons} SET restricted = %s WHERE token = %s RETURNING 1"
        return bool(self._run(statement, (restricted, token)))

    def delete(self, tokens: Sequence[str]) -> tuple[int, int]:
        """All at once."""
        these = (list(tokens),)
        ((held,),) = self._run("SELECT count(*) FROM {persons} WHERE restricted AND token = ANY(%s)", these)
        found = self._run("DELETE FROM {persons} WHERE NOT restricted AND token = ANY(%s) RETURNING 1", these)
        return held + len(found), held

    def scrub(self) -> None:
        """Both tables in new files. Whoever looks for a key waits meanwhile, or gives up."""
        self._ready_to_talk()
        self._run("BEGIN")
        self._begun = True
        try:
            self._run(f"SET LOCAL statement_timeout = {_SCRUB * 1000:.0f}")
            for statement in _FILLED_ANEW.strip().split(";\n"):
                self._run(statement.rstrip(";"), timeout=_SCRUB)
            self.commit()
        except BaseException:
            self.roll_back()
            raise

    # --- the connection ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Without waiting for anything; the server takes an open transaction back."""
        connection, self._connection = self._connection, None
        self._begun = False
        if connection is None:
            return
        if self._process != os.getpid():
            _orphans.append(connection)
        else:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _ready_to_talk(self) -> None:
        """Before a transaction: a connection that went stale while nobody used it is replaced."""
        if self._connection is not None:
            self._read("SELECT 1")

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """What changes nothing is tried again on a new connection, unless a transaction is open."""
        stale = self._connection is not None and not self._begun
        try:
            return self._run(statement, values)
        except SubjectKeysError:
            if not stale or self._connection is not None:
                raise
        return self._run(statement, values)

    def _run(self, statement: str, values: Sequence[Any] = (), *, timeout: float = TIMEOUT) -> list[Any]:
        composed = self._statement(statement)
        with self._talking(timeout) as connection:
            cursor = connection.execute(composed, values or None, binary=True)
            return cursor.fetchall() if cursor.description else []

    def _statement(self, text: str) -> sql.Composed:
        made = self._ready.get(text)
        if made is None:
            made = self._ready[text] = sql.SQL(text).format(**self._names)
        return made

    @contextlib.contextmanager
    def _talking(self, timeout: float = TIMEOUT) -> Any:
        """Yields the connection; no wait is longer than the time-out and a little more."""
        try:
            connection = self._connect()
            connection.deadline = time.monotonic() + timeout + _GRACE
            yield connection
        except psycopg.Error as error:
            self._raise(error)

    def _connect(self) -> Bounded:
        if self._process != os.getpid():
            self.close()
            self._process = os.getpid()
        if self._connection is not None and not self._connection.closed:
            return self._connection
        if self._begun:  # it broke in a transaction: what that did is lost, and must not go on as if it were not
            self._begun = False
            raise SubjectKeysError(f"{self.place}: the connection broke in a transaction, which is lost")
        options = {**LIBPQ, **self._address.options}
        made = Bounded.connect("", autocommit=True, **options)  # type: ignore[arg-type]  # its parameters are untyped
        made.deadline = time.monotonic() + CONNECT_TIMEOUT
        self._connection = made
        settings = {
            "synchronous_commit": "on",
            "statement_timeout": f"{TIMEOUT * 1000:.0f}",
            "lock_timeout": f"{TIMEOUT * 800:.0f}",
            "idle_in_transaction_session_timeout": f"{_IDLE * 1000:.0f}",
            "default_transaction_isolation": "read committed",
            "search_path": "pg_catalog",
        }
        setting = ", ".join(["set_config(%s, %s, false)"] * len(settings))
        made.execute(f"SELECT {setting}".encode(), [text for pair in settings.items() for text in pair])
        if made.info.server_version < OLDEST_SERVER * 10_000:
            self.close()
            raise SubjectKeysError(f"{self.place}: PostgreSQL {OLDEST_SERVER} or newer is needed")
        return made

    def _raise(self, error: psycopg.Error) -> NoReturn:
        state, connection = error.sqlstate, self._connection
        text = self._address.hide(error.diag.message_primary or str(error)) or type(error).__name__
        if connection is not None and connection.late:
            state, text = None, LATE
        severe = error.diag.severity_nonlocalized in ("FATAL", "PANIC")
        if state is None or severe or state.startswith(_AWAY) or connection is None or connection.closed:
            self.close()
        else:
            self.roll_back()
        if state in _BUSY:
            text = "other processes had it locked all the time"
        elif state in _ABSENT:
            text = (
                f"there is no store of persons' keys in schema {self._address.schema}; it is made once, by hand: "
                "audit-middleware subject init LOG"
            )
        elif state == "42501":
            text = f"this role may not do that ({text}); see docs/privacy.md for what it needs"
        elif state is not None and not severe:
            text = f"{text} (SQLSTATE {state})"
        raise SubjectKeysError(f"{self.place}: {text}") from None

    def _damaged(self) -> SubjectKeysError:
        return SubjectKeysError(f"{self.place}: the store of persons' keys is damaged: restore it from a backup")


def _address(url: str) -> Address:
    return parse_address(url, "persons' keys", DEFAULT_SCHEMA)


def _names(schema: str) -> dict[str, sql.Identifier]:
    tables = ("meta", "persons", "kept_meta", "kept_persons")
    return {"schema": sql.Identifier(schema)} | {name: sql.Identifier(schema, name) for name in tables}
