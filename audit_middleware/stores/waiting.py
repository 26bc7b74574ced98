"""Waiting for a log to grow."""

from __future__ import annotations

import threading
from typing import Protocol


class Watch(Protocol):
    """Waits for a log to grow. Belongs to one thread.

    It only makes a look at the log come sooner: whoever waits looks at the log itself, and looks again after
    ``seconds`` whatever happened. So nothing depends on a message that gets lost.
    """

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Returns when the log may have grown, soon after ``stop`` is set, and at the latest after so many seconds."""
        ...

    def close(self) -> None:
        """Releases what it waits with; `wait` may be called again."""
        ...


class Polling:
    """Of a log that tells nobody: waits for the time."""

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """See `Watch`."""
        stop.wait(seconds)

    def close(self) -> None:
        """See `Watch`."""
