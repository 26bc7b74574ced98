"""Where a log ends, and what a crash may leave there.

After the last whole frame there may be a *torn write*: a beginning of a frame, or a frame with blocks that never
reached the disk. Its entries were never acknowledged, so the next writer cuts it off, under the lock, and keeps the
bytes. Anything else there has been damaged later: then nothing is changed and nothing is written.

A last segment without any whole frame is what a crash right after its creation leaves: the log then ends with the
segment before it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from ..errors import FormatError, LogDamaged
from ..model import Head
from . import frames
from .base import read_base
from .filesystem import sync_directory, write_side_file
from .frames import Commit
from .segments import last_commit_line, list_segments, read_at, segment_path


class Place(msgspec.Struct, frozen=True):
    """A whole frame in a segment: where it starts and ends, and its commit."""

    start: int
    end: int
    commit: Commit


class Tail(msgspec.Struct, frozen=True):
    """Where a log ends: the last segment, the offset after its last whole frame, the head there, the bytes beyond."""

    segment: int = 0
    end: int = 0
    head: Head = Head()
    excess: int = 0


def find_tail(directory: Path, *, verify: bool) -> Tail:
    """Returns where the log ends.

    Args:
        directory: The directory of the segments.
        verify: Also compare the last frame with its hash. Needed when it may have been written before a power cut or
            by a writer whose fdatasync failed; not when only killed processes can have left it.

    Raises:
        LogDamaged: What is there is not what commits and crashes leave.
    """
    while True:
        base, names = read_base(directory).size, list_segments(directory)
        try:
            tail = _find_tail(directory, names, verify)
        except FileNotFoundError:
            if names == list_segments(directory):
                raise
            continue  # one of them was pruned after we listed it
        if tail.head.size < base:
            raise LogDamaged(
                f"{directory}: the log was pruned to begin at entry {base}, but its segments end at {tail.head.size}: "
                "the rest is gone. Restore the newest copy; nothing is written until then"
            )
        return tail


def _find_tail(directory: Path, names: list[int], verify: bool) -> Tail:
    if not names:
        return Tail()
    tail = segment_tail(directory, names[-1], verify=verify)
    if tail is not None:
        return tail
    excess = segment_path(directory, names[-1]).stat().st_size
    if len(names) == 1:
        if names[0]:
            raise LogDamaged(
                f"{segment_path(directory, names[0])}: no whole frame, and the segments before it are gone"
            )
        return Tail(excess=excess)
    before = segment_tail(directory, names[-2], verify=verify)
    if before is None or before.excess or before.head.size != names[-1]:
        raise LogDamaged(f"{segment_path(directory, names[-2])}: does not end with entry {names[-1] - 1}")
    return Tail(names[-1], 0, before.head, excess)


def segment_tail(directory: Path, first: int, *, verify: bool) -> Tail | None:
    """Returns where one segment's whole frames end; ``None`` if it holds none."""
    path = segment_path(directory, first)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_tail(descriptor, path, first, verify=verify)
    finally:
        os.close(descriptor)


def read_tail(descriptor: int, path: Path, first: int, *, verify: bool) -> Tail | None:
    """Like `segment_tail`, on an open descriptor."""
    size = os.fstat(descriptor).st_size
    place = last_frame(descriptor, path, size, verify=verify)
    end = place.end if place else 0
    if verify and end < size:
        _refuse_damage(descriptor, path, end, size)
    if place is None:
        return None
    return Tail(first, place.end, place.commit.head, size - place.end)


def last_frame(descriptor: int, path: Path, size: int, *, verify: bool) -> Place | None:
    """Returns the last whole frame below ``size``; ``None`` if there is none. Raises `LogDamaged`.

    With ``verify``, one frame that does not match its hash may be passed over: the last one, if a power cut took some
    of its blocks. Whether that is so, `read_tail` looks at. Each frame before it was durable before it was written.
    """
    stop, passed = size, False
    while found := last_commit_line(descriptor, stop):
        at, end = found
        if not verify:
            return Place(at, end, _commit_at(descriptor, path, at, end))
        before = last_commit_line(descriptor, at)
        start = before[1] if before else 0
        raw = frames.read_raw(read_at(descriptor, start, end - start), f"{path}:{start}")
        if raw.problem is None and raw.commit is not None:
            return Place(start, end, raw.commit)
        if passed:
            raise _damage(path, start)
        stop, passed = start, True
    return None


def _refuse_damage(descriptor: int, path: Path, start: int, size: int) -> None:
    """Raises unless the bytes beyond the last valid frame are a torn write."""
    if not frames.is_torn(read_at(descriptor, start, size - start)):
        raise _damage(path, start)


def _damage(path: Path, start: int) -> LogDamaged:
    return LogDamaged(
        f"{path}: the bytes from offset {start} on are no valid frame and no torn write either. Nothing was "
        "changed. Run `audit-middleware verify` on the log; restore the file from a copy before writing again"
    )


def _commit_at(descriptor: int, path: Path, start: int, end: int) -> Commit:
    try:
        return frames.parse_commit(read_at(descriptor, start, end - start))
    except FormatError as error:
        raise LogDamaged(f"{path}: offset {start}: {error}") from error


class Repair(msgspec.Struct, frozen=True):
    """A torn write that was cut off: from which segment and offset, how many bytes, and where they are kept."""

    segment: Path
    offset: int
    size: int
    kept: Path


def repair_tail(directory: Path, tail: Tail, state: Path) -> Repair:
    """Cuts off the bytes beyond the last whole frame; the caller holds the lock and knows that they are torn.

    If we die after the copy: the torn bytes are still there, and the next writer does the same, with a second copy.
    If we die after the cut: the log is repaired. Should a power cut bring the torn bytes back, so will the repair.
    """
    path = segment_path(directory, tail.segment)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        kept = state / f"torn-{tail.segment:020d}-{tail.end}-{time.time_ns()}"
        write_side_file(kept, read_at(descriptor, tail.end, tail.excess))
        sync_directory(state)
        os.ftruncate(descriptor, tail.end)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Repair(path, tail.end, tail.excess, kept)
