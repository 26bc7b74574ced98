"""The writer: takes items from any number of event loops and threads, and commits them to the log in batches.

One daemon thread per process does the slow part. Nothing on the request's path waits for a lock or a disk unless it
asked to: `Writer.submit` is an append to a deque.

How long a record waits:

* while a commit is in progress, records gather for the next one: under load, batching costs no waiting at all;
* where nobody waits for the record and others are expected, by those that came lately, it lingers up to ``linger_ms``
  for them (`company`); a waiter, or 256 queued records, end that at once. Where few come, no record waits at all.

What happens when the store fails (sequencing is the store's; this only repeats):

* the waiters of the batch get the error; they do not know whether their record is there;
* the batch is kept, byte for byte, and sent again after the store was opened anew, with growing pauses, without looking
  up whether the first attempt did reach the log. A record may therefore be there twice, with the same ``action_id``
  and ``sequence``: duplicates are harmless and marked when read, losses are not;
* what is submitted meanwhile is queued behind it until the queue is full; then `LogBusy` tells the caller, who waits
  for room or calls `Writer.lost`;
* with a spool, the batch and what comes meanwhile is set aside on disk instead (`LogSpooled` tells the waiters), and
  sent to the log before anything else once it takes records again, in the same order;
* without the keys that seal what is personal, records stay in the queue, as if the log had failed. Only when the queue
  is half full, or the writer closes, are they set aside, and then without their personal fields;
* whatever was lost is told to the log by a gap record: the first thing written after what was kept.

If the process dies here: records that were submitted and not yet committed are gone. Who cannot accept that awaits
`Writer.commit`. After a fork the child starts with an empty queue, its own thread, store and sequence; what was queued
at the time of the fork belongs to the parent.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from functools import partial
from typing import Any

from msgspec.structs import replace

from ..errors import LogBusy, LogUnavailable
from ..model import Receipt
from ..protocols import Clock, LogStore, Sealer
from .batch import Batch, Counters, Encode, Fallback, Gap, MakeGap
from .committer import ENOUGH, IDLE, LINGERING, Committer
from .custody import Custody
from .outage import MakeReplayed, OpenSpool, Outage
from .pulse import Pulse
from .seal import make_sealer
from .waiting import Awaited, Waiter, refuse, wait_in_loop, wait_in_thread

__all__ = ["ENOUGH", "MAX_LINGER_MS", "Counters", "Writer", "make_sealer"]

MAX_LINGER_MS = 50
"""Bound of ``linger_ms``: the window in which a crash may lose a record that nobody waited for."""

_LAST_ATTEMPTS = 0.8
"""Part of the time of `Writer.close` after which no commit is begun: the rest is for setting aside what is left."""

_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


class Writer(Committer):
    """Commits items to one log. All methods may be called from any thread; `commit` and `room` from any event loop."""

    def __init__(
        self,
        open_store: Callable[[], LogStore],
        seal: Sealer,
        encode: Encode,
        *,
        on_unencodable: Fallback | None = None,
        make_gap: MakeGap | None = None,
        make_pulse: Callable[[], Pulse] | None = None,
        open_spool: OpenSpool | None = None,
        make_replayed: MakeReplayed | None = None,
        custody: Custody | None = None,
        clock: Clock = time.time_ns,
        max_records: int = 4096,
        max_bytes: int = 8 * 2**20,
        linger_ms: float = 20,
        timeout_s: float = 5.0,
    ) -> None:
        """Starts nothing: the thread and the store are opened by the first record of each process.

        Args:
            open_store: Opens the log; called in the writer's thread, again after each failure and after a fork.
            seal: Computes and signs the next head; see `make_sealer`.
            encode: Turns an item into its entry. What it raises concerns that item alone.
            on_unencodable: Gives the entry for an item that ``encode`` refused; without it the record is lost.
            make_gap: Gives the item that tells of losses; without it they are only counted.
            make_pulse: Gives what makes heartbeats and watches the clock, once for each process; default: neither.
            open_spool: Gives the place where records wait while the store fails; without it they wait in memory.
            make_replayed: Gives the item that tells how many records came to the log by way of the spool.
            custody: Keeps the keys that ``encode`` needs for what is personal.
            clock: For ``recorded_at``, which never goes back within a process.
            max_records: Bound of all records in memory that are not committed.
            max_bytes: Size at which a batch takes no further record.
            linger_ms: Longest wait for company of a record that nobody waits for; 0 to 50. 0: none ever waits.
            timeout_s: How long `commit`, `submit_wait`, `room` and `close` wait by default.
        """
        if not 0 <= linger_ms <= MAX_LINGER_MS:
            raise ValueError(f"linger_ms is {linger_ms}, not 0 to {MAX_LINGER_MS}")
        make_batch = partial(Batch, encode, on_unencodable, make_gap, clock, max_bytes, self.lost, custody)
        outage = partial(Outage, open_spool, make_replayed)
        super().__init__(open_store, seal, make_batch, outage, make_pulse, max_records, linger_ms / 1000)
        self._clock = clock
        self._timeout = timeout_s
        _writers.add(self)
        atexit.register(_close_at_exit, weakref.ref(self))

    # --- the caller's side ---------------------------------------------------------------------------------------

    def submit(self, item: Any, *, reserve: bool = False) -> None:
        """Queues a record that nobody waits for. Never blocks.

        ``reserve`` opens as much room again as the queue has: for records of work that was admitted while there was
        room and is done now, so that it can no longer be refused.

        Raises:
            LogBusy: The queue is full. The record is the caller's again: wait for `room`, spool it, or call `lost`.
            LogUnavailable: The writer was closed.
        """
        if not self._put(item, None, self._max_records * (2 if reserve else 1)):
            raise LogBusy(f"{self._max_records} records wait for the log already")

    async def commit(self, item: Any, timeout_s: float | None = None, *, reserve: bool = False) -> Receipt:
        """Queues a record and waits until it is durable.

        If the awaiting task is cancelled or the time is over, a queued record is still written. ``reserve``: as for
        `submit`; the record is queued at once, or counted as lost.

        Raises:
            LogBusy: The queue stayed full, or the record was not durable in time; then it may still become so.
            RecordError: The record cannot be encoded, and there is no fallback.
            LogSpooled: The store failed. The record is in the spool.
            StoreError: The store failed. The record may or may not be in the log, and will be sent again.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout if timeout_s is None else timeout_s)
        waiter: asyncio.Future[Receipt] = loop.create_future()
        while not self._put(item, waiter, self._max_records * (2 if reserve else 1)):
            if reserve:
                self.lost("queue full")
                raise LogBusy(f"{self._max_records} records wait for the log already")
            await self.room(deadline - loop.time())
        receipt: Receipt = await wait_in_loop(waiter, deadline - loop.time(), "the record was not durable")
        return receipt

    def submit_wait(self, item: Any, timeout_s: float | None = None) -> Receipt:
        """Like `commit`, for threads without an event loop."""
        deadline = time.monotonic() + (self._timeout if timeout_s is None else timeout_s)
        waiter: ThreadFuture[Receipt] = ThreadFuture()
        while not self._put(item, waiter, self._max_records):
            room: ThreadFuture[None] = ThreadFuture()
            self._enter_room(room)
            wait_in_thread(room, deadline - time.monotonic(), "no room in the writer's queue")
        receipt: Receipt = wait_in_thread(waiter, deadline - time.monotonic(), "the record was not durable")
        return receipt

    async def room(self, timeout_s: float | None = None) -> None:
        """Waits until the queue takes a record. Raises `LogBusy` when the time is over."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enter_room(waiter)
        limit = self._timeout if timeout_s is None else timeout_s
        await wait_in_loop(waiter, limit, "no room in the writer's queue")

    def lost(self, cause: str, count: int = 1) -> None:
        """Says that records were given up, so that the log will tell of the gap."""
        now = self._clock()
        with self._guard:
            self._gap = (self._gap or Gap(0, now, now, ())).grown(count, now, cause)
            self._counters = replace(self._counters, dropped=self._counters.dropped + count)
        self._ensure_thread()
        if self._mode == IDLE:
            self._ring()

    @property
    def full(self) -> bool:
        """True when `submit` would raise `LogBusy`."""
        return self.backlog >= self._max_records

    def takes_records(self) -> bool:
        """Is the log `available`, and is there room in the queue? Asked at every request, so in one piece."""
        if self._outage.pause or self._keyless:
            return False
        since = self._committing_since
        if since is not None and time.monotonic() - since >= self._timeout:
            return False
        return len(self._queue) + len(self._batch.entries) < self._max_records

    @property
    def available(self) -> bool:
        """False while the log takes no records: the last commit failed, one has been hanging for too long, or what is
        personal cannot be sealed."""
        since = self._committing_since
        if self._outage.pause or self._keyless:
            return False
        return since is None or time.monotonic() - since < self._timeout

    @property
    def counters(self) -> Counters:
        """What was done so far in this process."""
        return self._counters

    def stop_beating(self) -> None:
        """No heartbeat is queued any more when this returns: what is submitted next may be the last record."""
        with self._guard:
            self._beats = False

    def close(self, timeout_s: float | None = None) -> int:
        """Writes what is queued, then stops the thread and closes the store.

        Returns the number of records that were not acknowledged in time; their waiters get `LogUnavailable`.
        """
        timeout_s = self._timeout if timeout_s is None else timeout_s
        self._give_up_at = time.monotonic() + timeout_s * _LAST_ATTEMPTS
        self._closing = True
        thread = self._thread
        if thread is not None:
            self._bell.put(None)
            thread.join(timeout_s)
        left = self.backlog
        queued = [one.waiter for one in list(self._queue) if type(one) is Awaited]
        waiters = [*self._batch.waiters, *queued, *list(self._rooms)]
        refuse(waiters, LogUnavailable("the writer was closed before the record was written"))
        return left

    def _put(self, item: Any, waiter: Waiter | None, bound: int) -> bool:
        """Queues an item; False if ``bound`` records are waiting already."""
        if self._thread is None:
            self._ensure_thread()
        if self._closing:
            raise LogUnavailable("the writer was closed")
        waiting = self._queue
        if len(waiting) + len(self._batch.entries) >= bound:
            return False
        if waiter is None:
            waiting.append(item)
        else:
            waiting.append(Awaited(item, waiter))
            self._urgent = True
        # The thread says what it sleeps for before it looks at the queue a last time, and we look at that after the
        # append: one of the two sees the other.
        mode = self._mode
        if mode == IDLE or (mode == LINGERING and (self._urgent or len(waiting) >= ENOUGH)):
            self._ring()
        return True

    def _ring(self) -> None:
        if self._bell.empty():  # else it will hear one that it has not heard yet, and look at the queue after that
            self._bell.put(None)

    def _enter_room(self, waiter: Waiter) -> None:
        self._rooms.append(waiter)
        self._open_rooms()  # a place may have come free before the thread could see us

    def _ensure_thread(self) -> None:
        if self._thread is None:  # after a fork, too: `_begin_anew`
            with self._guard:
                if self._thread is None and not self._closing:
                    self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
                    self._thread.start()


def _close_at_exit(reference: weakref.ref[Writer]) -> None:
    writer = reference()
    if writer is not None and writer._process == os.getpid():
        writer.close()


def _begin_anew() -> None:
    for writer in list(_writers):
        writer._outage.forget()
        writer._begin()


os.register_at_fork(after_in_child=_begin_anew)
