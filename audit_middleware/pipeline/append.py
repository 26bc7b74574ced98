"""The writer: takes items from any number of event loops and threads, and commits them to the log in batches.

One daemon thread per process does the slow part. Nothing on the request's path waits for a lock or a disk unless it
asked to: `Writer.submit` is an append to a deque.

How long a record waits:

* while a commit is in progress, records gather for the next one: under load, batching costs no waiting at all;
* when the thread is idle and nobody waits for the record, it lingers up to ``linger_ms`` for others to come; a waiter,
  or 64 queued records, end that at once.

What happens when the store fails (sequencing is the store's; this only repeats):

* the waiters of the batch get the error; they do not know whether their record is there;
* the batch is kept, byte for byte, and sent again after the store was opened anew, with growing pauses, without looking
  up whether the first attempt did reach the log. A record may therefore be there twice, with the same ``action_id``
  and ``sequence``: duplicates are harmless and marked when read, losses are not;
* what is submitted meanwhile is queued behind it until the queue is full; then `LogBusy` tells the caller, who waits
  for room, spools, or calls `Writer.lost`;
* whatever was lost is told to the log by a gap record: the first thing written after what was kept.

If the process dies here: records that were submitted and not yet committed are gone. Who cannot accept that awaits
`Writer.commit`. After a fork the child starts with an empty queue, its own thread, store and sequence; what was queued
at the time of the fork belongs to the parent.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..errors import LogBusy, LogUnavailable, StoreError
from ..ledger import checkpoint, tree
from ..model import Head, Receipt
from ..protocols import Clock, LogStore, Sealer, Signer
from .batch import Batch, Encode, Fallback, Gap, MakeGap
from .waiting import Waiter, refuse, resolve, wait_in_loop, wait_in_thread

ENOUGH = 64
"""So many queued records are worth a commit of their own."""

MAX_LINGER_MS = 50
"""Bound of ``linger_ms``: the window in which a crash may lose a record that nobody waited for."""

_FIRST_PAUSE, _LONGEST_PAUSE, _CLOSING_PAUSE = 0.05, 5.0, 0.25

_SILENCE = 30.0
"""Seconds before the same failure is logged again: an outage must not fill the application's log."""

# What the thread is about to sleep for; a submitter rings the bell only if that is what the thread waits for.
_AWAKE, _IDLE, _LINGERING = range(3)

_log = logging.getLogger(__name__)
_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Counters:
    """What a writer has done in this process. ``failed`` and ``batches`` count commits, the others records."""

    written: int = 0
    failed: int = 0
    dropped: int = 0
    batches: int = 0


def make_sealer(origin: str, signers: Sequence[Signer]) -> Sealer:
    """Returns what turns a batch into the next head: leaf hashes, the grown tree, one signed checkpoint."""

    def seal(head: Head, entries: Sequence[bytes]) -> Head:
        size, peaks = tree.append(head.size, head.peaks, map(tree.leaf_hash, entries))
        return Head(size, peaks, checkpoint.sign_checkpoint(origin, size, peaks, signers))

    return seal


