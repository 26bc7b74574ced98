"""What a channel's follower keeps beside its cursor, in ``NAME.state.json``: what was counted, and what waits. As the
cursor it is a file of this host, or a row of the log's database.

Replaced as a whole, durably, before the cursor moves past the records in it. *If we die in between*: the records come
again, and ``next`` says which of them were counted. Bounded, because everything in it is.
"""

from __future__ import annotations

import msgspec

from ...errors import FollowerError
from ...stores.shelf import Shelf
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


def state_name(name: str) -> str:
    """Under which name the follower of this name keeps its state."""
    return f"{name}.state.json"


def read_kept(shelf: Shelf, name: str, origin: str) -> Kept:
    """What was kept, or a new state.

    Raises:
        FollowerError: It cannot be read, or is of another log.
        StoreError: The log's database cannot be asked.
    """
    place = shelf.shown(state_name(name))
    try:
        data = shelf.read(state_name(name))
        kept = Kept(FORMAT, origin) if data is None else msgspec.json.decode(data, type=Kept)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise FollowerError(
            f"{place}: cannot be read ({type(error).__name__}): to begin anew, reset the follower {name}"
        ) from None
    if (kept.format, kept.origin) != (FORMAT, origin):
        raise FollowerError(f"{place}: is of format {kept.format} and the log {kept.origin!r}, not of {origin!r}")
    return kept


def write_kept(shelf: Shelf, name: str, kept: Kept) -> None:
    """Replaces the state, durably. Raises `OSError`, `StoreError`."""
    shelf.write(state_name(name), msgspec.json.encode(kept) + b"\n")


def forget(shelf: Shelf, name: str) -> None:
    """Begins anew, also with a channel that was disabled: for whoever puts its cursor somewhere else."""
    shelf.remove(state_name(name))
