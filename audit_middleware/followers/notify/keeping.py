"""What a channel's follower keeps beside its cursor, in ``NAME.state.json``: what was counted, and what waits.

Replaced as a whole, durably, before the cursor moves past the records in it. *If we die in between*: the records come
again, and ``next`` says which of them were counted. Bounded, because everything in it is.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...errors import FollowerError
from ...stores.filesystem import replace_file
from .grouping import Grouped
from .message import Notification

FORMAT = 1


class Waiting(msgspec.Struct):
    """A message to be sent: since when, in nanoseconds since the epoch, and how often it was tried."""

    notification: Notification
    since: int
    tries: int = 0


class Kept(msgspec.Struct):
    """The state of one channel in one log. ``disabled`` says why it is left alone."""

    format: int
    origin: str
    next: int = 0
    grouped: Grouped = msgspec.field(default_factory=Grouped)
    waiting: list[Waiting] = []
    disabled: str | None = None


def state_file(state: Path, name: str) -> Path:
    """Where the follower of this name keeps its state."""
    return state / f"{name}.state.json"


def read_kept(path: Path, origin: str) -> Kept:
    """What was kept, or a new state. Raises `FollowerError` for what cannot be read, or is of another log."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except FileNotFoundError:
        return Kept(FORMAT, origin)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise FollowerError(
            f"{path}: cannot be read ({type(error).__name__}): to begin anew, reset the follower "
            f"{path.name.removesuffix('.state.json')}"
        ) from None
    if (kept.format, kept.origin) != (FORMAT, origin):
        raise FollowerError(f"{path}: is of format {kept.format} and the log {kept.origin!r}, not of {origin!r}")
    return kept


def write_kept(path: Path, kept: Kept) -> None:
    """Replaces the state, durably. Raises `OSError`."""
    replace_file(path, msgspec.json.encode(kept) + b"\n")


def forget(state: Path, name: str) -> None:
    """Begins anew, also with a channel that was disabled: for whoever puts its cursor somewhere else."""
    state_file(state, name).unlink(missing_ok=True)
