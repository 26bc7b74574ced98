"""A log in PostgreSQL, for any number of processes on any number of hosts.

Promises of `protocols.LogStore`, and how they are kept:

* one row for each log is its head; an append locks it, so there is one writer at a time and no fork;
* entries, commit, head and search columns are written by one function in one transaction (``migrations/``). The
  function sees to it that ``synchronous_commit`` is on: an append returns, and a head is seen, once the WAL is on disk;
* the database refuses everything else: writers may only call that function, and triggers refuse changes to all;
* after a broken connection nothing is repeated before it was looked up (`appender`);
* nothing is created by accident: `setup.initialise` makes a log, `open` only finds one.

A store knows no cryptography but SHA-256; `seal` brings the tree and the signature.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import ConfigError, LogDamaged, LogUnavailable
from ...model import Frame, Head
from ...protocols import Sealer
from ..frames import RawFrame, to_frame
from ..layout import JournalConfig, format_config
from .address import parse_url
from .appender import Appender
from .reading import Log, Tables, find_log
from .session import TIMEOUT, Session
from .shelf import DatabaseShelf
from .watch import Listening

LOCK_TIMEOUT = 5.0
"""Seconds that an append waits for other writers before it raises `LogBusy`."""

_stores: weakref.WeakSet[PostgresStore] = weakref.WeakSet()


class PostgresStore:
    """A log in a database. Threads may share it; it may be opened before a fork: a child makes its own connections.

    Attributes:
        log: What was decided when the log was created.
        tables: What is read.
    """

    def __init__(self, tables: Tables, appender: Appender | None, folder: Path | None = None) -> None:
        """Use `open`. Without ``appender`` the store only reads."""
        self._folder = folder
        self.log: Log = tables.log
        self.tables = tables
        self._appender = appender
        _stores.add(self)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        origin: str | None = None,
        schema: str | None = None,
        writable: bool = True,
        force: bool = False,
        lock_timeout: float | None = LOCK_TIMEOUT,
        timeout: float = TIMEOUT,
        folder: Path | None = None,
    ) -> PostgresStore:
        """Opens a log.

        Args:
            url: Where; see `address`.
            origin: Which log, where the URL does not say it and the role may use several.
            schema: The schema, before what the URL says.
            writable: False: `append` is refused, and the role needs no right to write.
            force: Accept a server that runs without fsync.
            lock_timeout: Seconds to wait for other writers; ``None``: almost as long as ``timeout``.
            timeout: Seconds for one statement; then the connection is given up.
            folder: Of this host, for what stands beside a log; see `stores.opening`.

        Raises:
            ConfigError: The URL is none, or several logs could be meant.
            LogNotFound: No log there, or none for this role.
            LogUnavailable: The database cannot be reached, refuses, or would not keep what it acknowledges.
        """
        address = parse_url(url, origin=origin, schema=schema)
        reading, writing = (Session(address, lock_timeout=lock_timeout, timeout=timeout, force=force) for _ in "12")
        try:
            tables = Tables(reading, find_log(reading))
            appender = Appender(writing, tables.log, tables.place) if writable else None
            if appender is not None:
                appender.seen = tables.head()
        except BaseException:
            reading.drop()
            raise
        return cls(tables, appender, folder)

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.log.origin

    @property
    def place(self) -> str:
        """What the log is called in messages; holds no secret."""
        return self.tables.place

    @property
    def folder(self) -> Path:
        """The folder of this host for what stands beside the log. Raises `ConfigError` if it was opened without."""
        if self._folder is None:
            raise ConfigError(f"{self.place}: was opened without a folder of this host")
        return self._folder

    @property
    def vkeys(self) -> tuple[str, ...]:
        """The C2SP verifier keys that were listed when the store was opened."""
        return self.log.vkeys

    def __repr__(self) -> str:
        return f"<PostgresStore {self.place}>"

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        """Appends a batch; see `protocols.LogStore`.

        Raises:
            RecordError: An entry is not one; nothing was written.
            LogBusy: The head's lock did not come free; nothing was written.
            LogUnavailable: The database refused, and nothing was written; or its answer is lost and it cannot be
                reached any more, which the message says: then the batch may be in the log.
            LogDamaged, LogForked: The log is not the one that this process has seen; nothing was written.
        """
        if self._appender is None:
            raise LogUnavailable(f"{self.place}: opened for reading")
        return self._appender.append(entries, seal)

    def head(self) -> Head:
        """Returns the newest committed head. Raises `LogUnavailable`."""
        return self.tables.head()

    def has_commit(self, head: Head) -> bool:
        """Whether the log holds the commit that ended with this head, or has pruned it. Needs no right to read."""
        there = self.tables.commit_at(head.size)
        return there == head if there is not None else self.base.size >= head.size

    @property
    def base(self) -> Head:
        """The head below which entries were pruned; ``Head()`` if none were."""
        return self.tables.base().head

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        """Yields the commits that overlap ``[start, stop)``, up to the head when iteration begins; in pages.

        Args:
            start: Default: the log's `base`.
            stop: Default: the head.

        Raises:
            EntriesPruned: Entries from ``start`` on were pruned, now or while they were being read.
            LogDamaged: Names the first commit that is not what was committed.
            LogUnavailable: The database cannot be reached or refuses.
        """
        size = self.head().size
        stop = size if stop is None else min(stop, size)
        base = self.tables.base()
        start = base.head.size if start is None else start
        if start < min(base.head.size, stop):
            raise self.tables.pruned(start, base)
        position = start
        for raw in self.tables.raw_frames(start, stop) if start < stop else ():
            commit = raw.commit
            if raw.problem is not None or commit is None:
                self._refuse(position, f"{raw.where}: {raw.problem}")
            elif commit.first > position or (position > start and commit.first != position):
                self._refuse(position, f"{raw.where}: entry {commit.first} where {position} should follow")
            elif commit.size > start:
                yield to_frame(raw)
                position = commit.size
        if position < stop:
            self._refuse(position, f"{self.place}: entries {position} to {stop - 1} are missing")

    def _refuse(self, position: int, text: str) -> None:
        """Raises for entries that are not there: pruned since we began to read, or damaged as the text says."""
        base = self.tables.base()
        raise self.tables.pruned(position, base) if position < base.head.size else LogDamaged(text)

    def raw_frames(self, start: int | None = None) -> Iterator[RawFrame]:
        """Yields what stands in the tables, damaged or not, from shortly before entry ``start`` on; for verifiers.

        Begins at the log's `base` at the earliest. Never raises for damage. After the commits comes what is wrong with
        the head, if anything is.

        Raises:
            EntriesPruned: What was to come next was pruned meanwhile.
            LogUnavailable: The database cannot be reached or refuses.
        """
        stop = self.head().size
        base = self.base.size
        for raw in self.tables.raw_frames(base if start is None else max(start, base), stop):
            now = self.tables.base() if raw.problem is not None else None
            if now is not None and now.head.size > base:
                raise self.tables.pruned(base, now)
            yield raw
        yield from self.tables.loose_ends()

    def pruned_by(self) -> int | None:
        """Which entry is said to be the record of the log's base: a hint."""
        base = self.tables.base()
        return base.record if base.head.size else None

    def described(self) -> bytes:
        """What a journal's ``config.json`` would say of this log."""
        return format_config(JournalConfig(self.origin, self.vkeys, self.log.created))

    def list_vkey(self, vkey: str) -> None:
        """Adds a verifier key to those of the log, unless it is there, as a member of the owner.

        Raises:
            LogUnavailable: The role may not, or the database refuses.
        """
        self.tables.list_vkey(vkey)

    def prune(self, base: int, record: int, at: str) -> int:
        """Makes the log begin at a commit boundary, and drops every partition below; returns the bytes that freed.

        Needs a role that is a member of the owner. The log holds the record of it already (entry ``record``, made
        ``at``). What lies below in the partition of the base itself stays on disk, unread, until a later prune. May
        be called again for the same base.

        Raises:
            LogUnavailable: No commit ends at ``base``, it is beyond the end or below the base, or the role may not;
                nothing was changed.
            LogBusy: Long transactions were in the way; nothing was changed.
        """
        values = (self.log.log_id, base, record, at)
        rows = self.tables.query("SELECT {}(%s, %s, %s, %s)", "prune", values=values)
        return int(rows[0][0])

    def watch(self) -> Listening:
        """Waits for the log to grow, on a connection of its own."""
        return Listening(self.tables.address, self.log)

    def shelf(self, room: str = "") -> DatabaseShelf:
        """The values beside the log whose names begin with ``room``, over the connection that this store reads by."""
        return DatabaseShelf(self.tables, room)

    def close(self) -> None:
        """Closes the connections. Reading stays possible, over a new one; appending does not."""
        if self._appender is not None:
            self._appender.close()
        self.tables.close()

    def after_fork(self) -> None:
        """In a child: lets go of what belongs to the parent."""
        self.tables.after_fork()
        if self._appender is not None:
            self._appender.after_fork()


def _leave_to_parent() -> None:
    for store in list(_stores):
        store.after_fork()


os.register_at_fork(after_in_child=_leave_to_parent)
