"""Log keys: an Ed25519 signer, and the files and variables that hold its key.

What a file or variable holds is text in the format of the C2SP signer key
(``PRIVATE+KEY+<name>+<key id>+<base64>``); `keyfiles` moves the text and guards the file, and nothing here knows its
format. The bytes of a signature are those of RFC 8032; deterministic, so a retry signs the same.
"""

from __future__ import annotations

from nacl.bindings import crypto_sign, crypto_sign_BYTES, crypto_sign_seed_keypair

from .errors import KeyFileError
from .keyfiles import key_from_environment, read_key_file, replace_key_file, write_key_file

__all__ = [
    "SEED_SIZE",
    "Ed25519Signer",
    "MLDSA44Signer",
    "key_from_environment",
    "read_key_file",
    "replace_key_file",
    "write_key_file",
]

SEED_SIZE = 32


class Ed25519Signer:
    """Signs checkpoints with a key held in memory; see `protocols.Signer`."""

    __slots__ = ("_key", "_name", "_public_key")

    def __init__(self, name: str, seed: bytes) -> None:
        """A signer from a 32-byte seed. Raises `KeyFileError` for another length."""
        if len(seed) != SEED_SIZE:
            raise KeyFileError(f"signer key {name}: the seed has {len(seed)} bytes, not {SEED_SIZE}")
        self._name = name
        self._public_key, self._key = crypto_sign_seed_keypair(seed)

    @property
    def name(self) -> str:
        """The key's name; for a log key, the origin."""
        return self._name

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Returns 64 bytes of signature over exactly these bytes. Safe to call from any thread."""
        return crypto_sign(message, self._key)[:crypto_sign_BYTES]

    def __repr__(self) -> str:
        """Shows the name; never the key."""
        return f"Ed25519Signer({self._name!r})"


class MLDSA44Signer:
    """Cosigns checkpoints with a post-quantum key held in memory (FIPS 204, ML-DSA-44); see `protocols.Signer`.

    Signatures are hedged: the same message gets another signature each time.
    """

    __slots__ = ("_key", "_name", "_public_key")

    def __init__(self, name: str, seed: bytes) -> None:
        """A signer from a 32-byte seed. Raises `KeyFileError` for another length, or without ML-DSA here."""
        if len(seed) != SEED_SIZE:
            raise KeyFileError(f"signer key {name}: the seed has {len(seed)} bytes, not {SEED_SIZE}")
        # The imports are here, because few witnesses have such keys, and the library is large.
        from cryptography.exceptions import UnsupportedAlgorithm

        try:
            from cryptography.hazmat.primitives.asymmetric import mldsa

            self._key = mldsa.MLDSA44PrivateKey.from_seed_bytes(seed)
        except (ImportError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"signer key {name}: ML-DSA-44 needs cryptography>=48 and an OpenSSL with it") from error
        self._name = name
        self._public_key = self._key.public_key().public_bytes_raw()

    @property
    def name(self) -> str:
        """The key's name."""
        return self._name

    @property
    def public_key(self) -> bytes:
        """1,312 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Returns 2,420 bytes of signature over exactly these bytes. Safe to call from any thread."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        """Shows the name; never the key."""
        return f"MLDSA44Signer({self._name!r})"
