"""While the log takes no records: the pauses between attempts, what is said about it, and the spool.

Used by the writer's thread alone; `pause` is read by others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ..errors import AuditError, LogSpooled, LogUnavailable
from ..stores.spool import Spool
from .batch import Batch
from .waiting import refuse

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0

_SILENCE = 30.0
"""Seconds before the same failure is logged again: an outage must not fill the application's log."""

OpenSpool = Callable[[], Spool]

MakeReplayed = Callable[[int], Any]
"""``make_replayed(count)`` returns the item that says how many records came to the log by way of the spool."""

_log = logging.getLogger(__name__)


class Outage:
    """Knows whether the log is out of order, for how long to leave it alone, and where records wait meanwhile."""

    def __init__(self, open_spool: OpenSpool | None = None, make_replayed: MakeReplayed | None = None) -> None:
        """Opens nothing; without ``open_spool`` records wait in memory only."""
        self.pause = 0.0
        self._open_spool = open_spool
        self._make_replayed = make_replayed
        self._spool: Spool | None = None
        self._told = self._problem = ""
        self._silent_until = 0.0
        self._replayed = 0

    # --- attempts ------------------------------------------------------------------------------------------------

    def failed(self, error: Exception) -> None:
        """An attempt failed: says so, and waits longer before the next one."""
        self._problem = str(error)
        self._tell("the log takes no records: %s", error)
        self.pause = min(max(self.pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)

    @property
    def problem(self) -> str:
        """What failed last."""
        return self._problem

    def over(self) -> None:
        """The log has taken something."""
        self.pause = 0.0

    def _tell(self, text: str, error: Exception) -> None:
        now = time.monotonic()
        if str(error) != self._told or now >= self._silent_until:
            _log.error(text, error)
            self._told, self._silent_until = str(error), now + _SILENCE

    # --- the spool -----------------------------------------------------------------------------------------------

    @property
    def has_spool(self) -> bool:
        """Can records be set aside?"""
        return self._open_spool is not None

    @property
    def pending(self) -> bool:
        """Do records wait in the spool?"""
        return self._spool is not None and self._spool.pending

    def begin(self) -> None:
        """Takes over what processes left in the spool that are gone."""
        if self._open_spool is not None:
            self._spool = self._open_spool()
            adopted = self._spool.adopt()
            if adopted:
                _log.warning("%d files of records that another process set aside are sent to the log first", adopted)

    def set_aside(self, batch: Batch) -> bool:
        """Moves a batch to the spool and tells its waiters. False where that fails: it stays in memory."""
        assert self._spool is not None
        try:
            self._spool.add(batch.entries)
        except LogUnavailable as problem:
            self._tell("records cannot be set aside and wait in memory: %s", problem)
            refuse(batch.give_up_waiters(), problem)
            return False
        text = f"the record waits in the spool until the log takes it: {self._problem}"
        refuse(batch.give_up_waiters(), LogSpooled(text))
        batch.clear()
        return True

    def replay(self, append: Callable[[list[bytes]], object | None]) -> Any | None:
        """Sends the oldest file of the spool to the log; what the log does not take stays. Returns the item that tells
        of it when nothing is left."""
        assert self._spool is not None
        try:
            entries = self._spool.oldest()
            if entries and append(entries) is None:
                return None
            self._replayed += len(entries)
            self._spool.drop_oldest()
        except AuditError as problem:
            self.failed(problem)
            return None
        if self._spool.pending or not self._replayed or self._make_replayed is None:
            return None
        count, self._replayed = self._replayed, 0
        return self._make_replayed(count)

    def forget(self) -> None:
        """In a forked child: what waits is the parent's."""
        if self._spool is not None:
            self._spool.forget()

    def close(self) -> None:
        """Lets go of the spool; what waits in it is sent by the next process."""
        if self._spool is not None:
            self._spool.close()
