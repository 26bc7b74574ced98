"""The journal: a log as a directory of JSON Lines files, for any number of processes on one machine.

Promises of `protocols.LogStore`, and how they are kept:

* one group commit = one frame (`frames`) = one write + one fdatasync, under the log's lock (`lock`);
* a signature leaves the process only after the fdatasync of its frame returned, so a reader that finds a frame it does
  not know to be durable makes it so before it hands it out;
* after a crash the next writer cuts off a torn write, keeps the bytes in ``.state/`` and reports it; anything else
  that is wrong at the end stops writing (`segments.find_tail`);
* after a failed write or fdatasync nothing is retried on that descriptor: the kernel may have marked the lost pages as
  clean. The next append opens the file anew, drops what the page cache believes, and compares the tail with its hash.
  A second failure in a row stops this store for good;
* nothing is created by accident: `create` makes a log, `open` only finds one.

A store knows no cryptography but SHA-256; `seal` brings the tree and the signature.
"""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import LogDamaged, LogUnavailable, StoreError
from ..model import Frame, Head
from ..protocols import Sealer
from . import filesystem
from .appender import Appender
from .base import commit_line_at, drop_below, pruned, read_base, read_note, write_base, write_note
from .frames import RawFrame, to_frame
from .layout import JournalConfig, Layout, create_layout, list_vkey, read_config
from .newest import Newest
from .segments import list_segments, read_segment
from .tail import Repair

SEGMENT_BYTES = 64 * 2**20
"""A segment that has reached this size is not appended to any more."""

LOCK_TIMEOUT = 5.0
"""Seconds that an append waits for other writers before it raises `LogBusy`."""

_log = logging.getLogger(__name__)
_stores: weakref.WeakSet[JournalStore] = weakref.WeakSet()


