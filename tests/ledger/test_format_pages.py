"""docs/format against the code: its commands are run, its examples and tables recomputed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_middleware.errors import FormatError, NoteError, RecordError
from audit_middleware.ledger import canonical, checkpoint, note, proof, tiles, tree, trust
from audit_middleware.ledger.tiles import Bundle, Tile

PAGES = Path(__file__).resolve().parents[2] / "docs" / "format"
ORIGIN = "audit.example/billing"
TOOLS = ["bash", "sha256sum", "od", "base64", "openssl", "cmp", "sed"]


def page(name: str) -> str:
    return (PAGES / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)


def rows(name: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading row, without back quotes."""
    table = page(name).partition(f"{heading}\n")[2].splitlines()[1:]
    cells = []
    for line in table:
        if not line.startswith("|"):
            break
        cells.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    assert cells, f"no table {heading!r} in {name}"
    return cells


def pages_in_order() -> list[str]:
    return [cells[0].partition("[")[2].partition("]")[0] for cells in rows("README.md", "| page | what | source |")]


def commands(block: str) -> list[tuple[str, str]]:
    """Commands ("$ ", continued with "> ") and what they print."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.startswith(">"):
            found[-1] = (found[-1][0] + "\n" + line[2:], found[-1][1])
        else:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of all pages were run, in the order of the index; their output is as printed there."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"the pages' commands need {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("format")
    count = 0
    for name in pages_in_order():
        for block in blocks(name, "console"):
            for command, expected in commands(block):
                run = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, check=False)
                assert (run.stdout.decode(), run.stderr.decode()) == (expected, ""), f"{name}: {command}"
                count += 1
    assert count > 30
    return folder


def test_the_index_lists_every_page() -> None:
    linked = set(re.findall(r"\]\(([a-z]+\.md)\)", page("README.md")))
    assert set(pages_in_order()) <= linked
    assert {"entry.md", "tree.md", "checkpoint.md", "tiles.md", "proof.md", "trust.md"} <= set(pages_in_order())


def test_links_lead_somewhere() -> None:
    for file in PAGES.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", file.read_text(encoding="utf-8")):
            assert (PAGES / link).exists(), f"{file.name}: {link}"


def test_entries(folder: Path) -> None:
    for index in range(3):
        data = (folder / f"entry{index}").read_bytes()
        assert canonical.encode(canonical.decode(data)) == data


def test_bytes_that_are_no_entries() -> None:
    table = rows("entry.md", "| bytes | why |")
    assert len(table) == 12
    for data, _ in table:
        with pytest.raises(RecordError):
            canonical.decode(data.encode())


def test_limits_are_those_of_the_code() -> None:
    text = page("entry.md")
    assert f"at most {canonical.MAX_ENTRY:,} bytes" in text
    assert f"from -{canonical.MAX_INTEGER} to {canonical.MAX_INTEGER}" in text
    assert f"at most {canonical.MAX_DEPTH} objects" in text
    assert f"1 to {note.MAX_SIGNATURES} signature lines" in page("checkpoint.md")
    assert f"0 to {proof.MAX_HASHES} lines" in page("proof.md")


def test_roots_by_size(folder: Path) -> None:
    leaves = [tree.leaf_hash((folder / f"entry{index}").read_bytes()) for index in range(3)]
    table = rows("tree.md", "| size | root |")
    assert [int(size) for size, _ in table] == [0, 1, 2, 3]
    for size, root in table:
        assert tree.root(tree.append(0, (), leaves[: int(size)])[1]).hex() == root
    tree.verify_consistency(2, bytes.fromhex(table[2][1]), 3, bytes.fromhex(table[3][1]), leaves[2:])


def transcribed_inclusion(m: int, n: int, p: list[bytes], leaf: bytes, root: bytes) -> bool:
    """The page's steps, line by line: what a stranger would write."""
    if not 0 <= m < n or any(len(one) != 32 for one in p):
        return False
    inner = (m ^ (n - 1)).bit_length()
    border = bin(m >> inner).count("1")
    if len(p) != inner + border:
        return False
    r = leaf
    for i in range(inner):
        r = tree.node_hash(r, p[i]) if not m >> i & 1 else tree.node_hash(p[i], r)
    for i in range(inner, inner + border):
        r = tree.node_hash(p[i], r)
    return r == root


def transcribed_consistency(m: int, old: bytes, n: int, new: bytes, p: list[bytes]) -> bool:
    """The page's steps, line by line."""
    if not 0 < m <= n or any(len(one) != 32 for one in p):
        return False
    if m == n:
        return not p and old == new
    shift = (m & -m).bit_length() - 1
    inner = ((m - 1) ^ (n - 1)).bit_length() - shift
    border = bin((m - 1) >> (inner + shift)).count("1")
    if m & (m - 1) == 0:
        a, q = old, p
    elif not p:
        return False
    else:
        a, *q = p
    b = a
    if len(q) != inner + border:
        return False
    x = (m - 1) >> shift
    for i in range(inner + border):
        if i >= inner or x >> i & 1:
            a, b = tree.node_hash(q[i], a), tree.node_hash(q[i], b)
        else:
            b = tree.node_hash(b, q[i])
    return a == old and b == new


