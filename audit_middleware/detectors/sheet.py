"""Where the bytes of the list of blocks stand: in a file beside a journal, or in a row of a log's database.

Whoever changes them reads and replaces them within `held`. In a file that is a lock; in a row the replacement is
refused if somebody else was first (`Overtaken`), and all is done again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from ..errors import StoreError
from ..stores.filesystem import replace_file
from ..stores.lock import ProcessLock
from ..stores.shelf import SharedShelf

MAX_BYTES = 16 * 2**20
NONE = (-1, -1, -1, -1)

Signature = tuple[int, int, int, int]
"""Of a file device, inode, size, and nanoseconds of the last change, also of its mode; of a row its revision. Where
there is nothing all are -1."""

_NAME = "blocks.json"
_PATIENCE = 10.0


class Unfit(Exception):
    """What stands there is not to be used; the text says why."""


class Sheet(Protocol):
    """Bytes that are replaced as a whole, durably."""

    @property
    def shown(self) -> str:
        """What it is called in messages."""
        ...

    def there(self) -> bool:
        """Is there anything?"""
        ...

    def signature(self) -> Signature:
        """Changes whenever the bytes are replaced. Raises `OSError`, `StoreError`."""
        ...

    def data(self) -> bytes:
        """The bytes. Raises `FileNotFoundError` where there are none, `Unfit`, `OSError`, `StoreError`."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Around a change. Raises `LogBusy`, `StoreError`."""
        ...

    def replace(self, data: bytes) -> None:
        """Puts other bytes there. Raises `StoreError`, `Overtaken`."""
        ...

    def close(self) -> None:
        """Releases a connection; the next call makes another."""
        ...


class File(msgspec.Struct, frozen=True):
    """A file of its owner's, in an existing directory."""

    path: Path

    @property
    def shown(self) -> str:
        """See `Sheet`."""
        return str(self.path)

    def there(self) -> bool:
        """See `Sheet`."""
        return os.path.lexists(self.path)

    def signature(self) -> Signature:
        """See `Sheet`."""
        try:
            found = self.path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return NONE
        return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns

    def data(self) -> bytes:
        """See `Sheet`."""
        # Not blocking: whoever put a pipe here must not hold up a start.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Unfit("is not a regular file")
            if found.st_mode & 0o022:
                raise Unfit(f"may be written by others than its owner (mode {stat.S_IMODE(found.st_mode):o})")
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise Unfit(f"is larger than {MAX_BYTES} bytes")
        return data

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `Sheet`."""
        lock = ProcessLock(self.path.with_name("blocks.lock"))
        try:
            with lock.held(_PATIENCE):
                yield
        finally:
            lock.forget()  # changes are rare: no descriptor stays open for the next one

    def replace(self, data: bytes) -> None:
        """See `Sheet`."""
        try:
            replace_file(self.path, data)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """See `Sheet`."""


class Row(msgspec.Struct, frozen=True):
    """A value in the log's database, which all hosts share."""

    shelf: SharedShelf

    @property
    def shown(self) -> str:
        """See `Sheet`."""
        return self.shelf.shown(_NAME)

    def there(self) -> bool:
        """See `Sheet`."""
        return self.shelf.revision(_NAME) > 0

    def signature(self) -> Signature:
        """See `Sheet`."""
        revision = self.shelf.revision(_NAME)
        return (0, revision, 0, 0) if revision else NONE

    def data(self) -> bytes:
        """See `Sheet`."""
        data = self.shelf.read(_NAME)
        if data is None:
            raise FileNotFoundError
        if len(data) > MAX_BYTES:
            raise Unfit(f"is larger than {MAX_BYTES} bytes")
        return data

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `Sheet`."""
        self.shelf.note(_NAME)  # also for whoever does not look at what stands there
        yield

    def replace(self, data: bytes) -> None:
        """See `Sheet`."""
        self.shelf.write(_NAME, data)

    def close(self) -> None:
        """See `Sheet`."""
        self.shelf.close()
