"""Reading the journal's segment files: which there are, and where their frames start.

A segment is named after the log index of its first entry, ``00000000000000065536.jsonl``, and holds whole frames. The
next one starts when a segment has reached its size, so only the last segment ever grows.

Nothing here writes, and nothing here takes the lock: a reader sees any beginning of a frame being written and stops
before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from ..errors import FormatError
from . import frames
from .frames import COMMIT, MARK, Commit, RawFrame

_NAME = re.compile(r"(\d{20})\.jsonl")
_FIRST_CHUNK = 2**16
_WINDOW = 2**16
_MARGIN = 2**12
_BACKWARDS = 2**13


def segment_path(directory: Path, first: int) -> Path:
    """Returns the path of the segment whose first entry has this log index."""
    return directory / f"{first:020d}.jsonl"


def list_segments(directory: Path) -> list[int]:
    """Returns the first indexes of all segments, ascending; files of other names are not looked at."""
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, os.listdir(directory)) if match)


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Returns the bytes at an offset; fewer only where the file ends."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def pieces(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yields (offset, bytes, True) for each run of bytes up to a commit line, then (offset, rest, False) if any.

    ``start`` must be the start of a frame. In an undamaged file each run is one frame.
    """
    # One buffer that is read into again and again, as large as the largest run has made it: who wants one frame reads
    # little, and who wants all of them does not pay for fresh memory.
    buffer, base, held, looked = bytearray(_FIRST_CHUNK), start, 0, 0
    while base + held < end:
        if held == len(buffer):
            buffer += bytes(held)
        with memoryview(buffer) as view:
            got = os.preadv(descriptor, [view[held : min(len(buffer), end - base)]], base + held)
            if not got:
                break
            held += got
            ends, looked = _frame_ends(buffer, looked, held)
            position = 0
            for cut in ends:
                yield base + position, bytes(view[position:cut]), True
                position = cut
            view[: held - position] = view[position:held]
        base, held, looked = base + position, held - position, looked - position
    if held:
        yield base, bytes(buffer[:held]), False


def _frame_ends(buffer: bytearray, start: int, stop: int) -> tuple[list[int], int]:
    """The positions after each whole commit line in these first bytes of a buffer, ascending; and where to go on.

    Up to ``start`` was looked before, and nothing found. Looked for from the end: with the rare newline as the first
    byte to compare, that is many times faster.
    """
    ends = []
    further = max(start, stop - len(MARK) + 1)
    at = buffer.rfind(MARK, start, stop)
    while at >= 0:
        cut = buffer.find(b"\n", at + 1, stop) + 1
        ends.append(cut)
        if not cut:
            further = at  # its line ends in bytes to come
        at = buffer.rfind(MARK, start, at)
    if buffer.startswith(COMMIT, 0, stop):
        ends.append(buffer.find(b"\n", 0, stop) + 1)  # no entries: damaged, but a run of its own
    found = [end for end in reversed(ends) if end]
    return found, max(further, found[-1] if found else 0)


def line_end(buffer: bytes, position: int) -> int:
    return buffer.find(b"\n", position) + 1


def last_commit_line(descriptor: int, stop: int) -> tuple[int, int] | None:
    """Start and end of the last whole commit line that ends at or below ``stop``.

    Reads backwards in growing steps: the line is near, unless a torn write or a large frame lies between.
    """
    width = _BACKWARDS
    while True:
        base = max(0, stop - width)
        data = read_at(descriptor, base, stop - base)
        at = data.rfind(MARK)
        while at >= 0:
            if end := line_end(data, at + 1):
                return base + at + 1, base + end
            at = data.rfind(MARK, 0, at)
        if base == 0:
            return None
        width *= 8


