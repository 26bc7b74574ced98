"""One follower at work: reads, selects, delivers, moves its cursor.

The order of the steps, and what a crash after each leaves:

1. A batch is sent. *If we die here*: it is sent again, with the same ids.
2. What was rejected is put to the dead letters, durably, and told to the log. *If we die here*: both stand there twice.
3. The cursor is replaced, durably. *If we die here*: nothing is left to do.

A failure that may pass stops this follower only, for a pause that grows from ``first_pause`` to ``longest_pause`` with
jitter, and at least as long as the destination asked for. Nothing is kept in memory meanwhile: the log is read again
from the cursor. A library for this would hide the pause that `status` shows and that a stop must end; it is four lines.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import AuditError, FollowerError, Overtaken, StoreError
from ..ledger.tree import leaf_hash
from ..model import Json
from ..protocols import Clock, LogStore
from ..stores.opening import Place
from ..stores.shelf import Shelf
from ..stores.waiting import Polling, Watch
from . import metrics
from .config import FollowerSpec
from .cursor import Cursor, Position, position_at
from .deadletters import DeadLetters
from .showing import OpenPersons
from .sink import Item, Sink, Tell, Way

BATCH_BYTES = 4 * 2**20
"""A batch is sent when it has this size, however few records it has."""

_SCANNED = 20_000
"""Entries that are not selected, after which the cursor moves all the same."""

_LISTED = 32
"""Indexes that one control record lists."""

FAILED, LAGGED = "audit.delivery_failed", "audit.follower_lagged"
_ABOUT_DELIVERY = (FAILED, "audit.notified", "audit.notification_failed")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    items: tuple[Item, ...]
    until: Position


class _Later(Exception):
    """The rest must be tried again."""

    def __init__(self, why: str, after: float | None) -> None:
        super().__init__(why)
        self.after = after


class Follower:
    """Follows one log to one destination. `run` belongs to one thread; the rest may be asked from any."""

    def __init__(
        self,
        spec: FollowerSpec,
        store: LogStore,
        state: Path,
        tell: Tell,
        *,
        clock: Clock = time.time_ns,
        dice: random.Random | None = None,
        interval: float = 0.5,
        grace: float = 5.0,
        log: Place | None = None,
        now: int | None = None,
        kept: Shelf | None = None,
        watch: Watch | None = None,
        persons: OpenPersons | None = None,
    ) -> None:
        """``state`` is an existing directory; ``interval`` the seconds between two looks at a quiet log; ``grace``
        how long it may go on, to come to the end of the log, after it was told to stop; ``log`` is its directory;
        ``now`` the index at which the very first start with ``start: now`` begins, if not at the log's end of that
        moment; ``kept`` is where it keeps its place, default: files in ``state``; ``watch`` makes it look sooner;
        ``persons`` opens the persons' keys, where that is configured."""
        self.spec = spec
        self.attributes = {"audit.follower.name": spec.name, "audit.log.origin": store.origin}
        self._store, self._tell, self._clock = store, tell, clock
        self._showing = spec.showing(store, tell, persons)
        self._way = Way(store.origin, spec.name, state, tell, clock, log=log, kept=kept, named=self._showing.named)
        self._watch = watch or Polling()
        self._dice = dice or random.Random()  # noqa: S311 - jitter
        self._interval, self._grace, self._now = interval, grace, now
        self._cursor = Cursor(self._way.shelf, spec.name, store.origin)
        self._dead = DeadLetters(state / f"{spec.name}.dead.jsonl")
        self._position: Position | None = None
        self._sink: Sink | None = None
        self._oldest: str | None = None
        self._failures = 0
        self._told_problem = True  # perhaps, by whoever was here before
        self.problem: str | None = None

    def check(self) -> None:
        """Takes up the cursor, or makes it at the first start. Raises `FollowerError`, `StoreError`."""
        position = self._cursor.read()
        if position is None:
            base, end = self._store.base.size, self._store.head().size
            now = end if self._now is None else max(base, min(self._now, end))
            begin = base if self.spec.start == "beginning" else now
            position = position_at(self._store, begin)
            self._cursor.write(position)
        self._cursor.check(self._store, position)
        self._position = position

    def run(self, stop: threading.Event) -> None:
        """Works until stopped; then makes one more round, so that what the log has got is delivered if it can be."""
        metrics.running.add(self)
        try:
            while True:
                stopping = stop.is_set()  # looked at first: after the signal there is one more round
                pause = self._round(stop)
                if stopping:
                    return
                if self._failures:
                    stop.wait(pause)  # not sooner, however many entries come
                else:
                    self._watch.wait(stop, pause)
        finally:
            metrics.running.discard(self)
            self._watch.close()
            self._close()

    def lag(self) -> tuple[int, float]:
        """Entries to come past, and the age in seconds of the record that is being delivered."""
        position, oldest = self._position, self._oldest
        if position is None:
            return 0, 0.0
        with suppress(AuditError):
            return max(0, self._store.head().size - position[0]), age(oldest, self._clock())
        return 0, age(oldest, self._clock())

    def state(self) -> dict[str, Json]:
        """``next``: the index to deliver next; ``problem`` and how often in a row, if there is one."""
        position = self._position
        return {"next": position[0] if position else None, "problem": self.problem, "failures": self._failures}

    # --- one round ---------------------------------------------------------------------------------------------------

    def _round(self, stop: threading.Event) -> float:
        """Delivers what there is; the seconds to wait before the next round."""
        try:
            if self._position is None or self._failures:
                self.check()  # after a failure again: the log may have been replaced under our feet
            self._catch_up(stop)
        except Overtaken as problem:
            self._close()  # what the destination keeps may have been overtaken, too: it is read again
            return self._failed(str(problem))
        except _Later as later:
            return self._failed(str(later), later.after)
        except (AuditError, OSError) as error:
            return self._failed(str(error) if isinstance(error, AuditError) else self._system(error))
        # Broad on purpose: whatever a destination provokes, this thread must live to try again. The text may hold what
        # was sent, so it is not shown.
        except Exception as error:
            return self._failed(f"unexpected {type(error).__name__}")
        self._worked()
        return self._interval

    def _catch_up(self, stop: threading.Event) -> None:
        position = self._skip_pruned()
        size = self._store.head().size
        if position[0] > size:
            self._cursor.check(self._store, position)
        ends: float | None = None
        for batch in self._batches(position[0], size):
            self._deliver(batch)
            if stop.is_set():
                ends = ends or time.monotonic() + self._grace
                if time.monotonic() > ends:
                    return
        self._oldest = None
        if (problem := self._open().idle()) is not None:
            raise _Later(problem, None)

    def _skip_pruned(self) -> Position:
        assert self._position is not None
        base = self._store.base.size
        if self._position[0] < base:
            # They are gone, whatever we do; to stop here would only keep back what is still there.
            first = self._position[0]
            told = {"follower": self.spec.name, "first": first, "last": base - 1, "count": base - first}
            _log.error("%s: entries %d to %d were pruned before they were delivered", self.spec.name, first, base - 1)
            self._say(LAGGED, told)
            self._move((base, ""))
        return self._position

    def _batches(self, start: int, size: int) -> Iterator[_Batch]:
        items: list[Item] = []
        weight = scanned = 0
        until: Position | None = None
        last = b""
        for frame in self._store.frames(start, size) if start < size else ():
            for index, entry in enumerate(frame.entries, frame.first):
                if not start <= index < size:
                    continue
                item = self._showing.item(index, entry)
                if self.spec.selection.takes(item.logged):
                    items.append(item)
                    weight += len(entry)
                scanned, last, until = scanned + 1, entry, (index + 1, "")
                if len(items) >= self.spec.batch or weight >= BATCH_BYTES or scanned >= _SCANNED:
                    yield _Batch(tuple(items), (index + 1, leaf_hash(entry).hex()))
                    items, weight, scanned, until = [], 0, 0, None
        if until is not None:
            yield _Batch(tuple(items), (until[0], leaf_hash(last).hex()))

    def _deliver(self, batch: _Batch) -> None:
        left = batch.items
        if left:
            self._showing.begin()
            for item in left:
                _ = item.record  # made now: what cannot be opened is found out before half of a batch is sent
        while left:
            self._oldest = str(left[0].logged.get("recorded_at") or "") or None
            sent = self._open().send(left)
            done, left = left[: sent.settled], left[sent.settled :]
            self._settle(done, {item.index: sent.rejected[item.index] for item in done if item.index in sent.rejected})
            if done and left:
                self._move((done[-1].index + 1, leaf_hash(done[-1].entry).hex()))
            if sent.retry is not None:
                raise _Later(sent.retry, sent.after)
            if not done:
                raise FollowerError(f"{self.spec.name}: the destination settled nothing and gave no reason")
        self._move(batch.until)

    def _settle(self, done: Sequence[Item], rejected: Mapping[int, str]) -> None:
        if rejected:
            dead = [item for item in done if item.index in rejected]
            self._dead.add(dead, rejected, self._clock())
            metrics.rejected.add(len(dead), self.attributes)
            # A record of a delivery that cannot be delivered itself must not make another one, for ever.
            told = [item for item in dead if item.logged.get("action") not in _ABOUT_DELIVERY]
            if told:
                self._say(FAILED, self._failed_delivery(told, rejected))
        if len(done) > len(rejected):
            metrics.delivered.add(len(done) - len(rejected), self.attributes)

    def _failed_delivery(self, dead: Sequence[Item], why: Mapping[int, str]) -> dict[str, Json]:
        return {
            "follower": self.spec.name,
            "type": self.spec.type,
            "count": len(dead),
            "indexes": [item.index for item in dead[:_LISTED]],
            "actions": list(dict.fromkeys(str(item.logged.get("action")) for item in dead))[:8],
            "why": list(dict.fromkeys(why[item.index] for item in dead))[:8],
            "dead_letters": self._dead.path.name,
        }

    def _say(self, action: str, extra: Mapping[str, Json]) -> None:
        try:
            self._tell(action, extra)
        except AuditError as problem:
            _log.error("%s: the log does not hold the record %s: %s: %s", self.spec.name, action, problem, dict(extra))

    def _move(self, position: Position) -> None:
        if position != self._position:
            self._cursor.write(position)
            self._position = position

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    def _system(self, error: OSError) -> str:
        """A write that fails names no file: then it is one of the state's."""
        return f"{error.filename or self._way.state}: {error.strerror or type(error).__name__}"

    def _failed(self, problem: str, after: float | None = None) -> float:
        if problem != self.problem:
            _log.error("follower %s: %s; it will be tried again", self.spec.name, problem)
        self.problem, self._failures = problem, self._failures + 1
        metrics.failures.add(1, self.attributes)
        longest = self.spec.longest_pause
        pause = min(self.spec.first_pause * (1 << min(self._failures - 1, 32)), longest)
        pause = max(pause * self._dice.uniform(0.5, 1.0), after or 0.0)
        now = datetime.fromtimestamp(self._clock() / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = {"at": now, "problem": problem, "failures": self._failures, "next_try_s": round(pause, 3)}
        # It is in the application's log; a full disk must not end the thread.
        with suppress(OSError, StoreError):
            self._way.shelf.write(problem_name(self.spec.name), json.dumps(told).encode() + b"\n")
        return pause

    def _worked(self) -> None:
        if self.problem is not None:
            _log.warning("follower %s: goes on", self.spec.name)
            self._told_problem = True
        self.problem, self._failures = None, 0
        if self._told_problem:
            with suppress(OSError, StoreError):
                self._way.shelf.remove(problem_name(self.spec.name))
                self._told_problem = False

    def _open(self) -> Sink:
        if self._sink is None:
            self._sink = self.spec.destination.open(self._way)
        return self._sink

    def _close(self) -> None:
        sink, self._sink = self._sink, None
        with suppress(AuditError, OSError):
            self._showing.close()
        if sink is not None:
            # Broad on purpose: a connection that cannot be closed in order is closed by the process's end.
            with suppress(Exception):
                sink.close()


def problem_name(name: str) -> str:
    """Under which name the follower of this name keeps what is wrong, for `status`."""
    return f"{name}.problem.json"


def age(moment: str | None, now_ns: int) -> float:
    """Seconds since an RFC 3339 moment; 0 without one."""
    try:
        return max(0.0, now_ns / 1e9 - datetime.fromisoformat(moment).timestamp()) if moment else 0.0
    except ValueError:
        return 0.0
