"""Reading back an archived log: everything in it, by itself. Streams; trusts nothing but the log's keys.

1. Every checkpoint is of this origin and size, and signed by a key of the log.
2. Every full bundle up to the newest checkpoint decodes, and its leaf hashes are those of its tile of level 0.
3. Every full tile of the levels above holds the roots of the tiles below it.
4. The entries lead to the root of each checkpoint that they reach: so each extends the one before it.
5. Partial bundles are beginnings of what follows them.
6. Each object that counts is under a lock that the archive itself keeps; see `archive_report.LocksSeen`.

Contents verify themselves through the tree, so no list of what was put is needed, nor trusted. Where something was put
on top of an object (a delete marker, a newer version), the version below it that verifies counts, and is named.

Where a bundle and its tile differ, the tree goes on from the tile: if the next checkpoint contradicts, it is the tile
that was altered, else the bundle.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TypeVar

from ..errors import FormatError
from ..ledger import tiles, tree
from ..ledger.anchors import Anchor, Anchors
from ..ledger.note import Verifier
from ..ledger.report import Cause, Finding, Findings, Level
from ..ledger.tiles import TILE_WIDTH, Bundle, Tile, TileBuilder
from ..protocols import Archive, LogStore
from .archive_objects import (
    CHECKPOINTS,
    COSIGNED,
    STAMPS,
    TRUST,
    Accept,
    Picked,
    open_archived,
    pick,
    size_in,
)
from .archive_report import ArchiveReport, LocksSeen, claims_of, left_open

_READERS, _AHEAD = 8, 32
"""Objects read side by side, and how many may wait: memory is bounded by them."""

_CHECK, _LOCK = 17, 18
A = TypeVar("A")
B = TypeVar("B")

Seen = Callable[[Picked], None]


@dataclass(frozen=True, slots=True)
class _Block:
    """A full bundle and its tile as they were found; ``there``: something stands under the bundle's name."""

    n: int
    tile: Picked | None
    hashes: list[bytes]
    bundle: Picked | None
    leaves: list[bytes]
    there: bool


