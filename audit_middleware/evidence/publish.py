"""Publishing: the log as immutable files in the C2SP tlog-tiles layout, for whoever wants to read or mirror it.

Here and not among the followers, because it composes three rooms that do not know one another: the store's commits,
the ledger's tiles, an archive's objects.

What is trusted: nothing. The folder's own tiles must lead to the root in the folder's checkpoint, and the log's entries
after it, added to *that* tree, must lead to the root in the log's next signed checkpoints. So each run proves that what
it publishes extends what was published; a fork or a rollback stops it before the first file is written.

The steps, and what a crash at each leaves:

1. Take the folder's lock. *If we die here*: the kernel frees it.
2. Entries are read in chunks that end with a commit, and checked against the checkpoint of that commit; then the full
   bundles and tiles of the chunk are written. *If we die here*: files beyond the published size, which no reader asks
   for. The next run makes the same ones and finds them there.
3. The partial bundle and tiles at the end. *If we die here*: as before.
4. All directories are synced, then the checkpoint is replaced. *If we die here*: the old or the new one; for both, all
   files they need are on disk.
5. Partial files whose full file is there now are removed. *If we die here*: some are left; the next start removes them.

Memory holds one chunk, one partial tile per level and one partial bundle, whatever the log's size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..archives.local import Folder, Object
from ..errors import EntriesPruned, FormatError, LogDamaged, LogForked
from ..ledger import tiles, tree
from ..ledger.checkpoint import open_checkpoint
from ..ledger.note import Verifier
from ..ledger.tiles import TILE_WIDTH, Bundle, Tile
from ..model import Frame, Head
from ..protocols import LogStore
from .published import (
    CHECKPOINT,
    Published,
    bundle_entries,
    open_published,
    peaks_of,
    tile_getter,
    with_cosignatures,
)

CHUNK = 4096
"""Entries after which a chunk ends with the next commit."""

CHUNK_BYTES = 8 * 2**20

STRIDE = 2**17
"""Entries after which a long catching-up publishes a checkpoint, so that a crash does not lose all of the work."""

_Chunk = tuple[list[bytes], Head]


@dataclass(slots=True)
class _Front:
    """The end of what is written: the tree, its last tiles, and the entries of the last, partial bundle."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()
    builder: tiles.TileBuilder = field(default_factory=tiles.TileBuilder)
    tail: list[bytes] = field(default_factory=list)


