"""Reading a log's tables in pages, each in a statement of its own.

Rows never change, so pages of one log fit together whenever they are read: no transaction stays open while a consumer
takes its time, which would stop pruning, keep dead rows of the head, and end at the server's limit for idle ones. What
is in memory is a page of commits and their entries, some megabytes, or one commit if that is larger.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from ...errors import ConfigError, EntriesPruned, FormatError, LogUnavailable, StoreError
from ...model import Head
from ..frames import MAX_FRAME, Body, Commit, RawFrame, check_commit
from .session import Lost, Session, no_log

VERSION = 4
"""Of the tables and functions: the number of the newest file in ``migrations/``."""

COMMITS = 256
_BYTES = 4 * 2**20
_STRAY = 1000
_PEAK = 32


@dataclass(frozen=True, slots=True)
class Log:
    """What was decided when a log was created; ``width``: entries in a partition."""

    log_id: int
    origin: str
    created: str
    width: int
    vkeys: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of ``commits``; ``weight``: bytes of its entries."""

    first: int
    count: int
    size: int
    weight: int
    peaks: bytes
    checkpoint: bytes
    leaves: bytes
    sha256: bytes

    @property
    def stop(self) -> int:
        """The entry after its last; ``first`` where its numbers make no sense, and nothing must be read by them."""
        return self.size if 0 < self.count <= MAX_FRAME and self.size == self.first + self.count else self.first

    @property
    def commit(self) -> Commit:
        return Commit(self.first, self.count, self.size, split(self.peaks), self.checkpoint, self.leaves)


class _Base(NamedTuple):
    """The newest row of ``bases``."""

    head: Head
    record: int
    pruned: str


def find_log(session: Session) -> Log:
    """Returns what the database says of the log that an address means.

    Raises:
        LogNotFound: There is none, or none for this role.
        ConfigError: There are several, and the address names none.
        StoreError: The tables are of another version.
    """
    address = session.address
    rows = session.query("SELECT * FROM {}(%s)", "describe", values=(address.origin,))
    if not rows:
        raise no_log(address)
    if len(rows) > 1:
        names = ", ".join(row[1] for row in rows)
        raise ConfigError(f"{address.place}: there are several logs ({names}); name one: ?origin=...")
    log_id, origin, created, width, vkeys, version = rows[0]
    if version != VERSION:
        older = "migrate it first: audit_middleware.stores.postgres.migrate(URL)"
        raise StoreError(
            f"{address.place}: schema {address.schema} is of version {version}, and this package needs {VERSION}: "
            f"{older if version < VERSION else 'install a newer one'}"
        )
    return Log(log_id, origin, created, width, tuple(vkeys))


