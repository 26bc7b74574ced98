"""A tree that follows a log: what its commits add, as the objects of the C2SP tlog-tiles layout.

Nothing is handed out on trust: entries are read in chunks that end with a commit, and the tree that a chunk leads to
must have the root in that commit's signed checkpoint. So whoever starts from what is published or archived proves with
each chunk that the log extends it; a fork or a rollback ends it before the first object is handed out.

Memory holds one chunk, one partial tile per level and one partial bundle, whatever the log's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..archives.local import Object
from ..errors import FormatError, LogDamaged, LogForked
from ..ledger import tiles, tree
from ..ledger.checkpoint import open_checkpoint
from ..ledger.note import Verifier
from ..ledger.tiles import TILE_WIDTH, Bundle
from ..model import Frame, Head
from ..protocols import LogStore
from .published import Published

CHUNK = 4096
"""Entries after which a chunk ends with the next commit."""

CHUNK_BYTES = 8 * 2**20


class Growing:
    """The end of what was handed out: the tree, its last tiles, and the entries of the last, partial bundle.

    One that raised is thrown away: its user starts anew from what is stored.
    """

    def __init__(
        self,
        store: LogStore,
        verifiers: Sequence[Verifier],
        place: object,
        *,
        size: int = 0,
        peaks: tuple[bytes, ...] = (),
        builder: tiles.TileBuilder | None = None,
        tail: Sequence[bytes] = (),
    ) -> None:
        """``place`` is where the objects go, for messages; ``builder`` and ``tail`` are those of ``size``."""
        self._store = store
        self._verifiers = verifiers
        self._place = place
        self.size = size
        self._peaks = peaks
        self._builder = builder or tiles.TileBuilder()
        self._tail = list(tail)

    @property
    def root(self) -> bytes:
        """Of the tree of ``size``."""
        return tree.root(self._peaks)

    def chunks(self, stop: int) -> Iterator[tuple[Published, list[Object]]]:
        """The checkpoint after each chunk up to ``stop`` and the full bundles and tiles that are new with it.

        Raises:
            LogForked: The log is another history than that of ``size``, or its entries were altered.
            LogDamaged: Its checkpoint does not open.
        """
        for entries, head in self._read(stop):
            leaves = [tree.leaf_hash(entry) for entry in entries]
            size, peaks = tree.append(self.size, self._peaks, leaves)
            published = self.open(head, size, tree.root(peaks))
            bundles, tail = _bundles(self.size, self._tail + entries)
            full = self._builder.add(leaves)
            self.size, self._peaks, self._tail = size, peaks, tail
            yield published, [*bundles, *((tile.path, data) for tile, data in full)]

    def partial_bundle(self) -> list[Object]:
        """The bundle at the end, unless the last one is full."""
        if not self._tail:
            return []
        bundle = Bundle(self.size // TILE_WIDTH, len(self._tail))
        return [(bundle.path, tiles.encode_bundle(self._tail))]

    def partials(self) -> list[Object]:
        """The partial tiles and the partial bundle at the end."""
        return [*((tile.path, data) for tile, data in self._builder.partials()), *self.partial_bundle()]

    def open(self, head: Head, size: int, root: bytes) -> Published:
        """Returns the checkpoint of a head, which must be of this size and root. Raises as `chunks`."""
        try:
            checkpoint, _ = open_checkpoint(head.checkpoint, self._store.origin, self._verifiers)
        except FormatError as error:
            raise LogDamaged(f"the log's checkpoint at size {head.size} does not open: {error}") from error
        if (checkpoint.size, checkpoint.root) != (size, root):
            raise LogForked(
                f"{self._place}: what is there and the log's entries up to {size} do not lead to the root that the "
                "log signed: another history, or entries that were altered. Verify the log"
            )
        return Published(checkpoint, head.checkpoint)

    def _read(self, stop: int) -> Iterator[tuple[list[bytes], Head]]:
        """Whole commits from ``size`` on, until one reaches ``stop``, in chunks of bounded size."""
        size, entries, volume = self.size, list[bytes](), 0
        for frame in self._store.frames(size, stop) if size < stop else ():
            self._check_boundary(frame, size)
            entries += frame.entries
            volume += sum(map(len, frame.entries))
            size = frame.head.size
            if len(entries) >= CHUNK or volume >= CHUNK_BYTES or size >= stop:
                yield entries, frame.head
                entries, volume = [], 0

    def _check_boundary(self, frame: Frame, size: int) -> None:
        # A checkpoint is signed at the end of a commit only, so a known size within one is of another history.
        if frame.first != size:
            raise LogForked(
                f"{frame.where}: a commit from entry {frame.first} on, but none that ends at the size {size} "
                f"that {self._place} has a checkpoint of"
            )


def _bundles(size: int, entries: list[bytes]) -> tuple[list[Object], list[bytes]]:
    """The full bundles among these entries, of which the first belong to the partial bundle at ``size``; the rest."""
    first, whole = size // TILE_WIDTH, len(entries) // TILE_WIDTH
    full = [
        (Bundle(first + i).path, tiles.encode_bundle(entries[i * TILE_WIDTH : (i + 1) * TILE_WIDTH]))
        for i in range(whole)
    ]
    return full, entries[whole * TILE_WIDTH :]
