"""What a process tells of itself: that it lives while nothing happens, and that its wall clock was set.

A log that nobody writes to looks the same whether nothing happened or its end was cut off. A heartbeat after each quiet
interval makes the difference: each process that has written to the log either ends with ``audit.stopped``, or was
killed, or beats.

The wall clock is compared with the time since boot, which nobody can set, once per commit and per heartbeat. A step of
more than a second becomes a record. The clock that is slewed (NTP) moves both and makes no step; a suspended machine
counts on in both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ..model import Json, Severity
from ..protocols import Clock
from .arrive import fresh_action_id
from .statement import Statement

STEP_NS = 1_000_000_000
"""A difference of more than this between wall clock and time since boot is a step."""


_SINCE_BOOT: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the former is Linux's own


def since_boot_ns() -> int:
    """Nanoseconds since the machine was started, including the time it was suspended."""
    return time.clock_gettime_ns(_SINCE_BOOT)


@cache
def boot_id() -> str | None:
    """The kernel's name for this run of the machine; ``None`` where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


class Pulse:
    """Makes the records; used by the writer's thread of one process.

    Attributes:
        interval_s: Seconds of silence after which a heartbeat is due; 0 for none.
    """

    def __init__(
        self,
        interval_s: float,
        clock: Clock,
        timestamp: Callable[[int], str],
        steady: Clock = since_boot_ns,
    ) -> None:
        """``timestamp`` makes text of a wall clock time, as records show it."""
        self.interval_s = interval_s
        self._clock = clock
        self._timestamp = timestamp
        self._steady = steady
        self._wall_ns, self._steady_ns = clock(), steady()

    def left(self, quiet_since: float) -> float:
        """Seconds until a heartbeat is due, given the monotonic time of the last record; at least 0."""
        return max(0.0, quiet_since + self.interval_s - time.monotonic())

    def beat(self) -> Statement:
        """The record of a process that has written nothing for `interval_s`."""
        extra: dict[str, Json] = {
            "interval_s": _number(self.interval_s),
            "boot_id": boot_id(),
            "monotonic_ns": self._steady(),
        }
        return self._statement("audit.heartbeat", "info", extra)

    def step(self) -> Statement | None:
        """The record of a wall clock that was set since the last call; ``None`` if it was not."""
        wall, steady = self._clock(), self._steady()
        expected = self._wall_ns + steady - self._steady_ns
        self._wall_ns, self._steady_ns = wall, steady
        step = wall - expected
        if abs(step) <= STEP_NS:
            return None
        extra: dict[str, Json] = {
            "from": self._timestamp(expected),
            "to": self._timestamp(wall),
            "step_us": step // 1000,
        }
        return self._statement("audit.clock_jump", "high" if step < 0 else "info", extra)

    def _statement(self, action: str, severity: Severity, extra: dict[str, Json]) -> Statement:
        now = self._clock()
        return Statement(fresh_action_id(now), now, action, action.upper().replace(".", "_"), severity, extra)


def _number(seconds: float) -> Json:
    """Entries hold no floats."""
    return int(seconds) if seconds == int(seconds) else str(seconds)
