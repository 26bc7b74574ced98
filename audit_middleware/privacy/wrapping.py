"""How the rows of a store of persons' keys are encrypted; the same in every kind of store.

The master key wraps the *store key*; the store key (AES-256-GCM, a nonce of 12 random bytes in front of each
ciphertext) encrypts the rest. Each place has a label of its own as additional data::

    lookup key      "audit subject lookup v1" 0 origin
    secret | salt   "audit subject secrets v1" 0 origin 0 token lookup
    name            "audit subject name v1" 0 origin 0 token

A row's ``lookup`` is HMAC-SHA256(lookup key, kind 0 id): it finds a person whose name is known, and says nothing
else. A name is padded to a multiple of 64 bytes. So who has the store but not the master key learns how many persons
there are, since which day, and which tokens; who can write can put no row in place of another unnoticed.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import SubjectKeysError
from ..persons import Person, SubjectKey

KEY_SIZE = 32
_NONCE = 12
_BLOCK = 64
_LENGTH = 4


class Row(NamedTuple):
    """A person in the store. ``created`` is a day, ``2026-11-23``."""

    token: str
    lookup: bytes
    name: bytes
    secrets: bytes
    told: bool
    restricted: bool
    created: str


class Wrapping:
    """The store key and the lookup key of one store."""

    __slots__ = ("_aead", "_lookup_key", "_origin", "_place")

    def __init__(self, place: str, origin: str, store_key: bytes, lookup_key: bytes) -> None:
        """``place`` is what the store is called in messages."""
        self._place = place
        self._origin = origin.encode()
        self._aead = AESGCM(store_key)
        self._lookup_key = lookup_key

    @classmethod
    def opened(cls, place: str, origin: str, store_key: bytes, sealed_lookup_key: bytes) -> Wrapping:
        """From what stands in the store. Raises `SubjectKeysError`."""
        made = cls(place, origin, store_key, b"")
        made._lookup_key = made._open(sealed_lookup_key, made._lookup_label(), "lookup key")
        return made

    @classmethod
    def new(cls, place: str, origin: str) -> tuple[Wrapping, bytes, bytes]:
        """New keys; also the store key, and the lookup key sealed under it."""
        store_key = secrets.token_bytes(KEY_SIZE)
        made = cls(place, origin, store_key, secrets.token_bytes(KEY_SIZE))
        return made, store_key, made._seal(made._lookup_key, made._lookup_label())

    def lookup(self, person: Person) -> bytes:
        """32 bytes under which a person is found."""
        return hmac.digest(self._lookup_key, _name_of(person), "sha256")

    def row(self, person: Person, key: SubjectKey, created: str) -> Row:
        """The row of a person's key."""
        token, lookup, name = key.token, self.lookup(person), _name_of(person)
        padded = len(name).to_bytes(_LENGTH, "big") + name
        padded += bytes(-len(padded) % _BLOCK)
        return Row(
            token,
            lookup,
            self._seal(padded, self._name_label(token)),
            self._seal(key.secret + key.salt, self._secrets_label(token, lookup)),
            key.told,
            key.restricted,
            created,
        )

    def key_of(self, row: Row) -> SubjectKey:
        """The key in a row. Raises `SubjectKeysError` for one that was altered."""
        both = self._open(row.secrets, self._secrets_label(row.token, row.lookup), f"key {row.token}")
        if len(both) != 2 * KEY_SIZE:
            raise self._damaged(f"key {row.token}")
        return SubjectKey(row.token, both[:KEY_SIZE], both[KEY_SIZE:], bool(row.told), bool(row.restricted))

    def person_of(self, row: Row) -> Person:
        """Whose row it is. Raises `SubjectKeysError` for one that was altered."""
        padded = self._open(row.name, self._name_label(row.token), f"name of {row.token}")
        length = int.from_bytes(padded[:_LENGTH], "big")
        kind, zero, of = padded[_LENGTH : _LENGTH + length].decode(errors="surrogatepass").partition("\0")
        if not zero or kind not in ("user", "resource", "day"):
            raise self._damaged(f"name of {row.token}")
        return Person(kind, of)  # type: ignore[arg-type]  # one of the three

    def _seal(self, data: bytes, label: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aead.encrypt(nonce, data, label)

    def _open(self, sealed: bytes, label: bytes, what: str) -> bytes:
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], label)
        except (InvalidTag, ValueError):
            raise self._damaged(what) from None

    def _damaged(self, what: str) -> SubjectKeysError:
        return SubjectKeysError(
            f"{self._place}: the {what} does not open: the store is damaged or was altered; restore it from a backup"
        )

    def _lookup_label(self) -> bytes:
        return b"audit subject lookup v1\0" + self._origin

    def _secrets_label(self, token: str, lookup: bytes) -> bytes:
        return b"audit subject secrets v1\0%b\0%b%b" % (self._origin, token.encode(), lookup)

    def _name_label(self, token: str) -> bytes:
        return b"audit subject name v1\0%b\0%b" % (self._origin, token.encode())


def new_token() -> str:
    """26 characters of lower-case base32: 128 random bits."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def _name_of(person: Person) -> bytes:
    return f"{person.kind}\0{person.id}".encode(errors="surrogatepass")
