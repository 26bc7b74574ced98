"""Persons' keys in a folder of this host: one SQLite file, for the processes of one machine.

* A write-ahead log, so that who looks for a key waits for nobody; ``synchronous=FULL``: a commit is on disk when it
  returns, and not visible to others before.
* ``secure_delete`` overwrites what is deleted. After an erasure the file is rewritten besides (``VACUUM``), moved out
  of the write-ahead log whole, and that is cut to nothing: so what is left does not hang on what SQLite does when it
  moves rows between pages. This reads and writes the whole store, once for each call of `erase`: 0.3 seconds for
  100,000 persons, in which others wait to write. Temporary tables stay in memory.
* The folder is 0700 and the files 0600; others having access is an error, as with key files.
* SQLite knows within a process which of its locks it has, and a child would inherit that knowledge but not the locks.
  So connections are closed before a fork and opened again when they are needed; a transaction that is open then is
  lost, and the parent's next call says so.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import SubjectKeysError
from .key_rows import TIMEOUT, Found, Meta
from .wrapping import Row

FILE = "keys.sqlite"

_TABLES = (
    """CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, origin TEXT NOT NULL, master TEXT NOT NULL,
        wrapped BLOB NOT NULL, lookup_key BLOB NOT NULL, epoch INTEGER NOT NULL, generation INTEGER NOT NULL,
        cleaned INTEGER NOT NULL, erased_to INTEGER NOT NULL
    )""",
    """CREATE TABLE persons (
        token TEXT PRIMARY KEY, lookup BLOB NOT NULL UNIQUE, name BLOB NOT NULL, secrets BLOB NOT NULL,
        told INTEGER NOT NULL, restricted INTEGER NOT NULL, created TEXT NOT NULL
    ) WITHOUT ROWID""",
)
_META = """
    SELECT version, origin, master, wrapped, lookup_key, epoch, generation, cleaned, erased_to FROM meta"""
_NEW_META = "INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SET_META = """
    UPDATE meta SET version = ?, origin = ?, master = ?, wrapped = ?, lookup_key = ?, epoch = ?, generation = ?,
    cleaned = ?, erased_to = ?"""
_BY_LOOKUP = """
    SELECT m.epoch, p.token, p.lookup, p.name, p.secrets, p.told, p.restricted, p.created
    FROM meta m LEFT JOIN persons p ON p.lookup = ?"""
_NAMED = """
    SELECT m.epoch, p.token, p.lookup, p.name, p.secrets, p.told, p.restricted, p.created
    FROM meta m LEFT JOIN persons p ON p.token = ?"""
_PAGE = """
    SELECT p.token, p.lookup, p.name, p.secrets, p.told, p.restricted, p.created
    FROM persons p WHERE p.token > ? ORDER BY p.token LIMIT ?"""
_INSERT = "INSERT INTO persons VALUES (?, ?, ?, ?, ?, ?, ?)"
_REPLACE = """
    UPDATE persons SET token = ?, lookup = ?, name = ?, secrets = ?, told = ?, restricted = ?, created = ?
    WHERE token = ?"""
_all: weakref.WeakSet[SqliteRows] = weakref.WeakSet()  # what a fork must wait for
_held: list[SqliteRows] = []  # while the process forks


class SqliteRows:
    """One connection to a store in a folder; see `key_rows.Rows`."""

    def __init__(self, folder: Path) -> None:
        """Opens nothing yet."""
        self._folder = folder
        self._file = folder / FILE
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()  # held while SQLite works: a fork waits for the end of that
        self._begun = False
        self._durable = True
        self._seen: int | None = None  # the file's version of which the generation is known
        self._generation = 0
        _all.add(self)

    @classmethod
    def create(cls, folder: Path, meta: Meta) -> None:
        """Makes a store. If we die here: none, and perhaps a file beside it that the next attempt replaces.

        Raises:
            SubjectKeysError: There is one, or it cannot be written.
        """
        file, made = folder / FILE, folder / f".{FILE}.new"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_others(folder)
            if file.exists():
                raise SubjectKeysError(f"{folder}: there is a store of persons' keys already")
            made.unlink(missing_ok=True)
            os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN IMMEDIATE")
                for table in _TABLES:
                    connection.execute(table)
                connection.execute(_NEW_META, meta)
                connection.execute("COMMIT")
            _sync(made)
            os.link(made, file)  # unlike rename, this replaces nothing
            made.unlink()
            _sync(folder)
            _sync(folder.parent)
        except FileExistsError:
            raise SubjectKeysError(f"{folder}: there is a store of persons' keys already") from None
        except OSError as error:
            raise SubjectKeysError(f"{folder}: {error.strerror}") from None
        except sqlite3.Error as error:
            raise SubjectKeysError(f"{folder}: {error}") from None

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    @property
    def writing(self) -> bool:
        """Whether this process has a transaction open, as far as it knows."""
        return self._begun

    # --- transactions --------------------------------------------------------------------------------------------

    def begin(self, *, durable: bool = True) -> Meta:
        """Takes the write lock. What is not durable is safe from the end of this process, not from a power cut."""
        if durable != self._durable:  # cannot be changed in a transaction
            self._run(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        self._run("BEGIN IMMEDIATE")
        self._begun = True
        return self.meta()

    def commit(self) -> None:
        """Syncs the write-ahead log."""
        self._run("COMMIT")
        self._begun = False

    def roll_back(self) -> None:
        """Frees the write lock."""
        with self._lock:
            connection = self._connection
            self._begun = False
            self._seen = None
            if connection is not None and connection.in_transaction:
                try:
                    connection.execute("ROLLBACK")
                except sqlite3.Error:
                    self.close()  # ends it, too

    # --- reading -------------------------------------------------------------------------------------------------

    def meta(self) -> Meta:
        """The one row."""
        rows = self._run(_META)
        if len(rows) != 1:
            raise SubjectKeysError(f"{self.place}: the store of persons' keys is damaged: restore it from a backup")
        return Meta(*rows[0])

    def generation(self) -> int:
        """Reads the row only when another connection has written since."""
        ((version,),) = self._run("PRAGMA data_version")
        if self._seen != version:
            self._generation = self.meta().generation
            self._seen = version
        return self._generation

    def by_lookup(self, lookup: bytes) -> Found:
        """A person's row."""
        return self._found(self._run(_BY_LOOKUP, (lookup,)))

    def by_token(self, token: str) -> Found:
        """A token's row."""
        return self._found(self._run(_NAMED, (token,)))

    def _found(self, rows: list[Any]) -> Found:
        if len(rows) != 1:
            raise SubjectKeysError(f"{self.place}: the store of persons' keys is damaged: restore it from a backup")
        epoch, *cells = rows[0]
        return Found(epoch, None if cells[0] is None else Row(*cells))

    def page(self, after: str, limit: int) -> list[Row]:
        """In order of tokens."""
        return [Row(*cells) for cells in self._run(_PAGE, (after, limit))]

    # --- writing -------------------------------------------------------------------------------------------------

    def set_meta(self, meta: Meta) -> None:
        """All of it."""
        self._run(_SET_META, meta)
        self._seen = None  # of what this connection writes itself, the file's version does not tell

    def insert(self, row: Row) -> None:
        """One row."""
        self._run(_INSERT, row)

    def replace(self, rows: Iterable[Row]) -> None:
        """By token."""
        for row in rows:
            self._run(_REPLACE, (*row, row.token))

    def set_told(self, tokens: Iterable[str]) -> None:
        """A flag."""
        for token in tokens:
            self._run("UPDATE persons SET told = 1 WHERE token = ?", (token,))

    def set_restricted(self, token: str, restricted: bool) -> bool:
        """A flag."""
        self._run("UPDATE persons SET restricted = ? WHERE token = ?", (int(restricted), token))
        return self.by_token(token).row is not None

    def delete(self, tokens: Sequence[str]) -> tuple[int, int]:
        """Row by row; ``secure_delete`` overwrites each in its page."""
        gone = held = 0
        for token in tokens:
            for (restricted,) in self._run("SELECT restricted FROM persons WHERE token = ?", (token,)):
                gone, held = gone + 1, held + bool(restricted)
                if not restricted:
                    self._run("DELETE FROM persons WHERE token = ?", (token,))
        return gone, held

    def scrub(self) -> None:
        """The file anew, and nothing in the write-ahead log. Others wait meanwhile."""
        self._run("VACUUM")
        deadline = time.monotonic() + TIMEOUT
        while True:  # a look that another process takes just now keeps the log from being cut
            ((busy, _, _),) = self._run("PRAGMA wal_checkpoint(TRUNCATE)")
            if not busy:
                return
            if time.monotonic() > deadline:
                raise SubjectKeysError(f"{self.place}: other processes read or write it all the time")
            time.sleep(0.01)

    # --- the connection ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """An open transaction is taken back."""
        self._begun = False
        self._disconnect()

    def _disconnect(self) -> None:
        with self._lock:
            connection, self._connection, self._seen = self._connection, None, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._database().execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._raise(error)

    def _raise(self, error: sqlite3.Error) -> NoReturn:
        text = str(error)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # an error of the module itself has none
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            text = "other processes had it locked all the time"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            text = f"the store of persons' keys is damaged: restore it from a backup ({error})"
        raise SubjectKeysError(f"{self.place}: {text}") from None

    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._begun:
                self._begun = False
                raise SubjectKeysError(f"{self.place}: this process was forked in a transaction, which is lost")
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        try:
            # By name only: to open and close the file here would free the locks of another connection to it.
            _refuse_others(self._folder)
            _refuse_others(self._file)
        except FileNotFoundError:
            raise SubjectKeysError(
                f"{self.place}: there is no store of persons' keys; it is made once, by hand: "
                "audit-middleware subject init LOG"
            ) from None
        except OSError as error:
            raise SubjectKeysError(f"{self.place}: {error.strerror}") from None
        connection = None
        try:
            connection = sqlite3.connect(
                f"{self._file.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=TIMEOUT,
                isolation_level=None,
                check_same_thread=False,
            )
            for setting in ("synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY", "trusted_schema=OFF"):
                connection.execute(f"PRAGMA {setting}").fetchall()
            connection.execute("SELECT version FROM meta").fetchall()
            self._durable = True
            return connection
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            self._raise(error)


def _refuse_others(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & 0o077:
        right = "700" if stat.S_ISDIR(mode) else "600"
        raise SubjectKeysError(f"{path}: others have access (mode {stat.S_IMODE(mode):04o}). Run: chmod {right} {path}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _before_fork() -> None:
    for rows in list(_all):
        rows._lock.acquire()
        _held.append(rows)
        rows._disconnect()


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()


def _in_child() -> None:
    for rows in _held:
        rows._begun = False  # what was lost was the parent's
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
