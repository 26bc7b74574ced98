"""The writing half: lock the head, seal, write everything in one transaction, and find out what became of it.

The steps of an append, and what a broken connection at each leaves:

1. ``BEGIN`` and the head's lock. *Broken here*: nothing; the server frees the lock. Tried once more, connected anew.
2. `seal`. *Broken here*: a signature that nobody has seen is gone; as 1.
3. The function ``append`` and ``COMMIT``, sent together. *Broken here*: the batch is in the log, or it is not, or it
   will be in a moment. On a new connection the head is locked, which waits until the old transaction is over either
   way, and the commit is looked up. It is there: the append has succeeded. It is not: it never will be, and the batch
   is sent once more. Nobody can be asked: `LogUnavailable`, and the caller does not know.

With a synchronous standby a commit that is found there may still wait for it, or have given up (an administrator can
end the wait: then the server says COMMIT and warns). So the look-up commits, too: having locked the head it has written
something, and what the standby has of it comes after the batch.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from psycopg import sql

from ...errors import LogDamaged, LogForked, LogUnavailable, StoreError
from ...model import Head
from ...protocols import Sealer
from .. import frames
from ..frames import Commit
from .reading import Log, to_head
from .session import IDLE_TIMEOUT, Lost, Session, no_log
from .wire import BinaryJson, ByteaArray, bytea_array, columns_of

PATIENCE = IDLE_TIMEOUT + 2.0
"""Seconds, beyond the longest transaction, in which an append whose answer was lost tries to find out what became of
it: the server has ended the old transaction by then."""

_NAP = 0.2

_Ready = tuple[frames.Body, ByteaArray, BinaryJson]


class Appender:
    """Appends to one log over one connection. Safe for threads."""

    def __init__(self, session: Session, log: Log, place: str) -> None:
        self.seen = Head()  # the newest head that is known to be committed; replaced, never changed
        self._session = session
        self._log = log
        self._place = place
        self._mutex = threading.Lock()
        self._process = os.getpid()
        self._closed = False

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        """Appends a batch; the promises are those of `protocols.LogStore.append`."""
        frames.check_batch(entries)
        seal = frames.sealer_for(seal, entries)
        ready = (frames.Body(entries), bytea_array(entries), columns_of(entries))  # before anyone waits for us
        if self._process != os.getpid():
            self.after_fork()  # forked by code that does not run Python's handlers
        with self._mutex:
            if self._closed:
                raise LogUnavailable(f"{self._place}: this store was closed")
            try:
                self.seen = self._attempt(entries, ready, seal)
            except Lost:  # nothing was written; the connection may have been stale, or the server was started anew
                try:
                    self.seen = self._attempt(entries, ready, seal)
                except Lost as lost:
                    raise LogUnavailable(f"{self._place}: {lost}; nothing was written") from None
            return self.seen

    def close(self) -> None:
        """Closes the connection; later appends are refused."""
        self._closed = True
        self._session.drop()

    def after_fork(self) -> None:
        """In a child: lets go of what belongs to the parent."""
        self._mutex = threading.Lock()
        self._process = os.getpid()

    def _attempt(self, entries: Sequence[bytes], ready: _Ready, seal: Sealer) -> Head:
        """One append. Raises `Lost` if the connection broke and nothing was written, nor will be."""
        session = self._session
        with session.talking():
            before = self._lock()
            after = seal(before, entries)
            frames.check_sealed(before, len(entries), after)
            values = self._values(before, after, ready)
        try:
            with session.talking():
                self._commit(values)
        except Lost as lost:
            if not self._find_out(after, lost):
                raise
        return after

    # --- step 1 --------------------------------------------------------------------------------------------------

    def _lock(self) -> Head:
        """Begins a transaction, locks the head and returns it, after comparing it with what was seen before."""
        session = self._session
        connection = session.connect()
        # Numbers are all that is put into the text, so that both statements go in one message.
        call = sql.SQL(
            "BEGIN; SELECT h.size, h.peaks, h.checkpoint, c.size, c.peaks, c.checkpoint FROM {}({}) h "
            "LEFT JOIN LATERAL {}({}, CASE WHEN h.size > {} THEN {} END) c ON true"
        )
        log, seen = sql.Literal(self._log.log_id), sql.Literal(self.seen.size)
        cursor = connection.execute(
            call.format(session.name("lock_head"), log, session.name("commit_at"), log, seen, seen)
        )
        cursor.nextset()
        row = cursor.fetchone()
        if row is None:
            raise no_log(session.address)
        head = to_head(row[:3])
        self._compare(head, None if row[3] is None else to_head(row[3:]))
        return head

    def _compare(self, head: Head, there: Head | None) -> None:
        """A database that was restored, or a replica that took over, may have lost what was acknowledged; so may a
        log that somebody cut, whom others followed. ``there`` is the commit at the size that was seen, if any."""
        seen = self.seen
        if head.size < seen.size:
            raise LogDamaged(
                f"{self._place}: the log ends at size {head.size}, but this process has seen size {seen.size}: the "
                "database was replaced by an older copy. Nothing is written"
            )
        same = head == seen
        if head.size > seen.size:  # others wrote: behind what we have seen?
            same = there == seen or self._has(seen)
        if not same:
            raise LogForked(
                f"{self._place}: the commit that this process has seen at size {seen.size} is not there any more: the "
                "database was replaced by an older copy, or another one, which was then continued. Nothing is written"
            )

    def _has(self, head: Head) -> bool:
        """Whether the log holds this commit, or has pruned it."""
        if not head.size:
            return True
        there = self._ask("commit_at", self._log.log_id, head.size)
        if there is None:
            base = self._ask("base", self._log.log_id)
            return base is not None and base.size >= head.size
        return there == head

    def _ask(self, function: str, *numbers: int) -> Head | None:
        session = self._session
        values = sql.SQL(", ").join(map(sql.Literal, numbers))
        call = sql.SQL("SELECT size, peaks, checkpoint FROM {}({})").format(session.name(function), values)
        row = session.connect().execute(call).fetchone()
        return None if row is None else to_head(row)

    # --- step 3 --------------------------------------------------------------------------------------------------

    def _values(self, before: Head, after: Head, ready: _Ready) -> tuple[Any, ...]:
        body, *columns = ready
        commit = Commit(before.size, body.count, after.size, after.peaks, after.checkpoint, after.sums)
        peaks = b"".join(after.peaks)
        return (self._log.log_id, before.size, peaks, after.checkpoint, after.sums, body.digest(commit), *columns)

    def _commit(self, values: tuple[Any, ...]) -> None:
        """One round trip. If the function refuses, the server skips the COMMIT."""
        session = self._session
        connection = session.connect()
        call = sql.SQL("SELECT {}(%b, %b, %b, %b, %b, %b, %b, %b)").format(session.name("append"))
        session.warned = False
        with connection.pipeline():
            connection.execute(call, values)
            connection.execute("COMMIT")
        if session.warned:
            raise Lost("the server warned of its commit")

    def _find_out(self, after: Head, lost: Lost) -> bool:
        """After a lost answer: whether the batch is in the log. Final: nothing of it can get there later.

        Raises:
            LogUnavailable: It cannot be found out.
            LogDamaged, LogForked: The log is not the same any more.
        """
        session = self._session
        until = time.monotonic() + session.timeout + PATIENCE
        problem = str(lost)
        while True:
            try:
                with contextlib.suppress(Lost), session.talking():
                    head = self._lock()  # waits until the old transaction is over, either way
                    there = head == after if head.size == after.size else head.size > after.size and self._has(after)
                    session.warned = False
                    if there:
                        session.connect().execute(
                            "COMMIT"
                        )  # which a synchronous standby confirms, and the batch with it
                    session.roll_back()
                    if not session.warned:
                        return there
            except (LogDamaged, LogForked):
                raise
            except StoreError as error:
                problem = str(error)
            if time.monotonic() > until:
                raise LogUnavailable(
                    f"{self._place}: the answer to a commit is lost ({lost}), and it cannot be looked up ({problem}): "
                    "the batch may be in the log"
                ) from None
            time.sleep(_NAP)
