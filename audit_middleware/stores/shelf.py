"""Small values beside a log, each under a name: where followers stand, what notifications wait, who is blocked.

Of a journal they are files in a folder of this host; of a log in a database they are rows there, so that whichever host
does the work next finds what the one before it kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from .filesystem import replace_file


class Shelf(Protocol):
    """Values by name. Belongs to one thread.

    *Atomicity*: a value is replaced as a whole. *Durability*: before `write` returns. *If we die there*: the value
    before or this one. *Concurrency*: whoever writes to a folder holds its lock. In a database a value is replaced only
    if it still is the one that this shelf read or wrote last; so whoever was overtaken while he believed that he held
    the lock puts nothing back. *Retry*: a write whose answer was lost is looked up first.
    """

    def read(self, name: str) -> bytes | None:
        """A value; ``None`` where there is none. Raises `OSError`, `StoreError`."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Replaces a value. Raises `OSError`, `StoreError`; `Overtaken` if somebody else has replaced it."""
        ...

    def remove(self, name: str) -> None:
        """Removes a value, if there is one. Raises as `write`."""
        ...

    def shown(self, name: str) -> str:
        """What a value is called in messages."""
        ...


class Folder(msgspec.Struct, frozen=True):
    """Files in one folder, which exists; the caller holds a lock."""

    path: Path

    def read(self, name: str) -> bytes | None:
        """See `Shelf`."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """See `Shelf`."""
        replace_file(self.path / name, data)

    def remove(self, name: str) -> None:
        """See `Shelf`."""
        (self.path / name).unlink(missing_ok=True)

    def shown(self, name: str) -> str:
        """See `Shelf`."""
        return str(self.path / name)


class SharedShelf(Shelf, Protocol):
    """Values in a database, which all hosts share."""

    def revision(self, name: str) -> int:
        """A number that no other value of this name ever has; 0 where there is none. Raises `StoreError`."""
        ...

    def note(self, name: str) -> None:
        """Takes what stands there now as what `write` may replace, without reading it. Raises `StoreError`."""
        ...

    def close(self) -> None:
        """Closes the connection; the next call makes another."""
        ...
