"""What the journal asks of a file system, and the few durable steps it takes there.

A log must not stand on a file system where flock or fdatasync do not mean what they say:

* **refused**: network file systems (NFS, SMB/CIFS, AFS, Ceph, 9p, Lustre, GlusterFS, anything FUSE). ``force`` lets an
  operator who knows better decide otherwise.
* **warned about**: overlay (every container's root file system has it; flock and fdatasync work, but the log goes away
  with the container unless it is on a volume: refusing would only teach everyone to force) and memory file systems
  (nothing survives a reboot).
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ..errors import StoreError

_REFUSED = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|9p|lustre|gfs2?|ocfs2|glusterfs|beegfs.*|virtiofs|fuse(?!blk).*"
)
_DOUBTED = {
    "overlay": "an overlay file system: the log disappears with the container; put it on a volume",
    "tmpfs": "a memory file system: the log does not survive a reboot",
    "ramfs": "a memory file system: the log does not survive a reboot",
}


def check_filesystem(path: Path, *, force: bool) -> tuple[str, ...]:
    """Returns warnings about the file system under ``path``; raises `StoreError` for one that cannot hold a log."""
    kind = filesystem_type(path)
    if _REFUSED.fullmatch(kind) and not force:
        raise StoreError(
            f"{path}: is on {kind}, where locks and fsync cannot be relied on. Put the log on a local disk, use the "
            "PostgreSQL store for many hosts, or pass force=True if you know that this one keeps its promises"
        )
    doubt = _DOUBTED.get(kind)
    return (f"{path}: is on {doubt}",) if doubt else ()


def filesystem_type(path: Path) -> str:
    """Returns the kernel's name for the file system under ``path``: ``ext4``, ``nfs4``, ``overlay``; "" if unknown."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    return type_from_mounts(mounts, os.path.realpath(path))


def type_from_mounts(mounts: str, path: str) -> str:
    """Returns the type of the mount that ``path`` is under, given the text of ``/proc/self/mountinfo``."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # ">=": of two mounts on one point the later one is on top.
        if inside and len(point) >= best:
            best, kind = len(point), after.split(" ")[0]
    return kind


def headroom(path: Path) -> int:
    """Returns the bytes that an unprivileged writer can still store on this file system."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def sync_directory(path: Path) -> None:
    """Makes names created in or removed from a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Creates a directory for the owner alone, with its name made durable; an existing one is left as it is."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        sync_directory(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all bytes. One system call, but where the kernel takes less: then the next one says why it failed."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def write_new_file(path: Path, data: bytes) -> None:
    """Creates a file durably, 0600, whole or not at all. Raises `FileExistsError` if there is one.

    If we die here: a temporary file is left beside it, which nothing reads and the next attempt replaces.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    write_side_file(temporary, data)
    try:
        os.link(temporary, path)  # unlike rename, this never replaces what another process made meanwhile
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Puts a file, 0600, durably in place of the one before, if there is one. The caller holds a lock.

    If we die here: the file before or this one, whole, and perhaps a temporary one that the next attempt replaces.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    write_side_file(temporary, data)
    os.replace(temporary, path)
    sync_directory(path.parent)


def write_side_file(path: Path, data: bytes) -> None:
    """Creates a file, 0600, and makes its content durable. Raises `FileExistsError` if there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
