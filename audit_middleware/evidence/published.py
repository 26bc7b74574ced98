"""Reading a published log: its checkpoint, its tiles and bundles, and a verification of all of it.

Nothing read from tiles is trusted by itself. `open_published` checks signature and origin of the checkpoint; `peaks_of`
and `verify_published` check that what they read leads to its root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..archives.local import Folder
from ..errors import FormatError, LogDamaged, LogForked, RecordError
from ..ledger import canonical, tiles, tree
from ..ledger.checkpoint import CHECKPOINT, Checkpoint, open_checkpoint
from ..ledger.lines import from_decimal
from ..ledger.note import Verifier
from ..stores.opening import Place
from .anchors import newest_cosigned

MINIMUM = "minimum"
"""Object that says from which index on a pruned folder has entries: decimal and a newline."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a folder says it holds: the checkpoint and the signed note it stands in; ``note`` empty: nothing yet."""

    checkpoint: Checkpoint
    note: bytes = b""


def open_published(folder: Folder, origin: str, verifiers: Sequence[Verifier]) -> Published:
    """Returns the folder's checkpoint; one of size 0 if there is none yet.

    Raises:
        LogForked: It is of another log.
        LogDamaged: It is no checkpoint that one of these keys signed.
    """
    note = folder.get(CHECKPOINT)
    if note is None:
        return Published(Checkpoint(origin, 0, tree.EMPTY_ROOT))
    where = folder.root / CHECKPOINT
    try:
        return Published(open_checkpoint(note, origin, verifiers)[0], note)
    except FormatError as error:
        named = note.split(b"\n", 1)[0].decode(errors="replace")
        if named != origin:
            raise LogForked(f"{where}: is of another log, {named[:200]!r}, not of {origin!r}") from error
        raise LogDamaged(f"{where}: is no checkpoint signed by a key of this log: {error}") from error


def with_cosignatures(published: Published, log: Place | None, origin: str, verifiers: Sequence[Verifier]) -> Published:
    """Returns the same checkpoint in the newest cosigned note kept beside the log, if that is of the same text.

    Lines of witnesses are not verified here: nobody who reads a checkpoint takes them on trust.
    """
    note = newest_cosigned(log) if log is not None else None
    if note is None or note == published.note:
        return published
    try:
        checkpoint, _ = open_checkpoint(note, origin, verifiers)
    except FormatError:
        return published  # not of this log's keys: whoever verifies the log says so
    return Published(checkpoint, note) if checkpoint == published.checkpoint else published


def adopt_cosigned(folder: Folder, log: Place, origin: str, verifiers: Sequence[Verifier]) -> bool:
    """Puts the newest cosigned note in place of a published checkpoint of the same text; True if that changed it.

    If we die here: the one before, or this one. Raises `LogBusy` while a publisher runs, which does the same.
    """
    if not folder.has(CHECKPOINT):
        return False
    with folder.exclusive():
        published = open_published(folder, origin, verifiers)
        cosigned = with_cosignatures(published, log, origin, verifiers)
        if cosigned.note != published.note:
            folder.replace(CHECKPOINT, cosigned.note)
        return cosigned.note != published.note


def tile_getter(folder: Folder) -> tiles.GetTile:
    """Returns what `ledger.tiles` reads tiles with: where a partial one was removed, the full one serves."""

    def get(level: int, n: int, width: int) -> bytes:
        path = tiles.tile_path(level, n, width)
        data = folder.get(path)
        if data is None and width < tiles.TILE_WIDTH:
            data = folder.get(tiles.tile_path(level, n))
        if data is None:
            raise LogDamaged(f"{folder.root / path}: is missing")
        return data

    return get


def bundle_entries(folder: Folder, n: int, width: int) -> list[bytes]:
    """Returns the first ``width`` entries of bundle ``n``. Raises `LogDamaged`."""
    path = tiles.entries_path(n, width)
    data = folder.get(path)
    if data is None:
        path = tiles.entries_path(n)
        data = folder.get(path)
    if data is None:
        raise LogDamaged(f"{folder.root / tiles.entries_path(n, width)}: is missing")
    try:
        entries = tiles.decode_bundle(data)
    except FormatError as error:
        raise LogDamaged(f"{folder.root / path}: {error}") from error
    if len(entries) < width:
        raise LogDamaged(f"{folder.root / path}: holds {len(entries)} entries, not {width}")
    return entries[:width]


