"""Archiving: the log as locked objects in a place that its operator cannot change.

What is trusted: nothing. The newest checkpoint in the archive and the archive's own tiles, with the log's entries after
the last full bundle, must lead to one root; what comes after it must lead to the roots that the log signed next. So
each run proves that what it archives extends what was archived; a fork or a rollback ends it before the first object.
Nothing is signed here: checkpoints are archived as the log committed them.

The steps, and what a crash at each leaves:

1. Full bundles and tiles, each chunk after its checkpoint said that it belongs there, and that checkpoint where the one
   before it is far behind: who restores the log makes one commit of what lies between two, and commits are bounded.
   *If we die here*: objects beyond the newest archived checkpoint. The next run makes the same ones and finds them.
2. With ``partial``, the partial bundle at the end. *If we die here*: as before.
3. The checkpoint. *If we die here*: it is there, whole, or not.
4. What others said since: cosigned checkpoints and time stamps beside the log. *If we die here*: the next run does.

Memory holds one chunk of the log, see `growing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..archives.local import Object
from ..errors import ArchiveConflict, ArchiveError, EntriesPruned, FormatError, LogForked
from ..ledger import tiles, tree
from ..ledger.checkpoint import Checkpoint, open_checkpoint
from ..ledger.note import Verifier
from ..ledger.tiles import TILE_WIDTH
from ..model import Head
from ..protocols import Archive
from ..stores.opening import Place, Store
from .anchors import newest_cosigned, stamped_notes
from .archive_objects import (
    STAMPS,
    TILES,
    TRUST,
    checkpoint_name,
    cosigned_name,
    newest_archived,
    open_archived,
    pick,
)
from .growing import CHUNK, CHUNK_BYTES, Growing
from .published import Published, with_cosignatures

_WRITERS = 8
"""Objects put side by side: a store far away answers in tens of milliseconds, and takes many at once."""

Until = Callable[[], float | None]
"""``until()``: the end of the lock of what is put now, seconds since the epoch; ``None``: no lock is asked for."""


@dataclass(frozen=True, slots=True)
class Archiving:
    """What an archive holds of a log after a run, and how many objects the run put."""

    checkpoint: Checkpoint
    objects: int


class Archiver:
    """Keeps one archive up to date with one log. One at a time for each log is enough; two do no harm."""

    def __init__(
        self, store: Store, archive: Archive, verifiers: Sequence[Verifier], until: Until, *, log: Place
    ) -> None:
        """``verifiers`` are the log's keys; ``log`` is where cosigned checkpoints and time stamps are kept."""
        self._store = store
        self._archive = archive
        self._verifiers = verifiers
        self._until = until
        self._log = log
        self._known: Checkpoint | None = None
        self._growing: Growing | None = None
        self._beside: set[str] = set()  # put by this process already
        self._unsigned = 0  # bytes of bundles that were put since the newest checkpoint

    def catch_up(self, *, partial: bool = False, progress: Callable[[int], None] | None = None) -> Archiving:
        """Archives everything that is committed by now, the newest checkpoint last; returns what is there then.

        Raises:
            LogForked: The archive is of another log, or of another history of this one; or the log was rolled back.
            LogDamaged: The log's own checkpoint does not open.
            EntriesPruned: The log does not have what the archive lacks any more.
            ArchiveConflict: Something else stands in the archive where an object of the log belongs.
            ArchiveError: It cannot be reached, or refuses. Whatever was raised, running it again completes it.
        """
        head = self._store.head()
        if self._known is None or self._growing is None:
            self._begin(head)
        known, growing = self._known, self._growing
        assert known is not None
        assert growing is not None
        self._compare(known, head)
        # Whatever goes wrong from here on, the next call starts anew from what the archive holds.
        self._known = None
        written, known = self._grow(growing, head, known, progress, stop=head.size)
        # Also where the checkpoint is there already: it may have been archived without its partial bundle.
        for name, data in growing.partial_bundle() if partial else ():
            if name not in self._beside:
                written += self._put([(name, data)])
                self._beside.add(name)
        if head.size > known.size:
            last = growing.open(head, growing.size, growing.root)
            self._put_signed(last)
            written, known = written + 1, last.checkpoint
        written += self._put_beside(known)
        self._known = known
        return Archiving(known, written)

    def put_full(self) -> int:
        """Archives the full bundles and tiles there are, and no checkpoint of their end; returns how many objects.

        For between two checkpoints: what is lost with the log's disk is then less than a bundle. Raises as `catch_up`.
        """
        head = self._store.head()
        if self._known is None or self._growing is None:
            self._begin(head)
        known, growing = self._known, self._growing
        assert known is not None
        assert growing is not None
        self._compare(known, head)
        self._known = None
        written, self._known = self._grow(growing, head, known, None)
        return written

    @property
    def pending(self) -> bool:
        """True if a bundle has filled up since the last look. Cheap."""
        seen = self._growing.size if self._growing is not None else 0
        return self._store.head().size // TILE_WIDTH > seen // TILE_WIDTH

    # --- what is there -------------------------------------------------------------------------------------------

    def _begin(self, head: Head) -> None:
        """Continues from the newest checkpoint in the archive, after checking that the log leads to it."""
        origin, place = self._store.origin, self._archive.place
        self._unsigned = 0
        newest = newest_archived(self._archive, origin, self._verifiers)
        if newest is None:
            if self._store.base.size:
                raise EntriesPruned(
                    f"{place}: holds nothing of {origin} yet, and the log was pruned to begin at entry "
                    f"{self._store.base.size}: an archive begins with entry 0. Archive a log before its first prune"
                )
            self._growing = Growing(self._store, self._verifiers, place)
            self._known = Checkpoint(origin, 0, tree.EMPTY_ROOT)
            return
        known = newest.checkpoint
        self._compare(known, head)
        check_history(self._store, known, place)
        self._growing = self._resume(known)
        # Again: where an object and its lock are two steps, whoever put it may have died between them.
        self._archive.put(checkpoint_name(known.size), newest.note, self._until())
        self._known = known

    def _compare(self, known: Checkpoint, head: Head) -> None:
        if known.size > head.size:
            raise LogForked(
                f"{self._archive.place}: holds a checkpoint of size {known.size}, signed by this log's key, but the "
                f"log {self._store.origin} has only {head.size} entries: it was rolled back or truncated. Nothing was "
                "archived. Restore its newest copy; what is archived stays as it is"
            )
        first = known.size // TILE_WIDTH * TILE_WIDTH
        if first < self._store.base.size and known.size < head.size:
            raise EntriesPruned(
                f"{self._archive.place}: holds full bundles up to entry {first}, but the log {self._store.origin} was "
                f"pruned to begin at entry {self._store.base.size}: what is between them is gone. Prune with "
                "--archived, which keeps what the archive lacks"
            )

    def _resume(self, known: Checkpoint) -> Growing:
        """The tree at an archived size, from full tiles of the archive and the log's entries after them."""
        size = known.size
        start = size // TILE_WIDTH * TILE_WIDTH
        tail = [
            entry
            for frame in (self._store.frames(start, size) if size > start else ())
            for at, entry in enumerate(frame.entries, frame.first)
            if start <= at < size
        ]
        for first in (False, True):
            get = self._tile_getter([tree.leaf_hash(entry) for entry in tail], first=first)
            try:
                peaks = tree.peaks_of(size, tiles.hash_reader(size, get))
                if tree.root(peaks) == known.root:
                    builder = tiles.TileBuilder(size, get)
                    return Growing(
                        self._store, self._verifiers, self._archive.place,
                        size=size, peaks=peaks, builder=builder, tail=tail,
                    )  # fmt: skip
            except FormatError:
                continue
        raise ArchiveError(
            f"{self._archive.place}: the full tiles there and the log's entries {start} to {size - 1} do not lead to "
            f"the newest archived checkpoint (size {size}), which the log signed, too. Either an object of the archive "
            "is missing or was altered, which audit-middleware archive verify names, or these entries were: verify "
            "the log. Nothing was archived"
        )

    def _tile_getter(self, last: Sequence[bytes], *, first: bool) -> tiles.GetTile:
        """Reads tiles of the archive; a partial one is made of the full tiles below it, or of the last leaf hashes.

        With ``first``, the first version of each is read: what was put first is what the archive locked.
        """

        def stored(level: int, n: int) -> bytes:
            name = tiles.tile_path(level, n)
            found = pick(self._archive, name, lambda data: True) if first else None
            data = found.data if found is not None else self._archive.get(name)
            if data is None:
                raise FormatError(f"{name}: is missing")
            return data

        def get(level: int, n: int, width: int) -> bytes:
            if width == TILE_WIDTH:
                return stored(level, n)
            if level == 0:
                return b"".join(last[:width])
            below = range(n * TILE_WIDTH, n * TILE_WIDTH + width)
            with ThreadPoolExecutor(_WRITERS) as pool:
                return b"".join(
                    tiles.subtree_root(tiles.decode_tile(data))
                    for data in pool.map(lambda one: stored(level - 1, one), below)
                )

        return get

    # --- writing -------------------------------------------------------------------------------------------------

    def _grow(
        self,
        growing: Growing,
        head: Head,
        known: Checkpoint,
        progress: Callable[[int], None] | None,
        stop: int | None = None,
    ) -> tuple[int, Checkpoint]:
        """Step 1; returns how many objects were put, and the newest checkpoint. That of ``stop`` is left to others."""
        written = 0
        for published, objects in growing.chunks(head.size):
            written += self._put(objects)
            self._unsigned += sum(len(data) for name, data in objects if name.startswith(f"{TILES}/entries/"))
            size = published.checkpoint.size
            if size != stop and (size - known.size >= CHUNK or self._unsigned >= CHUNK_BYTES):
                self._put_signed(published)
                written, known = written + 1, published.checkpoint
            if progress is not None:
                progress(size)
        return written, known

    def _put_signed(self, published: Published) -> None:
        """A checkpoint, with its cosignatures if it has any by now."""
        note = with_cosignatures(published, self._log, self._store.origin, self._verifiers).note
        name = checkpoint_name(published.checkpoint.size)
        try:
            self._archive.put(name, note, self._until())
        except ArchiveConflict:
            found = open_archived(self._archive, name, self._store.origin, self._verifiers)
            if found is None or found.checkpoint != published.checkpoint:
                raise
            # Another archiver was faster, and knew other cosignatures: its note stays.
            self._archive.put(name, found.note, self._until())
        self._unsigned = 0

    def _put(self, objects: Iterable[Object]) -> int:
        """Bundles before tiles; several at a time."""
        until, count = self._until(), 0
        listed = sorted(objects, key=lambda one: not one[0].startswith("tile/entries/"))
        if len(listed) < _WRITERS:
            for name, data in listed:
                self._archive.put(name, data, until)
            return len(listed)
        with ThreadPoolExecutor(_WRITERS) as pool:
            for _ in pool.map(lambda one: self._archive.put(one[0], one[1], until), listed):
                count += 1
        return count

    def _put_beside(self, known: Checkpoint) -> int:
        """Step 4; what is beside the log is not verified here: whoever reads it takes none of it on trust."""
        config = self._store.described()
        objects = [(f"{TRUST}/{sha256(config).hexdigest()}.json", config)]
        cosigned = self._cosigned(known)
        if cosigned is not None:
            objects.append((cosigned_name(cosigned.checkpoint.size), cosigned.note))
        for stamped in stamped_notes(self._log):
            stem = Path(stamped.where).stem
            objects += [(f"{STAMPS}/{stem}.checkpoint", stamped.note), (f"{STAMPS}/{stem}.tsr", stamped.response)]
        fresh = [one for one in objects if one[0] not in self._beside]
        for name, data in fresh:
            try:
                self._archive.put(name, data, self._until())
            except ArchiveConflict:
                if not name.startswith("cosigned/"):
                    raise
                # Of another round of witnesses: the first one stays.
            self._beside.add(name)
        return len(fresh)

    def _cosigned(self, known: Checkpoint) -> Published | None:
        """The newest cosigned note beside the log, if it is of a size that is archived."""
        note = newest_cosigned(self._log)
        try:
            if note is None:
                return None
            checkpoint = open_checkpoint(note, self._store.origin, self._verifiers)[0]
        except FormatError:
            return None
        if not 0 < checkpoint.size <= known.size or cosigned_name(checkpoint.size) in self._beside:
            return None
        archived = self._archive.get(checkpoint_name(checkpoint.size))
        return Published(checkpoint, note) if archived != note else None


