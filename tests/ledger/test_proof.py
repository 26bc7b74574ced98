"""Proof files: what is written is what is read, and what does not hold is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import FormatError, NoteError, ProofError
from audit_middleware.ledger import checkpoint, note, proof, tree, trust
from audit_middleware.ledger.note import Signer, Verifier
from audit_middleware.ledger.proof import Proof

MakeKey = Callable[[str, int], Signer]
VerifierOf = Callable[..., Verifier]

ORIGIN = "audit.example/billing"
ENTRIES = [b"entry-%d" % index for index in range(11)]
LEVELS = [[tree.leaf_hash(entry) for entry in ENTRIES]]
while len(LEVELS[-1]) > 1:
    LEVELS.append(tree.parents(LEVELS[-1]))


def read(level: int, index: int) -> bytes:
    return LEVELS[level][index]


@pytest.fixture
def key(make_key: MakeKey) -> Signer:
    return make_key(ORIGIN, 1)


@pytest.fixture
def known(key: Signer, verifier_of: VerifierOf) -> list[Verifier]:
    return [verifier_of(key)]


@pytest.fixture
def signed(key: Signer) -> bytes:
    size, peaks = tree.append(0, (), LEVELS[0])
    return checkpoint.sign_checkpoint(ORIGIN, size, peaks, [key])


def prove(index: int, signed: bytes, extra: bytes = b"") -> Proof:
    return Proof(index, tree.inclusion_proof(index, len(ENTRIES), read), signed, extra)


@pytest.mark.parametrize("index", range(len(ENTRIES)))
def test_every_entry_can_be_proved(index: int, signed: bytes, known: list[Verifier]) -> None:
    parsed = proof.parse_proof(proof.format_proof(prove(index, signed)))
    shown = proof.verify_proof(parsed, LEVELS[0][index], ORIGIN, known)
    assert (shown.origin, shown.size) == (ORIGIN, 11)


@pytest.mark.parametrize("index", [0, 4, 10])
def test_every_changed_byte_is_noticed(index: int, signed: bytes, known: list[Verifier]) -> None:
    data = proof.format_proof(prove(index, signed))
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with pytest.raises(FormatError):
                proof.verify_proof(proof.parse_proof(bytes(changed)), LEVELS[0][index], ORIGIN, known)


def test_every_cut_dropped_and_doubled_line_is_noticed(signed: bytes, known: list[Verifier]) -> None:
    data = proof.format_proof(prove(4, signed))
    lines = data.splitlines(keepends=True)
    changed = [data[:cut] for cut in range(len(data))]
    changed += [b"".join(lines[:place] + lines[place + 1 :]) for place in range(len(lines))]
    # The last line is the signature's: said twice it says the same.
    changed += [b"".join([*lines[:place], lines[place], *lines[place:]]) for place in range(len(lines) - 1)]
    for one in changed:
        with pytest.raises(FormatError):
            proof.verify_proof(proof.parse_proof(one), LEVELS[0][4], ORIGIN, known)


def test_each_step_of_the_verification_can_fail(
    signed: bytes, known: list[Verifier], make_key: MakeKey, verifier_of: VerifierOf
) -> None:
    good, leaf = prove(4, signed), LEVELS[0][4]
    with pytest.raises(NoteError, match="known key"):
        proof.verify_proof(good, leaf, ORIGIN, [verifier_of(make_key(ORIGIN, 7))])
    with pytest.raises(FormatError, match="origin is"):
        proof.verify_proof(good, leaf, "audit.example/other", known)
    with pytest.raises(ProofError, match="another root"):
        proof.verify_proof(good, LEVELS[0][5], ORIGIN, known)
    with pytest.raises(ProofError, match="another root"):
        proof.verify_proof(prove(5, signed), leaf, ORIGIN, known)
    with pytest.raises(ProofError, match="not below size"):
        proof.verify_proof(Proof(11, good.hashes, signed), leaf, ORIGIN, known)


def test_a_quorum_can_be_asked_for(
    signed: bytes, known: list[Verifier], make_key: MakeKey, verifier_of: VerifierOf
) -> None:
    witness = make_key("witness.example/site-b", 2)
    vkey = verifier_of(witness, note.COSIGNATURE_ED25519).vkey
    policy = trust.parse_policy(f"log {known[0].vkey}\nwitness w {vkey}\nquorum w\n".encode())
    with pytest.raises(NoteError, match="quorum 'w' is not reached, cosigned by nobody"):
        proof.verify_proof(prove(4, signed), LEVELS[0][4], ORIGIN, known, policy)
    text = signed.decode().rpartition("\n\n")[0] + "\n"
    cosigned = signed + note.cosignature_line(text, witness, note.COSIGNATURE_ED25519, 1_800_000_000)
    assert proof.verify_proof(prove(4, cosigned), LEVELS[0][4], ORIGIN, known, policy).size == 11


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63),
    st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1),
    st.binary(),
)
def test_any_proof_comes_back(index: int, hashes: list[bytes], text: str, extra: bytes) -> None:
    value = Proof(index, tuple(hashes), f"{text}\n\nmore\n".encode(), extra)
    assert proof.parse_proof(proof.format_proof(value)) == value


HASH = "A" * 43 + "="


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not start"),
        ("c2sp.org/tlog-proof@v2\nindex 0\n\nc\n", "does not start"),
        ("c2sp.org/tlog-proof@v1\r\nindex 0\n\nc\n", "does not start"),
        ("c2sp.org/tlog-proof@v1\n\nc\n", "no line 'index"),
        ("c2sp.org/tlog-proof@v1\nindex 0\n", "no empty line"),
        ("c2sp.org/tlog-proof@v1\nindex 0\n\n", "no empty line"),
        ("c2sp.org/tlog-proof@v1\nindex 0\n\nc", "no empty line"),
        ("c2sp.org/tlog-proof@v1\nindex 0\n\nc\t\n", "no empty line"),
        ("c2sp.org/tlog-proof@v1\nindex 00\n\nc\n", "index"),
        ("c2sp.org/tlog-proof@v1\nindex  0\n\nc\n", "index"),
        (f"c2sp.org/tlog-proof@v1\nindex {2**63}\n\nc\n", "index"),
        (f"c2sp.org/tlog-proof@v1\n{HASH}\nindex 0\n\nc\n", "no line 'index"),
        ("c2sp.org/tlog-proof@v1\nindex 0\nextra YQ==\n\nc\n", "hash 1"),
        ("c2sp.org/tlog-proof@v1\nextra YQ==\nextra YQ==\nindex 0\n\nc\n", "no line 'index"),
        ("c2sp.org/tlog-proof@v1\nextra \nindex 0\n\nc\n", "empty extra line"),
        ("c2sp.org/tlog-proof@v1\nextra YR==\nindex 0\n\nc\n", "extra"),
        (f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH} \n\nc\n", "hash 1"),
        (f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH}\nAAAA\n\nc\n", "hash 2 has 3 bytes"),
        ("c2sp.org/tlog-proof@v1\nindex 0\n" + f"{HASH}\n" * 64 + "\nc\n", "64 hashes"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ProofError, match=message):
        proof.parse_proof(text.encode())


def test_the_longest_proof_there_can_be() -> None:
    data = "c2sp.org/tlog-proof@v1\nindex 0\n" + f"{HASH}\n" * 63 + "\nc\n"
    assert len(proof.parse_proof(data.encode()).hashes) == 63


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ProofError, match="not UTF-8 at byte 30"):
        proof.parse_proof(b"c2sp.org/tlog-proof@v1\nindex 0\xff\n\nc\n")


def test_published_proof_texts(load: Callable[[str], Any]) -> None:
    cases = load("proof/tlog_proof_text.json")
    assert (len(cases["valid"]), len(cases["invalid"])) == (3, 7)
    for case in cases["valid"]:
        parsed = proof.parse_proof(case["text"].encode())
        assert (parsed.index, parsed.extra.decode()) == (case["index"], case["extra"] or "")
        assert len(parsed.hashes) == len(case["hashes"])
        assert proof.format_proof(parsed).decode() == case["text"]
    for text in cases["invalid"]:
        with pytest.raises(ProofError):
            proof.parse_proof(text.encode())
