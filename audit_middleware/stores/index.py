"""The search index: columns of every entry in SQLite, beside the journal, for queries.

It is derived and never trusted: what a query shows is read from the log by its index, `SearchIndex.check` compares
every column with the entries, and the file can be deleted at any time. It begins where the log begins: what was pruned
from the log leaves the index at the next look. It is bound to the log it was made from by
origin, size and the hash of the last entry it holds; if any of these no longer fits (a restored log, another version,
a schema that somebody changed, a damaged file), it is made anew.

`SearchIndex.catch_up` runs before each query, so a reader sees everything that was acknowledged. Several processes may
do so at once: a lock file lets one of them work, batch by batch. If we die here, the transaction is gone and the next
reader repeats it.

Cost, measured with records of 1.3 kB: 75,000 entries/s to catch up, 0.5 kB per entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import EntriesPruned, StoreError
from ..protocols import LogStore
from .columns import BLOCK, COLUMNS, SCHEMA, Filters, Row, Term, row_of
from .inspection import Inspection
from .journal import JournalStore
from .lock import ProcessLock
from .places import Lines, entries_of, move_places, place_row, wrong_places

__all__ = ["COLUMNS", "Filters", "SearchIndex", "row_of"]

VERSION = 3
_CHUNKS = (512, 64, 8, 1)  # fixed sizes, so that SQLite's statement cache hits; 512 rows are 10,752 variables
_BATCH = 50_000
_LOCK_TIMEOUT = 60.0
_CHECKING_CACHE = -4096  # KiB: rows are compared in their order, so no page is read twice
_SUFFIXES = ("", "-wal", "-shm")
_ALL = ", ".join(COLUMNS)
_BLOCKS = "SELECT idx / ?1 * ?1, min(timestamp), max(timestamp)"
_MANY_ACTIONS = 32


class SearchIndex:
    """The index of one log. Not to be shared between threads or across a fork; open one in each."""

    def __init__(self, path: Path, store: LogStore) -> None:
        """Opens or makes the index in ``path``; where that cannot be written, a temporary one that `close` removes.

        Raises:
            StoreError: SQLite cannot be used at all.
        """
        self._store = store
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if not os.access(path.parent, os.W_OK):
            self._temporary = tempfile.TemporaryDirectory(prefix="audit-index-")
            path = Path(self._temporary.name) / "index.sqlite"
        self._path = path
        self._lock = ProcessLock(Path(f"{path}-lock"))
        self._connection: sqlite3.Connection | None = None
        self._file = 0
        self._inspection: Inspection | None = None
        self._lines = Lines(store.layout.journal, self._database) if isinstance(store, JournalStore) else None
        with self._lock.held(_LOCK_TIMEOUT):
            self._database()

    def close(self) -> None:
        """Closes the file."""
        self._end_inspection()
        self._disconnect()
        self._lock.forget()
        if self._temporary is not None:
            self._temporary.cleanup()

    # --- keeping up ----------------------------------------------------------------------------------------------

    def catch_up(self) -> int:
        """Adds what was committed since and drops what was pruned; returns the log's size up to which it reaches.

        Raises:
            StoreError: the log or the index cannot be read or written.
        """
        head = self._store.head().size
        size = -1
        while size < head:
            with self._lock.held(_LOCK_TIMEOUT):
                try:
                    size = self._step(head)
                except EntriesPruned:
                    continue  # while we read them: the next look begins at the new base
                except sqlite3.OperationalError as error:
                    raise StoreError(f"{self._path}: {error}") from error
                except sqlite3.DatabaseError:  # a damaged file: what it held is still in the log
                    self._make_anew()
        return size

    def _step(self, head: int) -> int:
        """One batch; returns the log's size up to which the index reaches then."""
        base = self._store.base.size
        known = self._known(base)
        if known is None:
            self._make_anew()
            known = base
        self._drop_below(base)
        if known >= head:
            return known
        database = self._database()
        database.execute("BEGIN IMMEDIATE")
        try:
            known = self._add(database, known, min(head, known + _BATCH))
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        return known

    def _known(self, base: int) -> int | None:
        """Up to which entry is indexed; ``None`` when the index is not of this log in its present state."""
        database = self._database()
        tables = database.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        if dict(tables.fetchall()) != SCHEMA:
            return None
        row = database.execute("SELECT version, origin, size, last FROM meta").fetchone()
        if row is None or row[0] != VERSION or row[1] != self._store.origin or not isinstance(row[2], int):
            return None
        size = row[2]
        if size <= base:
            return base if size == base == 0 else None  # nothing it holds is in the log any more
        if size > self._store.head().size or row[3] != self._hash(size - 1):
            return None
        return size

    def _drop_below(self, base: int) -> None:
        """Removes the rows of pruned entries, overwriting them: they are as personal as the entries were."""
        database = self._database()
        (first,) = database.execute("SELECT min(idx) FROM entry").fetchone()
        if first is None or first >= base:
            return
        database.execute("PRAGMA secure_delete=ON")
        database.execute("BEGIN IMMEDIATE")
        try:
            database.execute("DELETE FROM entry WHERE idx < ?", [base])
            database.execute("DELETE FROM block WHERE first < ?", [base])
            move_places(database, base)
            database.execute(
                f"INSERT INTO block {_BLOCKS} FROM entry WHERE idx >= ?2 AND idx < ?3 GROUP BY 1",  # constants
                [BLOCK, base, -(-base // BLOCK) * BLOCK],
            )
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _hash(self, index: int) -> str:
        ((_, entry),) = self.read([index])
        return hashlib.sha256(entry).hexdigest()

    def _add(self, database: sqlite3.Connection, start: int, stop: int) -> int:
        rows: list[Row] = []
        places: list[Row | None] = []
        last = b""
        for frame in self._store.frames(start, stop):
            skip = max(0, start - frame.first)
            rows.extend(row_of(index, entry) for index, entry in enumerate(frame.entries[skip:], frame.first + skip))
            places.append(place_row(frame))
            last = frame.entries[-1]
        _insert(database, rows)
        database.executemany("INSERT OR REPLACE INTO place VALUES (?, ?, ?, ?, ?)", filter(None, places))
        database.execute(
            f"INSERT OR REPLACE INTO block {_BLOCKS} FROM entry WHERE idx >= ?2 GROUP BY 1",  # constants
            [BLOCK, start // BLOCK * BLOCK],
        )
        size = start + len(rows)
        database.execute("UPDATE meta SET size = ?, last = ?", [size, hashlib.sha256(last).hexdigest()])
        return size

    # --- asking --------------------------------------------------------------------------------------------------

    def find(self, filters: Filters, *, newest_first: bool = True, limit: int | None = None) -> Iterator[int]:
        """Indexes of the entries that match, in the log's order or against it; streams."""
        terms = filters.terms()
        lead = next((term for term in terms if term.lookup), None)
        rest = [term for term in terms if term is not lead]
        start = filters.action_start
        if start and lead is None:
            lead = self._actions_term(start)
        elif start:
            rest.append(Term("+action >= ? AND +action < ?", (start, _after(start))))
        rest += self._time_terms(filters)
        lookups = lead.lookup if lead is not None and lead.lookup else ((None, ()),)
        if lead is not None and not lead.lookup:
            rest.append(lead)
        streams = [self._select([Term(*lookup), *rest] if lookup[0] else rest, newest_first) for lookup in lookups]
        found = _unique(heapq.merge(*streams, reverse=newest_first))
        return islice(found, limit)

    def _select(self, terms: Sequence[Term], newest_first: bool) -> Iterator[int]:
        where = " AND ".join(term.condition for term in terms) or "1"
        values = [value for term in terms for value in term.values]
        order = "DESC" if newest_first else "ASC"
        # The conditions are ours; what was asked for is in the values.
        statement = f"SELECT idx FROM entry WHERE {where} ORDER BY idx {order}"  # noqa: S608
        return (index for (index,) in self._database().execute(statement, values))

    def _actions_term(self, start: str) -> Term | None:
        """Actions with this start, each looked up for itself: so every stream is in the log's order."""
        values: list[str] = []
        statement = "SELECT min(action) FROM entry WHERE action IS NOT NULL AND action >= ?"
        (name,) = self._database().execute(statement, [start]).fetchone()
        while name is not None and name < _after(start):
            values.append(name)
            if len(values) > _MANY_ACTIONS:
                return Term("+action >= ? AND +action < ?", (start, _after(start)))
            (name,) = self._database().execute(statement.replace(">=", ">"), [name]).fetchone()
        return Term("0", (), tuple(("action = ?", (value,)) for value in values) or (("0", ()),))

    def _time_terms(self, filters: Filters) -> Iterator[Term]:
        """Conditions on time, each with a bound on the index that the blocks allow."""
        if filters.since is not None:
            statement = "SELECT min(first) FROM block WHERE high >= ?"
            (first,) = self._database().execute(statement, [filters.since]).fetchone()
            yield Term("idx >= ?", (2**62 if first is None else first,))
            yield Term("timestamp >= ?", (filters.since,))
        if filters.until is not None:
            statement = "SELECT max(first) FROM block WHERE low < ?"
            (first,) = self._database().execute(statement, [filters.until]).fetchone()
            yield Term("idx < ?", (-1 if first is None else first + BLOCK,))
            yield Term("timestamp < ?", (filters.until,))

    def unfinished(self) -> Iterator[int]:
        """Indexes of intents that no outcome names, oldest first."""
        statement = (
            "SELECT idx FROM entry AS intent WHERE kind = 'intent' AND kind <> 'outcome' AND NOT EXISTS "
            "(SELECT 1 FROM entry WHERE intent_id = intent.action_id AND +kind = 'outcome') ORDER BY idx"
        )
        return (index for (index,) in self._database().execute(statement))

    def with_action_id(self, action_id: str) -> list[int]:
        """Indexes of all entries with this action id, oldest first: a retried record may be there twice."""
        return list(self.find(Filters(action_id=action_id), newest_first=False))

    def read(self, indexes: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Yields each of these log indexes with its entry, read from the log and checked against it; streams.

        Raises:
            EntriesPruned, LogDamaged, LogUnavailable: As `LogStore.frames`.
        """
        if self._lines is None:
            return entries_of(self._store, indexes)
        return entries_of(self._store, indexes, self._lines.read)

    # --- checking ------------------------------------------------------------------------------------------------

    def check(self, first: int, entries: Sequence[bytes]) -> Iterator[tuple[int, str]]:
        """Yields (log index, words) for each of these entries that the index has wrong; the verifier's check 10.

        Called with the log's size and no entries for what the index has beyond the log's end, and for everything that
        queries use beside the rows: SQLite's own structures, which are inspected from the first call on in a thread,
        and the times of the blocks.
        """
        try:
            if self._inspection is None:
                self._database().execute(f"PRAGMA cache_size={_CHECKING_CACHE}")
                self._inspection = Inspection(self._path)
            yield from self._check_rows(first, entries) if entries else self._check_rest(first)
        except sqlite3.DatabaseError as error:
            yield first, f"the search index cannot be read: {error}"
        finally:
            if not entries:
                self._end_inspection()

    def _end_inspection(self) -> None:
        inspection, self._inspection = self._inspection, None
        if inspection is not None:
            inspection.stop()

    def _check_rows(self, first: int, entries: Sequence[bytes]) -> Iterator[tuple[int, str]]:
        statement = f"SELECT {_ALL} FROM entry WHERE idx BETWEEN ? AND ?"  # noqa: S608  # constants
        rows = {row[0]: row for row in self._database().execute(statement, [first, first + len(entries) - 1])}
        for index, entry in enumerate(entries, first):
            found = rows.get(index)
            should = row_of(index, entry)
            if found is None:
                yield index, "the search index has no row for this entry"
            elif found != should:
                wrong = [name for name, has, right in zip(COLUMNS, found, should, strict=True) if has != right]
                yield index, f"the search index says something else in {', '.join(wrong)}"

        for index in wrong_places(self._database(), first, entries):
            yield index, "the search index has wrong lengths or leaf hashes for the commit that starts here"

    def _check_rest(self, size: int) -> Iterator[tuple[int, str]]:
        database, base = self._database(), self._store.base.size
        beyond = "SELECT idx FROM entry WHERE idx >= ? OR idx < ? ORDER BY idx LIMIT 1"
        for (index,) in database.execute(beyond, [size, base]):
            yield index, "the search index has a row for an entry that is not in the log"
        for (index,) in database.execute("SELECT first FROM place WHERE first >= ? OR first < ?", [size, base]):
            yield index, "the search index has a place for a commit that is not in the log"
        blocks = f"{_BLOCKS} FROM entry NOT INDEXED GROUP BY 1"
        statement = f"SELECT * FROM ({blocks}) EXCEPT SELECT * FROM block ORDER BY 1 LIMIT 1"  # noqa: S608  # constants
        for index, _, _ in database.execute(statement, [BLOCK]):
            yield index, "the search index has wrong times for the entries from here on"
        verdict = self._inspection.verdict() if self._inspection is not None else "not inspected"
        if verdict != "ok":
            yield 0, f"the search index is damaged: {verdict}"

    # --- the file ------------------------------------------------------------------------------------------------

    @staticmethod
    def remove(path: Path) -> None:
        """Deletes an index; the next query makes it anew."""
        for suffix in _SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").unlink()

    def _database(self) -> sqlite3.Connection:
        """The connection; a new one if the file was deleted or replaced since."""
        if self._connection is not None and self._file == _identity(self._path):
            return self._connection
        self._disconnect()
        try:
            self._connection = self._connect()
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError:  # not a database: whatever it is, it is no index of ours
            self.remove(self._path)
            self._connection = self._connect()
        self._file = _identity(self._path)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        # Created by us with the log's own permissions: the columns are as confidential as the entries.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT, isolation_level=None, cached_statements=64)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute("PRAGMA wal_autocheckpoint=16384")
            database.execute("PRAGMA cache_size=-65536")
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database

    def _disconnect(self) -> None:
        database, self._connection = self._connection, None
        if database is not None:
            database.close()

    def _make_anew(self) -> None:
        """Replaces the file by an empty index of this log; the caller holds the lock."""
        self._disconnect()
        self.remove(self._path)
        database = self._database()
        for statement in SCHEMA.values():
            database.execute(statement)
        database.execute("INSERT INTO meta VALUES (?, ?, 0, '')", [VERSION, self._store.origin])


def _identity(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _after(start: str) -> str:
    """The end of the range of texts with this start, in SQLite's order of UTF-8 bytes."""
    return start + "\U0010ffff"


def _unique(indexes: Iterator[int]) -> Iterator[int]:
    last = None
    for index in indexes:
        if index != last:
            yield index
        last = index


def _insert(database: sqlite3.Connection, rows: Sequence[Row]) -> None:
    # Multi-row VALUES: executemany would give up and take back the interpreter's lock at every row.
    one = f"({','.join('?' * len(COLUMNS))})"
    at = 0
    while at < len(rows):
        size = next(size for size in _CHUNKS if size <= len(rows) - at)
        cells: list[Any] = [cell for row in rows[at : at + size] for cell in row]
        database.execute(f"INSERT INTO entry VALUES {','.join([one] * size)}", cells)  # noqa: S608  # question marks
        at += size