def peaks_of(folder: Folder, checkpoint: Checkpoint) -> tuple[bytes, ...]:
    """Returns the peaks of the published tree, from its tiles; they lead to the checkpoint's root.

    Raises:
        LogDamaged: The tiles are missing, malformed or lead to another root.
    """
    size = checkpoint.size
    try:
        peaks = tree.peaks_of(size, tiles.hash_reader(size, tile_getter(folder)))
    except FormatError as error:
        raise LogDamaged(f"{folder.root}: {error}") from error
    if tree.root(peaks) != checkpoint.root:
        raise LogDamaged(f"{folder.root}: the tiles at the end do not lead to the root in its checkpoint")
    return peaks


def read_minimum(folder: Folder) -> int:
    """Returns the index below which full bundles and tiles of level 0 were removed; 0 if none were.

    Raises:
        LogDamaged: The file that says so does not.
    """
    text = folder.get(MINIMUM)
    if text is None:
        return 0
    try:
        minimum = from_decimal(text.decode().removesuffix("\n"), MINIMUM)
    except (FormatError, UnicodeDecodeError) as error:
        raise LogDamaged(f"{folder.root / MINIMUM}: {error}") from error
    if minimum % tiles.TILE_WIDTH:
        raise LogDamaged(f"{folder.root / MINIMUM}: {minimum} is no multiple of {tiles.TILE_WIDTH}")
    return minimum


def prune_published(folder: Folder, minimum: int) -> int:
    """Removes the bundles and the tiles of level 0 below a minimum index, as C2SP tlog-tiles allows; returns how many.

    What stays: the checkpoint, all levels above, and with them every proof of an entry at or after the minimum. The
    caller holds ``folder.exclusive()``.

    1. The file ``minimum``. *If we die here*: it says less than there is; the next call removes the rest.
    2. The files. *If we die here*: as before.

    Raises:
        LogUnavailable: The disk refuses.
    """
    if minimum > read_minimum(folder):
        folder.replace(MINIMUM, f"{minimum}\n".encode())
    removed = 0
    for directory in ("tile/entries", "tile/0"):
        for name in folder.names(directory):
            place = _parsed(name)
            if place is not None and tiles.prunable(place, minimum):
                folder.remove(name)
                removed += 1
    return removed


def verify_published(
    folder: Folder, origin: str, verifiers: Sequence[Verifier], progress: Callable[[int], None] | None = None
) -> Checkpoint:
    """Reads back all of a published log and returns the checkpoint it leads to. Streams; trusts nothing but the keys.

    1. The checkpoint is of this origin and signed by one of the keys.
    2. Every bundle decodes, and its leaf hashes are those of its tile of level 0.
    3. Every tile of the levels above holds the roots of the tiles below it.
    4. The entries lead to the checkpoint's root.
    5. Partial files of earlier sizes are beginnings of the files that followed them.
    6. If it was pruned: a record among the entries that are left says so (``audit.pruned``). The roots of what is gone
       come from the tiles of level 1; 3 and 4 hold them to the checkpoint.

    Raises:
        LogForked, LogDamaged: with the name of the first file that is not what it should be.
    """
    checkpoint = open_published(folder, origin, verifiers).checkpoint
    size = minimum = read_minimum(folder)
    if minimum > checkpoint.size:
        raise LogDamaged(f"{folder.root / MINIMUM}: is beyond the checkpoint's size {checkpoint.size}")
    builder, peaks = _begin(folder, minimum, checkpoint.size)
    explained = not minimum
    for entries in _bundles(folder, minimum, checkpoint.size):
        leaves = [tree.leaf_hash(entry) for entry in entries]
        _compare(folder, builder.add(leaves))
        size, peaks = tree.append(size, peaks, leaves)
        explained = explained or any(says_pruned(entry, minimum) for entry in entries)
        if progress is not None:
            progress(size)
    _compare(folder, builder.partials())
    if tree.root(peaks) != checkpoint.root:
        raise LogDamaged(f"{folder.root / CHECKPOINT}: another root than that of the entries")
    if not explained:
        raise LogDamaged(
            f"{folder.root}: entries below {minimum} are missing, and no record says that they were pruned"
        )
    _check_partials(folder, checkpoint.size, minimum)
    return checkpoint


