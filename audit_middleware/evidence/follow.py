"""What follows the log inside a service, each in a thread that no request waits for: a publisher keeps a folder up to
date, a cosigner has new checkpoints cosigned by witnesses.

Of all processes that have one (workers, a `publish --follow` beside them) the holder of a lock does the work; the
others stand by and take over when it ends. *If we die here*: the kernel frees the lock; `publish` and `cosign` say what
a crash leaves.

The publisher's thread shares the interpreter with the service: a commit of 64 records costs it about a millisecond, and
catching up with a long log as much as that log takes. Whoever cannot spare that runs `publish --follow` beside it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from ..archives.local import Folder
from ..errors import LogBusy
from ..ledger.note import parse_vkey
from ..ledger.trust import Policy
from ..model import Json
from ..stores.lock import ProcessLock
from ..stores.opening import Place, elected, open_log, state_of
from .cosign import Round, Submitter
from .publish import Publisher

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_STANDBY = 5.0
"""Seconds between two tries to become the publisher."""

_log = logging.getLogger(__name__)


class Elected:
    """Does its work until it is stopped, if it is the one elected."""

    name = ""
    _what = ""

    def __init__(self, path: Place, exclusive: Callable[[], AbstractContextManager[object]], interval_s: float) -> None:
        """Starts nothing. ``exclusive()`` holds the lock or raises `LogBusy`."""
        self._path = path
        self._exclusive = exclusive
        self._interval = interval_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._role = "waiting"
        self._size: int | None = None
        self._problem: str | None = None
        self._failures = 0

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name=f"audit-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """One more round, then ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.warning("%s: %s has not come to the end of the log; the next one does", self._path, self._what)

    def state(self) -> dict[str, Json]:
        """``role``: waiting, its work, standby, failing or stopped; ``size`` it has come to; ``problem``."""
        return {"role": self._role, "size": self._size, "problem": self._problem, "failures": self._failures}

    def _run(self) -> None:
        while True:
            stopping = self._stop.is_set()  # looked at first: after the signal there is one more round
            try:
                with self._exclusive():
                    self._lead()
                    return
            except LogBusy:
                self._role, pause = "standby", min(_STANDBY, max(self._interval, 0.1))
            # Broad on purpose: whatever is wrong with a disk or a folder, the thread must live to try again.
            except Exception as error:
                pause = self._failed(error)
            if stopping:
                return
            self._stop.wait(pause)

    def _lead(self) -> None:
        """Works until stopped; whatever goes wrong ends the term."""
        raise NotImplementedError

    def _done(self, size: int) -> None:
        self._size, self._role, self._problem, self._failures = size, self._what, None, 0

    def _failed(self, error: Exception) -> float:
        if str(error) != self._problem:
            _log.error("%s: %s failed and will be tried again: %s", self._path, self._what, error)
        self._role, self._problem, self._failures = "failing", str(error), self._failures + 1
        return min(_FIRST_PAUSE * (1 << min(self._failures - 1, 10)), _LONGEST_PAUSE)


class Follower(Elected):
    """Publishes one log to one folder."""

    name = "publisher"
    _what = "publishing"

    def __init__(self, log: Place, folder: Path, interval_s: float) -> None:
        """Starts nothing."""
        self._folder = Folder(folder)
        super().__init__(log, self._folder.exclusive, interval_s)

    def _lead(self) -> None:
        store = open_log(self._path)
        with contextlib.closing(store):
            verifiers = [parse_vkey(text) for text in store.vkeys]
            publisher = Publisher(store, self._folder, verifiers, log=self._path)
            while True:
                stopping = self._stop.is_set()
                self._done(publisher.catch_up().checkpoint.size)
                if stopping:
                    self._role = "stopped"
                    return
                self._stop.wait(self._interval)


class Cosigner(Elected):
    """Has new checkpoints of one log cosigned by the witnesses of a trust file."""

    name = "cosigner"
    _what = "cosigning"

    def __init__(self, log: Place, trust: Policy, folder: Path | None, interval_s: float) -> None:
        """Starts nothing. ``folder`` is where the log is published, if it is."""
        self._trust = trust
        self._folder = Folder(folder) if folder is not None else None
        lock = ProcessLock(state_of(log) / "cosign.lock")
        super().__init__(log, lambda: elected(log, lock, "cosign"), interval_s)

    def _lead(self) -> None:
        store = open_log(self._path)
        with contextlib.closing(store):
            submitter = Submitter(store, self._path, self._trust, self._folder)
            submitter.follow(self._stop, self._interval, self._tell)
        self._role = "stopped"

    def _tell(self, result: Round) -> None:
        if result.note is None:
            self._role, self._problem = "failing", "the quorum of witnesses was not reached"
            _log.warning("%s: %s", self._path, self._problem)
        else:
            self._done(result.checkpoint.size)
