"""A log in memory: the same promises as the journal but durability. For tests and for `audit_middleware.testing`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock

from ..errors import LogUnavailable
from ..model import Frame, Head
from ..protocols import Sealer
from . import frames
from .frames import RawFrame


class MemoryStore:
    """A log that ends with the process. Threads may share it; a fork copies it."""

    def __init__(self, origin: str) -> None:
        """An empty log under this name."""
        self._origin = origin
        self._lock = Lock()
        self._frames: list[Frame] = []
        self._closed = False

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._origin

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        """Appends a batch; see `protocols.LogStore`. Raises `RecordError` for what is no entry."""
        frames.check_batch(entries)
        with self._lock:
            if self._closed:
                raise LogUnavailable("this store was closed")
            before = self.head()
            after = seal(before, entries)
            frames.check_sealed(before, len(entries), after)
            self._frames.append(Frame(before.size, tuple(entries), after, f"memory:{len(self._frames)}"))
        return after

    def head(self) -> Head:
        """Returns the newest head."""
        return self._frames[-1].head if self._frames else Head()

    @property
    def base(self) -> Head:
        """That of the empty log: nothing is ever pruned here."""
        return Head()

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        """Yields the commits that overlap ``[start, stop)``, up to the head when iteration begins."""
        size, start = self.head().size, start or 0
        stop = size if stop is None else min(stop, size)
        for frame in self._frames[:]:
            if start >= stop or frame.first >= stop:
                return
            if frame.head.size > start:
                yield frame

    def raw_frames(self, start: int | None = None) -> Iterator[RawFrame]:
        """Yields the frames as a verifier reads them from a journal."""
        for frame in self.frames(start):
            yield frames.read_raw(frames.encode_frame(frame.first, frame.entries, frame.head), frame.where)

    def close(self) -> None:
        """Refuses later appends; what is there can still be read."""
        self._closed = True
