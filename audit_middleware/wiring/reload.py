"""A policy that is swapped while the service runs: when its file changes, or at SIGHUP.

Every process looks for itself. The new policy is loaded and compared with the routes as at a start, then takes the old
one's place for the next request: one attribute is set, so a request sees one policy or the other. A file that does
not load, or does not fit the routes, changes nothing: it is said in the application's log, and in the audit log.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..context import clean
from ..errors import AuditError, PolicyError
from ..model import Json
from ..policy.load import load_bytes, read_bytes
from .parts import Parts

_LONGEST = 4096  # bytes of a problem in a record

logger = logging.getLogger("audit_middleware")


class Reload:
    """Watches one policy file."""

    name = "policy"

    def __init__(self, parts: Parts, adopt: Callable[[Any, str], None], interval_s: float) -> None:
        """``adopt(policy, cause)`` puts a policy in force or raises `AuditError`; ``interval_s`` 0: only SIGHUP."""
        self._parts = parts
        self._adopt = adopt
        self._interval = interval_s
        self._stopping = False
        # Not an Event, whose lock is not reentrant: a signal's handler may interrupt another one that holds it.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asked = False
        self._thread: threading.Thread | None = None
        self._before: Any = None
        self._seen = self._read()
        self._changing: bytes | str = self._seen
        self._problem: str | None = None

    def start(self) -> None:
        """Starts the thread; from the main thread, also listens for SIGHUP."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGHUP, self._hang_up)
        self._thread = threading.Thread(target=self._run, name="audit-policy", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the thread; SIGHUP means again what it meant."""
        self._stopping = True
        self._bell.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self._before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGHUP, self._before)
            self._before = None

    def state(self) -> dict[str, Json]:
        """The digest in force, and why a newer file is not."""
        return {"digest": self._parts.policy.digest, "problem": self._problem}

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        if not self._asked:  # one ring for all that come before it is heard
            self._asked = True
            self._bell.put(None)
        if callable(self._before):
            self._before(number, frame)

    def _run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=self._interval or None)
            asked, self._asked = self._asked, False
            if not self._stopping:
                try:
                    self.look(asked)
                # Broad on purpose: the application's routes are listed here, too; the next file counts all the same.
                except Exception:
                    logger.exception("the policy could not be replaced; its file is looked at again when it changes")

    def look(self, asked: bool = False) -> None:
        """Compares the file with what was seen last. A change counts once it has stood still for one interval, because
        editors write in several steps; ``asked``: at once."""
        found = self._read()
        if found == self._seen and not asked:
            self._changing = found
            return
        if not asked and found != self._changing:
            self._changing = found
            return
        self._seen = self._changing = found
        cause = "SIGHUP" if asked else "file changed"
        try:
            if isinstance(found, str):
                raise PolicyError(found)
            policy = load_bytes(found, str(self._parts.settings.policy), predicates=self._parts.predicates)
            if policy.digest == self._parts.policy.digest:
                self._problem = None  # comments, or the order of keys
                return
            self._adopt(policy, cause)
        except AuditError as problem:
            self._refuse(problem, found, cause)
            return
        self._problem = None
        logger.warning("the policy %s is replaced: %s (%s)", policy.name, policy.digest, cause)

    def _refuse(self, problem: AuditError, found: bytes | str, cause: str) -> None:
        self._problem = str(problem)
        kept = self._parts.policy.digest
        logger.error("the new policy is refused, %s stays in force:\n%s", kept, problem)
        digest = f"sha256:{hashlib.sha256(found).hexdigest()}" if isinstance(found, bytes) else None
        extra: dict[str, Json] = {
            "cause": cause, "problem": clean(self._problem, _LONGEST), "file_digest": digest, "kept": kept,
        }  # fmt: skip
        self._parts.put(self._parts.state("audit.policy_refused", "high", extra))

    def _read(self) -> bytes | str:
        """The file's bytes, or why it cannot be read."""
        path = self._parts.settings.policy
        if path.exists() and not path.is_file():
            return f"{path}: is not a regular file"  # opening a pipe would wait for who writes to it
        try:
            return read_bytes(path)
        except PolicyError as problem:
            return str(problem)
