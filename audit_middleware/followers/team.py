"""All followers of one configuration, each in a thread of its own: none waits for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import AuditError
from ..model import Json
from ..stores.opening import Place, Store, open_watch
from ..stores.shelf import Shelf
from .config import FollowersConfig
from .runner import Follower
from .showing import OpenPersons
from .sink import Tell

_LAST = 60.0
"""Seconds that the threads may still need when they were told to stop: a request and one more round."""


class Team:
    """The followers of one log."""

    def __init__(
        self,
        config: FollowersConfig,
        open_store: Callable[[], Store],
        state: Path,
        tell: Tell,
        *,
        interval: float,
        log: Place | None = None,
        now: int | None = None,
        shelf: Callable[[Store], Shelf] | None = None,
        persons: OpenPersons | None = None,
    ) -> None:
        """Each follower reads by a store of its own, from ``open_store``; ``log`` is the log's directory. ``now``: see
        `Follower`. ``shelf`` is where a follower that reads by this store keeps its place; default: in ``state``.
        ``persons`` opens the persons' keys, once for each follower that is to."""
        self.followers: list[Follower] = []
        self._stores: list[Store] = []
        for spec in config.followers:
            store = open_store()
            self._stores.append(store)
            kept = None if shelf is None else shelf(store)
            self.followers.append(
                Follower(
                    spec,
                    store,
                    state,
                    tell,
                    interval=interval,
                    log=log,
                    now=now,
                    kept=kept,
                    watch=open_watch(store),
                    persons=persons,
                )
            )

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
        """Works until stopped; then it is over."""
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
        for thread, store in zip(threads, self._stores, strict=True):
            thread.join(max(0.0, deadline - time.monotonic()))
            if not thread.is_alive():  # else it still reads, and the process ends
                store.close()

    def state(self) -> dict[str, Json]:
        """The state of each by name."""
        return {one.spec.name: one.state() for one in self.followers}
