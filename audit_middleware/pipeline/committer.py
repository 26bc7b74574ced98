"""The writer's thread: takes what is queued, commits it in batches, and copes with a log that takes none.

`append.Writer` is the side of it that callers see, and says what is promised.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from ..errors import EntriesPruned, LogBusy, LogDamaged, LogForked, LogUnavailable, StoreError
from ..model import Head
from ..privacy.guarding import KEY_ERRORS
from ..protocols import KnowsCommits, LogStore, Sealer
from .batch import Batch, Counters, Gap
from .company import Company
from .outage import Outage
from .pulse import Pulse
from .waiting import Awaited, Waiter, refuse, resolve

ENOUGH = 256
"""So many queued records are worth a commit of their own: more of them save next to nothing."""

_TURN = 0.000_05
"""Seconds of sleep that give it away; a sleep of 0 takes it back before anybody else has woken up."""

_TURNS = 0.03
"""Seconds after which no more turns are given: a loop that never sleeps may keep the interpreter for 5 ms each time."""

_CLOSING_PAUSE = 0.25
_LOOK = 0.05  # seconds between two looks at the queue while keys are missing

# What the thread is about to sleep for; a submitter rings the bell only if that is what the thread waits for.
AWAKE, IDLE, LINGERING = range(3)


def refuse_other_history(store: LogStore, known: Head) -> None:
    """Raises unless the log still has the commit that ended with this head.

    Raises:
        LogDamaged: The log is shorter.
        LogForked: It has another commit there.
    """
    if not known.size:
        return
    size = store.head().size
    if size < known.size:
        raise LogDamaged(
            f"{store.origin}: the log ends at size {size}, but this process has committed size {known.size}: it was "
            "replaced by an older copy or truncated. Restore the newest copy; nothing is written until then"
        )
    if not has_commit(store, known):
        raise LogForked(
            f"{store.origin}: the log has another history at size {known.size} than the one that this process "
            "committed: it was replaced. Restore the right copy; nothing is written until then"
        )


def has_commit(store: LogStore, head: Head) -> bool:
    """Whether a log holds the commit that ended with this head, or has pruned it."""
    if isinstance(store, KnowsCommits):
        return store.has_commit(head)
    try:
        return any(frame.head == head for frame in store.frames(head.size - 1, head.size))
    except EntriesPruned:
        return True


class Committer:
    """One daemon thread per process and what it shares with its callers."""

    def __init__(
        self,
        open_store: Callable[[], LogStore],
        seal: Sealer,
        make_batch: Callable[[], Batch],
        make_outage: Callable[[], Outage],
        make_pulse: Callable[[], Pulse] | None,
        max_records: int,
        linger: float,
    ) -> None:
        """See `append.Writer`; ``linger`` is in seconds. The thread starts with the first record."""
        self._open_store = open_store
        self._seal = seal
        self._make_batch = make_batch
        self._make_outage = make_outage
        self._make_pulse = make_pulse
        self._max_records = max_records
        self._linger = linger
        self._known = Head()  # the newest head that this process, or the one it was forked from, was told of
        self._begin()

    def _begin(self) -> None:
        """Sets the state that belongs to one process."""
        self._process = os.getpid()
        self._guard = threading.Lock()  # for starting the thread, the gap and the counters; nothing waits under it
        self._thread: threading.Thread | None = None
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._mode = AWAKE
        self._urgent = False
        self._queue: deque[Any] = deque()  # items, and those that are `Awaited`
        self._rooms: deque[Waiter] = deque()
        self._closing = False
        self._last_try = False
        self._give_up_at = float("inf")
        self._gap: Gap | None = None
        self._counters = Counters()
        self._pulse = self._make_pulse() if self._make_pulse else None
        self._beats = self._pulse is not None and self._pulse.interval_s > 0
        # Only the thread writes what follows.
        self._quiet_since = time.monotonic()
        self._company = Company(self._linger)
        self._store: LogStore | None = None
        self._batch = self._make_batch()
        self._outage = self._make_outage()
        self._committing_since: float | None = None
        self._keyless = False  # what is personal cannot be sealed

    @property
    def backlog(self) -> int:
        """Records in memory that are not committed."""
        return len(self._queue) + len(self._batch)

    def _run(self) -> None:
        self._outage.begin()
        while self._pause_over() and self._wait_for_work():
            if self._outage.pending:
                self._replay()
                continue
            self._linger_for_company()
            if self._fill() and self._batch:
                self._commit()
            self._open_rooms()
        if self._batch or self._queue or self._gap:
            self._set_all_aside()  # out of time, behind a long spool or a slow store: the next process sends it
        self._outage.close()
        self._batch.close()
        self._drop_store()

    def _fill(self, *, withholds: bool = False) -> bool:
        """Makes entries of what is queued; False where keys are missing for what is personal in it. Event loops get
        their turns in between, unless somebody waits for us."""
        urgent, self._urgent = self._urgent, False
        with self._guard:
            gap, self._gap = self._gap, None
        self._look_at_clock()
        self._company.taken(len(self._queue))
        until = time.monotonic() + _TURNS

        def turn() -> None:
            if not (urgent or self._urgent or self._closing) and time.monotonic() < until:
                time.sleep(_TURN)

        try:
            self._batch.fill(self._queue, gap, withholds=withholds, turn=turn)
        except KEY_ERRORS as error:
            self._keyless = True
            self._outage.failed(error)
            self._count(failed=1)
            self._refuse_queued()
            return False
        if not withholds:
            self._keyless = False
        return True

    def _refuse_queued(self) -> None:
        """Nobody waits for a record that cannot be sealed; it stays in the queue."""
        waiters = []
        for at, queued in enumerate(list(self._queue)):  # others only append
            if type(queued) is Awaited:
                self._queue[at] = queued.item
                waiters.append(queued.waiter)
        if waiters:
            refuse(waiters, LogUnavailable(f"the record waits: {self._outage.problem}"))

    @property
    def _pressed(self) -> bool:
        """Must records leave the memory, even without what is personal in them?"""
        return self._closing or self.backlog >= self._max_records // 2

    def _pause_over(self) -> bool:
        """After a failed commit: waits before the next attempt, and sets aside what comes meanwhile. False when the
        writer is to give up."""
        outage = self._outage
        until = time.monotonic() + outage.pause
        spooling = outage.has_spool
        while not self._closing and (left := until - time.monotonic()) > 0:
            if self._keyless and not self._pressed:
                self._refuse_queued()
                self._hear_bell(min(left, _LOOK))
            elif spooling and (self._batch or self._queue or self._gap):
                spooling = self._set_aside()
            else:
                self._sleep(left) if spooling else self._hear_bell(left)
        if outage.pause and self._closing:
            if self._last_try and self._set_all_aside():
                return False  # the next process sends what waits
            self._last_try = True
            time.sleep(max(0.0, min(outage.pause, _CLOSING_PAUSE, self._give_up_at - time.monotonic())))
        return time.monotonic() < self._give_up_at

    def _set_aside(self) -> bool:
        """Moves what waits in memory to the spool; False where that fails."""
        filled = self._fill(withholds=True) if self._keyless and self._pressed else self._fill()
        if not filled and not (self._pressed and self._fill(withholds=True)):
            return False
        count = len(self._batch)
        if count and not self._outage.set_aside(self._batch):
            return False
        self._count(spooled=count)
        self._open_rooms()
        return True

    def _set_all_aside(self) -> bool:
        """When a process ends in an outage: leaves what the log did not take to the next process, if it can."""
        spooling = self._outage.has_spool
        while spooling and (self._batch or self._queue or self._gap):
            spooling = self._set_aside()
        return spooling

    def _replay(self) -> None:
        """Sends what waits longest; what comes meanwhile waits behind it, in memory or in the spool."""
        told = self._outage.replay(self._append)
        if told is not None:
            self._queue.append(told)
        elif self.backlog >= self._max_records // 2:
            self._set_aside()

    def _wait_for_work(self) -> bool:
        """Waits until there is something to write. False when there is not, and the writer is closing."""
        while not (self._batch or self._queue or self._gap or self._outage.pending):
            if self._closing:
                return False
            self._sleep(self._until_beat())
            self._company.begin()
            self._beat_if_due()
        return True

    def _until_beat(self) -> float | None:
        """Seconds of silence that are left before a heartbeat; ``None``: there is none."""
        return self._pulse.left(self._quiet_since) if self._beats and self._pulse else None

    def _beat_if_due(self) -> None:
        with self._guard:  # against `stop_beating`
            if self._pulse and self._until_beat() == 0 and not (self._queue or self._gap or self._closing):
                self._queue.append(self._pulse.beat())

    def _look_at_clock(self) -> None:
        if self._pulse and (told := self._pulse.step()) is not None:
            self._queue.appendleft(told)  # before the first record with the new time

    def _sleep(self, seconds: float | None) -> None:
        """Until something is queued, or the time is over."""
        self._mode = IDLE
        if not (self._queue or self._gap or self._closing):
            self._hear_bell(seconds)
        self._mode = AWAKE

    def _linger_for_company(self) -> None:
        while (left := self._company.left()) > 0:
            self._mode = LINGERING  # again after each bell: it may be of one who had seen us idle
            if self._worth_it():
                break
            self._hear_bell(left)
        self._mode = AWAKE

    def _worth_it(self) -> bool:
        return bool(self._urgent or self._batch or self._closing or len(self._queue) >= ENOUGH)

    def _hear_bell(self, seconds: float | None) -> None:
        with contextlib.suppress(queue.Empty):
            self._bell.get(timeout=seconds)

    def _commit(self) -> None:
        batch = self._batch
        head = self._append(batch.entries)
        if head is None:
            return
        count = len(batch)
        receipts = list(batch.receipts(self._origin, head.size - count))
        batch.clear()
        resolve(receipts)
        batch.acknowledged()

    def _append(self, entries: list[bytes]) -> Head | None:
        """One commit; ``None`` where it failed."""
        self._committing_since = time.monotonic()
        try:
            if self._store is None:
                self._store = self._opened()
                self._origin = self._store.origin
            head = self._store.append(entries, self._seal)
        # Broad on purpose: a store or signer of any kind may fail in any way; the thread must live and keep the batch.
        except Exception as error:
            self._failed(error)
            return None
        finally:
            self._committing_since = None
        self._known = head
        if not self._keyless:
            self._outage.over()
        self._quiet_since = time.monotonic()
        self._count(written=len(entries), batches=1)
        return head

    def _opened(self) -> LogStore:
        """Opens the log, after a failure anew. A store forgets with its end what it has seen; this process does not."""
        store = self._open_store()
        try:
            refuse_other_history(store, self._known)
        except BaseException:
            store.close()
            raise
        return store

    def _failed(self, error: Exception) -> None:
        """After a failed commit: keeps the entries for the next attempt, and tells the waiters."""
        self._outage.failed(error)
        self._count(failed=1)
        if not isinstance(error, LogBusy):
            self._drop_store()  # poisoned; the next attempt opens the log anew, which verifies its end
        if not (self._outage.has_spool and self._set_aside()):
            refuse(self._batch.give_up_waiters(), error)

    def _count(self, **more: int) -> None:
        with self._guard:
            done = self._counters
            self._counters = replace(done, **{name: getattr(done, name) + count for name, count in more.items()})

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
