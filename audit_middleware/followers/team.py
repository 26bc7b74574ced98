"""All followers of one configuration, each in a thread of its own: none waits for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import AuditError
from ..model import Json
from ..protocols import LogStore
from ..stores.opening import Place
from .config import FollowersConfig
from .runner import Follower
from .sink import Tell

_LAST = 60.0
"""Seconds that the threads may still need when they were told to stop: a request and one more round."""


class Team:
    """The followers of one log."""

    def __init__(
        self,
        config: FollowersConfig,
        open_store: Callable[[], LogStore],
        state: Path,
        tell: Tell,
        *,
        interval: float,
        log: Place | None = None,
        now: int | None = None,
    ) -> None:
        """Each follower reads by a store of its own, from ``open_store``; ``log`` is the log's directory. ``now``: see
        `Follower`."""
        self.followers = [
            Follower(spec, open_store(), state, tell, interval=interval, log=log, now=now) for spec in config.followers
        ]

    def check(self) -> None:
        """Raises `FollowerError` that names every cursor which is not one of this log."""
        problems = []
        for follower in self.followers:
            try:
                follower.check()
            except AuditError as problem:
                problems.append(problem)
        if problems:
            raise type(problems[0])("\n".join(map(str, problems)))

    def run(self, stop: threading.Event) -> None:
        """Works until stopped."""
        threads = [
            threading.Thread(target=one.run, args=(stop,), name=f"audit-follow-{one.spec.name}", daemon=True)
            for one in self.followers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not stop.is_set():
                thread.join(0.2)
        deadline = time.monotonic() + _LAST
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def state(self) -> dict[str, Json]:
        """The state of each by name."""
        return {one.spec.name: one.state() for one in self.followers}
