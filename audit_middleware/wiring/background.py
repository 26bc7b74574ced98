"""What a process does for its log beside the requests, each in a daemon thread of its own.

*Watching* may write records, so it ends before the last one. *Following* takes what was committed somewhere else, so it
ends after it. To add one is a line in `watching` or `following`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from ..model import Json
from ..policy.evaluate import Policy
from ..protocols import Signer
from ..settings import Settings
from ..stores.filesystem import headroom
from ..stores.opening import folder_of, place_of

SPACE_INTERVAL = 60.0
"""Seconds between two looks at the room on the disk."""

logger = logging.getLogger("audit_middleware")


class Background(Protocol):
    """Work beside the requests. Not restarted after a fork: the child makes its own."""

    @property
    def name(self) -> str:
        """What it is."""
        ...

    def start(self) -> None:
        """Starts its thread; never blocks."""
        ...

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends it, at the latest after this time; what is left is said in the application's log."""
        ...

    def state(self) -> dict[str, Json]:
        """What it does and what is wrong, for a metric or a health page."""
        ...


class Space:
    """Warns when the room on the log's disk falls below a limit: once for each time that it does."""

    name = "space"

    def __init__(
        self,
        room: Callable[[], int],
        least: int,
        tell: Callable[[int], None],
        *,
        interval_s: float = SPACE_INTERVAL,
    ) -> None:
        """``room()`` returns the free bytes; ``tell(free)`` is called when they have become fewer than ``least``."""
        self._room = room
        self._least = least
        self._tell = tell
        self._interval = interval_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._free: int | None = None
        self._low = False

    def start(self) -> None:
        """Looks once, then again and again."""
        self.look()
        self._thread = threading.Thread(target=self._run, name="audit-space", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the thread; there is nothing to finish."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def state(self) -> dict[str, Json]:
        """Free bytes at the last look, and whether they are too few."""
        return {"free": self._free, "low": self._low}

    def look(self) -> None:
        """Compares once."""
        try:
            self._free = free = self._room()
        except OSError as error:
            logger.error("the room on the log's disk cannot be read: %s", error.strerror)
            return
        low = free < self._least
        if low and not self._low:
            logger.warning("the log's disk has %d bytes left, fewer than min_free (%d): free space", free, self._least)
            self._tell(free)
        elif self._low and not low:
            logger.info("the log's disk has room again: %d bytes", free)
        self._low = low

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self.look()


def watching(settings: Settings, tell_low_space: Callable[[int], None]) -> list[Background]:
    """What may write records."""
    found: list[Background] = []
    if settings.min_free:
        folder = folder_of(place_of(settings.log, settings.state))  # of a database: where the spool and cursors are
        found.append(Space(lambda: headroom(folder), settings.min_free, tell_low_space))
    return found


def following(
    settings: Settings, signers: Callable[[], Sequence[Signer]], policy: Callable[[], Policy]
) -> list[Background]:
    """What takes the committed log somewhere else; ``signers()`` are the log's keys, ``policy()`` is the one in force,
    whose channels are notified."""
    found: list[Background] = []
    log = place_of(settings.log, settings.state)
    if settings.publish_to is not None:
        from ..evidence.follow import Follower  # here, and so on: few services need them

        found.append(Follower(log, settings.publish_to, settings.publish_interval / 1000))
    if settings.trust is not None and settings.cosign_interval:
        from ..evidence.follow import Cosigner
        from ..ledger.trust import parse_policy

        trust = parse_policy(settings.trust.read_bytes())
        if any(witness.url for witness in trust.witnesses):
            found.append(Cosigner(log, trust, settings.publish_to, settings.cosign_interval / 1000))
    if settings.archive_to is not None:
        from ..evidence.archive_follow import ArchiveFollower
        from ..evidence.archive_rounds import Wanted

        wanted = Wanted(settings.archive_retain, settings.archive_partial)
        interval = settings.archive_interval / 1000
        found.append(ArchiveFollower(log, settings.archive_to, wanted, interval, signers))
    if settings.followers is not None or policy().channels:
        from ..evidence.delivering import Delivering  # it brings an HTTP client
        from ..followers.config import load_followers
        from ..followers.notify.config import policy_followers

        config = (
            load_followers(settings.followers, policy=policy)
            if settings.followers is not None
            else policy_followers(policy, str(settings.policy))
        )
        persons = None
        if any(spec.personal in ("open", "names") for spec in config.followers):
            from ..evidence.persons import persons_of

            persons = persons_of(settings.subject_keys_place, settings.master_key_url)
        found.append(Delivering(log, config, signers, persons=persons))
    return found
