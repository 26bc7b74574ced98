"""An archive in a folder: for another disk, a mounted share, or tests of what uses an archive.

Objects are written as `local.Folder` writes them and become read-only. Where the kernel lets us (Linux, a file system
that knows the flags, ``CAP_LINUX_IMMUTABLE``), each also gets the immutable flag (``chattr +i``), and the directories
above it the append-only flag (``chattr +a``), without which a directory could be moved away with all that is in it.
Then not even root removes or changes an object without taking the flags away first, which root can do at any time:
this stops accidents and accounts, never the administrator of that machine. An object is called ``locked`` only when all
these flags were read back.

Flags have no date: a lock in a folder does not end by itself. ``chattr -R -i -a DIR`` ends it.

What somebody else may have put there is not trusted: only regular files of bounded size are objects. A symbolic link, a
pipe or a device under an object's name is none and is not opened; one where a directory belongs is not followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ArchiveConflict, ArchiveError, LogBusy, LogDamaged, LogUnavailable
from ..model import Stored
from .local import Folder, object_name

LARGEST = 128 * 2**20
"""Bytes of one object. What is longer is not ours."""

_LONGEST = 1024
"""Characters of a name that is listed, as in S3; what lies deeper is not ours."""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

_WAIT = 30.0
"""Seconds that a writer waits for the others; each holds the lock for one object."""

# include/uapi/linux/fs.h, for the architectures whose ioctl numbers are the generic ones. Elsewhere the kernel does
# not know these numbers, and nothing is called locked.
_GET_FLAGS = 0x8008_6601 if struct.calcsize("l") == 8 else 0x8004_6601
_SET_FLAGS = 0x4008_6602 if struct.calcsize("l") == 8 else 0x4004_6602
_IMMUTABLE = 0x10
_APPEND_ONLY = 0x20


class FolderArchive:
    """A `protocols.Archive` in a directory. Any number of processes may write; one object is written at a time."""

    def __init__(self, root: Path | str) -> None:
        """Changes nothing; see `open`. The directory itself may be named by a symbolic link, nothing in it may."""
        self._named = str(root)
        self._folder = Folder(Path(root).resolve())

    @classmethod
    def open(cls, root: Path | str) -> FolderArchive:
        """The archive in a directory that is there.

        Raises:
            ArchiveError: There is none. It is not made here: a disk that is not mounted must not become an archive.
        """
        path = Path(root)
        if not path.is_dir():
            raise ArchiveError(f"{path}: no directory is there. Mount it, or make it once: mkdir -m 700 {path}")
        return cls(path)

    @property
    def place(self) -> str:
        """The directory, as it was named."""
        return self._named

    def put(self, name: str, data: bytes, until: float | None) -> Stored:
        """As the protocol says. The flags have no end, so ``until`` is not kept; ``None`` asks for none of them.

        If we die here: nothing, or the whole object, maybe still without its flags; putting it again sets them.
        """
        path = self._path(name)
        with self._told(name):
            self._check_way(path)
            try:
                with self._folder.exclusive(_WAIT):
                    self._folder.put_new(name, data)
                    self._folder.sync()
                    self._lock(path, flags=until is not None)
            except LogDamaged:
                raise ArchiveConflict(
                    f"{path}: is there with other bytes; it is immutable, so one of the two was altered. "
                    "Nothing was changed. Verify the log and the archive"
                ) from None
            return self._stored(name, path)

    def get(self, name: str, version: str | None = None) -> bytes | None:
        """As the protocol says; objects in a folder have one version, which has no name."""
        path = self._path(name)
        with self._told(name):
            found = _regular(path)
            if version is not None or found is None:
                return None
            if found.st_size > LARGEST:
                raise ArchiveError(f"{path}: has {found.st_size} bytes, more than {LARGEST}: it is no object of a log")
            try:
                with open(os.open(path, _READ), "rb") as file:
                    return file.read(LARGEST)
            except FileNotFoundError:  # removed meanwhile
                return None

    def versions(self, name: str) -> Sequence[Stored]:
        """The one version, or none."""
        path = self._path(name)
        with self._told(name):
            try:
                return [self._stored(name, path)] if _regular(path) is not None else []
            except FileNotFoundError:  # removed meanwhile
                return []

    def names(self, prefix: str) -> Iterator[str]:
        """As the protocol says, in the order of S3: by bytes of the whole name."""
        top = self._path(prefix) if prefix else self._folder.root
        with self._told(prefix):
            yield from self._below(top, f"{prefix}/" if prefix else "")

    def _below(self, directory: Path, above: str) -> Iterator[str]:
        try:
            with os.scandir(directory) as found:
                # With its slash, because "a-b" comes before "a/b".
                entries = sorted((f"{one.name}/" if one.is_dir(follow_symlinks=False) else one.name) for one in found)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            name = above + entry.rstrip("/")
            try:
                object_name(name)
            except ValueError:  # our own state, or somebody else's
                continue
            if len(name) > _LONGEST:
                continue
            if entry.endswith("/"):
                yield from self._below(directory / entry, f"{name}/")
            else:
                yield name

    def _path(self, name: str) -> Path:
        return self._folder.root / object_name(name)

    def _check_way(self, path: Path) -> None:
        """Raises where a symbolic link stands on the way to an object: what lies outside must not be written to."""
        for one in (path, *self._parents(path), self._folder.root / ".state"):
            if one != self._folder.root and one.is_symlink():
                raise ArchiveConflict(
                    f"{one}: is a symbolic link, and leads out of the archive. Nothing was written. Find out who "
                    "made it, remove it and verify the archive"
                )

    def _stored(self, name: str, path: Path) -> Stored:
        found = path.stat()
        return Stored(name, found.st_size, None, found.st_mtime, None, self._locked(path))

    def _parents(self, path: Path) -> Iterator[Path]:
        while path != self._folder.root:
            path = path.parent
            yield path

    def _lock(self, path: Path, *, flags: bool) -> None:
        """Takes the right to write away, then, if a lock is asked for, all that the kernel lets us."""
        if not _flags(path) & _IMMUTABLE:  # one that has it cannot be changed any more
            path.chmod(path.stat().st_mode & 0o555)
            if flags:
                _add_flag(path, _IMMUTABLE)
        for directory in self._parents(path) if flags else ():
            _add_flag(directory, _APPEND_ONLY)

    def _locked(self, path: Path) -> bool:
        return bool(_flags(path) & _IMMUTABLE) and all(_flags(one) & _APPEND_ONLY for one in self._parents(path))

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Errors in the words of an archive."""
        try:
            yield
        except LogBusy:
            raise ArchiveError(
                f"{self.place}: another process held it for {_WAIT:.0f} seconds. A folder that a log is published in "
                "with --follow cannot be its archive: give the archive a directory of its own"
            ) from None
        except LogUnavailable as error:
            raise ArchiveError(str(error)) from error
        except OSError as error:
            raise ArchiveError(f"{self.place}: {name}: {error.strerror}") from error


def _regular(path: Path) -> os.stat_result | None:
    """What is known of a file; ``None`` for what is none, or is not there."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _flags(path: Path) -> int:
    """The inode's flags; 0 where there are none to be had."""
    try:
        descriptor = os.open(path, _READ)
    except PermissionError:
        return 0
    try:
        return _read_flags(descriptor)
    finally:
        os.close(descriptor)


def _read_flags(descriptor: int) -> int:
    word = bytearray(8)  # the kernel writes an int, whatever the number says
    try:
        fcntl.ioctl(descriptor, _GET_FLAGS, word)
    except OSError:  # a file system or a system without flags
        return 0
    return int(struct.unpack_from("=I", word)[0])


def _add_flag(path: Path, flag: int) -> None:
    """Sets a flag if that is allowed; whoever wants to know reads it back."""
    descriptor = os.open(path, _READ)
    try:
        flags = _read_flags(descriptor)
        if not flags & flag:
            with contextlib.suppress(OSError):
                fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("=q", flags | flag))
    finally:
        os.close(descriptor)
