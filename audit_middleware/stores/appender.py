"""The writing half of the journal: lock, catch up with other writers, seal, one write, one fdatasync.

The steps of an append, and what a crash at each leaves:

1. Take the lock. *If we die here*: the kernel frees it.
2. Catch up: if others wrote since, read the last commit line. *Nothing to lose.*
3. `seal`: the new head with its signed checkpoint. *If we die here*: a signature that nobody has seen is gone.
4. One write. *If we die here*: a torn write, or a whole frame that nobody was told of. The next writer cuts off the
   former and adopts the latter; its entries were sent, not acknowledged, and may show up or not.
5. One fdatasync. *If we die here*: as after 4.
6. Free the lock and return. From now on a power cut cannot undo it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import FormatError, LogDamaged, LogForked, LogUnavailable
from ..model import Head
from ..protocols import Sealer
from . import filesystem, frames
from .base import commit_line_at, read_base
from .layout import Layout, check_published
from .lock import ProcessLock
from .segments import last_commit_line, list_segments, read_at, segment_path
from .tail import Repair, Tail, find_tail, read_tail, repair_tail

_SEAM = 78  # the hash at the end of a frame, with what is around it
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Appender:
    """Appends to one journal. After a failed write it re-opens once; after the second in a row it stops for good."""

    def __init__(self, layout: Layout, origin: str, *, lock_timeout: float | None, segment_bytes: int) -> None:
        self.repairs: list[Repair] = []
        self.durable = Tail()  # the newest end of the log that is known to be on disk; replaced, never changed
        self._layout = layout
        self._origin = origin
        self._lock_timeout = lock_timeout
        self._segment_bytes = segment_bytes
        self._lock = ProcessLock(layout.lock)
        self._tail = Tail()  # after the last append or look; only used under the lock
        self._seam = b""  # the last bytes before its end
        self._descriptor: int | None = None  # of the last segment; None before first use, after a failure or a fork
        self._process = os.getpid()
        self._failures = 0
        self._closed = False

    def recover(self) -> None:
        """Checks the end of the log and repairs it if a crash left a torn write there."""
        with self._exclusive():
            self._catch_up()

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        """Appends a batch; the promises are those of `protocols.LogStore.append`."""
        frames.check_batch(entries)
        seal, body = frames.sealer_for(seal, entries), frames.Body(entries)  # before anyone waits for us
        with self._exclusive():
            self._catch_up()
            before = self._tail.head
            after = seal(before, entries)
            frames.check_sealed(before, len(entries), after)
            self._write(body.frame(before.size, after), after)
            self._failures = 0
        return after

    def begin_segment(self) -> None:
        """Closes the last segment, if anything is in it; the next append goes into a new one."""
        with self._exclusive():
            self._catch_up()
            if self._tail.end:
                try:
                    self._begin_segment()
                except OSError as error:
                    raise self._poison(error, "beginning a segment") from error

    def close(self) -> None:
        """Releases the descriptors; later appends are refused."""
        self._closed = True
        self._drop_descriptor()
        self._lock.forget()

    def after_fork(self) -> None:
        """In a child: lets go of what belongs to the parent; the next append opens its own descriptors."""
        self._lock.after_fork()
        self._drop_descriptor()
        self._process = os.getpid()
        self._failures = 0

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self._process != os.getpid():
            self.after_fork()  # forked by code that does not run Python's handlers
        with self._lock.held(self._lock_timeout):
            if self._closed:
                raise LogUnavailable(f"{self._layout.root}: this store was closed")
            if self._failures > 1:
                raise LogUnavailable(f"{self._layout.root}: writing failed twice in a row; open the log anew")
            yield

    # --- step 2 --------------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Makes ``_tail`` the end of the log as it is now. Cheap when nobody else wrote: three stat calls."""
        try:
            if not self._follow_others():
                self._reopen()
        except OSError as error:
            raise self._poison(error, "reading the end of the log") from error

    def _follow_others(self) -> bool:
        """Takes over what others appended to the open segment; False if more has changed than that."""
        descriptor, tail = self._descriptor, self._tail
        if descriptor is None:
            return False
        path = segment_path(self._layout.journal, tail.segment)
        found = os.fstat(descriptor)
        if not _same_file(path, found):
            return False  # moved or replaced under our feet: what we appended to it would be lost
        if _seam(descriptor, tail.end) != self._seam:
            return False  # an older copy was written over it
        if found.st_size != tail.end:
            # Only processes of this boot wrote since we looked, and a killed process leaves a beginning of a frame at
            # most. So a whole commit line at the very end is proof enough that the frame before it is whole.
            now = read_tail(descriptor, path, tail.segment, verify=False)
            if now is None or now.excess:
                return False
            self._refuse_rollback(now)
            self._tail, self._seam = now, _seam(descriptor, now.end)
        # A segment begun by another process is named after the size at which it began.
        beyond = self._tail.head.size
        return beyond == tail.segment or not segment_path(self._layout.journal, beyond).exists()

    def _reopen(self) -> None:
        """Opens the log's last segment, trusting nothing but bytes that match their hash."""
        self._drop_descriptor()
        journal = self._layout.journal
        _forget_page_cache(journal)
        tail = find_tail(journal, verify=True)
        self._refuse_rollback(tail)
        self._refuse_other_history()
        check_published(self._layout, self._origin, tail.head)
        if tail.excess:
            # If we die here: see `repair_tail`. Nothing below a published checkpoint is cut: that was just checked.
            self.repairs.append(repair_tail(journal, tail, self._layout.state))
        self._descriptor = _open_segment(journal, tail.segment)
        # The last frame may stand in the page cache only, left by a writer that was killed before its fdatasync.
        os.fdatasync(self._descriptor)
        self._seam = self._seam_of(tail)
        self.durable = self._tail = Tail(tail.segment, tail.end, tail.head)

    def _seam_of(self, tail: Tail) -> bytes:
        """The seam at the end of a log that was just opened, from the very commit line that was believed."""
        descriptor = self._descriptor
        if descriptor is None or not tail.end:
            return b""
        start, end = last_commit_line(descriptor, tail.end) or (0, 0)
        line = read_at(descriptor, start, end - start)
        try:
            same = end == tail.end and frames.parse_commit(line).head == tail.head
        except FormatError:
            same = False
        if not same:
            raise LogDamaged(f"{self._layout.root}: the log was replaced while it was opened; open it again")
        return line[-_SEAM:]

    def _refuse_rollback(self, now: Tail) -> None:
        if now.head.size < self.durable.head.size:
            raise LogDamaged(
                f"{self._layout.root}: the log ends at size {now.head.size}, but this process has seen size "
                f"{self.durable.head.size}: it was replaced by an older copy or truncated while in use"
            )

    def _refuse_other_history(self) -> None:
        """An older copy that others went on with may be longer than what we know."""
        known, journal = self.durable.head, self._layout.journal
        if known.size <= read_base(journal).size:
            return  # nothing known yet, or it was pruned
        try:
            same = frames.parse_commit(commit_line_at(journal, known.size)).head == known
        except (LogDamaged, FormatError):
            same = False
        if not same:
            raise LogForked(
                f"{self._layout.root}: the commit that this process has seen at size {known.size} is not there any "
                "more: the log was replaced by an older copy, or another one, which was then continued"
            )

    # --- steps 4 and 5 -------------------------------------------------------------------------------------------

    def _write(self, data: bytes, after: Head) -> None:
        try:
            if self._tail.end >= self._segment_bytes:
                self._begin_segment()
            descriptor = self._descriptor
            if descriptor is None:
                raise OSError(errno.EBADF, "no segment is open")
            filesystem.write_all(descriptor, data)
            os.fdatasync(descriptor)
        except OSError as error:
            raise self._poison(error, "writing") from error
        self.durable = self._tail = Tail(self._tail.segment, self._tail.end + len(data), after)
        self._seam = data[-_SEAM:]

    def _begin_segment(self) -> None:
        """Starts the next segment.

        If we die here: an empty last segment, which the next writer fills.
        """
        if self._descriptor is not None:
            # The last frame may be one we adopted from a writer that died before its fdatasync. Later ones in the same
            # file would make it durable; from the next file on nothing would.
            os.fdatasync(self._descriptor)
        self._drop_descriptor()
        first = self._tail.head.size
        self._descriptor = _open_segment(self._layout.journal, first)
        self._tail, self._seam = Tail(first, 0, self._tail.head), b""

    def _poison(self, error: OSError, doing: str) -> LogUnavailable:
        """After a failed system call: this descriptor is never used again.

        Nothing is cut here, although part of the frame may be written: what a failed descriptor says about the file is
        not to be trusted. Whatever is there is a torn write, or a whole frame, for `_reopen` to judge.
        """
        self._drop_descriptor()
        self._failures += 1
        advice = "the disk is full: free space" if error.errno in _FULL else "see the system's log"
        return LogUnavailable(f"{self._layout.root}: {doing} failed: {error.strerror} ({advice})")

    def _drop_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # a close may report the write error once more
                os.close(descriptor)


def _seam(descriptor: int, end: int) -> bytes:
    """The hash at the end of the frame that ends at this offset: no other history has it."""
    return os.pread(descriptor, _SEAM, end - _SEAM) if end else b""


def _same_file(path: Path, found: os.stat_result) -> bool:
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (found.st_dev, found.st_ino)


def _open_segment(journal: Path, first: int) -> int:
    """Opens a segment for appending, creating it if it is new; its name is durable then.

    The directory is synced even if the file is there: whoever created it may have died before doing so.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(segment_path(journal, first), flags, 0o600)
    try:
        filesystem.sync_directory(journal)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _forget_page_cache(journal: Path) -> None:
    """Drops clean pages of the last segment, so that what is read next comes from the disk.

    After a failed fdatasync Linux marks the pages it could not write as clean: they read back well and are not on disk.
    The failure may have been seen by another process, which is gone.
    """
    for first in list_segments(journal)[-1:]:
        descriptor = os.open(segment_path(journal, first), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
