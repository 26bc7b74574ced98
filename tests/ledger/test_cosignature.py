"""Cosignatures by Ed25519 and ML-DSA-44, ours and those of transparency-dev's witness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from audit_middleware.errors import FormatError, NoteError, ProofError
from audit_middleware.ledger import checkpoint, cosignature, lines, note, proof, tree, trust
from audit_middleware.ledger.note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, Signer, Verifier

MakeKey = Callable[[str, int], Signer]
VerifierOf = Callable[..., Verifier]
Load = Callable[[str], Any]

ORIGIN = "audit.example/billing"
TIME = 1_800_000_000
KINDS = [COSIGNATURE_ED25519, COSIGNATURE_MLDSA44]
SIZE, PEAKS = tree.append(0, (), [tree.leaf_hash(b"entry")] * 5)


class PostQuantumKey:
    def __init__(self, name: str, byte: int) -> None:
        self._key = MLDSA44PrivateKey.from_seed_bytes(bytes([byte]) * 32)
        self.name = name
        self.public_key = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


@pytest.fixture
def log(make_key: MakeKey) -> Signer:
    return make_key(ORIGIN, 1)


@pytest.fixture
def signed(log: Signer) -> bytes:
    return checkpoint.sign_checkpoint(ORIGIN, SIZE, PEAKS, [log])


def text_of(signed: bytes) -> str:
    return signed.decode().rpartition("\n\n")[0] + "\n"


@pytest.fixture(params=KINDS, ids=["ed25519", "mldsa44"])
def witness(request: pytest.FixtureRequest, make_key: MakeKey, verifier_of: VerifierOf) -> tuple[Signer, Verifier]:
    name = "witness.example/site-b"
    signer = make_key(name, 2) if request.param == COSIGNATURE_ED25519 else PostQuantumKey(name, 2)
    return signer, verifier_of(signer, request.param)


def test_a_cosigned_note_opens_under_log_and_witness(
    signed: bytes, log: Signer, witness: tuple[Signer, Verifier], verifier_of: VerifierOf
) -> None:
    signer, verifier = witness
    whole = signed + note.cosignature_line(text_of(signed), signer, verifier.type, TIME)
    opened = note.open_note(whole, [verifier_of(log), verifier])
    assert [(line.name, line.type, line.time) for line in opened.verified] == [
        (ORIGIN, note.ED25519, None),
        ("witness.example/site-b", verifier.type, TIME),
    ]
    assert [line.time for line in note.open_note(whole, [verifier_of(log)]).unverified] == [None]
    assert note.parse_vkey(verifier.vkey) == verifier


def test_every_changed_byte_of_a_line_is_noticed(signed: bytes, witness: tuple[Signer, Verifier]) -> None:
    signer, verifier = witness
    line = note.cosignature_line(text_of(signed), signer, verifier.type, TIME)
    assert note.open_note(signed + line, [verifier]).verified
    for place in range(len(line)):
        changed = bytearray(line)
        changed[place] ^= 1 << place % 8
        with pytest.raises(NoteError):
            note.open_note(signed + bytes(changed), [verifier])


def test_every_changed_byte_of_a_body_is_noticed(signed: bytes, witness: tuple[Signer, Verifier]) -> None:
    signer, verifier = witness
    body = cosignature.cosign(verifier.type, signer, TIME, text_of(signed))
    assert verifier.holds(text_of(signed), body)
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] ^= 1 << place % 8
        assert not verifier.holds(text_of(signed), bytes(changed))
    for bad in (b"", body[:8], body[:-1], body + b"\0"):
        assert not verifier.holds(text_of(signed), bad)


def test_the_bytes_that_ed25519_signs() -> None:
    signed = cosignature.message(COSIGNATURE_ED25519, "w.example", 1679315147, "o.example\n1\nroot\nextension\n")
    assert signed == b"cosignature/v1\ntime 1679315147\no.example\n1\nroot\nextension\n"


def test_the_bytes_that_mldsa_signs(signed: bytes) -> None:
    text = text_of(signed)
    expected = (
        b"subtree/v1\n\x00\x09w.example\x00\x00\x00\x00\x64\x18\x50\xcb\x15audit.example/billing"
        + bytes(8)
        + b"\x00\x00\x00\x00\x00\x00\x00\x05"
        + tree.root(PEAKS)
    )
    assert cosignature.message(COSIGNATURE_MLDSA44, "w.example", 1679315147, text) == expected
    # Extension lines are not covered, as the specification warns.
    assert cosignature.message(COSIGNATURE_MLDSA44, "w.example", 1679315147, text + "extension\n") == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("time", [0, -1, 2**63])
def test_times_out_of_range_are_refused(signed: bytes, make_key: MakeKey, kind: int, time: int) -> None:
    with pytest.raises(NoteError, match=f"time {time}"):
        note.cosignature_line(text_of(signed), make_key("w.example", 2), kind, time)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("time", [1, 2**63 - 1])
def test_times_at_the_ends_of_the_range(signed: bytes, make_key: MakeKey, kind: int, time: int) -> None:
    signer = make_key("w.example", 2) if kind == COSIGNATURE_ED25519 else PostQuantumKey("w.example", 2)
    line = note.cosignature_line(text_of(signed), signer, kind, time)
    opened = note.open_note(signed + line, [Verifier(signer.name, kind, signer.public_key)])
    assert [one.time for one in opened.verified] == [time]


@pytest.mark.parametrize("length", [1, 255])
def test_mldsa_takes_names_of_up_to_255_bytes(length: int) -> None:
    name, text = "n" * length, f"{'o' * length}\n1\n{'A' * 43}=\n"
    signed = cosignature.message(COSIGNATURE_MLDSA44, name, TIME, text)
    prefix = bytes([length])
    assert signed.startswith(b"subtree/v1\n\0" + prefix + name.encode())
    assert prefix + b"o" * length + bytes(15) + b"\1" + bytes(32) == signed[20 + 1 + length :]


@pytest.mark.parametrize(("name", "origin"), [("n" * 256, "o"), ("n", "o" * 256), ("n", "é" * 128), ("n", "")])
def test_mldsa_takes_no_other_names(name: str, origin: str) -> None:
    with pytest.raises(NoteError, match="must have 1 to 255 bytes"):
        cosignature.message(COSIGNATURE_MLDSA44, name, TIME, f"{origin}\n1\n{'A' * 43}=\n")


@pytest.mark.parametrize("text", ["", "a\n", "a\nb\nc\n", "a\n1\nAAAA\n", f"{'a' * 256}\n1\n{'A' * 43}=\n"])
def test_mldsa_signs_nothing_but_checkpoints(text: str) -> None:
    signer = PostQuantumKey("w.example", 2)
    with pytest.raises(NoteError):
        note.cosignature_line(text, signer, COSIGNATURE_MLDSA44, TIME)
    assert not cosignature.verify(
        COSIGNATURE_MLDSA44, "w.example", signer.public_key, text, bytes(7) + bytes([1] * 2421)
    )


def test_a_plain_signature_is_no_cosignature(signed: bytes, make_key: MakeKey) -> None:
    with pytest.raises(NoteError, match="type 0x01 is not a cosignature"):
        note.cosignature_line(text_of(signed), make_key("w.example", 2), note.ED25519, TIME)


def test_a_key_of_the_wrong_algorithm_is_refused(signed: bytes, make_key: MakeKey) -> None:
    with pytest.raises(NoteError, match="64 bytes, not 2420"):
        note.cosignature_line(text_of(signed), make_key("w.example", 2), COSIGNATURE_MLDSA44, TIME)
    with pytest.raises(NoteError, match="2420 bytes, not 64"):
        note.cosignature_line(text_of(signed), PostQuantumKey("w.example", 2), COSIGNATURE_ED25519, TIME)


# --- the session with transparency-dev's witness -------------------------------------------------------------------


@pytest.fixture
def session(load: Load) -> Any:
    return load("cosign/witness_session.json")


@pytest.fixture
def keys(session: Any) -> list[Verifier]:
    names = ("log_vkey", "witness_ed25519_vkey_type4", "witness_mldsa44_vkey")
    return [note.parse_vkey(session[name]) for name in names]


def test_a_note_cosigned_by_go_opens(session: Any, keys: list[Verifier]) -> None:
    whole = session["note_with_cosignatures"].encode()
    opened, signatures = checkpoint.open_checkpoint(whole, "audit.example/log1", keys)
    assert opened.size == 5000
    assert [line.type for line in signatures.verified] == [0x01, 0x04, 0x06]
    assert len({line.time for line in signatures.verified}) == 2


def test_the_same_keys_make_the_same_ed25519_lines(session: Any, keys: list[Verifier]) -> None:
    whole = session["note_with_cosignatures"].encode()
    _, opened = checkpoint.open_checkpoint(whole, "audit.example/log1", keys)
    log = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(session["log_seed_hex"]))
    witness = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(session["witness_ed25519_seed_hex"]))
    time = opened.verified[1].time
    assert time is not None
    assert log.sign(opened.text.encode()) == opened.verified[0].body
    message = cosignature.message(COSIGNATURE_ED25519, "witness.example/w1", time, opened.text)
    assert opened.verified[1].body == time.to_bytes(8, "big") + witness.sign(message)


def test_a_whole_proof_from_go_holds(session: Any, keys: list[Verifier]) -> None:
    parsed = proof.parse_proof(session["tlog_proof"].encode())
    leaf = tree.leaf_hash(session["tlog_proof_entry"].encode())
    lines = [f"log {keys[0].vkey}", f"witness w1 {keys[1].vkey}", f"witness w2 {keys[2].vkey}", "group g all w1 w2"]
    policy = trust.parse_policy("\n".join([*lines, "quorum g\n"]).encode())
    shown = proof.verify_proof(parsed, leaf, "audit.example/log1", keys[:1], policy)
    assert (parsed.index, shown.size) == (14, 5000)
    assert proof.format_proof(parsed).decode() == session["tlog_proof"]
    with pytest.raises(ProofError):
        proof.verify_proof(parsed, tree.leaf_hash(b"entry-15"), "audit.example/log1", keys[:1], policy)


def judge(request: str, sizes: dict[int, bytes], size: int, log: Verifier) -> int:
    """What tlog-witness says a witness that holds ``size`` answers, as far as it follows from the request."""
    head, separator, signed = request.partition("\n\n")
    first, *encoded = head.split("\n")
    try:
        old = lines.from_decimal(first.removeprefix("old "), "old size")
        hashes = [lines.from_base64(one, "hash") for one in encoded]
    except FormatError:
        return 400
    if not separator or not first.startswith("old ") or len(hashes) > 63:
        return 400
    if not signed.startswith("audit.example/log1\n"):
        return 404
    try:
        new, _ = checkpoint.open_checkpoint(signed.encode(), "audit.example/log1", [log])
    except NoteError:
        return 403
    if old > new.size:
        return 400
    if old != size:
        return 409
    if not old:
        return 200
    try:
        tree.verify_consistency(old, sizes[old], new.size, new.root, hashes)
    except ProofError:
        return 422
    return 200


def test_we_judge_every_request_of_the_session_as_the_specification_does(session: Any, keys: list[Verifier]) -> None:
    sizes, size, verdicts = {0: tree.EMPTY_ROOT}, 0, []
    steps = session["witness_transcript"]
    for step in steps:
        status = judge(step["request"], sizes, size, keys[0])
        verdicts.append((step["desc"], status))
        if status == 200:
            signed = step["request"].partition("\n\n")[2]
            text, separator, _ = signed.rpartition("\n\n")
            opened = note.open_note((text + separator + step["response"]).encode(), keys)
            assert len(opened.verified) == 2
            seen = checkpoint.parse_checkpoint(opened.text)
            size, sizes[seen.size] = seen.size, seen.root
    assert verdicts == [(step["desc"], step["spec_status"]) for step in steps]
    assert (len(steps), size) == (16, 5000)