class ArchiveReader:
    """One verification of one archive; `run` it once."""

    def __init__(
        self,
        archive: Archive,
        origin: str,
        verifiers: Sequence[Verifier],
        *,
        log: LogStore | None = None,
        require_lock: bool = False,
        now: float | None = None,
        seen: Seen | None = None,
        limit: int = 100,
    ) -> None:
        """Reads nothing yet.

        Args:
            archive: The archive.
            origin: The log.
            verifiers: The keys trusted to sign for it.
            log: The log itself: its entries after the last bundle are taken from there.
            require_lock: An object without a lock is an error also if no other has one.
            now: The time, seconds since the epoch.
            seen: Called for each object that counts.
            limit: How many errors, and how many notes, are kept.
        """
        self._archive = archive
        self._origin = origin
        self._verifiers = verifiers
        self._log = log
        self._require_lock = require_lock
        self._locks = LocksSeen(time.time() if now is None else now)
        self._seen = seen
        self._findings = Findings(limit)
        self._unlocked: list[tuple[str, str]] = []
        self._unlocked_more = 0
        self._limit = limit
        self._size, self._peaks = 0, tuple[bytes, ...]()
        self._broken = False
        self.anchors: list[Anchor] = []

    def run(self, progress: Callable[[int], None] | None = None) -> ArchiveReport:
        """Reads everything. Raises `ArchiveError` if the archive cannot be read."""
        with ThreadPoolExecutor(_READERS) as pool:
            self._read_checkpoints(pool)
            newest = max(self.anchors, key=lambda one: one.size, default=None)
            size = newest.size if newest is not None else 0
            anchors = Anchors.of(self.anchors)
            self._read_bundles(pool, size // TILE_WIDTH, anchors, progress)
            entries = self._size
            self._read_tail(size, anchors)
            self._read_partials()
            self._read_beside(pool)
        agreed = list(anchors.agreed.values())
        covered = max((one.newest.size for one in agreed), default=0)
        self._judge_locks()
        return self._report(newest, entries, covered, sum(one.count for one in agreed), anchors)

    # --- 1 -------------------------------------------------------------------------------------------------------

    def _read_checkpoints(self, pool: ThreadPoolExecutor) -> None:
        read = partial(open_archived, self._archive, origin=self._origin, verifiers=self._verifiers)
        for kind in (CHECKPOINTS, COSIGNED):
            for name, found in _ahead(pool, read, self._archive.names(kind)):
                if size_in(name) is None or found is None:
                    text = "no version of it is a checkpoint of this size that a key of this log signed"
                    self._find("not counted", None, text, name, "note")
                    continue
                self._take(found.picked)
                stored = found.picked.stored
                at = None if stored.stored_at is None else int(stored.stored_at)
                checkpoint = found.checkpoint
                label = f"archived in {self._archive.place}"
                self.anchors.append(Anchor(checkpoint.size, checkpoint.root, label, "archived", time=at))

    # --- 2 to 4 --------------------------------------------------------------------------------------------------

    def _read_bundles(
        self, pool: ThreadPoolExecutor, full: int, anchors: Anchors, progress: Callable[[int], None] | None
    ) -> None:
        builder = TileBuilder()
        for n, block in _ahead(pool, self._fetch, range(full)):
            leaves = self._judge(block)
            if not leaves:
                self._broken = True  # nothing that follows can be compared with a root
                return
            self._meet(anchors, leaves)
            for tile, data in builder.add(leaves):
                if tile.level:
                    self._read_object(tile.path, partial(_same, data), tile.n << 8 * (tile.level + 1))
            if progress is not None:
                progress((n + 1) * TILE_WIDTH)

    def _fetch(self, n: int) -> _Block:
        tile = pick(self._archive, Tile(0, n).path, _is_full_tile)
        hashes = tiles.decode_tile(tile.data) if tile is not None else None
        name = Bundle(n).path
        bundle = pick(self._archive, name, lambda data: hashes is not None and _leaves(data) == hashes)
        if bundle is None:
            bundle = pick(self._archive, name, partial(_holds, TILE_WIDTH))
        leaves = _leaves(bundle.data) if bundle is not None else []
        return _Block(n, tile, hashes or [], bundle, leaves, bundle is not None or bool(self._archive.versions(name)))

    def _judge(self, block: _Block) -> list[bytes]:
        """The leaf hashes to go on with; none if neither the bundle nor its tile is there."""
        name, start = Bundle(block.n).path, block.n * TILE_WIDTH
        if block.tile is None:
            self._find("missing", start, "there is no such tile with 256 hashes", Tile(0, block.n).path)
        for found in (block.tile, block.bundle):
            if found is not None:
                self._take(found)
        if block.bundle is None and block.there:
            self._find("altered", start, "no version of it is a bundle of 256 entries", name)
        elif block.bundle is None:
            over = block.tile is not None and self._locks.is_over(block.tile.stored)
            text = "it is gone; the lock of its tile is over" if over else "there is no such bundle"
            self._find("missing", start, text, name, "note" if over else "error")
        elif block.hashes and block.leaves != block.hashes:
            both = zip(block.leaves, block.hashes, strict=True)
            first = next(i for i, (one, other) in enumerate(both) if one != other)
            tile = Tile(0, block.n).path
            text = f"its entries are not those that {tile} has the hashes of: one of the two was altered"
            self._find("altered", start + first, text, name)
        return block.hashes or block.leaves

    def _meet(self, anchors: Anchors, leaves: Sequence[bytes]) -> None:
        for anchor in anchors.meet(self._size, self._peaks, leaves):
            text = f"the entries before {anchor.size} do not lead to the root of the checkpoint of that size"
            self._find("forked", None, text, f"{CHECKPOINTS}/{anchor.size:020}")
        self._size, self._peaks = tree.append(self._size, self._peaks, leaves)

    def _read_tail(self, newest: int, anchors: Anchors) -> None:
        """The entries after the last full bundle: of the largest partial bundle, or of the log."""
        if self._broken or self._size >= newest:
            return
        for frame in self._log.frames(self._size, newest) if self._log is not None else ():
            skip = max(0, self._size - frame.first)
            self._meet(anchors, tree.leaf_hashes(frame.entries[skip : skip + newest - self._size]))
        if self._log is None:
            found = self._largest_partial(self._size // TILE_WIDTH)
            self._meet(anchors, _leaves(found.data) if found is not None else [])

    def _largest_partial(self, n: int) -> Picked | None:
        names = [name for name in self._archive.names(f"{Bundle(n).path}.p") if _is_partial(name)]
        widths = sorted((tiles.parse_path(name).width for name in names), reverse=True)
        found = (pick(self._archive, Bundle(n, width).path, partial(_holds, width)) for width in widths)
        return next((one for one in found if one is not None), None)

    # --- 5 and what else is there ----------------------------------------------------------------------------------

    def _read_partials(self) -> None:
        """Partial bundles, each against the full one, or the largest partial one that there is.

        One of a size that has no checkpoint was left by a run that was broken off: its lock does not matter.
        """
        last, whole, signed = -1, b"", {one.size for one in self.anchors}
        for name in self._archive.names("tile/entries"):
            if not _is_partial(name):
                continue
            n, width = tiles.parse_path(name)[-2:]
            if n != last:
                found = pick(self._archive, Bundle(n).path, partial(_holds, TILE_WIDTH)) or self._largest_partial(n)
                last, whole = n, found.data if found is not None else b""
            needed = n * TILE_WIDTH + width in signed
            self._read_object(name, partial(_begins, whole, width), n * TILE_WIDTH, needed=needed)

    def _read_beside(self, pool: ThreadPoolExecutor) -> None:
        def any_version(name: str) -> Picked | None:
            digest = name.removeprefix(f"{TRUST}/").removesuffix(".json")
            trust = name.startswith(f"{TRUST}/")
            return pick(self._archive, name, lambda data: not trust or sha256(data).hexdigest() == digest)

        for kind in (STAMPS, TRUST):
            for name, found in _ahead(pool, any_version, self._archive.names(kind)):
                if found is None:
                    self._find("not counted", None, "no version of it is what its name says", name, "note")
                else:
                    self._take(found)

    # --- what was found ------------------------------------------------------------------------------------------

    def _read_object(self, name: str, accept: Accept, index: int, *, needed: bool = True) -> Picked | None:
        found = pick(self._archive, name, accept)
        if found is not None:
            if needed:
                self._take(found)
        elif self._archive.versions(name):
            self._find("altered", index, "no version of it is what the entries lead to", name)
        else:
            self._find("missing", index, "it is not there", name)
        return found

    def _take(self, found: Picked) -> None:
        problem = self._locks.take(found.stored)
        if problem is not None and len(self._unlocked) < self._limit:
            self._unlocked.append((found.stored.name, problem))
        elif problem is not None:
            self._unlocked_more += 1
        if found.hidden is not None:
            self._find("hidden", None, f"{found.hidden}; the one below it counts", found.stored.name, "note")
        if self._seen is not None:
            self._seen(found)

    def _judge_locks(self) -> None:
        if not self._locks.locked and not self._require_lock:
            return
        for name, problem in self._unlocked:
            self._find("not locked", None, problem, name, check=_LOCK)
        if self._unlocked_more:
            self._find("not locked", None, f"and {self._unlocked_more} more objects have no lock", "", check=_LOCK)

    def _find(
        self, cause: Cause, index: int | None, text: str, name: str, level: Level = "error", check: int = _CHECK
    ) -> None:
        self._findings.add(Finding(check, cause, index, text, f"{self._archive.place}: {name}", level))

    def _report(
        self, newest: Anchor | None, entries: int, covered: int, agreed: int, anchors: Anchors
    ) -> ArchiveReport:
        locks, place = self._locks, self._archive.place
        if newest is None:
            self._find("missing", None, "there is no checkpoint that a key of this log signed", CHECKPOINTS)
        holds = not self._findings.errors
        left = len(anchors.due)
        return ArchiveReport(
            place=place,
            origin=self._origin,
            holds=holds,
            checkpoints=len(self.anchors),
            newest=newest.size if newest is not None else 0,
            newest_at=newest.time if newest is not None else None,
            entries=entries,
            covered=covered,
            objects=locks.objects,
            locked=locks.locked,
            ended=locks.ended,
            until=locks.until,
            findings=self._findings.all(),
            more=self._findings.more,
            claims=tuple(claims_of(locks, agreed, covered)) if holds else (),
            not_checked=tuple(left_open(place, locks, left, covered)),
        )


def _leaves(data: bytes) -> list[bytes]:
    """The leaf hashes of a bundle; none if it is none."""
    try:
        return tree.leaf_hashes(tiles.decode_bundle(data))
    except FormatError:
        return []


def _is_full_tile(data: bytes) -> bool:
    return len(data) == TILE_WIDTH * tree.HASH_SIZE


def _holds(count: int, data: bytes) -> bool:
    return len(_leaves(data)) == count


def _begins(whole: bytes, count: int, data: bytes) -> bool:
    return _holds(count, data) and whole.startswith(data)


def _same(wanted: bytes, data: bytes) -> bool:
    return data == wanted


def _is_partial(name: str) -> bool:
    try:
        place = tiles.parse_path(name)
    except FormatError:
        return False
    return isinstance(place, Bundle) and place.width < TILE_WIDTH


def _ahead(pool: ThreadPoolExecutor, read: Callable[[A], B], items: Iterable[A]) -> Iterator[tuple[A, B]]:
    """Each item with what was read of it, in order; some are read before they are asked for."""
    waiting = deque[tuple[A, Future[B]]]()
    for item in items:
        waiting.append((item, pool.submit(read, item)))
        if len(waiting) >= _AHEAD:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()
