"""Proofs and receipts from a log: right at every index and size, cheap, and never one that does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from audit_middleware.archives.local import Folder
from audit_middleware.errors import FormatError, LogDamaged, LogForked, NoteError, ProofError, StoreError
from audit_middleware.evidence.prove import Prover
from audit_middleware.evidence.receipts import leaf_in, proof_of, receipt
from audit_middleware.ledger import tree
from audit_middleware.ledger.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.ledger.proof import format_proof, parse_proof, verify_proof
from audit_middleware.model import Frame, Head
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.frames import encode_frame
from audit_middleware.stores.index import SearchIndex
from audit_middleware.stores.journal import JournalStore
from tests.publish.support import numbered, publish
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, entry, new_journal, record, segments_of, small

SIZES = [1, 2, 3, 7, 8, 20, 31, 32, 33, 50]


def stepped(path: Path) -> JournalStore:
    """A log with a commit at each of SIZES."""
    return new_journal(path, *(numbered(old, new) for old, new in pairwise([0, *SIZES])))


def opened(note: bytes) -> Checkpoint:
    return open_checkpoint(note, ORIGIN, VERIFIERS)[0]


class Counting:
    """A store that counts the entries read from it."""

    def __init__(self, store: JournalStore) -> None:
        self._store = store
        self.origin = store.origin
        self.head = store.head
        self.append = store.append
        self.close = store.close
        self.read = 0

    @property
    def base(self) -> Head:
        return self._store.base

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        for frame in self._store.frames(start, stop):
            self.read += len(frame.entries)
            yield frame


@pytest.mark.parametrize("published", [None, 20, 33, 50])
def test_every_entry_under_every_checkpoint(tmp_path: Path, published: int | None) -> None:
    store = stepped(tmp_path / "log")
    folder = None
    if published is not None:
        part = new_journal(tmp_path / "part", *(numbered(a, b) for a, b in pairwise([0, *SIZES]) if b <= published))
        publish(part, tmp_path / "dir")
        folder = Folder(tmp_path / "dir")
    prover = Prover(store, VERIFIERS, folder)
    notes = {frame.head.size: frame.head.checkpoint for frame in store.frames()}
    for size, note in notes.items():
        for index in range(size):
            proof = prover.inclusion(index, note)
            assert verify_proof(proof, tree.leaf_hash(small(index)), ORIGIN, VERIFIERS).size == size
        with pytest.raises(ProofError):
            prover.inclusion(size, note)
    for old, first in notes.items():
        for new, second in notes.items():
            if old <= new:
                hashes = prover.consistency(opened(first), opened(second))
                assert (hashes == ()) == (old == new) or old == new
                if old < new:
                    tree.verify_consistency(old, opened(first).root, new, opened(second).root, hashes)


def test_without_a_checkpoint_the_commit_of_the_entry_serves(tmp_path: Path) -> None:
    store = stepped(tmp_path / "log")
    proof = Prover(store, VERIFIERS).inclusion(9)
    assert opened(proof.checkpoint_note).size == 20


def test_a_receipt_reads_two_commits_however_long_the_log_is(tmp_path: Path) -> None:
    store = Counting(new_journal(tmp_path / "log", *(numbered(at, at + 10) for at in range(0, 3000, 10))))
    for index in (0, 1234, 2999):
        store.read = 0
        proof_of(Prover(store, VERIFIERS), index, entry=False)
        assert store.read <= 60


def test_published_tiles_save_reading(tmp_path: Path) -> None:
    journal = new_journal(tmp_path / "log", *(numbered(at, at + 10) for at in range(0, 3000, 10)))
    publish(journal, tmp_path / "dir")
    store, note = Counting(journal), journal.head().checkpoint
    Prover(store, VERIFIERS, Folder(tmp_path / "dir")).inclusion(5, note)
    assert store.read <= 60
    store.read = 0
    Prover(store, VERIFIERS).inclusion(5, note)
    assert store.read > 2900


def test_tiles_that_end_within_a_subtree_save_what_they_cover(tmp_path: Path) -> None:
    journal = new_journal(tmp_path / "log", *(numbered(at, at + 10) for at in range(0, 2500, 10)))
    publish(journal, tmp_path / "dir")
    for at in range(2500, 3000, 10):
        journal.append(numbered(at, at + 10), SEAL)
    store = Counting(journal)
    Prover(store, VERIFIERS, Folder(tmp_path / "dir")).inclusion(5, journal.head().checkpoint)
    assert 500 <= store.read <= 700


@pytest.mark.parametrize("harm", ["flip", "gone", "checkpoint"])
def test_damaged_tiles_are_not_believed(tmp_path: Path, harm: str) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 300), numbered(300, 400))
    publish(store, tmp_path / "dir")
    path = tmp_path / "dir" / ("checkpoint" if harm == "checkpoint" else "tile/0/000")
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(32) + data[32:])
    prover = Prover(store, VERIFIERS, Folder(tmp_path / "dir"))
    proof = prover.inclusion(7, store.head().checkpoint)
    assert verify_proof(proof, tree.leaf_hash(small(7)), ORIGIN, VERIFIERS).size == 400


def test_a_rewritten_log_cannot_prove_against_a_kept_checkpoint(tmp_path: Path) -> None:
    kept = new_journal(tmp_path / "honest", numbered(0, 10), numbered(10, 20)).head().checkpoint
    rewritten = new_journal(tmp_path / "log", [*numbered(0, 5), small(77), *numbered(6, 10)], numbered(10, 20))
    prover = Prover(rewritten, VERIFIERS)
    with pytest.raises(LogForked, match="another history"):
        prover.inclusion(3, kept)
    with pytest.raises(LogForked):
        prover.consistency(opened(kept), opened(rewritten.head().checkpoint))
    rewritten.append(numbered(20, 22), SEAL)
    with pytest.raises(LogForked):
        prover.consistency(opened(kept), opened(rewritten.head().checkpoint))


def test_a_truncated_log_cannot_either(tmp_path: Path) -> None:
    kept = new_journal(tmp_path / "long", numbered(0, 10), numbered(10, 20)).head().checkpoint
    prover = Prover(new_journal(tmp_path / "log", numbered(0, 10)), VERIFIERS)
    for attempt in (lambda: prover.inclusion(3, kept), lambda: prover.consistency(opened(kept), opened(kept))):
        with pytest.raises(LogDamaged, match="rolled back or truncated"):
            attempt()


def test_an_altered_entry_cannot_be_proved(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 10))
    (frame,) = store.frames()
    forged = [*numbered(0, 5), small(77), *numbered(6, 10)]
    segments_of(tmp_path / "log")[0].write_bytes(encode_frame(0, forged, frame.head))
    prover = Prover(JournalStore.open(tmp_path / "log", writable=False), VERIFIERS)
    for index in (3, 5):
        with pytest.raises(LogForked):
            prover.inclusion(index)


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 10))
    (frame,) = store.frames()
    stranger = make_sealer(ORIGIN, [Ed25519Signer(ORIGIN, b"\7" * 32)])(type(frame.head)(), frame.entries)
    prover = Prover(store, VERIFIERS)
    with pytest.raises(NoteError):
        prover.inclusion(3, stranger.checkpoint)
    with pytest.raises(FormatError):
        prover.inclusion(3, b"")
    with pytest.raises(ProofError, match="only 0"):
        prover.consistency(opened(frame.head.checkpoint), Checkpoint(ORIGIN, 0, tree.EMPTY_ROOT))


# --- receipts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_a_receipt_by_audit_id(tmp_path: Path, whole: bool) -> None:
    store = new_journal(tmp_path / "log", [entry(0), entry(1)], [entry(2), entry(1)])
    index = SearchIndex(store.layout.index, store)
    index.catch_up()
    wanted = record(1)["action_id"]
    data = receipt(store, index.with_action_id, wanted, VERIFIERS, entry=whole)
    assert data is not None
    proof = parse_proof(data)
    assert proof.index == 1, "the first of two"
    assert leaf_in(proof) == (tree.leaf_hash(entry(1)), entry(1) if whole else None)
    assert verify_proof(proof, tree.leaf_hash(entry(1)), ORIGIN, VERIFIERS).size == 2
    assert receipt(store, index.with_action_id, record(9)["action_id"], VERIFIERS) is None
    index.close()


@pytest.mark.parametrize("whole", [False, True])
def test_every_byte_of_a_proof_matters(tmp_path: Path, whole: bool) -> None:
    store = stepped(tmp_path / "log")
    data = format_proof(proof_of(Prover(store, VERIFIERS), 9, store.head().checkpoint, entry=whole))
    assert accepted(data)
    for at in range(len(data)):
        for mask in (1, 0x20, 0x80):
            assert not accepted(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]), f"byte {at}"
        assert not accepted(data[:at]), f"cut at {at}"
    for at in range(len(data) + 1):
        assert not accepted(data[:at] + b"\n" + data[at:]), f"newline at {at}"
    lines = data.splitlines(keepends=True)
    for at in range(len(lines)):
        assert not accepted(b"".join(lines[:at] + lines[at + 1 :])), f"without line {at}"


def accepted(data: bytes) -> bool:
    try:
        proof = parse_proof(data)
        found = leaf_in(proof)
        if found is None:
            return False
        verify_proof(proof, found[0], ORIGIN, VERIFIERS)
    except (FormatError, StoreError):
        return False
    return True


def test_a_proof_is_about_its_own_entry_index_and_log(tmp_path: Path) -> None:
    store = stepped(tmp_path / "log")
    proof = Prover(store, VERIFIERS).inclusion(9, store.head().checkpoint)
    with pytest.raises(ProofError):
        verify_proof(proof, tree.leaf_hash(small(8)), ORIGIN, VERIFIERS)
    with pytest.raises(FormatError):
        verify_proof(proof, tree.leaf_hash(small(9)), "example.com/other", VERIFIERS)
