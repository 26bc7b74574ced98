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
from audit_middleware.ledger.note import Signer, format_vkey, parse_vkey
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
        expected = not flags & {"low_order_A", "low_order_R", "low_order_residue", "non_canonical_A", "non_canonical_R"}
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


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_length_verifies_nothing(make_key: MakeKey, size: int) -> None:
    # libsodium takes no length: what comes after a key that is too short would be read with it.
    key = make_key("a", 1)
    wrong = (key.public_key * 2)[:size]
    assert not signatures.valid(ED25519, wrong, b"message", key.sign(b"message"))
    assert not signatures.valid(COSIGNATURE_MLDSA44, wrong, b"message", bytes(2420))


# The eight points of small order, and encodings of them that are not canonical; under these S = 0 and R = A hold for
# one message in eight, or for all: the equation alone would let anybody sign.
SMALL = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("key", SMALL)
def test_a_key_of_small_order_signs_nothing(key: str) -> None:
    public_key = bytes.fromhex(key)
    identity = bytes.fromhex(SMALL[0])
    for number in range(16):
        for point in (identity, public_key):
            assert not signatures.valid(ED25519, public_key, b"message %d" % number, point + bytes(32))
    assert not signatures.usable(ED25519, public_key)
    with pytest.raises(NoteError, match=r"verifier key of 'log\.example': no point of Ed25519's main group"):
        parse_vkey(format_vkey("log.example", public_key))


def test_the_keys_that_seeds_lead_to_are_usable(make_key: MakeKey) -> None:
    for number in range(20):
        assert signatures.usable(ED25519, make_key("a", number).public_key)


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
