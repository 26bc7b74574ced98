"""Tiles: the tree and the entries of a log as immutable files.

C2SP tlog-tiles v0.1.0. Under the log's prefix::

    checkpoint                       the newest signed checkpoint
    tile/<L>/<N>                     full hash tile: 256 hashes, 8,192 bytes
    tile/<L>/<N>.p/<W>               partial hash tile: the first W hashes, W = 1..255
    tile/entries/<N>[.p/<W>]         entry bundle: the entries under hash tile N of level 0

* L = 0..63, W: decimal. N in groups of three digits, all but the last with an x before them: 1234067 is
  ``x001/x234/067``.
* Hash i of tile N on level L is the root over the leaves [(N*256 + i) * 256^L, (N*256 + i + 1) * 256^L): level 0 holds
  leaf hashes, each hash above is the root of one full tile below. A partial tile is never hashed into the level above.
* A log of size s has floor(s / 256^L) hashes on level L; the last tile is partial if that is no multiple of 256. There
  are no empty tiles. 70,000 entries: 273 full and one of 112 on level 0; 1 full and one of 17 on level 1; one of 1 on
  level 2.
* Bundle: for each entry a big-endian uint16 length, then the entry.
* Partial files must exist for every size published as a checkpoint, until the full one exists.
* Pruning to a *minimum index*: a full file may go if every entry under it is below the minimum. All entries, proofs and
  roots at or after the minimum stay available.

What is read from tiles is not authenticated by itself: proofs made from them are, by the checkpoint's root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from ..errors import FormatError
from .canonical import MAX_ENTRY
from .tree import HASH_SIZE, Read, parents

TILE_WIDTH = 256
TILE_HEIGHT = 8
"""Levels of the tree that one level of tiles spans: 2^8 = 256."""

MAX_LEVEL = 63

GetTile = Callable[[int, int, int], bytes]
"""``get_tile(level, n, width)``: a tile's bytes; where only a wider tile is left, that one."""

