"""How long archived objects are locked: as long as the log's own retention, or as was asked; longer under a legal hold.

A lock ends at midnight UTC, so that what is put again on the same day asks for the same end. It cannot be shortened by
anybody, so a hold, whose end nobody knows, does not lock for ever: while it is open, the locks of what it covers are
moved to a full retention from now whenever less than `MARGIN_S` is left of them.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from datetime import datetime

from ..errors import ConfigError
from ..ledger.tiles import TILE_WIDTH, Bundle, Tile
from ..protocols import Archive, Clock
from ..stores.opening import Store
from .archive_objects import CHECKPOINTS, pick, size_in
from .retention import Hold, months_before, retention_of
from .standing import Standings, read_on

MARGIN_S = 30 * 86_400
DAY_S = 86_400
MOST_DAYS = 36_500

_DAYS = re.compile(r"([1-9][0-9]{0,5})d")


def parse_retain(text: str) -> int | None:
    """Days of a retention such as ``400d``; ``None`` for ``none``. Raises `ConfigError`."""
    if text == "none":
        return None
    match = _DAYS.fullmatch(text)
    if match is None or int(match[1]) > MOST_DAYS:
        raise ConfigError(f"retain {text[:40]!r}: expected days, such as 400d (1 to {MOST_DAYS}), or none for no lock")
    return int(match[1])


class Locks:
    """The ends of locks for one log; reads the log's rules, and again what was added to it."""

    def __init__(self, store: Store, retain: str | None, *, clock: Clock = time.time_ns) -> None:
        """Reads nothing yet. ``retain`` is as for `parse_retain`; ``None``: what the log's own retention says.

        Raises:
            ConfigError: It is malformed.
        """
        self._store = store
        self._asked = retain is not None
        self._days = parse_retain(retain) if retain is not None else None
        self._clock = clock
        self._found = Standings()
        self._read: int | None = None
        self._months: int | None = None
        self.holds: tuple[Hold, ...] = ()

    def refresh(self) -> None:
        """Reads what the log says by now.

        Raises:
            ConfigError: Neither the log nor anybody else says how long to lock.
            StoreError: The log cannot be read.
        """
        if self._read is not None and self._read < self._store.base.size:
            self._found, self._read = Standings(), None  # pruned meanwhile: what stood there is carried
        if self._read is None or self._read < self._store.head().size:
            self._read = read_on(self._store, self._found, self._read)
            rules = retention_of(self._store, self._found)
            self._months, self.holds = rules.months, rules.holds
        if not self._asked and self._months is None:
            raise ConfigError(
                f"{self._store.place}: no retention was ever set, so nobody says how long to lock. Give one (400d), or "
                f"record it: audit-middleware retention set {self._store.place} --months 12"
            )

    def until(self) -> float | None:
        """The end of the lock of what is put now, after `refresh`."""
        now = self._clock()
        if self._asked:
            return None if self._days is None else _midnight(now / 1e9 + self._days * DAY_S)
        return _midnight(datetime.fromisoformat(months_before(now, -(self._months or 0))).timestamp())

    def extend(self, archive: Archive, size: int) -> int:
        """Moves the locks of what open holds cover; returns how many objects.

        ``size`` is what is archived. Costs requests for each object that is held, so once a day is enough.

        Raises:
            ArchiveError: The archive cannot be reached, or refuses.
        """
        until, moved = self.until(), 0
        if until is None:
            return 0
        least = min(until, self._clock() / 1e9 + MARGIN_S)
        for name in dict.fromkeys(name for hold in self.holds for name in _held(archive, hold, size)):
            found = pick(archive, name, lambda data: True)  # the first version: what was locked
            if found is not None and found.stored.until is not None and found.stored.until < least:
                archive.put(name, found.data, until)
                moved += 1
        return moved


def _held(archive: Archive, hold: Hold, size: int) -> Iterator[str]:
    """The bundles and tiles of what a hold covers, and the first checkpoint that covers all of it, or the newest."""
    last = min(size, size if hold.last is None else hold.last + 1) - 1
    for n in range(hold.first // TILE_WIDTH, last // TILE_WIDTH + 1) if last >= hold.first else ():
        yield Bundle(n).path
        yield Tile(0, n).path
    newest = None
    for name in archive.names(CHECKPOINTS):
        newest = name
        if (size_in(name) or 0) > last:
            break
    if newest is not None:
        yield newest


def _midnight(seconds: float) -> float:
    return float(math.ceil(seconds / DAY_S) * DAY_S)
