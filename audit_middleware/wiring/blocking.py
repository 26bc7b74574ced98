"""The list of blocks in a running service: a thread looks at the file, so that no request has to.

What is damaged changes nothing: the last good list stays, and runs out as it says; it is said in the application's log,
and in the audit log. So is a list that has disappeared, because blocks are ended by lifting them. To refuse everybody
instead would hand the service to whoever can damage one small file; to refuse nobody, likewise.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ..context import clean
from ..detectors.blocklist import BlockList, Signature
from ..errors import AuditError, BlocksError
from ..model import Json
from ..pipeline.blocks import Blocks, Entry
from ..protocols import Clock

_LONGEST = 1024  # bytes of a problem in a record
_AGAIN_S = 5.0  # what is wrong with the file may pass without the file being changed: no descriptor, no memory

logger = logging.getLogger("audit_middleware")


class Blocking:
    """Keeps one process's list of blocks up to date."""

    name = "blocks"

    def __init__(
        self,
        source: BlockList,
        blocks: Blocks,
        tell: Callable[[str], None],
        interval_s: float,
        clock: Clock = time.time_ns,
    ) -> None:
        """Reads the list for the first time. ``tell(problem)`` records that a list is not used.

        Raises:
            BlocksError: It cannot be read: nobody knows who is blocked.
        """
        self._source, self._blocks, self._tell = source, blocks, tell
        self._interval, self._clock = interval_s, clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: str | None = None
        self._again = float("inf")
        self._entries: tuple[Entry, ...] = ()
        self._seen = self._signature()
        self._adopt()

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="audit-blocks", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends it; there is nothing to finish."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def state(self) -> dict[str, Json]:
        """Entries on the list in force, how many of them block, and why a newer list is not in force."""
        blocked = sum(entry.block for entry in self._entries)
        return {"entries": len(self._entries), "blocked": blocked, "problem": self._problem}

    def look(self) -> None:
        """Compares once; without a change this asks for the file's times, and no more."""
        try:
            seen = self._signature()
            if seen == self._seen and (seen[1] < 0 or time.monotonic() < self._again):
                if self._blocks.stale():
                    self._blocks.adopt(self._entries, self._clock())
                return
            self._seen, self._again = seen, time.monotonic() + _AGAIN_S
            self._adopt(there=True)
        except BlocksError as problem:
            self._refuse(str(problem))
        else:
            self._again = float("inf")
            if self._problem is not None:
                logger.warning("the list of blocks is read again: %s", self._source.path)
            self._problem = None

    def _adopt(self, *, there: bool = False) -> None:
        listing = self._source.read(there=there)
        self._blocks.adopt(listing.entries, self._clock())
        self._entries = listing.entries

    def _signature(self) -> Signature:
        try:
            return self._source.signature()
        except OSError as error:
            raise BlocksError(f"{self._source.path}: cannot be looked at: {error.strerror}") from error

    def _refuse(self, problem: str) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        logger.error("the list of blocks is not used, the one before stays in force: %s", problem)
        try:
            self._tell(clean(problem, _LONGEST))
        except AuditError as error:
            logger.error("this is not recorded: %s", error)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.look()
            # Broad on purpose: whatever is wrong with a file, the thread must live to read the next one.
            except Exception:
                logger.exception("the list of blocks could not be looked at")
