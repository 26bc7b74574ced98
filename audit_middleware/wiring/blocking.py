"""The list of blocks in a running service: a thread looks at the file, or the row in the
database, so that no request has to.

What is damaged changes nothing: the last good list stays, and runs out as it says; it is said in the application's log,
and in the audit log. So is a list that has disappeared, because blocks are ended by lifting them. To refuse everybody
instead would hand the service to whoever can damage one small file; to refuse nobody, likewise.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

from msgspec.structs import replace

from ..context import clean
from ..detectors.blocklist import BlockList, Signature
from ..errors import AuditError, BlocksError, ConfigError, StoreError, SubjectKeysError
from ..model import Json
from ..persons import token_of
from ..pipeline.blocks import Blocks, Entry
from ..protocols import Clock

_LONGEST = 1024  # bytes of a problem in a record
_NAMED = 8  # findings that one warning names
_AGAIN_S = 5.0  # what is wrong with the file may pass without the file being changed: no descriptor, no memory

Names = Callable[[Collection[str]], Mapping[str, str]]
"""Whom tokens stand for, as far as their keys are there. Raises `SubjectKeysError`, `ConfigError`."""

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
        names: Names | None = None,
    ) -> None:
        """Reads the list for the first time. ``tell(problem)`` records that a list is not used; ``names`` says whom a
        token on it stands for, which is kept in memory alone.

        Raises:
            BlocksError: It cannot be read: nobody knows who is blocked.
        """
        self._source, self._blocks, self._tell = source, blocks, tell
        self._interval, self._clock = interval_s, clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: str | None = None
        self._missed = False  # is the problem that nobody could be asked?
        self._again = float("inf")
        self._entries: tuple[Entry, ...] = ()
        self._names = names
        self._named: Mapping[str, str] = {}
        self._unnamed: frozenset[str] = frozenset()  # tokens of which nobody here knows whom they stand for
        self._keyless: str | None = None
        self._keys_again = float("inf")
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
        self._source.close()

    def state(self) -> dict[str, Json]:
        """Entries on the list in force, how many of them block, how many are not in force here because nobody
        knows whom their tokens stand for, and why a newer list is not in force."""
        blocked = sum(entry.block for entry in self._entries)
        absent = sum(token_of(entry.who) in self._unnamed for entry in self._entries)
        return {
            "entries": len(self._entries), "blocked": blocked, "not_in_force": absent,
            "problem": self._problem or self._keyless,
        }  # fmt: skip

    def look(self) -> None:
        """Compares once; without a change this asks for the file's times, and no more."""
        try:
            seen = self._signature()
            if self._missed:
                self._missed, self._problem = False, None
                logger.warning("the list of blocks can be looked at again: %s", self._source.place)
            if seen == self._seen and (seen[1] < 0 or time.monotonic() < self._again):
                if self._keyless is not None and time.monotonic() >= self._keys_again:
                    self._put()
                elif self._blocks.stale():
                    self._blocks.adopt(self._persons(), self._clock())
                return
            self._seen, self._again = seen, time.monotonic() + _AGAIN_S
            self._adopt(there=True)
        except BlocksError as problem:
            self._refuse(str(problem))
        except StoreError as problem:
            self._away(str(problem))
        else:
            self._again = float("inf")
            if self._problem is not None:
                logger.warning("the list of blocks is read again: %s", self._source.place)
            self._problem = None

    def _adopt(self, *, there: bool = False) -> None:
        self._entries = self._source.read(there=there).entries
        self._put()

    def _put(self) -> None:
        """Finds out whom the tokens on the list stand for, and puts the list in force."""
        tokens = frozenset(token for one in self._entries if (token := token_of(one.who)) is not None)
        problem = None
        if tokens:
            try:
                self._named = {} if self._names is None else self._names(tokens)
            except (SubjectKeysError, ConfigError) as error:
                problem = f"the persons' keys cannot be used: {error}"
        else:
            self._named = {}
        self._warn(tokens - self._named.keys(), problem)
        self._blocks.adopt(self._persons(), self._clock())

    def _persons(self) -> tuple[Entry, ...]:
        """The list with names for tokens. A token that stands for nobody known here blocks nobody."""
        return tuple(
            one if (token := token_of(one.who)) is None else replace(one, who=self._named[token])
            for one in self._entries
            if (token := token_of(one.who)) is None or token in self._named
        )

    def _warn(self, unnamed: frozenset[str], problem: str | None) -> None:
        if unnamed - self._unnamed or (problem is not None and problem != self._keyless):
            held = [one for one in self._entries if token_of(one.who) in unnamed]
            logger.warning(
                "%d entries on the list of blocks are not in force here: %s: %s", len(held),
                problem or "there is no key (any more) that says whom they are about",
                ", ".join(one.finding_id for one in held[:_NAMED]),
            )  # fmt: skip
        self._unnamed, self._keyless = unnamed, problem
        self._keys_again = time.monotonic() + _AGAIN_S

    def _signature(self) -> Signature:
        try:
            return self._source.signature()
        except OSError as error:
            raise BlocksError(f"{self._source.place}: cannot be looked at: {error.strerror}") from error

    def _away(self, problem: str) -> None:
        """A database that does not answer says nothing of the list; that it is away the log's writer finds as well."""
        if problem != self._problem:
            self._missed, self._problem = True, problem
            logger.warning("the list of blocks cannot be looked at, the one before stays in force: %s", problem)

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
