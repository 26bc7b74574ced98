"""Checkpoints: text, signature, origin; checked by OpenSSL too."""

from __future__ import annotations

import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import FormatError, NoteError
from audit_middleware.ledger import checkpoint, note, tree
from audit_middleware.ledger.checkpoint import Checkpoint
from audit_middleware.ledger.note import Signer, Verifier

MakeKey = Callable[[str, int], Signer]
VerifierOf = Callable[..., Verifier]

ORIGIN = "audit.example/billing"
SIZE, PEAKS = tree.append(0, (), [tree.leaf_hash(b"entry-%d" % index) for index in range(7)])


@pytest.fixture
def key(make_key: MakeKey) -> Signer:
    return make_key(ORIGIN, 1)


@pytest.fixture
def signed(key: Signer) -> bytes:
    return checkpoint.sign_checkpoint(ORIGIN, SIZE, PEAKS, [key])


def test_what_is_signed_opens(signed: bytes, key: Signer, verifier_of: VerifierOf) -> None:
    opened, whole = checkpoint.open_checkpoint(signed, ORIGIN, [verifier_of(key)])
    assert opened == Checkpoint(ORIGIN, 7, tree.root(PEAKS))
    assert whole.text == opened.text()


def test_an_empty_log_has_a_checkpoint(key: Signer, verifier_of: VerifierOf) -> None:
    signed = checkpoint.sign_checkpoint(ORIGIN, 0, (), [key])
    opened, _ = checkpoint.open_checkpoint(signed, ORIGIN, [verifier_of(key)])
    assert (opened.size, opened.root) == (0, tree.EMPTY_ROOT)


def test_the_largest_log_there_can_be(key: Signer, verifier_of: VerifierOf) -> None:
    signed = checkpoint.sign_checkpoint(ORIGIN, 2**63 - 1, PEAKS[:1] * 63, [key])
    assert checkpoint.open_checkpoint(signed, ORIGIN, [verifier_of(key)])[0].size == 2**63 - 1


def test_several_signers_sign_the_same(key: Signer, make_key: MakeKey, verifier_of: VerifierOf) -> None:
    # Key rotation: old and new key under one name for a while.
    new = make_key(ORIGIN, 9)
    signed = checkpoint.sign_checkpoint(ORIGIN, SIZE, PEAKS, [key, new])
    for keys in ([key], [new], [key, new]):
        _, opened = checkpoint.open_checkpoint(signed, ORIGIN, map(verifier_of, keys))
        assert len(opened.verified) == len(keys)


names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="+"), min_size=1)


@given(names, st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32), st.lists(st.text("ab —", min_size=1)))
def test_texts_come_back(origin: str, size: int, root: bytes, extensions: list[str]) -> None:
    value = Checkpoint(origin, size, root, tuple(extensions))
    assert checkpoint.parse_checkpoint(value.text()) == value


ROOT = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not end with a newline"),
        (f"a\n1\n{ROOT}", "does not end with a newline"),
        (f"a\n1\n{ROOT}\n\n", "none of them empty"),
        (f"\n1\n{ROOT}\n", "none of them empty"),
        ("a\n1\n", "three or more lines"),
        (f"a\n\n{ROOT}\n", "none of them empty"),
        (f"a\n01\n{ROOT}\n", "tree size"),
        (f"a\n-1\n{ROOT}\n", "tree size"),
        (f"a\n{2**63}\n{ROOT}\n", "tree size"),
        (f"a\n1 \n{ROOT}\n", "tree size"),
        ("a\n1\nAAAA\n", "root hash has 3 bytes"),
        (f"a\n1\n{ROOT[:-2]}V=\n", "root hash"),
        (f"a\n1\n {ROOT}\n", "root hash"),
        (f"a\n0\n{'A' * 43}=\n", "size 0"),
        (f"a\t\n1\n{ROOT}\n", "control character"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        checkpoint.parse_checkpoint(text)


def test_foreign_origins_may_be_anything() -> None:
    # The specification forbids clients to assume a form; sum.golang.org has spaces in it.
    assert checkpoint.parse_checkpoint(f"go.sum database tree\n1\n{ROOT}\n").origin == "go.sum database tree"


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\u2003b"])
def test_our_origins_may_not(key: Signer, origin: str) -> None:
    with pytest.raises(FormatError, match="origin"):
        checkpoint.sign_checkpoint(origin, SIZE, PEAKS, [key])


def test_sizes_beyond_the_largest_are_refused(key: Signer) -> None:
    with pytest.raises(FormatError, match="a log of size 9223372036854775808"):
        checkpoint.sign_checkpoint(ORIGIN, 2**63, PEAKS[:1], [key])


@pytest.mark.parametrize("size", [-1, 0, 6, 8])
def test_size_and_peaks_must_fit(key: Signer, size: int) -> None:
    with pytest.raises(FormatError, match="peaks"):
        checkpoint.sign_checkpoint(ORIGIN, size, PEAKS, [key])


def test_every_changed_byte_is_noticed(signed: bytes, key: Signer, verifier_of: VerifierOf) -> None:
    for place in range(len(signed)):
        for bit in range(8):
            changed = bytearray(signed)
            changed[place] ^= 1 << bit
            with pytest.raises(NoteError):
                checkpoint.open_checkpoint(bytes(changed), ORIGIN, [verifier_of(key)])


def test_another_origin_and_another_text_are_refused(signed: bytes, key: Signer, verifier_of: VerifierOf) -> None:
    with pytest.raises(FormatError, match=r"origin is 'audit\.example/billing', not 'audit\.example/other'"):
        checkpoint.open_checkpoint(signed, "audit.example/other", [verifier_of(key)])
    with pytest.raises(FormatError, match="three or more lines"):
        checkpoint.open_checkpoint(note.sign("not a checkpoint\n", [key]), ORIGIN, [verifier_of(key)])


def openssl_accepts(folder: Path, public_key: bytes, text: bytes, signature: bytes) -> bool:
    spki = Ed25519PublicKey.from_public_bytes(public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for name, data in (("key.der", spki), ("text", text), ("signature", signature)):
        (folder / name).write_bytes(data)
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", "key.der"]
    command += ["-in", "text", "-sigfile", "signature"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_accepts_the_signature(signed: bytes, key: Signer, tmp_path: Path) -> None:
    text, _, line = signed.rpartition(b"\n\n")
    signature = b64decode(line.split()[-1])[4:]
    assert openssl_accepts(tmp_path, key.public_key, text + b"\n", signature)
    assert not openssl_accepts(tmp_path, key.public_key, text + b"\n\n", signature)
