"""The archiver inside a service: a thread that no request waits for, in the one process that is elected.

Each ``interval`` a round with a checkpoint; between two of them, what fills a bundle, so that what a lost disk takes
along is less than 256 entries and a second. An archive that is away is tried again with growing pauses; requests and
records go on, and `state` says how far the archive is behind.

A log that does not lead to what is archived is an alarm in the application's log at each new try that finds it, and in
`state`. It is not told to the log itself: one that was rolled back would sign a second history.
"""

from __future__ import annotations

import contextlib
import logging
import time

from ..archives.opening import open_archive
from ..errors import ArchiveConflict, LogForked, StoreError
from ..model import Json
from ..stores.opening import Place, elected, open_log
from .archive_locks import parse_retain
from .archive_rounds import MemoryFile, Rounds, Signers, Teller, Wanted
from .follow import Elected

_LOOK = 1.0
"""Seconds between two looks at whether a bundle has filled up."""

_logger = logging.getLogger(__name__)


class ArchiveFollower(Elected):
    """Archives one log in one place."""

    name = "archiver"
    _what = "archiving"

    def __init__(self, log: Place, place: str, wanted: Wanted, interval_s: float, signers: Signers) -> None:
        """Starts nothing and opens nothing. Raises `ConfigError` for a retention that is none."""
        if wanted.retain is not None:
            parse_retain(wanted.retain)
        self._place = place
        self._wanted = wanted
        self._teller = Teller(
            log, signers, lambda why: _logger.warning("%s: what is archived is not told: %s", log, why)
        )
        self._shown = False
        memory = MemoryFile.of(log, place.partition("?")[0])
        lock = memory.lock
        super().__init__(log, lambda: elected(log, lock, f"archive {memory.path.stem}"), interval_s)

    def state(self) -> dict[str, Json]:
        """As `Elected.state`; ``lag``: entries that are not archived yet, also while the archive is away."""
        return {**super().state(), "lag": self._lag(), "shown_immutable": self._shown}

    def _lag(self) -> int | None:
        try:
            with contextlib.closing(open_log(self._path)) as store:
                return store.head().size - (self._size or 0)
        except StoreError:
            return None

    def _lead(self) -> None:
        with contextlib.closing(open_log(self._path)) as store:
            archive = open_archive(self._place)
            rounds = Rounds(store, archive, self._path, self._wanted, self._teller)
            due = time.monotonic()
            while True:
                stopping = self._stop.is_set()
                if stopping or time.monotonic() >= due:
                    self._done(rounds.round().checkpoint.size)
                    self._shown = rounds.shown
                    due = time.monotonic() + self._interval
                elif rounds.pending:
                    rounds.put_full()
                if stopping:
                    self._role = "stopped"
                    return
                self._stop.wait(max(0.01, min(_LOOK, due - time.monotonic())))

    def _failed(self, error: Exception) -> float:
        if isinstance(error, LogForked | ArchiveConflict):
            _logger.critical("%s does not lead to what is archived: %s", self._path, error)
        return super()._failed(error)
