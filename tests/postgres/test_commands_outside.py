"""What others keep of a log in PostgreSQL: witnesses, time stamp authorities, an archive, its published tiles."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from audit_middleware.ledger.submission import SIZE_TYPE
from audit_middleware.ledger.trust import parse_policy
from audit_middleware.stores.opening import open_log, place_of
from tests.kit import Run
from tests.postgres.commands import COUNT, ORIGIN, fill
from tests.postgres.conftest import Database
from tests.stores.samples import entries_of
from tests.timestamps.support import Authority, make_authority, stamping
from tests.witness.support import V1, V2, W1, W2, Script, always, make_witness, serving, trust_text


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tsa") / "one")


@pytest.fixture
def vkey(url: str, run: Run) -> str:
    """The log's verifier key."""
    found: str = json.loads(run("keys", "list", url, "--json")[1])["keys"][0]["vkey"]
    return found


def test_witnesses(url: str, vkey: str, run: Run, tmp_path: Path) -> None:
    state, file, proof = tmp_path / "state", tmp_path / "trust", tmp_path / "proof"
    known = parse_policy(f"log {vkey}\nquorum none\n".encode())
    with (
        serving(make_witness(tmp_path / "w1", W1, trust=known)) as one,
        serving(make_witness(tmp_path / "w2", W2, trust=known)) as two,
    ):
        file.write_text(trust_text(("w1", V1, one), ("w2", V2, two), vkey=vkey))
        code, out, err = run("verify", url, "--trust", file)
        assert (code, "quorum" in out + err) == (1, True), "cosigned by nobody yet"
        code, out, err = run("cosign", url, "--trust", file, "--json")
        assert code == 0, err
        answer = json.loads(out)
        assert (answer["reached"], answer["witnesses"]) == (True, ["w1", "w2"])
        fill(url, state, 9)
        code, out, err = run("cosign", url, "--trust", file, "--json")
        assert (code, json.loads(out)["size"] > answer["size"]) == (0, True), err
    code, out, err = run("verify", url, "--trust", file, "--json")
    assert (code, json.loads(out)["holds"]) == (0, True), out
    assert run("prove", url, 3, "--out", proof, "--cosigned")[0] == 0
    code, out, err = run("verify-proof", proof, "--trust", file)
    assert (code, "witnessed by 2: w1, w2" in out) == (0, True), err
    kept = tmp_path / "kept"
    code, out, err = run("checkpoint", url, "--cosigned")
    assert code == 0, err
    kept.write_text(out)
    assert run("consistency", url, kept)[0] == 0
    with Script(always(409, {"Content-Type": SIZE_TYPE}, b"9999\n")).running() as ahead:
        file.write_text(trust_text(("w1", V1, ahead), vkey=vkey))
        code, _, err = run("cosign", url, "--trust", file)
    assert (code, "rolled back" in err) == (1, True), err


def test_time_stamps(url: str, run: Run, tmp_path: Path, authority: Authority) -> None:
    with stamping(authority.reply) as tsa:
        code, out, err = run("timestamp", url, "--tsa", tsa, "--tsa-roots", authority.roots, "--json")
        assert (code, json.loads(out)["size"], json.loads(out)["new"]) == (0, COUNT, True), err
        fill(url, tmp_path / "state", 9)
        assert run("timestamp", url, "--tsa", tsa, "--tsa-roots", authority.roots)[0] == 0
    code, out, err = run("timestamp", url, "--check", "--tsa-roots", authority.roots, "--json")
    assert (code, [one["size"] for one in json.loads(out)["stamps"]]) == (0, [COUNT, COUNT + 9]), err
    code, out, err = run("verify", url, "--tsa-roots", authority.roots, "--json")
    assert (code, json.loads(out)["holds"]) == (0, True), out


def test_an_archive(url: str, vkey: str, run: Run, tmp_path: Path, folder: Path, other_database: Database) -> None:
    fill(url, tmp_path / "state", 600)
    archive, listing = folder, tmp_path / "listing"
    code, _, err = run("archive", "put", url, archive, "--retain", "40d")
    assert (code, "--no-check" in err) == (1, True), err
    code, out, err = run("archive", "put", url, archive, "--no-check", "--partial", "--retain", "40d", "--json")
    assert code == 0, err
    size = json.loads(out)["size"]
    assert size > COUNT + 600 - 1
    code, _, err = run("archive", "check", archive, "--log", url)
    assert code == 1, err
    assert run("archive", "put", url, archive, "--no-check", "--partial", "--retain", "40d")[0] == 0
    for more in ([], ["--vkey", vkey, "--manifest", listing], ["--log", url]):
        code, out, err = run("archive", "verify", archive, *more)
        assert code == 0, (more, out, err)
    code, out, err = run("verify", url, "--archive", archive, "--json")
    assert (code, json.loads(out)["holds"]) == (0, True), out
    # back again: into a directory, which is read as a log, and from there into a database
    code, out, err = run("archive", "restore", archive, tmp_path / "restored")
    assert code == 0, err
    code, out, err = run("verify", tmp_path / "restored", "--vkey", vkey, "--json")
    assert (code, json.loads(out)["holds"]) == (0, True), out
    code, out, err = run("copy", tmp_path / "restored", other_database.url, "--json")
    assert code == 0, err
    with (
        closing(open_log(place_of(url, tmp_path / "state"))) as here,
        closing(open_log(place_of(other_database.url, tmp_path / "other"))) as there,
    ):
        assert there.head().size >= size
        assert entries_of(there) == entries_of(here)[: there.head().size]


def test_the_published_tiles(url: str, vkey: str, run: Run, tmp_path: Path) -> None:
    folder, proof = tmp_path / "published", tmp_path / "proof"
    fill(url, tmp_path / "state", 600)
    code, out, err = run("publish", url, folder, "--check", "--json")
    assert code == 0, err
    first = json.loads(out)
    fill(url, tmp_path / "state", 300)
    code, out, err = run("publish", url, folder, "--check", "--json")
    assert (code, json.loads(out)["size"] > first["size"]) == (0, True), (err, out)
    assert (folder / "checkpoint").read_text().splitlines()[0] == ORIGIN
    code, out, err = run("verify", url, "--archive", folder, "--vkey", vkey, "--json")
    assert (code, json.loads(out)["holds"]) == (0, True), out
    assert run("prove", url, 700, "--tiles", folder, "--out", proof)[0] == 0
    assert run("verify-proof", proof, "--vkey", vkey)[0] == 0
    assert run("consistency", url, folder / "checkpoint")[0] == 0
    tile = next(path for path in sorted((folder / "tile" / "0").rglob("*")) if path.is_file())
    data = bytearray(tile.read_bytes())
    data[40] ^= 1
    tile.chmod(0o644)
    tile.write_bytes(bytes(data))
    assert run("verify", url, "--archive", folder, "--vkey", vkey)[0] == 1, "what is published is compared"
