"""The immutable and append-only flags of a file system (ioctl_iflags(2)), set and read without our own code."""

from __future__ import annotations

import contextlib
import fcntl
import os
from array import array
from pathlib import Path

_GET, _SET = 0x80086601, 0x40086602
IMMUTABLE, APPEND_ONLY = 0x10, 0x20


def flags(path: Path) -> int:
    """All flags of an inode; 0 where there are none."""
    return _exchange(path, _GET, 0)


def set_flags(path: Path, wanted: int) -> None:
    """Sets all flags of an inode; raises `OSError` where that is refused."""
    _exchange(path, _SET, wanted, strict=True)


def _exchange(path: Path, number: int, value: int, *, strict: bool = False) -> int:
    word = array("L", [value])
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, number, word)
    except OSError:
        if strict:
            raise
        return 0
    finally:
        os.close(descriptor)
    return word[0] & 0xFFFFFFFF


def can_lock(folder: Path) -> bool:
    """True if the kernel and the file system let us make files immutable."""
    probe = folder / ".probe"
    probe.touch()
    before = flags(probe)
    try:
        set_flags(probe, before | IMMUTABLE)
    except OSError:
        return False
    else:
        set_flags(probe, before)
        return True
    finally:
        probe.unlink()


def unlock(folder: Path) -> None:
    """Takes the flags away below a folder, so that it can be removed."""
    for directory, _, files in os.walk(folder):
        for path in (Path(directory), *(Path(directory) / name for name in files)):
            with contextlib.suppress(OSError):
                if (found := flags(path)) & (IMMUTABLE | APPEND_ONLY):
                    set_flags(path, found & ~(IMMUTABLE | APPEND_ONLY))