class Tables:
    """What is read of one log. Safe for threads."""

    def __init__(self, session: Session, log: Log) -> None:
        self._session = session
        self._lock = threading.Lock()
        self.log = log
        self.place = f"{session.address.place} ({log.origin})"
        self.address = session.address

    def query(self, statement: Any, *names: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """One statement; see `Session.query`."""
        with self._lock:
            return self._session.query(statement, *names, values=values)

    def call(self, function: str, values: tuple[Any, ...]) -> Any:
        """What one of our functions returns that changes something. Raises `StoreError`, and `Lost` if nobody knows."""
        places = ", ".join(["%b"] * len(values))
        with self._lock, self._session.talking():
            call = sql.SQL(f"SELECT {{}}({places})").format(self._session.name(function))
            return self._session.connect().execute(call, values).fetchone()[0]  # type: ignore[index]

    def close(self) -> None:
        """Closes the connection; the next query makes another."""
        with self._lock:
            self._session.drop()

    def after_fork(self) -> None:
        """In a child: nobody holds the lock there."""
        self._lock = threading.Lock()

    def head(self) -> Head:
        """The newest head."""
        rows = self.query("SELECT * FROM {}(%s)", "newest", values=(self.log.log_id,))
        if not rows:
            raise no_log(self._session.address)
        return to_head(rows[0])

    def base(self) -> _Base:
        """Where the log begins, and what explains it."""
        rows = self.query("SELECT * FROM {}(%s)", "base", values=(self.log.log_id,))
        return _Base(to_head(rows[0]), rows[0][4], rows[0][5]) if rows else _Base(Head(), 0, "")

    def list_vkey(self, vkey: str) -> None:
        """Adds a verifier key, as the owner. Raises `StoreError`."""
        owner = sql.Identifier(f"{self._session.address.schema}_owner")
        add = sql.SQL("INSERT INTO {} (log_id, vkey) VALUES (%s, %s) ON CONFLICT DO NOTHING")
        with self._lock, self._talking() as connection, connection.transaction():
            connection.execute(sql.SQL("SET LOCAL ROLE {}").format(owner))
            connection.execute(add.format(self._session.name("vkeys")), [self.log.log_id, vkey])

    @contextlib.contextmanager
    def _talking(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            with self._session.talking():
                yield self._session.connect()
        except Lost as lost:
            raise LogUnavailable(f"{self.place}: {lost}; run it again") from None

    def commit_at(self, size: int) -> Head | None:
        """The head after the commit that ends at this size."""
        rows = self.query("SELECT * FROM {}(%s, %s)", "commit_at", values=(self.log.log_id, size))
        return to_head(rows[0]) if rows else None

    def pruned(self, wanted: int, base: _Base) -> EntriesPruned:
        """The error for entries from ``wanted`` on, which are below the base."""
        return EntriesPruned(
            f"{self.place}: entry {wanted} was pruned at {base.pruned}; entry {base.record} of the log is the record "
            f"of it. The log begins at entry {base.head.size} now. Whoever kept a .tlog-proof of an older entry keeps "
            "it valid"
        )

    # --- commits and their entries -------------------------------------------------------------------------------

    def raw_frames(self, start: int, stop: int) -> Iterator[RawFrame]:
        """Yields what stands in the tables for ``[start, stop)``, damaged or not; never raises for damage.

        The first may begin before ``start``, the last may end beyond ``stop``.
        """
        position: int | None = None
        while rows := self._page(start if position is None else position, stop, inside=position is None):
            for run in _runs(rows):
                if position is not None:
                    yield from self._loose(position, run[0].first)
                found = self._entries(run[0].first, run[-1].stop)
                for row in run:
                    yield self._frame(row, found)
                position = max(run[-1].stop, run[-1].first + 1)

    def _page(self, position: int, stop: int, *, inside: bool) -> list[_Row]:
        """Commits from a position on, or from the one that it lies in."""
        columns = "SELECT first, count, size, bytes, peaks, checkpoint, leaves, sha256 FROM {} "
        log = self.log.log_id
        if inside:
            last = self.query(
                "SELECT first FROM {} WHERE log_id = %s AND first <= %s ORDER BY first DESC LIMIT 1",
                "commits",
                values=(log, position),
            )
            position = last[0][0] if last else position
        rows = self.query(
            columns + "WHERE log_id = %s AND first >= %s AND first < %s ORDER BY first LIMIT %s",
            "commits",
            values=(log, position, stop, COMMITS),
        )
        return [_Row(*row) for row in rows]

    def _entries(self, start: int, stop: int) -> dict[int, bytes]:
        statement = "SELECT idx, entry FROM {} WHERE log_id = %s AND idx >= %s AND idx < %s ORDER BY idx"
        return dict(self.query(statement, "entries", values=(self.log.log_id, start, stop)))

    def _frame(self, row: _Row, found: dict[int, bytes]) -> RawFrame:
        where = f"{self.place}: commit {row.first}"
        entries = [found[index] for index in range(row.first, row.stop) if index in found]
        commit = row.commit
        try:
            check_commit(commit)
            digest = Body(entries).digest(commit)
        except FormatError as error:
            return RawFrame(where, entries, None, str(error))
        if digest != row.sha256:
            return RawFrame(where, entries, commit, "the rows do not match the commit's sha256")
        return RawFrame(where, entries, commit)

    def _loose(self, start: int, stop: int) -> Iterator[RawFrame]:
        """Entries that belong to no commit; nothing in a log that is not damaged."""
        statement = "SELECT idx, entry FROM {} WHERE log_id = %s AND idx >= %s AND idx < %s ORDER BY idx LIMIT %s"
        while start < stop:
            rows = self.query(statement, "entries", values=(self.log.log_id, start, stop, _STRAY))
            if not rows:
                return
            where = f"{self.place}: entry {rows[0][0]}"
            yield RawFrame(where, [entry for _, entry in rows], None, "entries without a commit")
            start = rows[-1][0] + 1

    def loose_ends(self) -> Iterator[RawFrame]:
        """Yields what is wrong at the end of the log: a head that is not the last commit's, entries beyond it."""
        log = self.log.log_id
        statement = (
            "WITH beyond AS (SELECT e.entry FROM {} e WHERE e.log_id = %s AND e.idx >= "
            "(SELECT size FROM {} WHERE log_id = %s) ORDER BY e.idx LIMIT %s) "  # first, as everybody locks them
            "SELECT h.size, h.peaks, h.checkpoint, c.size, c.peaks, c.checkpoint, ARRAY(SELECT entry FROM beyond) "
            "FROM {} h LEFT JOIN LATERAL (SELECT * FROM {} c WHERE c.log_id = h.log_id ORDER BY c.first DESC LIMIT 1) c"
            " ON true WHERE h.log_id = %s"
        )  # one statement: one moment
        for row in self.query(statement, "entries", "heads", "heads", "commits", values=(log, log, _STRAY, log)):
            head, last = to_head(row[:3]), to_head(row[3:6]) if row[3] is not None else self.base().head
            if head != last:
                text = f"the head says size {head.size}, but the commits end at size {last.size}"
                yield RawFrame(f"{self.place}: head", [], None, f"{text}, or with another checkpoint")
            if row[6]:
                yield RawFrame(f"{self.place}: entry {head.size}", row[6], None, "entries without a commit")


def to_head(row: tuple[Any, ...]) -> Head:
    """A row of size, peaks, checkpoint and, where there are any, sums."""
    return Head(row[0], split(row[1]), bytes(row[2]), bytes(row[3]) if len(row) > 3 else b"")


def split(peaks: bytes) -> tuple[bytes, ...]:
    """Peaks, one after the other, as they are stored."""
    return tuple(bytes(peaks[at : at + _PEAK]) for at in range(0, len(peaks), _PEAK))


def _runs(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Commits that are read together: they follow one another, and hold some megabytes of entries."""
    run: list[_Row] = []
    size = 0
    for row in rows:
        if run and (size + row.weight > _BYTES or row.first != run[-1].stop):
            yield run
            run, size = [], 0
        run.append(row)
        size += row.weight
    if run:
        yield run
