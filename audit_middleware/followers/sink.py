"""The seam to a destination."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ..model import Json
from ..protocols import Clock
from ..stores.opening import Place
from ..stores.shelf import Folder, Shelf

Tell = Callable[[str, Mapping[str, Json]], None]
"""Writes a control record: its action and ``extra``. Raises `AuditError` where it cannot."""


Show = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Makes of a record what a destination may see of it. Raises `AuditError` where that cannot be told now."""


@dataclass(frozen=True)
class Item:
    """One entry of the log on its way: ``entry`` is its canonical bytes, ``show`` makes what the destination sees."""

    index: int
    entry: bytes
    show: Show | None = field(default=None, compare=False, repr=False)

    @cached_property
    def logged(self) -> dict[str, Any]:
        """The record that the entry holds."""
        found: dict[str, Any] = msgspec.json.decode(self.entry)
        return found

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record as the destination may see it."""
        return self.logged if self.show is None else self.show(self.logged)

    @property
    def id(self) -> str:
        """The record's ``action_id``: the same at every attempt, so that a destination knows a repetition."""
        return str(self.logged.get("action_id") or f"entry-{self.index}")


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a batch.

    Attributes:
        settled: So many items from the front are done with: delivered, or named in ``rejected``.
        rejected: By index in the log, why the destination will never take an item. Beyond ``settled`` it counts for
            nothing: the item is sent again.
        retry: Why the rest must be tried again; ``None`` if there is no rest, or more of it can be sent at once.
        after: In how many seconds at the earliest, if the destination said so.
    """

    settled: int
    rejected: Mapping[int, str] = field(default_factory=dict)
    retry: str | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """What a destination is opened with.

    Attributes:
        origin: Of the log whose records come.
        name: Of the follower; names of files that the destination keeps begin with it.
        state: An existing directory of this host.
        tell: For control records.
        clock: Nanoseconds since the epoch.
        replay: True when dead letters are sent again: then items do not go on from those that were sent before.
        log: The log's place, for what must be read again or stands beside it; ``None`` where there is none.
        kept: For what must outlive the process, and be found by the next host; default: files in ``state``.
        named: Puts names in the place of tokens, where that is configured: for a text at the moment it is sent.
    """

    origin: str
    name: str
    state: Path
    tell: Tell
    clock: Clock = time.time_ns
    replay: bool = False
    log: Place | None = None
    kept: Shelf | None = None
    named: Callable[[str], str] = str

    @property
    def shelf(self) -> Shelf:
        """Where such values are kept."""
        return Folder(self.state) if self.kept is None else self.kept


class Sink(Protocol):
    """Takes batches to one destination.

    *Order*: `send` is called by one thread, with items in the log's order, again from the first one that is not
    settled. *Atomicity*: none across items. *Durability*: an item counts as settled when the destination said that it
    has it, or will never take it. *Retry*: the same item may be sent twice, after a crash or a lost answer; the
    destination can tell by the item's id. *Time*: `send` returns within a bounded time whatever the destination does.
    """

    def send(self, items: Sequence[Item]) -> Sent:
        """Sends one or more items. No text of the result holds a secret or a record's content.

        Raises `FollowerError` and `OSError` for what may pass: nothing of the batch is settled then.
        """
        ...

    def idle(self) -> str | None:
        """Called by the same thread when the log's end was reached, and again at every look at a quiet log: for what
        time alone brings about. Must be cheap. Returns what is wrong, to be tried again like a batch; raises as
        `send`.
        """
        ...

    def close(self) -> None:
        """Releases connections and descriptors; `send` is not called again."""
        ...


class Destination(Protocol):
    """What a configuration says about one destination; checked, and nothing opened yet."""

    def open(self, way: Way) -> Sink:
        """Opens the way there for the records of one log. Raises as `Sink.send`."""
        ...
