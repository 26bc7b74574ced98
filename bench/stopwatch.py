"""Times real functions in place: each is replaced by a wrapper, and what it takes without the wrapped ones below it is
added up under the name of its step.

The clock may be the thread's processor time, which does not count other programs and other threads, but costs a system
call each time, or the wall clock, which is cheap. What the wrappers themselves cost is measured first, and taken off.
"""

from __future__ import annotations

import functools
import inspect
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

Clock = Callable[[], int]


class Stopwatch:
    """Self time by step, for one thread: the first that calls a wrapped function after `begin`."""

    def __init__(self, clock: Clock = time.thread_time_ns) -> None:
        self._clock = clock
        self._thread: int | None = None
        self._running = False
        self._undo: list[tuple[Any, str, Any]] = []
        self._stack: list[list[int]] = []  # of each running call: ns and number of wrapped calls below it
        self._spent: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._inside, self._outside = 0.0, 0.0
        self._inside, self._outside = self._calibrate()

    # --- placing -------------------------------------------------------------------------------------------------

    def watch(self, owner: Any, name: str, step: str) -> None:
        """Replaces a function of a module, class or object until `restore`."""
        original = inspect.getattr_static(owner, name)
        self._undo.append((owner, name, original if name in vars(owner) else None))
        setattr(owner, name, self.wrapped(getattr(owner, name), step))

    def restore(self) -> None:
        """Puts everything back."""
        while self._undo:
            owner, name, original = self._undo.pop()
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

    def wrapped(self, function: Callable[..., Any], step: str) -> Callable[..., Any]:
        """A function that tells its time."""
        enter, leave, mine = self._enter, self._leave, self._mine

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                if not mine():
                    return await function(*args, **kwargs)
                started = enter()
                try:
                    return await function(*args, **kwargs)
                finally:
                    leave(step, started)

            return awaited

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if not mine():
                return function(*args, **kwargs)
            started = enter()
            try:
                return function(*args, **kwargs)
            finally:
                leave(step, started)

        return called

    def _mine(self) -> bool:
        if not self._running:
            return False
        if self._thread is None:
            self._thread = threading.get_ident()
        return self._thread == threading.get_ident()

    def _enter(self) -> int:
        self._stack.append([0, 0])
        return self._clock()

    def _leave(self, step: str, started: int) -> None:
        took = self._clock() - started
        below, calls = self._stack.pop()
        self._spent[step] += round(took - below - self._inside - calls * self._outside)
        self._calls[step] += 1
        if self._stack:
            above = self._stack[-1]
            above[0] += took
            above[1] += 1

    # --- reading -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Forgets what was seen; counts from now on."""
        self._spent.clear()
        self._calls.clear()
        self._running = True

    def end(self, times: int) -> dict[str, float]:
        """Microseconds by step, of each of so many requests or records since `begin`. Never below zero."""
        self._running = False
        return {step: max(0.0, spent / times / 1e3) for step, spent in self._spent.items()}

    def calls(self, times: int) -> dict[str, float]:
        """How often each step's functions were called, for each request or record."""
        return {step: count / times for step, count in self._calls.items()}

    def _calibrate(self) -> tuple[float, float]:
        """What a wrapper adds to the time of its own function, and to that of its caller besides; nanoseconds."""

        def nothing() -> None: ...

        watched, count = self.wrapped(nothing, "nothing"), 2000
        inside, outside = [], []
        for _ in range(15):
            self.begin()
            started = self._clock()
            for _ in range(count):
                nothing()
            bare = (self._clock() - started) / count
            started = self._clock()
            for _ in range(count):
                watched()
            whole = (self._clock() - started) / count
            inside.append(self._spent["nothing"] / count - bare)
            outside.append(whole - self._spent["nothing"] / count)
            self.end(1)
        self._thread = None
        return statistics.median(inside), statistics.median(outside)
