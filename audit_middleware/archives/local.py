"""A folder of immutable objects: written once, whole or not at all, and never changed.

Objects have names such as ``tile/0/x001/234.p/17``: parts of letters, digits, ``_``, ``-`` and ``.``, none starting
with a dot. Beside them stands ``.state/``, which holds the writer's lock and what is not finished yet.

*Atomicity*: an object appears with all its bytes or not at all. *Durability*: an object's bytes are on disk before it
has its name; names are on disk when `sync` returns. *Concurrency*: one writer, who holds `exclusive`; any number of
readers. *Retry*: putting the same object again is allowed and changes nothing.

New directories and files get the permissions of the folder itself, which is made for its owner alone: records are
confidential. Whoever lets a web server read the folder gives it the permissions once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from ..errors import LogBusy, LogDamaged, LogUnavailable

_NAME = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*", re.ASCII)
_LOOK_AGAIN = 0.02
"""Seconds between two looks at a lock that is waited for."""
_WRITERS = 8
"""Files written side by side: an fsync takes milliseconds, and a file system does many in one go."""

Object = tuple[str, bytes]

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


def object_name(name: str) -> str:
    """The name, if it is one that an object may have. Raises `ValueError`."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not the name of an object")
    return name


class Folder:
    """Immutable objects in one directory, and a few named ones that are replaced as a whole."""

    def __init__(self, root: Path | str) -> None:
        """Touches nothing; `exclusive` makes the directory."""
        self.root = Path(root)
        self._unsynced: set[Path] = set()
        self._known: set[Path] = set()  # directories that are there
        self._numbers = count()
        self._mode = 0o700

    @contextlib.contextmanager
    def exclusive(self, wait: float = 0.0) -> Iterator[None]:
        """Makes this the folder's one writer, as long as the block lasts; waits up to ``wait`` seconds for another.

        If we die here: the kernel frees the lock, and the next writer removes what was not finished.

        Raises:
            LogBusy: Another process, or another block of this one, writes this folder.
        """
        made = not self.root.exists()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if made:
            self._unsynced.add(self.root.parent)
        self._mode = self.root.stat().st_mode & 0o777
        state = self._state
        state.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(state / "publish.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _held.add(descriptor)
        process = os.getpid()
        try:
            if not _taken(descriptor, wait):
                raise LogBusy(f"{self.root}: another process publishes there already")
            for left in state.glob("put-*"):
                left.unlink()
            yield
        finally:
            if process == os.getpid():  # a child has closed it already
                _held.discard(descriptor)
                os.close(descriptor)

    # --- reading -------------------------------------------------------------------------------------------------

    def get(self, name: str) -> bytes | None:
        """Returns an object's bytes; ``None`` if there is none of this name."""
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def has(self, name: str) -> bool:
        """True if there is an object of this name."""
        return self._path(name).is_file()

    def names(self, prefix: str) -> Iterator[str]:
        """Yields the names of all objects under a directory, in no order; streams."""
        for directory, _, files in os.walk(self._path(prefix)):
            below = Path(directory).relative_to(self.root).as_posix()
            for file in files:
                yield f"{below}/{file}"

    # --- writing: under `exclusive` ------------------------------------------------------------------------------

    def put_new(self, name: str, data: bytes) -> bool:
        """Stores an object; True if it was not there yet.

        If we die here: a file in ``.state``, which the next writer removes, or the whole object.

        Raises:
            LogDamaged: There is an object of this name with other bytes; nothing was changed.
            LogUnavailable: The disk refuses.
        """
        path = self._path(name)
        try:
            fresh = not self._same(path, data) and self._link_new(path, data)
        except OSError as error:
            raise LogUnavailable(f"{path}: cannot be written: {error.strerror}") from error
        # One that was there may have been linked by a writer that died before it could sync the directory.
        self._unsynced.add(path.parent)
        return fresh

    def put_all(self, objects: Iterable[Object]) -> int:
        """Like `put_new` for many objects, several at a time; returns how many were not there yet."""
        listed = list(objects)
        for name, _ in listed:
            self._make_directory(self._path(name).parent)  # here, so that the threads only meet finished directories
        if len(listed) < _WRITERS:
            return sum(self.put_new(*one) for one in listed)
        with ThreadPoolExecutor(_WRITERS) as pool:
            return sum(pool.map(lambda one: self.put_new(*one), listed))

    def replace(self, name: str, data: bytes) -> None:
        """Stores a mutable object durably in place of the one before.

        If we die here: the one before, or this one; never a mixture.
        """
        path = self._path(name)
        try:
            os.rename(self._stage(data), path)
            self._unsynced.add(path.parent)
            self.sync()
        except OSError as error:
            raise LogUnavailable(f"{path}: cannot be written: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """Removes an object, and its directory if it was the last one there.

        If we die here: it may be back after a power cut; removing it again is allowed.
        """
        path = self._path(name)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with contextlib.suppress(OSError):  # not empty, or gone
            path.parent.rmdir()
            self._known.discard(path.parent)
            self._unsynced.discard(path.parent)

    def sync(self) -> None:
        """Makes all names durable that were given since the last call."""
        for directory in sorted(self._unsynced):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._unsynced.clear()

    # --- inside --------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> Path:
        return self.root / ".state"

    def _path(self, name: str) -> Path:
        return self.root / object_name(name)

    def _same(self, path: Path, data: bytes) -> bool:
        """True if the object is there already. Raises `LogDamaged` if another one is."""
        try:
            found = path.stat()
            # Looked at first: a pipe would never end, and what is larger need not be read.
            same = stat.S_ISREG(found.st_mode) and found.st_size == len(data) and path.read_bytes() == data
        except FileNotFoundError:
            if not path.is_symlink():
                return False
            same = False
        if not same:
            raise LogDamaged(
                f"{path}: is there with other bytes than the log's; it is immutable, so one of the two was altered. "
                "Nothing was changed. Verify the log; if it holds, move the file away and publish again"
            )
        return True

    def _link_new(self, path: Path, data: bytes) -> bool:
        self._make_directory(path.parent)
        temporary = self._stage(data)
        try:
            os.link(temporary, path)  # unlike rename, this never replaces what somebody else made meanwhile
            return True
        except FileExistsError:
            self._same(path, data)
            return False
        finally:
            os.unlink(temporary)

    def _stage(self, data: bytes) -> Path:
        """Writes a file that has no name yet and makes its bytes durable."""
        temporary = self._state / f"put-{next(self._numbers)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, self._mode & 0o666)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return temporary

    def _make_directory(self, path: Path) -> None:
        if path in self._known:
            return
        if path != self.root:
            self._make_directory(path.parent)
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                path.chmod(self._mode)
            self._unsynced.add(path.parent)
        self._known.add(path)


def _taken(descriptor: int, wait: float) -> bool:
    """Takes the lock; false if somebody else held it all the time."""
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN)
        else:
            return True


def _let_go() -> None:
    """In a child: a flock belongs to parent and child together, and the child must not keep it when the parent ends."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