def _begin(folder: Folder, minimum: int, size: int) -> tuple[tiles.TileBuilder, tuple[bytes, ...]]:
    """Builder and peaks at the minimum, from tiles of level 1 and above, which are compared with one another."""
    get = tile_getter(folder)

    def prefix(level: int, n: int, width: int) -> bytes:
        return get(level, n, tiles.tile_width(level, n, size))[: width * tree.HASH_SIZE]

    above = tiles.TileBuilder()  # over the hashes of level 1, so each of its tiles is one of the level above
    hashes = minimum // tiles.TILE_WIDTH
    try:
        for n in range(-(-hashes // tiles.TILE_WIDTH)):
            row = tiles.decode_tile(prefix(1, n, tiles.tile_width(0, n, hashes)))
            _compare(folder, [(tile._replace(level=tile.level + 1), data) for tile, data in above.add(row)], size)
        _compare(folder, [(tile._replace(level=tile.level + 1), data) for tile, data in above.partials()], size)
        peaks = tree.peaks_of(minimum, tiles.hash_reader(size, get))
        return tiles.TileBuilder(minimum, prefix), peaks
    except FormatError as error:
        raise LogDamaged(f"{folder.root}: {error}") from error


def says_pruned(entry: bytes, minimum: int) -> bool:
    """True if an entry is the control record that entries below this index, or a later one, were pruned."""
    if b'"action":"audit.pruned"' not in entry:
        return False
    try:
        record = canonical.decode(entry)
    except RecordError:
        return False
    extra = record.get("extra")
    said = extra.get("minimum") if isinstance(extra, dict) else None
    return record.get("kind") == "control" and isinstance(said, int) and said >= minimum


def _bundles(folder: Folder, start: int, size: int) -> Iterator[list[bytes]]:
    for n in range(start // tiles.TILE_WIDTH, -(-size // tiles.TILE_WIDTH)):
        yield bundle_entries(folder, n, tiles.tile_width(0, n, size))


def _compare(folder: Folder, built: Sequence[tuple[tiles.Tile, bytes]], size: int | None = None) -> None:
    """Compares files with tiles that were built; with ``size`` those of a larger log, of which these are beginnings."""
    get = tile_getter(folder)
    for tile, data in built:
        width = tile.width if size is None else tiles.tile_width(tile.level, tile.n, size)
        if get(tile.level, tile.n, width)[: len(data)] != data:
            raise LogDamaged(f"{folder.root / tile.path}: is not what the entries below it lead to")


def _check_partials(folder: Folder, size: int, minimum: int) -> None:
    """Check 5, against files that the other checks found right. What lies beyond ``size`` is not published yet."""
    for name in folder.names("tile"):
        place = _parsed(name)
        if place is None or place.width == tiles.TILE_WIDTH:
            continue
        level = place.level if isinstance(place, tiles.Tile) else 0
        width = tiles.tile_width(level, place.n, size)
        if place.width > width or (level == 0 and tiles.prunable(place._replace(width=tiles.TILE_WIDTH), minimum)):
            continue
        if isinstance(place, tiles.Tile):
            wanted = tile_getter(folder)(level, place.n, width)[: place.width * tree.HASH_SIZE]
        else:
            wanted = tiles.encode_bundle(bundle_entries(folder, place.n, width)[: place.width])
        if folder.get(name) != wanted:
            raise LogDamaged(f"{folder.root / name}: is not the beginning of the file that followed it")


def _parsed(name: str) -> tiles.Tile | tiles.Bundle | None:
    try:
        return tiles.parse_path(name)
    except FormatError:
        return None  # no file of the layout