class Writer:
    """Commits items to one log. All methods may be called from any thread; `commit` and `room` from any event loop."""

    def __init__(
        self,
        open_store: Callable[[], LogStore],
        seal: Sealer,
        encode: Encode,
        *,
        on_unencodable: Fallback | None = None,
        make_gap: MakeGap | None = None,
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
            clock: For ``recorded_at``, which never goes back within a process.
            max_records: Bound of all records in memory that are not committed.
            max_bytes: Size at which a batch takes no further record.
            linger_ms: Longest wait for company of a record that nobody waits for; 0 to 50.
            timeout_s: How long `commit`, `submit_wait`, `room` and `close` wait by default.
        """
        if not 0 <= linger_ms <= MAX_LINGER_MS:
            raise ValueError(f"linger_ms is {linger_ms}, not 0 to {MAX_LINGER_MS}")
        self._open_store = open_store
        self._seal = seal
        self._make_batch = partial(Batch, encode, on_unencodable, make_gap, clock, max_bytes, self.lost)
        self._clock = clock
        self._max_records = max_records
        self._linger = linger_ms / 1000
        self._timeout = timeout_s
        self._begin()
        _writers.add(self)
        atexit.register(_close_at_exit, weakref.ref(self))

    def _begin(self) -> None:
        """Sets the state that belongs to one process."""
        self._process = os.getpid()
        self._guard = threading.Lock()  # for starting the thread, the gap and the counters; nothing waits under it
        self._thread: threading.Thread | None = None
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._mode = _AWAKE
        self._urgent = False
        self._queue: deque[tuple[Any, Waiter | None]] = deque()
        self._rooms: deque[Waiter] = deque()
        self._closing = False
        self._give_up_at = float("inf")
        self._gap: Gap | None = None
        self._counters = Counters()
        # Only the thread writes what follows.
        self._store: LogStore | None = None
        self._batch = self._make_batch()
        self._told = ""
        self._silent_until = 0.0
        self._pause = 0.0
        self._committing_since: float | None = None

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

    async def commit(self, item: Any, timeout_s: float | None = None) -> Receipt:
        """Queues a record and waits until it is durable.

        If the awaiting task is cancelled or the time is over, a queued record is still written.

        Raises:
            LogBusy: The queue stayed full, or the record was not durable in time; then it may still become so.
            RecordError: The record cannot be encoded, and there is no fallback.
            StoreError: The store failed. The record may or may not be in the log, and will be sent again.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout if timeout_s is None else timeout_s)
        waiter: asyncio.Future[Receipt] = loop.create_future()
        while not self._put(item, waiter, self._max_records):
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
            gap = self._gap or Gap(0, now, now, ())
            causes = gap.causes if cause in gap.causes else (*gap.causes, cause)
            self._gap = Gap(gap.count + count, min(gap.first_ns, now), max(gap.last_ns, now), causes)
            self._counters = replace(self._counters, dropped=self._counters.dropped + count)
        self._ensure_thread()
        if self._mode == _IDLE:
            self._bell.put(None)

    @property
    def full(self) -> bool:
        """True when `submit` would raise `LogBusy`."""
        return self.backlog >= self._max_records

    @property
    def backlog(self) -> int:
        """Records in memory that are not committed."""
        return len(self._queue) + len(self._batch)

    @property
    def available(self) -> bool:
        """False while the log takes no records: the last commit failed, or one has been hanging for too long."""
        since = self._committing_since
        return not self._pause and (since is None or time.monotonic() - since < self._timeout)

    @property
    def counters(self) -> Counters:
        """What was done so far in this process."""
        return self._counters

    def close(self, timeout_s: float | None = None) -> int:
        """Writes what is queued, then stops the thread and closes the store.

        Returns the number of records that were not acknowledged in time; their waiters get `LogUnavailable`.
        """
        timeout_s = self._timeout if timeout_s is None else timeout_s
        self._give_up_at = time.monotonic() + timeout_s
        self._closing = True
        thread = self._thread
        if thread is not None:
            self._bell.put(None)
            thread.join(timeout_s)
        left = [*self._batch.waiters, *(waiter for _, waiter in list(self._queue))]
        refuse([*left, *list(self._rooms)], LogUnavailable("the writer was closed before the record was written"))
        return len(left)

    def _put(self, item: Any, waiter: Waiter | None, bound: int) -> bool:
        """Queues an item; False if ``bound`` records are waiting already."""
        self._ensure_thread()
        if self._closing:
            raise LogUnavailable("the writer was closed")
        waiting = self._queue
        if len(waiting) + len(self._batch) >= bound:
            return False
        waiting.append((item, waiter))
        if waiter is not None:
            self._urgent = True
        # The thread says what it sleeps for before it looks at the queue a last time, and we look at that after the
        # append: one of the two sees the other.
        mode = self._mode
        if mode == _IDLE or (mode == _LINGERING and (self._urgent or len(waiting) >= ENOUGH)):
            self._bell.put(None)
        return True

    def _enter_room(self, waiter: Waiter) -> None:
        self._rooms.append(waiter)
        self._open_rooms()  # a place may have come free before the thread could see us

    def _ensure_thread(self) -> None:
        if self._process != os.getpid():
            self._begin()  # forked by code that does not run Python's handlers
        if self._thread is None:
            with self._guard:
                if self._thread is None and not self._closing:
                    self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
                    self._thread.start()

    # --- the thread's side ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._pause_over() and self._wait_for_work():
            self._linger_for_company()
            self._urgent = False
            with self._guard:
                gap, self._gap = self._gap, None
            self._batch.fill(self._queue, gap)
            if self._batch:
                self._commit()
            self._open_rooms()
        self._drop_store()

    def _pause_over(self) -> bool:
        """After a failed commit: waits before the next attempt. False when the writer is to give up."""
        until = time.monotonic() + self._pause
        while not self._closing and (left := until - time.monotonic()) > 0:
            self._hear_bell(left)
        if self._pause and self._closing:
            time.sleep(max(0.0, min(self._pause, _CLOSING_PAUSE, self._give_up_at - time.monotonic())))
        return time.monotonic() < self._give_up_at

    def _wait_for_work(self) -> bool:
        """Waits until there is something to write. False when there is not, and the writer is closing."""
        while not (self._batch or self._queue or self._gap):
            if self._closing:
                return False
            self._mode = _IDLE
            if not (self._queue or self._gap or self._closing):
                self._hear_bell(None)
            self._mode = _AWAKE
        return True

    def _linger_for_company(self) -> None:
        until = time.monotonic() + self._linger
        self._mode = _LINGERING
        while not self._worth_it() and (left := until - time.monotonic()) > 0:
            self._hear_bell(left)
        self._mode = _AWAKE

    def _worth_it(self) -> bool:
        return bool(self._urgent or self._batch or self._closing or len(self._queue) >= ENOUGH)

    def _hear_bell(self, seconds: float | None) -> None:
        with contextlib.suppress(queue.Empty):
            self._bell.get(timeout=seconds)

    def _commit(self) -> None:
        batch = self._batch
        self._committing_since = time.monotonic()
        try:
            if self._store is None:
                self._store = self._open_store()
            store = self._store
            head = store.append(batch.entries, self._seal)
        # Broad on purpose: a store or signer of any kind may fail in any way; the thread must live and keep the batch.
        except Exception as error:
            self._keep_batch(error)
            return
        finally:
            self._committing_since = None
        self._pause = 0.0
        count = len(batch)
        receipts = list(batch.receipts(store.origin, head.size - count))
        batch.clear()
        with self._guard:
            done = self._counters
            self._counters = replace(done, written=done.written + count, batches=done.batches + 1)
        resolve(receipts)

    def _keep_batch(self, error: Exception) -> None:
        """After a failed commit: tells the waiters, and keeps the entries for the next attempt."""
        now = time.monotonic()
        if str(error) != self._told or now >= self._silent_until:
            _log.error("the log takes no records: %s", error)
            self._told, self._silent_until = str(error), now + _SILENCE
        self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        with self._guard:
            self._counters = replace(self._counters, failed=self._counters.failed + 1)
        if not isinstance(error, LogBusy):
            self._drop_store()  # poisoned; the next attempt opens the log anew, which verifies its end
        refuse(self._batch.give_up_waiters(), error)

    def _drop_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(StoreError, OSError):
                store.close()

    def _open_rooms(self) -> None:
        free = self._max_records - self.backlog
        opened: list[tuple[Waiter, None]] = []
        with contextlib.suppress(IndexError):  # no more, or another thread was faster
            while len(opened) < free:
                opened.append((self._rooms.popleft(), None))
        resolve(opened)


def _close_at_exit(reference: weakref.ref[Writer]) -> None:
    writer = reference()
    if writer is not None and writer._process == os.getpid():
        writer.close()


def _begin_anew() -> None:
    for writer in list(_writers):
        writer._begin()


os.register_at_fork(after_in_child=_begin_anew)
