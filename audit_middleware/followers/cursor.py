"""Where a follower stands in its log, durably, and whether that log is still the one it stood in.

A cursor is ``<name>.json``, a value beside the log (`stores.shelf`): a file of this host, or a row of the log's
database that all hosts share. It holds the log's origin, the index of the entry to deliver next, and the leaf hash of
the one before it. It is replaced as a whole after a delivery. *If we die before that*: the old one; what was delivered
is delivered again. So nothing is left out, and a repetition carries the same ``action_id``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..errors import FollowerError
from ..ledger.tree import leaf_hash
from ..protocols import LogStore
from ..stores.shelf import Shelf

FORMAT = 1
Position = tuple[int, str]
"""The next index, and the leaf hash (hex) of the entry before it; empty at the log's start."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The cursor of one follower in one log."""

    shelf: Shelf
    follower: str
    origin: str

    @property
    def place(self) -> str:
        """What it is called in messages."""
        return self.shelf.shown(self._name)

    @property
    def _name(self) -> str:
        return f"{self.follower}.json"

    def read(self) -> Position | None:
        """What was kept; ``None`` before the first start.

        Raises:
            FollowerError: It is another log's, or no cursor.
            StoreError: The log's database cannot be asked.
        """
        try:
            data = self.shelf.read(self._name)
            if data is None:
                return None
            values = json.loads(data)
            if values["format"] != FORMAT:
                raise FollowerError(f"{self.place}: format {values['format']!r}; this version reads {FORMAT}")
            origin, following, digest = str(values["origin"]), int(values["next"]), str(values["hash"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FollowerError(f"{self.place}: is no cursor ({type(error).__name__}): {self._remedy()}") from error
        if origin != self.origin:
            raise FollowerError(
                f"{self.place}: the follower stood in the log {origin!r}, this one is {self.origin!r}: {self._remedy()}"
            )
        return following, digest

    def write(self, position: Position) -> None:
        """Replaces the cursor, durably. Raises `OSError`, `StoreError`; `Overtaken` if another process moved it."""
        values = {"format": FORMAT, "origin": self.origin, "next": position[0], "hash": position[1]}
        self.shelf.write(self._name, json.dumps(values).encode() + b"\n")

    def check(self, store: LogStore, position: Position) -> None:
        """Raises `FollowerError` unless the log is one that can have led to this position."""
        following, digest = position
        size = store.head().size
        if following > size:
            raise FollowerError(
                f"{self.place}: {following} entries were followed, but the log ends at {size}: it was put back to an "
                f"older copy, or cut. Restore the newest copy; if this log is meant, {self._remedy()}"
            )
        # Of an entry that was pruned nothing is left to compare with; the log's own base is signed.
        if following > store.base.size and position_at(store, following)[1] != digest:
            raise FollowerError(
                f"{self.place}: entry {following - 1} of the log is not the one that was delivered: this is another "
                f"history under the same origin. Verify the log; if this log is meant, {self._remedy()}"
            )

    def _remedy(self) -> str:
        return f"choose where to begin with: audit-middleware followers reset LOG {self.follower} --to INDEX"


def position_at(store: LogStore, index: int) -> Position:
    """The position before entry ``index`` of this log; the hash is empty where the entry before is gone."""
    if index <= store.base.size:
        return index, ""
    for frame in store.frames(index - 1, index):
        return index, leaf_hash(frame.entries[index - 1 - frame.first]).hex()
    raise FollowerError(f"the log has no entry {index - 1}")