class Publisher:
    """Keeps one folder up to date with one log. The caller holds ``folder.exclusive()``."""

    def __init__(
        self,
        store: LogStore,
        folder: Folder,
        verifiers: Sequence[Verifier],
        *,
        stride: int = STRIDE,
        log: Path | None = None,
    ) -> None:
        """``verifiers`` are the log's keys; ``stride`` bounds the work that a crash can undo.

        ``log`` is where cosigned checkpoints are kept (`anchors`): one of the published size is published as it is.
        """
        self._store = store
        self._folder = folder
        self._verifiers = verifiers
        self._stride = stride
        self._log = log
        self._published: Published | None = None
        self._front = _Front()
        self.written = 0  # files

    def catch_up(self, progress: Callable[[int], None] | None = None) -> Published:
        """Publishes everything that is committed by now; returns what the folder then holds.

        Raises:
            LogForked: The folder is of another log, or of another history of this one.
            LogDamaged: A file of the folder, or the log, is not what it should be; or the log was rolled back.
            EntriesPruned: The log does not have what the folder lacks any more.
            LogUnavailable: The disk refuses.
        """
        published = self._published or self._begin()
        head = self._store.head()
        self._compare(published, head)
        # Whatever goes wrong from here on, the next call starts anew from what the folder holds.
        self._published = None
        while published.checkpoint.size < head.size:
            published = self._advance(published, head.size)
            if progress is not None:
                progress(published.checkpoint.size)
        self._published = self._adopt(published)
        return self._published

    def _adopt(self, published: Published) -> Published:
        """Witnesses may have cosigned what is published; then that is what readers shall see."""
        cosigned = with_cosignatures(published, self._log, self._store.origin, self._verifiers)
        if cosigned.note != published.note:
            self._folder.replace(CHECKPOINT, cosigned.note)
        return cosigned

    def follow(self, stop: threading.Event, interval: float, notify: Callable[[Published], None]) -> None:
        """Catches up every ``interval`` seconds until ``stop`` is set; ``notify`` gets what is new."""
        size = -1
        while True:
            published = self.catch_up()
            if published.checkpoint.size != size:
                size = published.checkpoint.size
                notify(published)
            if stop.wait(interval):
                return

    # --- what is there -------------------------------------------------------------------------------------------

    def _begin(self) -> Published:
        """Continues from the folder's own files, after checking that they lead to its checkpoint."""
        published = open_published(self._folder, self._store.origin, self._verifiers)
        size = published.checkpoint.size
        peaks = peaks_of(self._folder, published.checkpoint)
        n, width = divmod(size, TILE_WIDTH)
        tail = bundle_entries(self._folder, n, width) if width else []
        if width:
            hashes = tiles.decode_tile(tile_getter(self._folder)(0, n, width))
            if [tree.leaf_hash(entry) for entry in tail] != hashes[:width]:
                raise LogDamaged(f"{self._folder.root / tiles.entries_path(n, width)}: not the entries of its tile")
        self._front = _Front(size, peaks, tiles.TileBuilder(size, tile_getter(self._folder)), tail)
        self._sweep(size)
        return published

    def _compare(self, published: Published, head: Head) -> None:
        size = published.checkpoint.size
        if size > head.size:
            raise LogForked(
                f"{self._folder.root}: holds {size} entries, but the log {self._store.origin} has only {head.size}: "
                "it was rolled back or truncated. Restore its newest copy; what was published stays as it is"
            )
        base = self._store.base.size
        if size < base:
            raise EntriesPruned(
                f"{self._folder.root}: holds {size} entries, but the log {self._store.origin} was pruned to begin at "
                f"entry {base}, so the tiles in between cannot be made any more. Copy a folder that was published "
                "before that (the files checkpoint and minimum, and the directory tile), then publish there"
            )
        if size and size == head.size and head.checkpoint != published.note:
            self._open(head, size, published.checkpoint.root)

    # --- one stride ----------------------------------------------------------------------------------------------

    def _advance(self, published: Published, stop: int) -> Published:
        """Steps 2 to 5 over at most a stride of entries."""
        old = published.checkpoint.size
        for entries, head in self._chunks(old, min(stop, old + self._stride)):
            published = self._take(entries, head)
        self._put(self._partials())
        self._folder.sync()
        self._folder.replace(CHECKPOINT, published.note)
        self.written += 1
        self._remove_obsolete(old, published.checkpoint.size)
        return published

    def _chunks(self, start: int, stop: int) -> Iterator[_Chunk]:
        """Whole commits from ``start`` on, until one reaches ``stop``, in chunks of bounded size."""
        size, entries, volume = start, list[bytes](), 0
        for frame in self._store.frames(start, stop):
            self._check_boundary(frame, size)
            entries += frame.entries
            volume += sum(map(len, frame.entries))
            size = frame.head.size
            if len(entries) >= CHUNK or volume >= CHUNK_BYTES or size >= stop:
                yield entries, frame.head
                entries, volume = [], 0

    def _check_boundary(self, frame: Frame, size: int) -> None:
        # A checkpoint is signed at the end of a commit only, so a published size within one is of another history.
        if frame.first != size:
            raise LogForked(
                f"{frame.where}: a commit from entry {frame.first} on, but none that ends at the published size {size}"
            )

    def _take(self, entries: list[bytes], head: Head) -> Published:
        """Adds a chunk; writes its full bundles and tiles once a signed root says that it belongs there."""
        front = self._front
        leaves = [tree.leaf_hash(entry) for entry in entries]
        size, peaks = tree.append(front.size, front.peaks, leaves)
        published = self._open(head, size, tree.root(peaks))
        bundles, tail = _bundles(front.size, front.tail + entries)
        full = front.builder.add(leaves)
        self._put([*bundles, *((tile.path, data) for tile, data in full)])
        front.size, front.peaks, front.tail = size, peaks, tail
        return published

    def _open(self, head: Head, size: int, root: bytes) -> Published:
        try:
            checkpoint, _ = open_checkpoint(head.checkpoint, self._store.origin, self._verifiers)
        except FormatError as error:
            raise LogDamaged(f"the log's checkpoint at size {head.size} does not open: {error}") from error
        if (checkpoint.size, checkpoint.root) != (size, root):
            raise LogForked(
                f"{self._folder.root}: what is published there and the log's entries up to {size} do not lead to the "
                "root that the log signed: another history, or entries that were altered. Verify the log"
            )
        return Published(checkpoint, head.checkpoint)

    def _partials(self) -> list[Object]:
        front = self._front
        partials = [(tile.path, data) for tile, data in front.builder.partials()]
        if front.tail:
            partials.append((Bundle(front.size // TILE_WIDTH, len(front.tail)).path, tiles.encode_bundle(front.tail)))
        return partials

    def _put(self, objects: Sequence[Object]) -> None:
        self.written += self._folder.put_all(objects)

    # --- step 5 --------------------------------------------------------------------------------------------------

    def _remove_obsolete(self, old: int, new: int) -> None:
        """Removes the partial files at the old end that have become full files."""
        level = 0
        while old >> tiles.TILE_HEIGHT * level:
            n = old >> tiles.TILE_HEIGHT * (level + 1)
            if tiles.tile_width(level, n, new) == TILE_WIDTH:
                self._remove_partials(Tile(level, n), new)
                if level == 0:
                    self._remove_partials(Bundle(n), new)
            level += 1

    def _remove_partials(self, full: Tile | Bundle, size: int) -> None:
        for name in list(self._folder.names(f"{full.path}.p")):
            self._remove_if_obsolete(name, size)

    def _sweep(self, size: int) -> None:
        """Removes what a killed run left: partial files whose full file is there, below the published size."""
        for name in self._folder.names("tile"):
            if ".p/" in name:
                self._remove_if_obsolete(name, size)

    def _remove_if_obsolete(self, name: str, size: int) -> None:
        try:
            place = tiles.parse_path(name)
        except FormatError:
            return  # not ours
        level = place.level if isinstance(place, Tile) else 0
        if place.width == TILE_WIDTH or tiles.tile_width(level, place.n, size) < TILE_WIDTH:
            return
        if self._folder.has(place._replace(width=TILE_WIDTH).path):
            self._folder.remove(name)


def _bundles(size: int, entries: list[bytes]) -> tuple[list[Object], list[bytes]]:
    """The full bundles among these entries, of which the first belong to the partial bundle at ``size``; the rest."""
    first, whole = size // TILE_WIDTH, len(entries) // TILE_WIDTH
    full = [
        (Bundle(first + i).path, tiles.encode_bundle(entries[i * TILE_WIDTH : (i + 1) * TILE_WIDTH]))
        for i in range(whole)
    ]
    return full, entries[whole * TILE_WIDTH :]
