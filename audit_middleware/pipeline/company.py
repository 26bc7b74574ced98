"""How long a record that nobody waits for waits for others, so that they share one commit.

One commit costs the same for one record as for a hundred. Whether waiting saves any is told by how many came lately:
where no second one is expected in time, the record is written at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_WORTH = 1.0
"""So many further records must be expected in the time of a wait."""

_MEMORY = 2.0
"""After so many times the longest wait, what was seen counts half."""


class Company:
    """Used by the writer's thread alone.

    Attributes:
        expected: How many records come in the time of the longest wait, by those that came lately.
    """

    def __init__(self, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``longest_s``: no record waits longer than this, counted from when the first of its batch can have come."""
        self._longest = longest_s
        self._clock = clock
        self._since = self._taken = clock()
        self.expected = 0.0

    def begin(self) -> None:
        """Nothing was waiting until now."""
        self._since = self._clock()

    def taken(self, count: int) -> None:
        """So many records were taken now, all that there were: what comes from now on is another batch."""
        now = self._since = self._clock()
        elapsed, self._taken = max(now - self._taken, 1e-6), now
        if self._longest:
            kept = 0.5 ** (elapsed / (self._longest * _MEMORY))
            self.expected = self.expected * kept + count * self._longest / elapsed * (1 - kept)

    def left(self) -> float:
        """Seconds that are still worth waiting; 0 where none are."""
        if self.expected < _WORTH:
            return 0.0
        return max(0.0, self._since + self._longest - self._clock())
