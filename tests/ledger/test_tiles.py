"""Tiles: places, bytes, proofs made from them, what is new and what may go."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.errors import FormatError
from audit_middleware.ledger import tiles, tree
from audit_middleware.ledger.tiles import Bundle, Tile, TileBuilder

Load = Callable[[str], Any]

BIG = 70_000
LEAVES = [tree.leaf_hash(b"entry-%d" % index) for index in range(BIG)]


@pytest.fixture(scope="module")
def stored() -> dict[Tile, bytes]:
    """Every tile of the log of 70,000 entries."""
    builder = TileBuilder()
    return dict(builder.add(LEAVES) + builder.partials())


def getter(stored: dict[Tile, bytes]) -> tiles.GetTile:
    def get(level: int, n: int, width: int) -> bytes:
        return stored[Tile(level, n, width)]

    return get


# --- places --------------------------------------------------------------------------------------------------------


def test_paths() -> None:
    assert tiles.tile_path(0, 0) == "tile/0/000"
    assert tiles.tile_path(63, 1234067, 17) == "tile/63/x001/x234/067.p/17"
    assert tiles.entries_path(1000, 255) == "tile/entries/x001/000.p/255"
    assert Tile(1, 2).path == "tile/1/002"
    assert Bundle(3, 4).path == "tile/entries/003.p/4"


@given(st.integers(0, 63), st.integers(0, 2**63 - 1), st.integers(1, 256))
def test_paths_come_back(level: int, n: int, width: int) -> None:
    assert tiles.parse_path(tiles.tile_path(level, n, width)) == Tile(level, n, width)
    assert tiles.parse_path(tiles.entries_path(n, width)) == Bundle(n, width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/tile/0/000",
        "tile/0/000/",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/x/000",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001/x002",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/257",
        "tile/0/000.p/999",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/data/000",
        "tile/entries/00",
        "tile/0/000\n",
        "tile/0/../000",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/" + "x001/" * 2000 + "000",
    ],
)
def test_other_spellings_of_paths_are_refused(path: str) -> None:
    with pytest.raises(FormatError, match="is not the path of a tile"):
        tiles.parse_path(path)


@pytest.mark.parametrize(("level", "n", "width"), [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)])
def test_places_out_of_range_have_no_path(level: int, n: int, width: int) -> None:
    with pytest.raises(FormatError):
        tiles.tile_path(level, n, width)


def test_published_paths_and_widths(load: Load) -> None:
    published = load("tiles/paths.json")
    for index, path in published["index"]:
        assert tiles.tile_path(0, index) == f"tile/0/{path}"
        assert tiles.parse_path(f"tile/entries/{path}") == Bundle(index)
    for case in published["sizes"]:
        size = case["size"]
        by_level: dict[int, list[int]] = {}
        for tile in tiles.new_tiles(0, size):
            by_level.setdefault(tile.level, []).append(tile.width)
        for row in case["tiles"]:
            widths = by_level.pop(row["level"])
            assert widths.count(256) == row["full"]
            assert [width for width in widths if width < 256] == [row["partial"]] * bool(row["partial"])
        assert not by_level, size


sizes = st.integers(0, BIG) | st.integers(0, 2**40).map(lambda size: size % (3 * 65_536))


@given(sizes, sizes)
@settings(max_examples=50)
def test_new_places_are_the_difference_between_two_sizes(one: int, other: int) -> None:
    old, new = sorted((one, other))
    before, after = set(tiles.new_tiles(0, old)), list(tiles.new_tiles(0, new))
    assert set(tiles.new_tiles(old, new)) == set(after) - before
    assert len(set(after)) == len(after)
    bundles = set(tiles.new_bundles(0, new)) - set(tiles.new_bundles(0, old))
    assert list(tiles.new_bundles(old, new)) == sorted(bundles)
    assert [(0, *bundle) for bundle in tiles.new_bundles(old, new)] == [
        tuple(tile) for tile in tiles.new_tiles(old, new) if tile.level == 0
    ]


def test_nothing_is_new_backwards() -> None:
    assert list(tiles.new_tiles(300, 300)) == list(tiles.new_tiles(300, 299)) == []
    assert list(tiles.new_bundles(300, 300)) == list(tiles.new_bundles(300, 299)) == []


def test_the_largest_log_has_eight_levels() -> None:
    assert next(tiles.new_tiles(2**63 - 2, 2**63 - 1)) == Tile(0, (2**63 - 1) >> 8, 255)
    assert tiles.tile_width(7, 0, 2**63 - 1) == 127


# --- bytes ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
@settings(max_examples=50)
def test_bundles_come_back(entries: list[bytes]) -> None:
    assert tiles.decode_bundle(tiles.encode_bundle(entries)) == entries


def test_a_full_bundle_and_a_full_tile() -> None:
    entries = [b"%d" % index for index in range(256)]
    assert tiles.decode_bundle(tiles.encode_bundle(entries)) == entries
    assert len(tiles.decode_tile(bytes(8192))) == 256


def test_the_bytes_of_a_bundle() -> None:
    assert tiles.encode_bundle([b"ab", b"", b"x" * 65_535]) == b"\0\2ab\0\0\xff\xff" + b"x" * 65_535


@pytest.mark.parametrize("entries", [[], [b"a"] * 257, [b"x" * 65_536]])
def test_entries_that_make_no_bundle(entries: list[bytes]) -> None:
    with pytest.raises(FormatError, match="entry bundle"):
        tiles.encode_bundle(entries)


def test_every_cut_of_a_bundle_is_noticed_or_at_an_entry() -> None:
    entries = [b"one", b"", b"three"]
    data = tiles.encode_bundle(entries)
    whole = {len(tiles.encode_bundle(entries[:count])): count for count in (1, 2, 3)}
    for cut in range(len(data) + 1):
        if cut in whole:
            assert tiles.decode_bundle(data[:cut]) == entries[: whole[cut]]
        else:
            with pytest.raises(FormatError, match="whole entries"):
                tiles.decode_bundle(data[:cut])
    with pytest.raises(FormatError, match="whole entries"):
        tiles.decode_bundle(b"\0\1a" * 257)


@pytest.mark.parametrize("length", [0, 1, 31, 33, 8191, 8193, 8224])
def test_bytes_that_are_no_tile(length: int) -> None:
    with pytest.raises(FormatError, match="are not 1 to 256 hashes"):
        tiles.decode_tile(bytes(length))


def test_tiles_are_those_that_go_makes(stored: dict[Tile, bytes], load: Load) -> None:
    golden = load("golden/entry_i.json")["tile_sha256_at_size_70000_by_level/index/width"]
    digests = {"/".join(map(str, tile)): sha256(data).hexdigest() for tile, data in stored.items()}
    assert digests == golden
    assert len(digests) == 277


def test_tiles_are_where_the_size_says(stored: dict[Tile, bytes]) -> None:
    assert set(stored) == set(tiles.new_tiles(0, BIG))
    assert all(len(data) == 32 * tile.width for tile, data in stored.items())


@given(st.lists(st.integers(0, 700) | st.sampled_from([1, 255, 256, 257, 65_536]), max_size=8))
@settings(max_examples=40)
def test_growing_in_steps_gives_the_same_tiles(steps: list[int]) -> None:
    published: dict[Tile, bytes] = {}
    size = 0
    for step in steps:
        if size + step > BIG:
            break
        # Every step starts from what is stored, as after a restart.
        builder = TileBuilder(size, getter(published))
        fresh = dict(builder.add(LEAVES[size : size + step]) + builder.partials())
        old, size = size, size + step
        assert builder.size == size
        assert set(fresh) >= set(tiles.new_tiles(old, size))
        published.update(fresh)
    once = TileBuilder()
    expected = dict(once.add(LEAVES[:size]) + once.partials())
    assert expected == {tile: published[tile] for tile in tiles.new_tiles(0, size)}


def test_a_builder_needs_the_tiles_it_starts_from() -> None:
    with pytest.raises(FormatError, match="needs the tiles"):
        TileBuilder(5)
    with pytest.raises(FormatError, match=r"tile/0/000\.p/5 has only 4 hashes"):
        TileBuilder(5, lambda level, n, width: bytes(32 * 4))
    assert TileBuilder(0).partials() == []


# --- proofs from tiles -----------------------------------------------------------------------------------------------


def root_of(size: int) -> bytes:
    return tree.root(tree.append(0, (), LEAVES[:size])[1])


@given(st.integers(1, BIG), st.data())
@settings(max_examples=60, deadline=None)
def test_proofs_made_from_tiles_hold(size: int, data: st.DataObject) -> None:
    builder = TileBuilder()
    stored = dict(builder.add(LEAVES[:size]) + builder.partials())
    read = tiles.hash_reader(size, getter(stored))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    tree.verify_inclusion(LEAVES[index], index, size, tree.inclusion_proof(index, size, read), root_of(size))
    tree.verify_consistency(old, root_of(old), size, root_of(size), tree.consistency_proof(old, size, read))


def test_a_log_proves_its_older_sizes_too(stored: dict[Tile, bytes]) -> None:
    # Partial tiles of a size that was passed may be gone: the full tile stands in.
    def get(level: int, n: int, width: int) -> bytes:
        return stored.get(Tile(level, n, width)) or stored[Tile(level, n, tiles.tile_width(level, n, BIG))]

    read = tiles.hash_reader(66_000, get)
    tree.verify_inclusion(LEAVES[65_999], 65_999, 66_000, tree.inclusion_proof(65_999, 66_000, read), root_of(66_000))


def test_subtrees_of_all_levels(stored: dict[Tile, bytes]) -> None:
    read = tiles.hash_reader(BIG, getter(stored))
    for level in range(17):
        for index in {0, (BIG >> level) - 1}:
            leaves = LEAVES[index << level : (index + 1) << level]
            assert read(level, index) == tree.root(tree.append(0, (), leaves)[1])
        with pytest.raises(FormatError, match="is not in a log of size 70000"):
            read(level, BIG >> level)


def test_a_short_tile_is_named(stored: dict[Tile, bytes]) -> None:
    read = tiles.hash_reader(BIG, lambda level, n, width: stored[Tile(level, n, width)][:-32])
    with pytest.raises(FormatError, match=r"tile/0/x001/000 has only 255 hashes|tile/0/000 has only 255 hashes"):
        read(0, 0)


def test_a_tile_is_fetched_once_for_neighbouring_proofs(stored: dict[Tile, bytes]) -> None:
    fetched: list[Tile] = []

    def get(level: int, n: int, width: int) -> bytes:
        fetched.append(Tile(level, n, width))
        return stored[fetched[-1]]

    read = tiles.hash_reader(BIG, get)
    for index in range(512, 768):
        tree.inclusion_proof(index, BIG, read)
    assert len(fetched) == len(set(fetched))


# --- pruning ---------------------------------------------------------------------------------------------------------


def test_what_may_go_below_a_minimum(stored: dict[Tile, bytes]) -> None:
    minimum = 66_000
    kept = {tile: data for tile, data in stored.items() if not tiles.prunable(tile, minimum)}
    assert all(tile.n >= tiles.first_kept(tile.level, minimum) for tile in kept)
    assert all(tile.n < tiles.first_kept(tile.level, minimum) for tile in set(stored) - set(kept))
    assert sum(tile.level == 0 for tile in kept) == 274 - 257
    assert [tile for tile in kept if tile.level == 1] == [Tile(1, 1, 17)]
    assert tiles.prunable(Bundle(256), minimum)
    assert not tiles.prunable(Bundle(257), minimum)
    read = tiles.hash_reader(BIG, getter(kept))
    root = root_of(BIG)
    for index in (66_000, 69_999):
        tree.verify_inclusion(LEAVES[index], index, BIG, tree.inclusion_proof(index, BIG, read), root)
    for old in (66_000, 66_048):
        tree.verify_consistency(old, root_of(old), BIG, root, tree.consistency_proof(old, BIG, read))
    with pytest.raises(KeyError):
        tree.inclusion_proof(1_000, BIG, read)


@pytest.mark.parametrize(("level", "span"), [(0, 256), (1, 65_536)])
def test_a_tile_may_go_when_its_last_entry_is_below_the_minimum(level: int, span: int) -> None:
    assert [tiles.prunable(Tile(level, 2), 3 * span + more) for more in (-1, 0, 1)] == [False, True, True]
    assert [tiles.first_kept(level, 3 * span + more) for more in (-1, 0, 1)] == [2, 3, 3]


@given(st.integers(0, 2**40), st.integers(0, 4), st.integers(0, 2**20))
def test_the_first_that_must_stay(minimum: int, level: int, n: int) -> None:
    assert tiles.prunable(Tile(level, n), minimum) == (n < tiles.first_kept(level, minimum))
    assert tiles.prunable(Tile(level, n), minimum) == ((n + 1) * 256 ** (level + 1) <= minimum)
    assert tiles.prunable(Bundle(n), minimum) == tiles.prunable(Tile(0, n), minimum)