def test_the_verification_rules_on_the_page_agree_with_the_code() -> None:
    leaves = [tree.leaf_hash(b"%d" % index) for index in range(40)]
    roots = [tree.root(tree.append(0, (), leaves[:size])[1]) for size in range(41)]

    def read(level: int, index: int) -> bytes:
        return tree.root(tree.append(0, (), leaves[index << level : (index + 1) << level])[1])

    for size in range(1, 41):
        for other in range(size):
            path = list(tree.inclusion_proof(other, size, read))
            assert transcribed_inclusion(other, size, path, leaves[other], roots[size])
            assert not transcribed_inclusion(other, size, path, leaves[other], roots[size - 1])
            for wrong in (path[1:], [*path, leaves[0]]):
                assert wrong == path or not transcribed_inclusion(other, size, wrong, leaves[other], roots[size])
        for old in range(1, size + 1):
            between = list(tree.consistency_proof(old, size, read))
            assert transcribed_consistency(old, roots[old], size, roots[size], between)
            for wrong in (between[1:], [*between, leaves[0]]):
                assert wrong == between or not transcribed_consistency(old, roots[old], size, roots[size], wrong)


def test_the_checkpoint(folder: Path) -> None:
    text = page("checkpoint.md")
    keys = [note.parse_vkey(vkey) for vkey in re.findall(r"`([a-z./-]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+)`", text)]
    assert [key.type for key in keys] == [note.ED25519, note.COSIGNATURE_ED25519]
    head, opened = checkpoint.open_checkpoint((folder / "checkpoint").read_bytes(), ORIGIN, keys)
    assert (head.size, head.root) == (3, (folder / "root3").read_bytes())
    assert [line.time for line in opened.verified] == [None, 1_800_000_000]


def test_the_keys_are_the_test_keys(folder: Path, make_key: Callable[[str, int], note.Signer]) -> None:
    # Whoever signs again with the seeds that the index names gets the same lines.
    log, witness = make_key(ORIGIN, 1), make_key("witness.example/site-b", 2)
    leaves = [tree.leaf_hash((folder / f"entry{index}").read_bytes()) for index in range(3)]
    signed = checkpoint.sign_checkpoint(ORIGIN, *tree.append(0, (), leaves), [log])
    text = (folder / "text").read_text(encoding="utf-8")
    line = note.cosignature_line(text, witness, note.COSIGNATURE_ED25519, 1_800_000_000)
    assert signed + line == (folder / "checkpoint").read_bytes()


def test_tiles(folder: Path) -> None:
    entries = [(folder / f"entry{index}").read_bytes() for index in range(3)]
    builder = tiles.TileBuilder()
    assert builder.add(map(tree.leaf_hash, entries)) == []
    assert builder.partials() == [(Tile(0, 0, 3), (folder / "tile/0/000.p/3").read_bytes())]
    assert tiles.encode_bundle(entries) == (folder / Bundle(0, 3).path).read_bytes()


def test_tile_paths_and_widths() -> None:
    for n, path in rows("tiles.md", "| N | path |"):
        assert tiles.tile_path(0, int(n)) == path
    for size, *levels in rows("tiles.md", "| size | level 0 | level 1 | level 2 |"):
        for level, cell in enumerate(levels):
            names = [tile.path.split("/", 2)[2] for tile in tiles.new_tiles(0, int(size)) if tile.level == level]
            if "full" in cell:
                full = [name for name in names if ".p/" not in name]
                names = [f"{len(full)} full", *names[len(full) :]]
            assert [part.strip(" `") for part in cell.split(",") if part] == names, (size, level)


def test_the_proof(folder: Path) -> None:
    parsed = proof.parse_proof((folder / "entry1.tlog-proof").read_bytes())
    leaf = tree.leaf_hash((folder / "entry1").read_bytes())
    policy = trust.parse_policy(blocks("trust.md", "text")[1].replace("quorum both", "quorum site-b").encode())
    assert proof.verify_proof(parsed, leaf, ORIGIN, policy.log_keys(ORIGIN), policy).size == 3
    with pytest.raises(FormatError):
        proof.verify_proof(parsed, tree.leaf_hash(b""), ORIGIN, policy.log_keys(ORIGIN), policy)


def test_the_trust_file(folder: Path) -> None:
    policy = trust.parse_policy(blocks("trust.md", "text")[1].encode())
    table = rows("trust.md", "| cosigned by | accepted |")
    for names, accepted in table:
        assert policy.satisfied_by(names.split(", ")) == (accepted == "yes"), names
    assert {accepted for _, accepted in table} == {"yes", "no"}
    with pytest.raises(NoteError, match="quorum 'both' is not reached, cosigned by site-b"):
        policy.open((folder / "checkpoint").read_bytes(), ORIGIN)
