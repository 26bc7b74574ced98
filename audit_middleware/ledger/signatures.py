"""The signature algorithms behind the lines of a note, and which of their edge cases count as valid.

======  ==========================================  ==========  ==============================
type    algorithm                                   public key  body of the line
======  ==========================================  ==========  ==============================
0x01    Ed25519 over the note's text (RFC 8032)     32 bytes    signature, 64 bytes
0x04    Ed25519 cosignature (`cosignature`)         32 bytes    time, 8 bytes; signature, 64
0x06    ML-DSA-44 cosignature (`cosignature`)       1,312       time, 8 bytes; signature, 2,420
======  ==========================================  ==========  ==============================

Every other type of C2SP signed-note v1.0.0 (0x02 ECDSA, 0x05 RFC 6962 tree head, 0xff private) is not supported.

Ed25519 is ambiguous at its edges. The rule here is the narrowest in use, libsodium's: S must be reduced, the encoding
of R must equal the recomputed point (so non-canonical R and signatures that only hold after multiplying by the
cofactor are refused), neither R nor the public key may be of small order, and the key's encoding must be canonical.
What holds here holds by RFC 8032's equation with the cofactor and without it, so for OpenSSL, Go and ed25519-dalek
too. The tests hold this to all cases of C2SP/CCTV ed25519.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from ..errors import NoteError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

ED25519 = 0x01
"""A plain Ed25519 signature over the note's text."""

COSIGNATURE_ED25519 = 0x04
"""A timestamped Ed25519 cosignature of a checkpoint."""

COSIGNATURE_MLDSA44 = 0x06
"""A timestamped ML-DSA-44 cosignature of a checkpoint."""

KEY_SIZE = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_MLDSA44: 1312}
"""Bytes of the public key, by type."""

SIGNATURE_SIZE = {ED25519: 64, COSIGNATURE_ED25519: 64, COSIGNATURE_MLDSA44: 2420}
"""Bytes of the signature without its time, by type."""

SEED_SIZE = 32
"""Bytes of the secret that a key of any type is derived from."""

_NO_MLDSA = "ML-DSA-44: this cryptography has no ML-DSA; install cryptography>=48"


class Signer(Protocol):
    """Whatever signs: a key in memory, a KMS. Which algorithm it is follows from the type it is used for."""

    @property
    def name(self) -> str:
        """The key's name; for a log key, the origin."""
        ...

    @property
    def public_key(self) -> bytes:
        """The raw public key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature over exactly these bytes."""
        ...


def valid(kind: int, public_key: bytes, message: bytes, signature: bytes) -> bool:
    """True when the signature holds under the algorithm of this type; `NoteError` when it cannot be checked here."""
    # libsodium reads as many bytes as a key and a signature have, whatever it is given.
    if len(signature) != SIGNATURE_SIZE[kind] or len(public_key) != KEY_SIZE[kind]:
        return False
    if kind == COSIGNATURE_MLDSA44:
        return _mldsa44_holds(public_key, message, signature)
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


@lru_cache(maxsize=256)
def usable(kind: int, public_key: bytes) -> bool:
    """False for bytes that no seed leads to, so that nothing they are said to sign may count.

    That is, for Ed25519, what is no point of the curve in its only encoding, or is not in the group that the base point
    generates: under a key of small order anybody can sign. For ML-DSA-44 all bytes are keys.
    """
    return kind == COSIGNATURE_MLDSA44 or crypto_core_ed25519_is_valid_point(public_key)


def public_key_of(kind: int, seed: bytes) -> bytes:
    """Returns the raw public key that a seed of 32 bytes leads to; `NoteError` when it cannot be derived here."""
    if kind != COSIGNATURE_MLDSA44:
        return crypto_sign_seed_keypair(seed)[0]
    # The imports are here, because few logs have such keys, and the library is large.
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        return MLDSA44PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
    except ImportError as error:  # cryptography before 48
        raise NoteError(_NO_MLDSA) from error
    except UnsupportedAlgorithm as error:
        raise NoteError("ML-DSA-44: the OpenSSL behind cryptography has no ML-DSA") from error


def _mldsa44_holds(public_key: bytes, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        _mldsa44(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: these bytes are no key, so nothing holds under them
        return False
    return True


# A verifier asks for the same few keys again and again: parsing one costs about as much as a hash of 10 kB.
@lru_cache(maxsize=256)
def _mldsa44(public_key: bytes) -> MLDSA44PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

        return MLDSA44PublicKey.from_public_bytes(public_key)
    except ImportError as error:  # cryptography before 48
        raise NoteError(_NO_MLDSA) from error
    except UnsupportedAlgorithm as error:
        raise NoteError("ML-DSA-44: the OpenSSL behind cryptography has no ML-DSA") from error