def check_history(store: Store, known: Checkpoint, place: str) -> None:
    """Raises `LogForked` unless the log has a commit that ends at this checkpoint's size, with its root."""
    head = store.base
    if known.size < head.size:
        return  # pruned: whoever needs the entries says so
    for frame in store.frames(known.size - 1, known.size) if known.size > head.size else ():
        head = frame.head
    if (head.size, tree.root(head.peaks)) != (known.size, known.root):
        raise LogForked(
            f"{place}: its newest checkpoint (size {known.size}), signed by this log's key, is not one of the log "
            f"{store.origin}: there are two histories. Nothing was archived. Keep both, and verify the log: "
            "audit-middleware verify LOG --archive " + place
        )


def archived_size(store: Store, archive: Archive, verifiers: Sequence[Verifier]) -> int:
    """How many entries of this log an archive holds in full bundles, going by its newest checkpoint.

    Raises:
        LogForked: That is of another history.
        ArchiveError: The archive cannot be read.
    """
    newest = newest_archived(archive, store.origin, verifiers)
    if newest is None:
        return 0
    size = newest.checkpoint.size
    if size > store.head().size:
        raise LogForked(f"{archive.place}: holds {size} entries, and the log {store.origin} only {store.head().size}")
    check_history(store, newest.checkpoint, archive.place)
    return size // TILE_WIDTH * TILE_WIDTH