def locate(descriptor: int, size: int, index: int, first: int, beyond: int | None) -> int:
    """Returns the offset of the frame that holds entry ``index``, or of an earlier one where something is damaged.

    Guesses from the entries' average size, looks at the next commit line from there, and guesses again between what it
    knows; every third guess is the middle, so that entries of very different sizes do not make it slow. What is damaged
    counts as "beyond": the caller then reads from an earlier frame on and meets the damage itself.

    Args:
        descriptor: The segment.
        size: Its size in bytes.
        index: The entry looked for.
        first: The segment's first entry.
        beyond: The first entry after the segment, if known.
    """
    low, low_index, high = 0, first, size
    high_index = beyond if beyond is not None else _size_at_end(descriptor, size)
    step = 0
    while high - low > _WINDOW:
        step += 1
        share = (index - low_index) / max(1, high_index - low_index) if step % 3 else 0.5
        guess = low + int((high - low) * min(max(share, 0.0), 1.0)) - _MARGIN
        guess = min(max(guess, low), high - _MARGIN)
        found = _next_commit(descriptor, guess, high)
        if found is None:
            high = guess
        elif found[0].size <= index:
            low, low_index = found[2], found[0].size
        elif found[0].first > index:
            high, high_index = guess, found[0].first
        else:
            before = last_commit_line(descriptor, found[1])
            return before[1] if before is not None else 0
    return low


def _size_at_end(descriptor: int, size: int) -> int:
    line = last_commit_line(descriptor, size)
    try:
        return frames.parse_commit(read_at(descriptor, line[0], line[1] - line[0])).size if line is not None else 0
    except FormatError:
        return 0


def _next_commit(descriptor: int, start: int, end: int) -> tuple[Commit, int, int] | None:
    """The first whole commit line that starts in [start, end), and where it starts and ends."""
    width = 2**16
    while True:
        data = read_at(descriptor, start, min(width, end - start))
        at = data.find(MARK)
        if at >= 0 and (stop := line_end(data, at + 1)):
            try:
                return frames.parse_commit(data[at + 1 : stop]), start + at + 1, start + stop
            except FormatError:
                return None
        if width >= end - start:
            return None
        width *= 4


def read_segment(
    directory: Path, first: int, *, start: int = 0, beyond: int | None = None, last: bool
) -> Iterator[RawFrame]:
    """Yields what one segment holds, from shortly before entry ``start`` on, damaged or not.

    Args:
        directory: The directory of the segments.
        first: The segment's first entry, as its name says.
        start: Frames that end at or before this index may be left out.
        beyond: The next segment's first entry, if there is one.
        last: True for the log's last segment, whose end may be torn or still being written.
    """
    path = segment_path(directory, first)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        begin = locate(descriptor, size, start, first, beyond) if start > first else 0
        for offset, data, whole in pieces(descriptor, begin, size):
            yield read_piece(path, first, offset, data, whole, last)
    finally:
        os.close(descriptor)


def read_piece(path: Path, first: int, offset: int, data: bytes, whole: bool, last: bool) -> RawFrame:
    """Reads one of `pieces` of the segment that is named after entry ``first``; ``last`` as for `read_segment`."""
    where = f"{path}:{offset}"
    raw = frames.read_raw(data, where) if whole else frames.read_rest(data, where, last)
    if offset == 0 and raw.problem is None and raw.commit is not None and raw.commit.first != first:
        raw = replace(raw, problem=f"the file is named after entry {first} but starts with {raw.commit.first}")
    return raw


def cut(directory: Path, first: int, size: int, *, start: int, beyond: int | None) -> Iterator[tuple[int, int]]:
    """Yields offsets (begin, end) that share out a segment; cut where a frame ends, each about ``size`` bytes.

    `pieces` of one after the other are the pieces of the whole, whatever is damaged. ``start`` and ``beyond`` are those
    of `read_segment`.
    """
    descriptor = os.open(segment_path(directory, first), os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = os.fstat(descriptor).st_size
        begin = locate(descriptor, end, start, first, beyond) if start > first else 0
        while begin < end:
            stop = _frame_end_after(descriptor, begin + size, end)
            yield begin, stop
            begin = stop
    finally:
        os.close(descriptor)


def _frame_end_after(descriptor: int, offset: int, end: int) -> int:
    """The end of the first commit line that starts at or after an offset; ``end`` if there is none."""
    width = _FIRST_CHUNK
    while offset < end:
        data = read_at(descriptor, offset, min(width, end - offset))
        at = data.find(MARK)
        if at >= 0 and (stop := line_end(data, at + 1)):
            return offset + stop
        if width >= end - offset:
            break
        width *= 4
    return end
