"""Small values beside a log in a database; see `stores.shelf`.

A value is replaced by a function that compares its revision first, so of two who both believe to hold a lock the later
one is refused. A write whose answer is lost is sent once more with the same revision: if the first one was done, the
second is refused, and what stands there is what was to be written.
"""

from __future__ import annotations

from ...errors import LogUnavailable, Overtaken
from .reading import Tables
from .session import Lost


class DatabaseShelf:
    """See `Shelf`. Shares the connection of ``tables``."""

    def __init__(self, tables: Tables, room: str = "") -> None:
        """``room`` is what the names of its values begin with."""
        self._tables, self._room = tables, room
        self._seen: dict[str, int] = {}  # revisions as they were read or written last; 0: there was no value

    def read(self, name: str) -> bytes | None:
        """See `Shelf`."""
        rows = self._tables.query("SELECT revision, value FROM {}(%s, %s)", "kept", values=self._named(name))
        self._seen[name] = rows[0][0] if rows else 0
        return bytes(rows[0][1]) if rows else None

    def revision(self, name: str) -> int:
        """A number that no other value of this name ever has; 0 where there is none. Raises `StoreError`."""
        rows = self._tables.query("SELECT revision FROM {}(%s, %s)", "kept", values=self._named(name))
        return int(rows[0][0]) if rows else 0

    def note(self, name: str) -> None:
        """Takes what stands there now as what `write` may replace, without reading it. Raises `StoreError`."""
        self._seen[name] = self.revision(name)

    def write(self, name: str, data: bytes) -> None:
        """See `Shelf`."""
        self._put(name, data)

    def remove(self, name: str) -> None:
        """See `Shelf`."""
        self._put(name, None)

    def shown(self, name: str) -> str:
        """See `Shelf`."""
        return f"{self._tables.place} {self._room}{name}"

    def close(self) -> None:
        """Closes the connection; the next call makes another."""
        self._tables.close()

    def _named(self, name: str) -> tuple[int, str]:
        return self._tables.log.log_id, self._room + name

    def _put(self, name: str, data: bytes | None) -> None:
        if name not in self._seen:
            self.note(name)
        revision = self._send(name, data)
        if revision is None:
            if self.read(name) != data:
                del self._seen[name]  # whoever goes on after this reads it first
                raise Overtaken(f"{self.shown(name)}: was replaced by another process meanwhile; what is there counts")
            return
        self._seen[name] = revision

    def _send(self, name: str, data: bytes | None) -> int | None:
        """The new revision, or ``None`` if somebody else was first."""
        values = (*self._named(name), data, self._seen[name])
        for last in (False, True):
            try:
                revision: int | None = self._tables.call("keep", values)
                return revision
            except Lost as lost:  # not known whether it was done
                if last:
                    del self._seen[name]
                    raise LogUnavailable(f"{self._tables.place}: {lost}") from None
        raise AssertionError
