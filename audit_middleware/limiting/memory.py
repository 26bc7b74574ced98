"""Limits of one process, in its memory. Other workers count by themselves: with four of them a limit is four times it.

The windows are the library's; where they are kept is ours. Its own memory storage reads the wall clock, so that a clock
set back would lock callers out until it has caught up; starts a task and a thread for its housekeeping; and asks and
counts in two steps. Here the clock is monotonic, nothing waits, and so every call is one step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from .window import Window, item, wait

__all__ = ["MemoryLimits"]

_SWEEP = 1024  # keys from which on those whose windows have passed are looked for


class MemoryLimits:
    """A `protocols.LimitStore` for one process. Never unavailable."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._windows = _Windows(monotonic)
        self._limiter = SlidingWindowCounterRateLimiter(self._windows)
        self._places: dict[str, set[str]] = {}
        self._lock = threading.Lock()  # several event loops in threads of one process may share a store

    async def hit(self, key: str, count: int, seconds: int) -> float:
        """As the protocol says."""
        rate = item(count, seconds)
        with self._lock:
            if await self._limiter.hit(rate, key):  # never suspends, so the lock is held for no longer than it takes
                return 0.0
            return wait(self._windows.state(rate.key_for(key), seconds), count, seconds)

    async def take(self, key: str, lease: str, places: int) -> bool:
        """As the protocol says."""
        with self._lock:
            taken = self._places.setdefault(key, set())
            if len(taken) < places:
                taken.add(lease)
                return True
            return False

    def give_back(self, key: str, lease: str) -> None:
        """As the protocol says."""
        with self._lock:
            taken = self._places.get(key)
            if taken is not None:
                taken.discard(lease)
                if not taken:
                    del self._places[key]

    async def close(self) -> None:
        """Nothing to release."""


class _Windows(MemoryStorage):
    """The library's sliding windows on a monotonic clock, each key with the window it began at its first request."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._now = monotonic
        self._counts: dict[str, tuple[float, int, int, int]] = {}  # begin of the running window, length, last, running
        self._sweep_at = _SWEEP

    def state(self, key: str, expiry: int) -> Window:
        """The two windows as they are now."""
        now = self._now()
        begin, _, last, running = self._counts.get(key, (now, expiry, 0, 0))
        passed = int((now - begin) / expiry)
        if passed:
            begin, last, running = begin + passed * expiry, running if passed == 1 else 0, 0
        left = begin + expiry - now
        return last, left, running, left + expiry

    async def get_sliding_window(self, key: str, expiry: int) -> Window:
        """As the library asks for it."""
        return self.state(key, expiry)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Counts ``amount`` requests, all or none."""
        last, left, running, _ = self.state(key, expiry)
        if int(last * left / expiry) + running + amount > limit:
            return False
        if key not in self._counts and len(self._counts) >= self._sweep_at:
            self._sweep()
        self._counts[key] = (self._now() + left - expiry, expiry, last, running + amount)
        return True

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forgets a key."""
        self._counts.pop(key, None)

    def _sweep(self) -> None:
        """Forgets what no decision depends on any more; seldom enough that its cost is shared by many requests."""
        now = self._now()
        self._counts = {key: kept for key, kept in self._counts.items() if now - kept[0] < 2 * kept[1]}
        self._sweep_at = max(_SWEEP, 2 * len(self._counts))