_PATH = re.compile(
    r"tile/(?:(?P<level>0|[1-9][0-9]?)|entries)/(?P<n>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


class Tile(NamedTuple):
    """A hash tile's place; ``width`` 256 is a full tile."""

    level: int
    n: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Where it is, under the log's prefix."""
        return tile_path(*self)


class Bundle(NamedTuple):
    """An entry bundle's place; ``width`` 256 is a full bundle."""

    n: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Where it is, under the log's prefix."""
        return entries_path(*self)


def tile_path(level: int, n: int, width: int = TILE_WIDTH) -> str:
    """Returns the path of a hash tile: ``tile/1/x001/000.p/17``."""
    if not 0 <= level <= MAX_LEVEL:
        raise FormatError(f"tile: level {level} is not between 0 and {MAX_LEVEL}")
    return f"tile/{level}/{_place(n, width)}"


def entries_path(n: int, width: int = TILE_WIDTH) -> str:
    """Returns the path of an entry bundle: ``tile/entries/x001/000``."""
    return f"tile/entries/{_place(n, width)}"


def parse_path(path: str) -> Tile | Bundle:
    """Returns what a path names; raises `FormatError` for any other spelling of it."""
    match = _PATH.fullmatch(path)
    if match:
        n = int(match["n"].replace("/", "").replace("x", ""))
        width = int(match["width"] or TILE_WIDTH)
        place = Bundle(n, width) if match["level"] is None else Tile(int(match["level"]), n, width)
        # Width 256 is spelled without suffix, and leading groups of zeros are not spelled at all.
        if width <= TILE_WIDTH and (isinstance(place, Bundle) or place.level <= MAX_LEVEL) and place.path == path:
            return place
    raise FormatError(f"tile: {path[:80]!r} is not the path of a tile or an entry bundle")


def _place(n: int, width: int) -> str:
    if n < 0 or not 1 <= width <= TILE_WIDTH:
        raise FormatError(f"tile: index {n} or width {width} is out of range")
    groups = [f"{n % 1000:03d}"]
    while n := n // 1000:
        groups.append(f"x{n % 1000:03d}")
    return "/".join(reversed(groups)) + ("" if width == TILE_WIDTH else f".p/{width}")


def tile_width(level: int, n: int, size: int) -> int:
    """Returns how many hashes tile ``n`` of this level has in a log of ``size``, 0 for none; bundles: level 0."""
    hashes = size >> TILE_HEIGHT * level
    return min(max(hashes - n * TILE_WIDTH, 0), TILE_WIDTH)


def new_tiles(old: int, new: int) -> Iterator[Tile]:
    """Yields the tiles a log of size ``new`` has and one of size ``old`` had not, level by level."""
    for level in range(MAX_LEVEL + 1):
        before, after = old >> TILE_HEIGHT * level, new >> TILE_HEIGHT * level
        if after <= before:
            return
        for n in range(before // TILE_WIDTH, -(-after // TILE_WIDTH)):
            yield Tile(level, n, tile_width(level, n, new))


def new_bundles(old: int, new: int) -> Iterator[Bundle]:
    """Yields the entry bundles a log of size ``new`` has and one of size ``old`` had not."""
    for n in range(old // TILE_WIDTH, -(-new // TILE_WIDTH) if new > old else 0):
        yield Bundle(n, tile_width(0, n, new))


def prunable(place: Tile | Bundle, minimum: int) -> bool:
    """True when every entry under the tile or bundle has an index below the minimum."""
    level = place.level if isinstance(place, Tile) else 0
    return (place.n + 1) << TILE_HEIGHT * (level + 1) <= minimum


def first_kept(level: int, minimum: int) -> int:
    """Returns the index of the first tile of this level that must stay (bundles: level 0); all before it may go."""
    return minimum >> TILE_HEIGHT * (level + 1)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Returns the bytes of a bundle of 1 to 256 entries."""
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise FormatError(f"entry bundle: {len(entries)} entries, not 1 to {TILE_WIDTH}")
    if max(map(len, entries)) > MAX_ENTRY:
        raise FormatError(f"entry bundle: an entry has more than {MAX_ENTRY} bytes")
    return b"".join([part for entry in entries for part in (len(entry).to_bytes(2, "big"), entry)])


def decode_bundle(data: bytes) -> list[bytes]:
    """Returns the entries of a bundle; raises `FormatError` if it is cut, or holds none or more than 256."""
    entries = []
    offset, end = 0, len(data)
    while offset < end:
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "big")
        entries.append(data[start:offset])
    if offset != end or not 1 <= len(entries) <= TILE_WIDTH:
        raise FormatError(f"entry bundle: {end} bytes are not 1 to {TILE_WIDTH} whole entries")
    return entries


def decode_tile(data: bytes) -> list[bytes]:
    """Returns the hashes of a tile; raises `FormatError` if it is not 1 to 256 whole hashes."""
    if not HASH_SIZE <= len(data) <= TILE_WIDTH * HASH_SIZE or len(data) % HASH_SIZE:
        raise FormatError(f"tile: {len(data)} bytes are not 1 to {TILE_WIDTH} hashes of {HASH_SIZE}")
    return [data[start : start + HASH_SIZE] for start in range(0, len(data), HASH_SIZE)]


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """Returns the root over 1, 2, 4, ... 256 neighbouring hashes of a tile."""
    while len(hashes) > 1:
        hashes = parents(hashes)
    return hashes[0]


def hash_reader(size: int, get_tile: GetTile) -> Read:
    """Returns the ``read(level, index)`` that `tree`'s proofs ask for, over the tiles of a log of ``size``.

    The last tiles used are kept, so that the proofs of neighbouring entries fetch a tile once.
    """

    @lru_cache(maxsize=64)
    def tile(level: int, n: int) -> list[bytes]:
        return _fetch(get_tile, level, n, tile_width(level, n, size))

    def read(level: int, index: int) -> bytes:
        if (index + 1) << level > size:
            raise FormatError(f"tile: subtree {index} of level {level} is not in a log of size {size}")
        tile_level, height = divmod(level, TILE_HEIGHT)
        n, first = divmod(index << height, TILE_WIDTH)
        return subtree_root(tile(tile_level, n)[first : first + (1 << height)])

    return read


def _fetch(get_tile: GetTile, level: int, n: int, width: int) -> list[bytes]:
    hashes = decode_tile(get_tile(level, n, width))
    if len(hashes) < width:
        raise FormatError(f"tile: {tile_path(level, n, width)} has only {len(hashes)} hashes")
    return hashes[:width]


class TileBuilder:
    """Turns leaf hashes into tiles as they come; holds one partial tile per level, whatever the log's size.

    Starts from the partial tiles of a log of ``size``. A builder whose tiles could not be stored is thrown away: the
    next one starts from what is stored.
    """

    def __init__(self, size: int = 0, get_tile: GetTile | None = None) -> None:
        self.size = size
        self._rows: list[list[bytes]] = []
        for level in range((size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT):
            n, width = divmod(size >> TILE_HEIGHT * level, TILE_WIDTH)
            if width and get_tile is None:
                raise FormatError(f"tile: a builder that starts at size {size} needs the tiles of that size")
            self._rows.append(_fetch(get_tile, level, n, width) if width and get_tile else [])

    def add(self, leaves: Iterable[bytes]) -> list[tuple[Tile, bytes]]:
        """Takes the next leaf hashes; returns the tiles that became full, with their bytes."""
        full: list[tuple[Tile, bytes]] = []
        fresh, level, size = list(leaves), 0, self.size
        self.size += len(fresh)
        while fresh:
            if level == len(self._rows):
                self._rows.append([])
            row = self._rows[level] + fresh
            n, whole, fresh = size >> TILE_HEIGHT * (level + 1), len(row) // TILE_WIDTH, []
            for i in range(whole):
                hashes = row[i * TILE_WIDTH : (i + 1) * TILE_WIDTH]
                full.append((Tile(level, n + i), b"".join(hashes)))
                fresh.append(subtree_root(hashes))
            self._rows[level] = row[whole * TILE_WIDTH :]
            level += 1
        return full

    def partials(self) -> list[tuple[Tile, bytes]]:
        """Returns the partial tiles of the log as it is now, with their bytes."""
        tiles = []
        for level, row in enumerate(self._rows):
            if row:
                tiles.append((Tile(level, self.size >> TILE_HEIGHT * (level + 1), len(row)), b"".join(row)))
        return tiles
