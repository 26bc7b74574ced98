"""The newest end of a journal, as a reader may show it: on disk, and looked up again only where the log has grown."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from ..errors import LogUnavailable
from .segments import segment_path
from .tail import Tail, find_tail

_READ_ONLY = (errno.EROFS, errno.EINVAL)


class Newest:
    """What one store has seen. Threads may share it.

    Attributes:
        seen: The newest end of the log that is known to be on disk; replaced, never changed.
    """

    def __init__(self, journal: Path) -> None:
        """``journal`` is the directory of the segments; nothing is read yet."""
        self._journal = journal
        self.seen = Tail()

    def look(self) -> Tail:
        """Returns the newest end of the log, after making sure that it is on disk.

        A frame can be read before its writer's fdatasync returned. Whoever shows its checkpoint to anyone must not be
        surprised by a power cut that takes it back, so the reader syncs what it was the first to see.

        Raises:
            LogDamaged: The end is not what commits and crashes leave.
            LogUnavailable: It cannot be made durable.
        """
        seen = self.seen
        if seen.head.size and not self._has_grown(seen):
            return seen
        tail = find_tail(self._journal, verify=False)
        if tail.head.size != seen.head.size:
            with contextlib.suppress(FileNotFoundError):  # pruned since: what it held was durable before that
                self._make_durable(tail)
        self.seen = Tail(tail.segment, tail.end, tail.head)
        return self.seen

    def _has_grown(self, seen: Tail) -> bool:
        journal = self._journal
        try:
            if segment_path(journal, seen.segment).stat().st_size != seen.end:
                return True
        except FileNotFoundError:
            return True
        return seen.head.size != seen.segment and segment_path(journal, seen.head.size).exists()

    def _make_durable(self, tail: Tail) -> None:
        if not tail.end:
            return  # the frame is in the segment before, which was synced before this one was begun
        descriptor = os.open(segment_path(self._journal, tail.segment), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            if error.errno not in _READ_ONLY:  # on a read-only medium nothing is waiting to be written
                raise LogUnavailable(
                    f"{self._journal.parent}: the newest entries cannot be made durable: {error.strerror}"
                ) from error
        finally:
            os.close(descriptor)
