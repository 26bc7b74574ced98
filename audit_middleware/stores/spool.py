"""The spool: entries that wait on disk, in order, while the log takes none.

::

    <spool>/<12 hex digits>/        one process's; made when it first has something to set aside
        lock                        held (flock) as long as that process lives
        <number, 8 digits>.jsonl    entries, one a line; a new file is begun after 4 MiB

`Spool.add` is one write and one fdatasync: when it returns, the entries survive a crash. They are sent to the log in
order, a file at a time, and a file is removed once the log has acknowledged all of it. What a process leaves behind
that was killed is taken over by the next process that opens the same spool: nobody else holds its lock.

Promises, and what they are not: entries are kept byte for byte; a file that is sent twice (we die between the log's
acknowledgement and the removal) makes duplicates, which are harmless and marked when read. A line that a crash cut
short was never acknowledged and is left out. Entries in the spool are *not* under a signature yet: whoever can write
these files (0600) can change what will be logged.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ..errors import LogUnavailable, RecordError
from .filesystem import make_directory, sync_directory, write_all
from .frames import check_entry

FILE_BYTES = 4 * 2**20
"""Size after which a new file is begun; also about the size of one commit when it is sent."""

MAX_BYTES = 2**30
"""What one process sets aside at most."""

_log = logging.getLogger(__name__)


class Spool:
    """One process's part of a spool, and what it took over. Used by one thread; `pending` by any."""

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES, max_bytes: int = MAX_BYTES) -> None:
        """Touches nothing yet."""
        self._folder = folder
        self._own = folder / secrets.token_hex(6)
        self._file_bytes = file_bytes
        self._max_bytes = max_bytes
        self._waiting: deque[Path] = deque()
        self._sent: Path | None = None  # the log has it, and it could not be removed yet
        self._locks: dict[Path, int] = {}
        self._number = 0
        self._descriptor: int | None = None
        self._end = 0
        self._size = 0

    @property
    def pending(self) -> bool:
        """Is anything waiting for the log?"""
        return bool(self._waiting)

    def add(self, entries: Sequence[bytes]) -> None:
        """Sets entries aside, durably, behind all that waits already.

        Raises:
            LogUnavailable: The disk refuses, or the spool is full; nothing of these entries will be sent.
        """
        data = b"".join(b"%b\n" % entry for entry in entries)
        if self._size + len(data) > self._max_bytes:
            raise LogUnavailable(f"{self._folder}: the spool holds {self._size} bytes, no more than {self._max_bytes}")
        try:
            descriptor = self._open_file()
            try:
                write_all(descriptor, data)
                os.fdatasync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, self._end)  # what was not acknowledged must not come before what follows
                self._end_file()  # after a failed fsync nothing is believed of this descriptor
                raise
        except OSError as error:
            raise LogUnavailable(f"{self._folder}: nothing can be set aside: {error.strerror}") from error
        self._end += len(data)
        self._size += len(data)
        if self._end >= self._file_bytes:
            self._end_file()

    def oldest(self) -> list[bytes]:
        """The entries of the oldest file, in order; empty if there is none, or nothing in it that could be sent.

        Raises:
            LogUnavailable: The file cannot be read.
        """
        if not self._waiting or self._waiting[0] == self._sent:
            return []
        path = self._waiting[0]
        if len(self._waiting) == 1:
            self._end_file()  # it is about to be sent: what comes now goes into a new one
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise LogUnavailable(f"{path}: cannot be read: {error.strerror}") from error
        *lines, rest = data.split(b"\n")
        if rest:
            _log.warning("%s: the last %d bytes were cut short by a crash and are left out", path, len(rest))
        return [line for line in lines if _is_entry(path, line)]

    def drop_oldest(self) -> None:
        """Removes the oldest file: the log has it all.

        Raises:
            LogUnavailable: It cannot be removed. It is not sent again, unless another process takes it over.
        """
        path = self._sent = self._waiting[0]
        try:
            size = path.stat().st_size
            path.unlink()
            sync_directory(path.parent)
        except FileNotFoundError:
            size = 0
        except OSError as error:
            raise LogUnavailable(f"{path}: cannot be removed: {error.strerror}") from error
        self._waiting.popleft()
        if path.parent == self._own:
            self._size -= size
        if not self._waiting:
            self._let_go()

    def adopt(self) -> int:
        """Takes over what processes left that are gone; returns the number of files. They come before our own."""
        folders = [folder for folder in _listed(self._folder) if folder.is_dir() and folder not in self._locks]
        left = [sorted(folder.glob("*.jsonl")) for folder in folders if self._hold(folder)]
        found = [path for files in sorted(filter(None, left), key=lambda files: _age(files[0])) for path in files]
        if not found:
            self._let_go()
        self._waiting.extendleft(reversed(found))
        return len(found)

    def close(self) -> None:
        """Lets go of files and locks; what waits is taken over by the next process."""
        self._end_file()
        if not self._waiting and self._own in self._locks:
            _remove(self._own)
        while self._locks:
            os.close(self._locks.popitem()[1])

    def forget(self) -> None:
        """In a forked child: closes its copies of the descriptors, or the locks would outlive the parent. Everything
        in the folders stays the parent's."""
        for descriptor in [self._descriptor, *self._locks.values()]:
            if descriptor is not None:
                with contextlib.suppress(OSError):  # forked while the parent was closing it
                    os.close(descriptor)
        self._descriptor = None
        self._locks.clear()
        self._waiting.clear()

    # --- files and locks -----------------------------------------------------------------------------------------

    def _open_file(self) -> int:
        if self._descriptor is None:
            if self._own not in self._locks:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                make_directory(self._own)
                if not self._hold(self._own):  # without its lock, another process would take over what we still write
                    _remove(self._own)
                    self._own = self._folder / secrets.token_hex(6)
                    raise OSError(errno.EBUSY, "no lock for a new folder")
            path = self._own / f"{self._number:08d}.jsonl"
            self._number += 1
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)
            self._end = 0
            self._waiting.append(path)
            sync_directory(self._own)
        return self._descriptor

    def _end_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _hold(self, folder: Path) -> bool:
        """Takes a folder's lock; False where its process lives, or it is none of ours to take. Never waits."""
        try:
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.stat(folder / "lock")  # it is gone where another process took all over in the meantime
        except OSError:
            os.close(descriptor)
            return False
        self._locks[folder] = descriptor
        return True

    def _let_go(self) -> None:
        """Removes what was taken over and has nothing left; our own folder stays as long as we do."""
        for folder in [folder for folder in self._locks if folder != self._own]:
            _remove(folder)
            os.close(self._locks.pop(folder))


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _age(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, str(path)
    except OSError:
        return 0, str(path)


def _is_entry(path: Path, line: bytes) -> bool:
    try:
        check_entry(line)
    except RecordError as problem:
        _log.error("%s: a line is left out that is no entry: %s", path, problem)
        return False
    return True


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):  # something else is in it, or another process was faster: it may stay
        (folder / "lock").unlink(missing_ok=True)
        folder.rmdir()
