"""Whole logs and real entries made by other software, read and verified with nothing but this package."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import FormatError
from audit_middleware.ledger import checkpoint, note, proof, tiles, tree
from audit_middleware.ledger.checkpoint import Checkpoint
from audit_middleware.ledger.note import Verifier
from audit_middleware.ledger.tiles import Bundle, Tile, TileBuilder


def tile_getter(log: Path) -> tiles.GetTile:
    def get(level: int, n: int, width: int) -> bytes:
        return (log / tiles.tile_path(level, n, width)).read_bytes()

    return get


def verify_log(log: Path, key: Verifier, name: str = "checkpoint") -> Checkpoint:
    """Checks the signature, recomputes every tile from the entries, and the root from the leaf hashes."""
    head, _ = checkpoint.open_checkpoint((log / name).read_bytes(), key.name, [key])
    entries = [
        entry
        for bundle in tiles.new_bundles(0, head.size)
        for entry in tiles.decode_bundle((log / bundle.path).read_bytes())
    ]
    leaves = [tree.leaf_hash(entry) for entry in entries]
    size, peaks = tree.append(0, (), leaves)
    if (size, tree.root(peaks)) != (head.size, head.root):
        raise FormatError(f"{name}: size or root is not that of the entries")
    builder = TileBuilder()
    for tile, data in builder.add(leaves) + builder.partials():
        if (log / tile.path).read_bytes() != data:
            raise FormatError(f"{tile.path}: not the hashes of the entries")
    read = tiles.hash_reader(size, tile_getter(log))
    for index, leaf in enumerate(leaves):
        tree.verify_inclusion(leaf, index, size, tree.inclusion_proof(index, size, read), head.root)
    return head


@pytest.mark.parametrize(("name", "size"), [("tessera_log15", 15), ("tessera_log300", 300)])
def test_logs_made_by_tessera(vectors: Path, name: str, size: int) -> None:
    log = vectors / name
    key = note.parse_vkey((log / "vkey.txt").read_text().strip())
    assert verify_log(log, key).size == size


def test_every_checkpoint_of_a_growing_log(vectors: Path) -> None:
    log = vectors / "tessera_log15"
    key = note.parse_vkey((log / "vkey.txt").read_text().strip())
    heads = [verify_log(log, key, f"checkpoint.{size}") for size in range(16)]
    assert [head.size for head in heads] == list(range(16))
    for new in heads[1:]:
        read = tiles.hash_reader(new.size, tile_getter(log))
        for old in heads[1 : new.size + 1]:
            between = tree.consistency_proof(old.size, new.size, read)
            tree.verify_consistency(old.size, old.root, new.size, new.root, between)


def test_the_files_of_a_log_are_those_its_size_says(vectors: Path) -> None:
    log = vectors / "tessera_log300"
    files = {file.relative_to(log).as_posix() for file in (log / "tile").rglob("*") if file.is_file()}
    places: set[Tile | Bundle] = {*tiles.new_tiles(0, 300), *tiles.new_bundles(0, 300)}
    assert files == {place.path for place in places}
    assert {tiles.parse_path(file) for file in files} == places


def test_one_changed_byte_of_a_foreign_log_is_noticed(vectors: Path, tmp_path: Path) -> None:
    source = vectors / "tessera_log15"
    key = note.parse_vkey((source / "vkey.txt").read_text().strip())
    names = ["checkpoint", "tile/0/000.p/15", "tile/entries/000.p/15"]
    whole = {name: (source / name).read_bytes() for name in names}
    for name, data in whole.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert verify_log(tmp_path, key).size == 15
    for name, data in whole.items():
        for place in range(len(data)):
            (tmp_path / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises((FormatError, FileNotFoundError)):
                verify_log(tmp_path, key)
        (tmp_path / name).write_bytes(data)


REKOR = ["a.dsse.staging-rekor-v2.txt.json", "staging-rekor-v2.txt.json"]


@pytest.mark.parametrize("name", REKOR)
def test_entries_of_rekor_v2(load: Callable[[str], Any], name: str) -> None:
    entry = load(f"rekor_v2/{name}")
    inclusion = entry["inclusionProof"]
    envelope = inclusion["checkpoint"]["envelope"]
    origin = envelope.partition("\n")[0]
    key = next(
        Verifier(origin, note.ED25519, b64decode(log["publicKey"]["rawBytes"])[-32:])
        for log in load("rekor_v2/staging_tlogs.json")
        if log["baseUrl"] == f"https://{origin}"
    )
    assert b64decode(entry["logId"]["keyId"])[:4] == key.key_id
    shown = proof.Proof(int(inclusion["logIndex"]), tuple(map(b64decode, inclusion["hashes"])), envelope.encode())
    leaf = tree.leaf_hash(b64decode(entry["canonicalizedBody"]))
    head = proof.verify_proof(proof.parse_proof(proof.format_proof(shown)), leaf, origin, [key])
    assert (str(head.size), head.root) == (inclusion["treeSize"], b64decode(inclusion["rootHash"]))
    with pytest.raises(FormatError):
        proof.verify_proof(shown, tree.leaf_hash(b64decode(entry["canonicalizedBody"]) + b" "), origin, [key])
