"""A log copied from one kind of store into another: the same entries, commits and checkpoints, byte for byte.

The copy is the same log under the same origin, so nothing is signed anew and no key is needed. Nothing is taken on
trust: each commit is added to the copy's own tree, which must lead to the peaks and to the root in the checkpoint that
the log's key signed; at the end both are read once more, compared commit by commit, and the copy is verified.

1. The target is made, or its end is compared with the commit of that size in the source: it must be a beginning of it.
2. Commits are appended one by one. *If we die here*: a shorter copy, which verifies; the same command completes it.
3. What stands beside the source (cosigned checkpoints, time stamps) is kept beside the copy, too.
4. Both are compared, and the copy is verified.

Only one of the two may be written to afterwards. Whoever writes to both makes two histories under one key, which
witnesses and kept checkpoints show.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, EntriesPruned, FormatError, LogDamaged, LogForked, LogNotFound
from ..ledger import tree
from ..ledger.checkpoint import open_checkpoint
from ..ledger.note import Verifier, parse_vkey
from ..ledger.report import Report
from ..ledger.verify import fold_examined
from ..model import Frame, Head
from ..stores.journal import JournalStore
from ..stores.opening import Database, Place, Store, open_log
from .anchors import cosigned_notes, keep_cosigned, keep_stamp, stamped_notes
from .examining import examined
from .keywatch import KeyWatch

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds: its size, how many entries were added by this run, the root, and its verification."""

    origin: str
    size: int
    added: int
    root: bytes
    report: Report


def copy_log(source: Place, target: Place, progress: Progress = lambda _: None) -> Copied:
    """Copies a log, or brings a copy up to date; see above.

    Args:
        source: The log; only read. Stop its services first, if the copy is to take its place.
        target: Where to: nothing, or an earlier copy. In a database as somebody who may make logs, and write to it.
        progress: Told the size that the copy has reached.

    Raises:
        ConfigError: The target is another log.
        EntriesPruned: The source was pruned: its beginning cannot be copied.
        LogForked: The target is no beginning of the source, or somebody else writes to it.
        LogDamaged: The source or the copy does not hold.
        StoreError: One of them cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(contextlib.closing(open_log(source)))
        if origin.base.size:
            raise EntriesPruned(
                f"{origin.place}: begins at entry {origin.base.size}; only a log that was never pruned can be copied"
            )
        copy = stack.enter_context(contextlib.closing(_opened(origin, target)))
        before = _compare_ends(origin, copy)
        stop = origin.head().size
        verifiers = [parse_vkey(text) for text in origin.vkeys]
        for vkey in origin.vkeys:
            if vkey not in copy.vkeys:
                copy.list_vkey(vkey)
        head = before
        for frame in origin.frames(head.size, stop) if head.size < stop else ():
            head = copy.append(frame.entries, _resealed(origin, frame, head, verifiers))
            progress(head.size)
        _copy_anchors(source, target)
        _compare_all(origin, copy, head)
        report = _verified(copy, verifiers)
        return Copied(origin.origin, head.size, head.size - before.size, tree.root(head.peaks), report)


def _opened(source: Store, target: Place) -> Store:
    """The target, for writing; made with what the source says of itself where there is none."""
    try:
        copy = open_log(target, writable=True)
    except LogNotFound:
        told = json.loads(source.described())
        if isinstance(target, Database):
            from ..stores.postgres import initialise  # here: it needs psycopg

            initialise(target.url, source.origin, source.vkeys, told["created"])
        else:
            JournalStore.create(target, source.origin, source.vkeys, told["created"]).close()
        copy = open_log(target, writable=True)
    if copy.origin != source.origin:
        copy.close()
        raise ConfigError(f"{copy.place}: is the log {copy.origin!r}, and {source.place} is {source.origin!r}")
    return copy


def _compare_ends(source: Store, copy: Store) -> Head:
    """The copy's head, if the source has that very commit."""
    head = copy.head()
    if copy.base.size:
        raise EntriesPruned(
            f"{copy.place}: begins at entry {copy.base.size}; a pruned log cannot be brought up to date"
        )
    if not head.size:
        return head
    size = source.head().size
    if head.size > size:
        raise LogForked(f"{copy.place}: has {head.size} entries, and {source.place} only {size}: it is no copy of that")
    frame = next(iter(source.frames(head.size - 1, head.size)))
    if _told(frame.head) != _told(head):
        raise LogForked(
            f"{copy.place}: what it holds at size {head.size} is not what {source.place} holds there: it is no "
            "beginning of that. Nothing was written"
        )
    return head


def _told(head: Head) -> tuple[int, tuple[bytes, ...], bytes]:
    """Without the sums, which not every answer has."""
    return head.size, head.peaks, head.checkpoint


def _resealed(
    source: Store, frame: Frame, expected: Head, verifiers: Sequence[Verifier]
) -> Callable[[Head, Sequence[bytes]], Head]:
    """What gives a commit the checkpoint that it has in the source, if the copy's own tree leads to it."""

    def seal(before: Head, entries: Sequence[bytes]) -> Head:
        if _told(before) != _told(expected) or frame.first != before.size:
            raise LogForked(f"{source.origin}: the copy has {before.size} entries: somebody else writes to it")
        leaves = tree.leaf_hashes(entries)
        size, peaks = tree.append(before.size, before.peaks, leaves)
        try:
            signed, _ = open_checkpoint(frame.head.checkpoint, source.origin, verifiers)
        except FormatError as error:
            raise LogDamaged(f"{frame.where}: its checkpoint does not open: {error}; verify the log") from error
        if (size, peaks) != (frame.head.size, frame.head.peaks) or (signed.size, signed.root) != (
            size,
            tree.root(peaks),
        ):
            raise LogDamaged(f"{frame.where}: the entries do not lead to its checkpoint; verify the log")
        return frame.head

    return seal


def _copy_anchors(source: Place, target: Place) -> None:
    known = set(cosigned_notes(target))
    for note in cosigned_notes(source):
        if note not in known:
            keep_cosigned(target, note)
    for stamped in stamped_notes(source):
        keep_stamp(target, int(Path(stamped.where).stem), stamped.note, stamped.response)


def _compare_all(source: Store, copy: Store, head: Head) -> None:
    """Step 4: commit by commit. Raises `LogDamaged`."""
    pairs = zip(source.frames(0, head.size), copy.frames(0, head.size), strict=True) if head.size else ()
    for ours, theirs in pairs:
        if (ours.first, list(ours.entries), ours.head) != (theirs.first, list(theirs.entries), theirs.head):
            raise LogDamaged(f"{theirs.where}: is not what {ours.where} holds; do not use the copy")


def _verified(copy: Store, verifiers: Sequence[Verifier]) -> Report:
    watch = KeyWatch()
    report = fold_examined(examined(copy, verifiers, watch=watch), copy.origin, verifiers, entries_checked=True)
    return watch.amend(report)
