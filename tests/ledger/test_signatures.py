"""Which signatures hold, at the edges too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from audit_middleware.errors import NoteError
from audit_middleware.ledger import signatures
from audit_middleware.ledger.note import Signer
from audit_middleware.ledger.signatures import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, ED25519

MLDSA = "cryptography.hazmat.primitives.asymmetric.mldsa"

MakeKey = Callable[[str, int], Signer]

# The order of the group's base point: S + L verifies under the bare equation, and must not be taken.
L = 2**252 + 27742317777372353535851937790883648493


def test_all_edge_cases_of_cctv(load: Callable[[str], Any]) -> None:
    cases = load("ed25519/cctv_ed25519vectors.json")
    assert len(cases) == 914
    wrong, accepted = [], 0
    for case in cases:
        flags = set(case["flags"] or ())
        expected = not flags & {"non_canonical_R", "low_order_residue"}
        key, signature = bytes.fromhex(case["key"]), bytes.fromhex(case["sig"])
        holds = signatures.valid(ED25519, key, case["msg"].encode(), signature)
        accepted += holds
        if holds != expected:
            wrong.append((case["number"], sorted(flags)))
    assert wrong == []
    assert 0 < accepted < len(cases)


def test_an_unreduced_s_is_refused(make_key: MakeKey) -> None:
    key = make_key("a", 1)
    signature = key.sign(b"message")
    assert signatures.valid(ED25519, key.public_key, b"message", signature)
    s = int.from_bytes(signature[32:], "little") + L
    assert not signatures.valid(ED25519, key.public_key, b"message", signature[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("kind", [ED25519, COSIGNATURE_ED25519])
def test_every_bit_of_an_ed25519_signature_counts(make_key: MakeKey, kind: int) -> None:
    key = make_key("a", 1)
    signature = key.sign(b"message")
    assert signatures.valid(kind, key.public_key, b"message", signature)
    for bit in range(512):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not signatures.valid(kind, key.public_key, b"message", bytes(flipped))
    for bad in (b"", signature[:-1], signature + b"\0"):
        assert not signatures.valid(kind, key.public_key, b"message", bad)


def test_bytes_that_are_no_point_verify_nothing() -> None:
    assert not signatures.valid(ED25519, b"\x02" + bytes(31), b"message", bytes(64))
    assert not signatures.valid(ED25519, bytes(31), b"message", bytes(64))


def test_an_old_cryptography_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MLDSA, None)
    with pytest.raises(NoteError, match="cryptography>=48"):
        signatures.valid(COSIGNATURE_MLDSA44, b"\7" * 1312, b"message", bytes(2420))


def test_an_openssl_without_the_algorithm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsupported:
        @staticmethod
        def from_public_bytes(data: bytes) -> None:
            raise UnsupportedAlgorithm("no ML-DSA")

    monkeypatch.setitem(sys.modules, MLDSA, SimpleNamespace(MLDSA44PublicKey=Unsupported))
    with pytest.raises(NoteError, match="OpenSSL behind cryptography has no ML-DSA"):
        signatures.valid(COSIGNATURE_MLDSA44, b"\7" * 1312, b"message", bytes(2420))
