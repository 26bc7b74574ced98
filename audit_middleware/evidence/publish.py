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
from collections.abc import Callable, Sequence

from ..archives.local import Folder, Object
from ..errors import EntriesPruned, FormatError, LogDamaged, LogForked
from ..ledger import tiles, tree
from ..ledger.checkpoint import CHECKPOINT
from ..ledger.note import Verifier
from ..ledger.tiles import TILE_WIDTH, Bundle, Tile
from ..model import Head
from ..protocols import LogStore
from ..stores.opening import Place
from .growing import Growing
from .published import (
    Published,
    bundle_entries,
    open_published,
    peaks_of,
    tile_getter,
    with_cosignatures,
)

STRIDE = 2**17
"""Entries after which a long catching-up publishes a checkpoint, so that a crash does not lose all of the work."""


class Publisher:
    """Keeps one folder up to date with one log. The caller holds ``folder.exclusive()``."""

    def __init__(
        self,
        store: LogStore,
        folder: Folder,
        verifiers: Sequence[Verifier],
        *,
        stride: int = STRIDE,
        log: Place | None = None,
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
        self._growing = Growing(store, verifiers, folder.root)
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
        builder = tiles.TileBuilder(size, tile_getter(self._folder))
        self._growing = Growing(
            self._store, self._verifiers, self._folder.root, size=size, peaks=peaks, builder=builder, tail=tail
        )
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
            self._growing.open(head, size, published.checkpoint.root)

    # --- one stride ----------------------------------------------------------------------------------------------

    def _advance(self, published: Published, stop: int) -> Published:
        """Steps 2 to 5 over at most a stride of entries."""
        old = published.checkpoint.size
        for published, objects in self._growing.chunks(min(stop, old + self._stride)):  # noqa: B007
            self._put(objects)
        self._put(self._growing.partials())
        self._folder.sync()
        self._folder.replace(CHECKPOINT, published.note)
        self.written += 1
        self._remove_obsolete(old, published.checkpoint.size)
        return published

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
