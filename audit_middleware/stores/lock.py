"""The lock that makes many processes and threads one sequencer: flock on a file, and a mutex among threads.

flock and not fcntl: fcntl locks vanish when any descriptor of the file is closed and do not exclude threads. A flock
belongs to the *open file description*, which parent and child share after a fork: both would "hold" it. So the
descriptor is opened lazily in each process, and a child forgets its parent's (never unlocking it: that would free the
parent's lock under its feet).

If the holder dies here: the kernel drops the lock with the last descriptor; what the holder left in the journal is the
next holder's business (`tail`).

There is no flock with a time limit. Without a limit the kernel queues the waiters, which is fair and quick: four busy
processes see a 99th percentile of 6 ms. With a limit a waiter tries, naps and tries again: 10 to 15 ms.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from ..errors import LogBusy, LogUnavailable

_SHORTEST_NAP = 0.000_05
_LONGEST_NAP = 0.000_5


class ProcessLock:
    """An exclusive lock on one file, for processes that each hold it for about a millisecond."""

    def __init__(self, path: Path, busy: str = "other processes or threads held the log's lock all the time") -> None:
        """``busy`` says what it means that somebody else has it."""
        self._path = path
        self._said = busy
        self._mutex = Lock()
        self._descriptor: int | None = None

    @contextlib.contextmanager
    def held(self, timeout: float | None) -> Iterator[None]:
        """Holds the lock.

        Raises:
            LogBusy: It did not come free within ``timeout`` seconds (``None``: no limit).
            LogUnavailable: The lock file cannot be used.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        mutex = self._mutex  # the object this thread takes is the one it gives back, whatever a fork replaces
        if not mutex.acquire(timeout=-1 if timeout is None else timeout):
            raise self._busy()
        try:
            descriptor = self._take_or_forget(deadline)
            try:
                yield
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            mutex.release()

    def _take_or_forget(self, deadline: float) -> int:
        try:
            return self._take(deadline)
        except OSError as error:
            self.forget()  # the lock may be held already; only closing its descriptor is sure to free it
            raise LogUnavailable(f"{self._path}: {error.strerror}") from error

    def _take(self, deadline: float) -> int:
        while True:
            descriptor = self._open()
            if deadline == float("inf"):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                self._try_until(deadline, descriptor)
            if self._is_current(descriptor):
                return descriptor
            # Someone replaced the file (a restored backup): a lock on the old one excludes nobody.
            self.forget()

    def _try_until(self, deadline: float, descriptor: int) -> None:
        nap = _SHORTEST_NAP
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise self._busy() from None
            time.sleep(nap)
            nap = min(nap * 1.5, _LONGEST_NAP)

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        ours = os.fstat(descriptor)
        return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)

    def _busy(self) -> LogBusy:
        return LogBusy(f"{self._path}: {self._said}")

    def forget(self) -> None:
        """Closes the descriptor; the next use opens a new one. Frees the lock if this process alone holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def after_fork(self) -> None:
        """In a child: lets go of what belongs to the parent. Closing does not unlock while the parent's is open."""
        self.forget()
        self._mutex = Lock()
