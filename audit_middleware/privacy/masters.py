"""Master keys: what wraps the key of a store of persons' keys. One is named by a URL.

==================  ==================================================================================================
``file:PATH``       a file, 0600, with 32 bytes as base64 on one line; `make_master` makes it
``env:NAME``        the same text in an environment variable
``awskms:KEY``      a key in AWS KMS, by its ID, ARN or ``alias/NAME``; it never leaves the KMS
==================  ==================================================================================================

A key that is held here wraps by RFC 3394 (AES-256 key wrap, NIST SP 800-38F) under a key that HKDF-SHA256 derives for
the log alone, so that what was wrapped for one log opens for no other::

    0x01 | key ID (8 bytes: SHA-256("audit master key id v1" | derived key)) | wrapped (40 bytes)

The ID tells another key from damage. What the KMS wraps has the log's name in its encryption context.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from ..errors import KeyFileError, MasterKeyError
from ..keyfiles import key_from_environment, read_key_file, write_key_file
from ..protocols import MasterKey

KEY_SIZE = 32

_FORMAT = b"\x01"
_ID_SIZE = 8
_WRAPPED_SIZE = len(_FORMAT) + _ID_SIZE + KEY_SIZE + 8
_KNOWN = "file:PATH, env:NAME or awskms:KEY"


class HeldMaster:
    """A master key held in memory; see `protocols.MasterKey`."""

    __slots__ = ("_id", "_key", "_name", "_origin")

    def __init__(self, name: str, key: bytes, origin: str) -> None:
        """``key`` is 32 bytes; ``origin`` the log whose persons' keys it protects."""
        derived = HKDF(SHA256(), KEY_SIZE, None, b"audit master key v1\0" + origin.encode()).derive(key)
        self._key = derived
        self._id = hashlib.sha256(b"audit master key id v1" + derived).digest()[:_ID_SIZE]
        self._name = name
        self._origin = origin

    @property
    def name(self) -> str:
        """Its URL: no secret."""
        return self._name

    def wrap(self, key: bytes) -> bytes:
        """Wraps 32 bytes into 49."""
        check_size(key, self._name)
        return _FORMAT + self._id + aes_key_wrap(self._key, key)

    def unwrap(self, wrapped: bytes) -> bytes:
        """The 32 bytes. Raises `MasterKeyError`, which says whether it is another key or damage."""
        if len(wrapped) != _WRAPPED_SIZE or wrapped[:1] != _FORMAT:
            raise MasterKeyError(
                f"master key {self._name}: what the store of persons' keys holds was not wrapped by a file's or "
                "variable's key, or is damaged"
            )
        named = wrapped[1 : 1 + _ID_SIZE]
        if named != self._id:
            raise MasterKeyError(
                f"master key {self._name}: is another key: it has the ID {self._id.hex()} for the log {self._origin}, "
                f"and the store of persons' keys was wrapped by {named.hex()}"
            )
        try:
            return aes_key_unwrap(self._key, wrapped[1 + _ID_SIZE :])
        except InvalidUnwrap:
            raise MasterKeyError(
                f"master key {self._name}: is the right one, but the wrapped key in the store of persons' keys is "
                "damaged: restore the store from a backup"
            ) from None

    def __repr__(self) -> str:
        """Shows the name; never the key."""
        return f"HeldMaster({self._name!r})"


def open_master(url: str, origin: str) -> MasterKey:
    """The master key that a URL names, for the keys of one log.

    Raises:
        MasterKeyError: It is no such URL; there is no key, or not one that only its owner can read.
    """
    scheme, rest = _parts(url)
    if scheme == "awskms":
        from .masters_kms import KmsMaster  # here: it needs boto3

        return KmsMaster(rest, origin)
    try:
        text = read_key_file(rest) if scheme == "file" else key_from_environment(rest)
    except KeyFileError as problem:
        hint = "; it is made by: audit-middleware subject init LOG" if scheme == "file" else ""
        raise MasterKeyError(f"master key {url}: {problem}{hint}") from None
    return HeldMaster(url, _key_of(text, url), origin)


def make_master(url: str) -> None:
    """Makes a new master key in a new file, 0600.

    Raises:
        MasterKeyError: There is a file already, it cannot be written, or the URL does not name a file.
    """
    scheme, rest = _parts(url)
    if scheme != "file":
        how = "put the output of `openssl rand -base64 32` there" if scheme == "env" else "make a symmetric key in KMS"
        raise MasterKeyError(f"master key {url}: only a file is made here; {how}")
    try:
        write_key_file(rest, base64.b64encode(secrets.token_bytes(KEY_SIZE)).decode())
    except KeyFileError as problem:
        raise MasterKeyError(f"master key {url}: {problem}") from None


def master_file(url: str) -> str | None:
    """The path in ``file:PATH``; ``None`` for another kind. Raises `MasterKeyError` for no URL of a master key."""
    scheme, rest = _parts(url)
    return rest if scheme == "file" else None


def check_size(key: bytes, name: str) -> None:
    """Raises `MasterKeyError` for what is not 32 bytes."""
    if len(key) != KEY_SIZE:
        raise MasterKeyError(f"master key {name}: a key of {KEY_SIZE} bytes is expected, not of {len(key)}")


def _parts(url: str) -> tuple[str, str]:
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in ("file", "env", "awskms") or not rest or rest.startswith("//") or "\0" in rest:
        # Not repeated: somebody may have put the key itself there.
        raise MasterKeyError(f"master key: expected {_KNOWN}")
    return scheme, rest


def _key_of(text: str, url: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_SIZE:
        what = "it is a signing key, not a master key" if text.startswith("PRIVATE+KEY") else "make one with that"
        raise MasterKeyError(
            f"master key {url}: is not {KEY_SIZE} bytes as base64, as `openssl rand -base64 32` prints them; {what}"
        )
    return key
