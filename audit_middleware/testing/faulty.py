"""A store that fails when it is told to: before a batch is there, or after it, which a caller cannot tell apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ..errors import EntriesPruned, LogUnavailable
from ..model import Frame, Head
from ..protocols import KnowsCommits, LogStore, Sealer

Method = Literal["append", "head", "frames"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Fault:
    error: Exception | None
    after: bool
    delay: float


class Faults:
    """Which calls fail, and how. Calls of each method are counted from 1, over all stores that share this plan, so that
    it also holds for a writer that opens its store anew after each failure. Safe to use from any thread.

    Attributes:
        calls: How often each method was called.
    """

    def __init__(self) -> None:
        """Nothing fails."""
        self.calls: dict[Method, int] = {"append": 0, "head": 0, "frames": 0}
        self._planned: dict[tuple[Method, int], _Fault] = {}
        self._always: dict[Method, _Fault] = {}
        self._lock = threading.Lock()

    def fail(self, *calls: int, method: Method = "append", error: Exception | None = None) -> None:
        """These calls raise and do nothing; without numbers, all from now on until `heal`."""
        self._plan(method, calls, _Fault(error or LogUnavailable("a planned fault: nothing was written"), False, 0))

    def lose_answer(self, *calls: int, method: Method = "append", error: Exception | None = None) -> None:
        """These calls do their work and then raise: after an append the batch is there, and the caller cannot know."""
        self._plan(method, calls, _Fault(error or LogUnavailable("a planned fault: the answer is lost"), True, 0))

    def delay(self, seconds: float, *calls: int, method: Method = "append") -> None:
        """These calls take so much longer."""
        self._plan(method, calls, _Fault(None, False, seconds))

    def heal(self) -> None:
        """Nothing fails any more."""
        with self._lock:
            self._planned.clear()
            self._always.clear()

    @property
    def failing(self) -> bool:
        """True while every append fails: until `heal`."""
        fault = self._always.get("append")
        return fault is not None and fault.error is not None

    def run(self, method: Method, work: Callable[[], T]) -> T:
        """One call of a method, with what is planned for it."""
        with self._lock:
            self.calls[method] += 1
            fault = self._planned.get((method, self.calls[method])) or self._always.get(method)
        if fault is None:
            return work()
        time.sleep(fault.delay)
        if fault.error is not None and not fault.after:
            raise fault.error
        result = work()
        if fault.error is not None:
            raise fault.error
        return result

    def _plan(self, method: Method, calls: Sequence[int], fault: _Fault) -> None:
        with self._lock:
            for call in calls:
                self._planned[method, call] = fault
            if not calls:
                self._always[method] = fault


class FaultyStore:
    """A `LogStore` around another one; what goes wrong is in its plan::

    faults = Faults()
    faults.fail(2)          # the second append raises, nothing is written
    faults.lose_answer(3)   # the third append is written, and raises
    writer = Writer(lambda: FaultyStore(JournalStore.open(path), faults), seal, encode)
    """

    def __init__(self, store: LogStore, faults: Faults) -> None:
        """``faults`` may be shared by many stores and changed at any time."""
        self._store = store
        self._faults = faults

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._store.origin

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        """Appends a batch, or fails as planned."""
        return self._faults.run("append", lambda: self._store.append(entries, seal))

    @property
    def base(self) -> Head:
        """As the store inside."""
        return self._store.base

    def head(self) -> Head:
        """Returns the newest head, or fails as planned."""
        return self._faults.run("head", self._store.head)

    def has_commit(self, head: Head) -> bool:
        """As the store inside; by reading, where that does not know by itself."""
        if isinstance(self._store, KnowsCommits):
            return self._store.has_commit(head)
        try:
            return any(frame.head == head for frame in self.frames(head.size - 1, head.size))
        except EntriesPruned:
            return True

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        """Yields the commits, or fails as planned before the first."""
        return self._faults.run("frames", lambda: self._store.frames(start, stop))

    def close(self) -> None:
        """Closes the store behind."""
        self._store.close()
