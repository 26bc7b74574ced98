"""Passwords and keys of service accounts, as they are kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets


def hashed(secret: str) -> str:
    """Salt and scrypt hash. A real service takes a higher cost, or an identity provider."""
    salt = secrets.token_bytes(16)
    return f"{salt.hex()}:{_scrypt(secret, salt)}"


def matches(secret: str, kept: str | None) -> bool:
    """Does the secret belong to what was kept? Takes the same time for an unknown user as for a wrong password."""
    salt, _, expected = (kept or _NOBODY).partition(":")
    return hmac.compare_digest(_scrypt(secret, bytes.fromhex(salt)), expected) and kept is not None


def _scrypt(secret: str, salt: bytes) -> str:
    return hashlib.scrypt(secret.encode(), salt=salt, n=2**12, r=8, p=1).hex()


_NOBODY = f"{'00' * 16}:{'00' * 64}"
