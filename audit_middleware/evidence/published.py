"""Reading a published log: its checkpoint, its tiles and bundles, and a verification of all of it.

Nothing read from tiles is trusted by itself. `open_published` checks signature and origin of the checkpoint; `peaks_of`
and `verify_published` check that what they read leads to its root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..archives.local import Folder
from ..errors import FormatError, LogDamaged, LogForked
from ..ledger import tiles, tree
from ..ledger.checkpoint import Checkpoint, open_checkpoint
from ..ledger.note import Verifier

CHECKPOINT = "checkpoint"


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
        read = tiles.hash_reader(size, tile_getter(folder))
        levels = [level for level in reversed(range(size.bit_length())) if size >> level & 1]
        peaks = tuple(read(level, (size >> level) - 1) for level in levels)
    except FormatError as error:
        raise LogDamaged(f"{folder.root}: {error}") from error
    if tree.root(peaks) != checkpoint.root:
        raise LogDamaged(f"{folder.root}: the tiles at the end do not lead to the root in its checkpoint")
    return peaks


def verify_published(
    folder: Folder, origin: str, verifiers: Sequence[Verifier], progress: Callable[[int], None] | None = None
) -> Checkpoint:
    """Reads back all of a published log and returns the checkpoint it leads to. Streams; trusts nothing but the keys.

    1. The checkpoint is of this origin and signed by one of the keys.
    2. Every bundle decodes, and its leaf hashes are those of its tile of level 0.
    3. Every tile of the levels above holds the roots of the tiles below it.
    4. The entries lead to the checkpoint's root.
    5. Partial files of earlier sizes are beginnings of the files that followed them.

    Raises:
        LogForked, LogDamaged: with the name of the first file that is not what it should be.
    """
    checkpoint = open_published(folder, origin, verifiers).checkpoint
    builder, peaks, size = tiles.TileBuilder(), tuple[bytes, ...](), 0
    for leaves in _leaves(folder, checkpoint.size):
        _compare(folder, builder.add(leaves))
        size, peaks = tree.append(size, peaks, leaves)
        if progress is not None:
            progress(size)
    _compare(folder, builder.partials())
    if tree.root(peaks) != checkpoint.root:
        raise LogDamaged(f"{folder.root / CHECKPOINT}: another root than that of the entries")
    _check_partials(folder, checkpoint.size)
    return checkpoint


def _leaves(folder: Folder, size: int) -> Iterator[list[bytes]]:
    for n in range(-(-size // tiles.TILE_WIDTH)):
        entries = bundle_entries(folder, n, tiles.tile_width(0, n, size))
        yield [tree.leaf_hash(entry) for entry in entries]


def _compare(folder: Folder, built: Sequence[tuple[tiles.Tile, bytes]]) -> None:
    get = tile_getter(folder)
    for tile, data in built:
        if get(*tile)[: len(data)] != data:
            raise LogDamaged(f"{folder.root / tile.path}: is not what the entries below it lead to")


def _check_partials(folder: Folder, size: int) -> None:
    """Check 5, against files that the other checks found right. What lies beyond ``size`` is not published yet."""
    for name in folder.names("tile"):
        place = _parsed(name)
        if place is None or place.width == tiles.TILE_WIDTH:
            continue
        level = place.level if isinstance(place, tiles.Tile) else 0
        width = tiles.tile_width(level, place.n, size)
        if place.width > width:
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