class JournalStore:
    """A log in one directory. It may be opened before a fork: a child opens descriptors of its own.

    Attributes:
        layout: The paths of the log.
        config: What was decided when the log was created.
        warnings: What is doubtful about the log's file system.
        repairs: The torn writes that this store cut off.
    """

    def __init__(
        self,
        layout: Layout,
        config: JournalConfig,
        appender: Appender | None,
        *,
        warnings: tuple[str, ...] = (),
        repaired: Callable[[Repair], None] | None = None,
    ) -> None:
        """Use `create` or `open`. Without ``appender`` the store only reads."""
        self.layout = layout
        self.config = config
        self.warnings = warnings
        self.repairs: list[Repair] = []
        self._appender = appender
        self._repaired = repaired
        self._newest = Newest(layout.journal)
        _stores.add(self)

    @classmethod
    def create(
        cls, path: Path | str, origin: str, vkeys: Sequence[str], created: str, *, force: bool = False
    ) -> JournalStore:
        """Creates a log and opens it for writing.

        Args:
            path: A directory that does not exist or is empty.
            origin: The log's name: a schema-less URL such as ``audit.example.com/billing``.
            vkeys: The C2SP verifier keys of the log's signers.
            created: When, RFC 3339.
            force: Accept a network file system.

        Raises:
            LogExists: There is a log, or something else.
            ConfigError: The origin is not one.
            StoreError: The file system cannot hold a log.
        """
        layout = Layout(Path(path))
        filesystem.check_filesystem(layout.root, force=force)
        create_layout(layout, JournalConfig(origin, tuple(vkeys), created))
        return cls.open(path, force=force)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        writable: bool = True,
        force: bool = False,
        lock_timeout: float | None = LOCK_TIMEOUT,
        segment_bytes: int = SEGMENT_BYTES,
        repaired: Callable[[Repair], None] | None = None,
    ) -> JournalStore:
        """Opens a log. For writing, the end of the log is checked and, after a crash, repaired first.

        Args:
            path: The log's directory.
            writable: False never takes the lock and never changes a byte.
            force: Accept a network file system.
            lock_timeout: Seconds to wait for other writers; ``None``: no limit, which is fairer and quicker where the
                caller limits the time itself, as `pipeline.append.Writer` does.
            segment_bytes: Size at which a new segment is begun.
            repaired: Called with what a repair cut off, now or at a later append, after the lock was freed.

        Raises:
            LogNotFound: No log there.
            LogDamaged: The end of the log is neither whole nor torn, or the log is shorter than what was published.
            LogForked: The published checkpoint is of another history.
            LogBusy: The lock did not come free.
            LogUnavailable: The disk refuses to be read or repaired.
        """
        layout = Layout(Path(path))
        config = read_config(layout)
        if not writable:
            return cls(layout, config, None)
        warnings = filesystem.check_filesystem(layout.root, force=force)
        for warning in warnings:
            _log.warning("%s", warning)
        appender = Appender(layout, config.origin, lock_timeout=lock_timeout, segment_bytes=segment_bytes)
        store = cls(layout, config, appender, warnings=warnings, repaired=repaired)
        try:
            with store._reporting(appender):
                appender.recover()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.config.origin

    @property
    def path(self) -> Path:
        """The log's directory."""
        return self.layout.root

    @property
    def folder(self) -> Path:
        """Where what stands beside the entries is: the same directory."""
        return self.layout.root

    @property
    def place(self) -> str:
        """What the log is called in messages."""
        return str(self.layout.root)

    @property
    def vkeys(self) -> tuple[str, ...]:
        """The C2SP verifier keys that were listed when the store was opened."""
        return self.config.vkeys

    def pruned_by(self) -> int | None:
        """Which entry is said to be the record of the log's base: a hint."""
        note = read_note(self.layout.journal, self.base.size)
        return note[0] if note is not None else None

    def described(self) -> bytes:
        """What ``config.json`` says now. Raises `LogUnavailable`."""
        with self._reading():
            return self.layout.config.read_bytes()

    def list_vkey(self, vkey: str) -> None:
        """Adds a verifier key to ``config.json``; see `layout.list_vkey`."""
        list_vkey(self.layout, vkey)

    def headroom(self) -> int:
        """Returns how many bytes can still be written on the log's file system."""
        return filesystem.headroom(self.layout.root)

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        """Appends a batch; see `protocols.LogStore`.

        Raises:
            RecordError: An entry is not one; nothing was written.
            LogBusy: The lock did not come free; nothing was written.
            LogUnavailable: The disk refused; the batch may or may not be in the log after the next successful append.
            LogDamaged: The end of the log is not what was committed; nothing was written.
        """
        with self._writing() as appender:
            head = appender.append(entries, seal)
            self._newest.seen = appender.durable
        return head

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Appender]:
        if self._appender is None:
            raise LogUnavailable(f"{self.path}: opened for reading")
        with self._reporting(self._appender):
            yield self._appender

    @contextlib.contextmanager
    def _reporting(self, appender: Appender) -> Iterator[None]:
        """Reports repairs after the lock is free, whether or not the work itself succeeded."""
        try:
            yield
        finally:
            while appender.repairs:
                repair = appender.repairs.pop(0)
                self.repairs.append(repair)
                _log.warning("%s: cut %d torn bytes at offset %d", repair.segment, repair.size, repair.offset)
                if self._repaired is not None:
                    self._repaired(repair)

    def head(self) -> Head:
        """Returns the newest committed head. Two stat calls if nothing was appended since the last look.

        Raises:
            LogDamaged: The end of the log is not what commits and crashes leave.
            LogUnavailable: A file cannot be read, or the newest commit cannot be made durable.
        """
        with self._reading():
            return self._newest.look().head

    @property
    def base(self) -> Head:
        """The head below which entries were pruned; ``Head()`` if none were.

        Raises:
            LogDamaged: The file that holds it is not what was written.
            LogUnavailable: It cannot be read.
        """
        with self._reading():
            return read_base(self.layout.journal)

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        """Yields the commits that overlap ``[start, stop)``, up to the head when iteration begins.

        Args:
            start: Default: the log's `base`.
            stop: Default: the head.

        Raises:
            EntriesPruned: Entries from ``start`` on were pruned, now or while they were being read.
            LogDamaged: Names file and byte offset of the first frame that is not what was committed.
            LogUnavailable: A file cannot be read.
        """
        size = self.head().size
        stop = size if stop is None else min(stop, size)
        base = self.base.size
        start = base if start is None else start
        if start < min(base, stop):
            raise pruned(self.layout.journal, start, base)
        position, damaged = start, ""
        for raw in self.raw_frames(start) if start < stop else ():
            commit = raw.commit
            if commit is not None and commit.size <= start:
                continue  # whatever is wrong with it, it is not what was asked for
            if commit is None and position == start:
                damaged = damaged or f"{raw.where}: {raw.problem}"  # the next commit tells whether this one matters
                continue
            if raw.problem is not None or commit is None:
                raise LogDamaged(f"{raw.where}: {raw.problem}")
            if commit.first > position or (position > start and commit.first != position):
                raise self._absent(
                    position, damaged or f"{raw.where}: entry {commit.first} where {position} should follow"
                )
            yield to_frame(raw)
            position = commit.size
            if position >= stop:
                return
        if start < stop:
            raise self._absent(position, damaged or f"{self.path}: entries {position} to {stop - 1} are missing")

    def _absent(self, position: int, text: str) -> StoreError:
        """The error for entries that are not there: pruned since we began to read, or damaged as the text says."""
        base = self.base.size
        return pruned(self.layout.journal, position, base) if position < base else LogDamaged(text)

    def raw_frames(self, start: int | None = None) -> Iterator[RawFrame]:
        """Yields what stands in the segments, damaged or not, from shortly before entry ``start`` on; for verifiers.

        It begins at the log's `base` at the earliest: what is below is not part of the log any more. Never raises for
        damage. The last one is marked ``torn`` if a write is under way or was cut short by a crash.

        Raises:
            EntriesPruned: What was to come next was pruned meanwhile.
            LogUnavailable: A file cannot be read.
        """
        with self._reading():
            yield from self._raw_frames(start)

    def _raw_frames(self, start: int | None) -> Iterator[RawFrame]:
        journal = self.layout.journal
        base = read_base(journal).size
        position = base if start is None else max(start, base)
        names = _from(list_segments(journal), position)
        while names:
            first, beyond = names[0], names[1] if len(names) > 1 else None
            try:
                for raw in read_segment(journal, first, start=position, beyond=beyond, last=beyond is None):
                    if raw.commit is None or raw.commit.size > base:
                        yield raw
            except FileNotFoundError:
                # Pruned since we listed it. What we want is gone, or stands in a file of another name now.
                now = read_base(journal).size
                if now > position and (start, position) != (None, base):
                    raise pruned(journal, position, now) from None
                base = now
                position = max(position, base)
                names = _from(list_segments(journal), position)
                continue
            position = beyond or position
            del names[0]

    def close_segment_at(self, size: int) -> None:
        """Makes sure that this size is not within the last segment: what is appended next goes into another one.

        Raises:
            LogBusy, LogUnavailable, LogDamaged: As `append`.
        """
        with self._reading(), self._writing() as appender:
            if list_segments(self.layout.journal)[-1] < size:
                appender.begin_segment()

    def prune(self, base: int, record: int, at: str) -> int:
        """Removes all entries below a commit boundary and returns how many bytes that freed; see `base`.

        The log holds the record of it already (entry ``record``, made ``at``), and the caller excludes other prunes.
        May be called again for a base that is the log's already: to finish what a crash cut short.

        Raises:
            LogDamaged: No commit ends at ``base``, or it is beyond the log's end.
            LogUnavailable: The disk refuses; what is left to do is done by the next call.
        """
        journal = self.layout.journal
        if self.base.size > base or base > self.head().size:
            raise LogDamaged(f"{self.path}: begins at entry {self.base.size}; it cannot be made to begin at {base}")
        self.close_segment_at(base)
        try:
            if self.base.size < base:
                write_note(journal, base, record, at)
                write_base(journal, commit_line_at(journal, base))
            return drop_below(journal, base)
        except OSError as error:
            raise LogUnavailable(f"{self.path}: pruning failed: {error.strerror}; run it again") from error

    def close(self) -> None:
        """Releases descriptors. Reading stays possible; appending does not."""
        if self._appender is not None:
            self._appender.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LogUnavailable(f"{self.path}: reading failed: {error.strerror}") from error


def _from(names: list[int], position: int) -> list[int]:
    """Of these segments the one that holds an entry, or the first if none does, and all after it."""
    return names[max(0, bisect_right(names, position) - 1) :]


def _forget_parents_descriptors() -> None:
    for store in list(_stores):
        if store._appender is not None:
            store._appender.after_fork()


os.register_at_fork(after_in_child=_forget_parents_descriptors)
