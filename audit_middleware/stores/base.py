"""Where a pruned log begins: the head below which entries were removed, and how they are removed.

``journal/<20-digit size>.base`` holds, byte for byte, the commit line of the frame that ended at that size: its peaks
and its signed checkpoint are what the rest of the log is verified from. The largest one counts. No such file: nothing
was pruned.

What is below the base is not part of the log any more, whether or not it is still on disk: readers begin at the base
from the moment its file has its name, even if that is in the middle of a segment. Removing is the second step:

1. `write_base`. *If we die here*: nothing is gone and the old base counts, or the new one does and files below it wait
   for step 2, which nothing reads.
2. `drop_below`. The segment that holds the base is copied from there on, under the name that its first entry gives it;
   then every segment below is unlinked, oldest first. *If we die here*: some are left; the next call removes them.

Only closed segments are touched (`JournalStore.close_segment_at` closes the last one), and writers append to the last
one only, so writers need not wait.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from ..errors import EntriesPruned, FormatError, LogDamaged
from ..model import Head
from . import frames
from .filesystem import sync_directory, write_all, write_side_file
from .segments import last_commit_line, list_segments, locate, pieces, read_at, segment_path

_NAME = re.compile(r"(\d{20})\.base")
_COPY = 2**20


def base_path(directory: Path, size: int) -> Path:
    """Returns the path of the file that says that a log begins at this size."""
    return directory / f"{size:020d}.base"


def list_bases(directory: Path) -> list[int]:
    """Returns the sizes of all base files, ascending. More than one: a prune was cut short."""
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, os.listdir(directory)) if match)


def read_base(directory: Path) -> Head:
    """Returns the head below which entries were pruned; that of the empty log if none were. Raises `LogDamaged`."""
    while sizes := list_bases(directory):
        path = base_path(directory, sizes[-1])
        try:
            line = path.read_bytes()
        except FileNotFoundError:
            if list_bases(directory) == sizes:  # else a later prune has just replaced it
                raise LogDamaged(f"{path}: is a link to nowhere; restore it from a copy") from None
            continue
        return _parse(path, line, sizes[-1])
    return Head()


def _parse(path: Path, line: bytes, size: int) -> Head:
    try:
        commit = frames.parse_commit(line)
    except FormatError as error:
        raise LogDamaged(f"{path}: {error}; restore it from a copy: the rest is verified from it") from error
    if not line.endswith(b"\n") or line.count(b"\n") != 1 or commit.size != size:
        raise LogDamaged(f"{path}: is not the commit line at size {size}; restore it from a copy")
    return commit.head


def commit_line_at(directory: Path, size: int) -> bytes:
    """Returns the commit line, with its newline, of the frame that ends at this size. Raises `LogDamaged`."""
    segment = max((first for first in list_segments(directory) if first < size), default=0)
    path = segment_path(directory, segment)
    with path.open("rb") as file:
        end = _end_of(file.fileno(), path, segment, size)
        line = last_commit_line(file.fileno(), end)
        return read_at(file.fileno(), line[0], line[1] - line[0]) if line is not None else b""


def write_base(directory: Path, line: bytes) -> None:
    """Makes the size that a commit line says the log's base, durably. Raises `LogDamaged` if it is no commit line."""
    try:
        size = frames.parse_commit(line).size
    except FormatError as error:
        raise LogDamaged(f"{directory}: {error}") from error
    _put(base_path(directory, size), line)


def drop_below(directory: Path, base: int) -> int:
    """Unlinks every segment below the base, after copying what stands above it; returns the bytes removed.

    There must be a segment that begins at or after the base: writers append to the last one, so it is never copied.
    May be called again, by one process at a time.

    Raises:
        LogDamaged: The base is in the last segment, or no commit of the segment it is in ends there.
    """
    names = list_segments(directory)
    below = [first for first in names if first < base]
    if below and below[-1] == names[-1]:
        raise LogDamaged(f"{segment_path(directory, below[-1])}: is still written to; nothing was removed")
    freed = 0
    if below and base not in names:
        freed -= _copy_from(directory, below[-1], base)
    for first in below:
        path = segment_path(directory, first)
        freed += path.stat().st_size
        path.unlink()
    for size in list_bases(directory)[:-1]:
        base_path(directory, size).unlink()
        _note_path(directory, size).unlink(missing_ok=True)
    sync_directory(directory)
    return freed


def _copy_from(directory: Path, segment: int, base: int) -> int:
    """Makes the segment that begins at the base out of the end of the one that holds it; returns its bytes."""
    source, target = segment_path(directory, segment), segment_path(directory, base)
    temporary = _temporary(target)
    with source.open("rb") as file:
        at, end = _end_of(file.fileno(), source, segment, base), os.fstat(file.fileno()).st_size
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for offset in range(at, end, _COPY):
                write_all(descriptor, read_at(file.fileno(), offset, min(_COPY, end - offset)))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    os.replace(temporary, target)
    sync_directory(directory)  # before anything is unlinked
    return end - at


def _end_of(descriptor: int, path: Path, segment: int, size: int) -> int:
    """The offset after the frame that ends at this size of the log."""
    end = os.fstat(descriptor).st_size
    begin = locate(descriptor, end, size - 1, segment, None) if size - 1 > segment else 0
    for offset, data, whole in pieces(descriptor, begin, end):
        raw = frames.read_raw(data, f"{path}:{offset}") if whole else None
        if raw is not None and raw.problem is None and raw.commit is not None and raw.commit.size == size:
            return offset + len(data)
    raise LogDamaged(f"{path}: no commit ends at size {size}")


# --- what a reader is told -------------------------------------------------------------------------------------------


def write_note(directory: Path, base: int, record: int, at: str) -> None:
    """Keeps beside a base which record explains it and when that was made: a hint for messages, trusted by nobody."""
    text = json.dumps({"at": at, "record": record}) + "\n"
    _put(_note_path(directory, base), text.encode())


def read_note(directory: Path, base: int) -> tuple[int, str] | None:
    """Returns record and time as `write_note` kept them; ``None`` if they cannot be had."""
    try:
        values = json.loads(_note_path(directory, base).read_bytes())
        return int(values["record"]), str(values["at"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def pruned(directory: Path, wanted: int, base: int) -> EntriesPruned:
    """Returns the error for entries from ``wanted`` on, which are below the base."""
    note = read_note(directory, base)
    known = f" at {note[1]}; entry {note[0]} of the log is the record of it" if note else ""
    return EntriesPruned(
        f"{directory.parent}: entry {wanted} was pruned{known}. The log begins at entry {base} now. Whoever kept a "
        ".tlog-proof of an older entry keeps it valid"
    )


def _note_path(directory: Path, base: int) -> Path:
    return directory / f"{base:020d}.pruned"


def _put(path: Path, data: bytes) -> None:
    """Writes a file durably, whole or not at all. If we die here: a temporary file that the next attempt replaces."""
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    write_side_file(temporary, data)
    os.replace(temporary, path)
    sync_directory(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")
