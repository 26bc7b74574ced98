"""What a kind of store of persons' keys must do: rows, one transaction at a time, and forgetting what was deleted.

Everything raises `SubjectKeysError`; after an error no transaction is open and nothing of it was done, unless it was
`commit` that raised: then nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from .wrapping import Row

VERSION = 1
"""Of the layout of a store."""

TIMEOUT = 5.0
"""Seconds that one call waits for other processes."""


class Meta(NamedTuple):
    """What a store says of itself.

    Attributes:
        version: Of its layout.
        origin: The log it belongs to.
        master: Name of the master key that wrapped the store key.
        wrapped: The store key.
        lookup_key: Sealed under the store key.
        epoch: Which store key this is; grows when it is renewed.
        generation: Grows with every erasure.
        cleaned: The generation up to which no copy of what was erased is left in the files.
        erased_to: Size of the log up to which its erasures were carried out.
    """

    version: int
    origin: str
    master: str
    wrapped: bytes
    lookup_key: bytes
    epoch: int
    generation: int
    cleaned: int
    erased_to: int


class Found(NamedTuple):
    """What was looked for, and under which store key the store is."""

    epoch: int
    row: Row | None


class Rows(Protocol):
    """One connection to a store."""

    @property
    def place(self) -> str:
        """What the store is called in messages; no secret."""
        ...

    @property
    def writing(self) -> bool:
        """Whether a transaction is open. Never in a process that was forked since it began."""
        ...

    def begin(self, *, durable: bool = True) -> Meta:
        """Begins a transaction that excludes all other writers, in every process, and reads what is there then."""
        ...

    def commit(self) -> None:
        """Ends it. Where it is durable, it survives a power cut from here on."""
        ...

    def roll_back(self) -> None:
        """Takes it back, if there is one. Never raises."""
        ...

    def meta(self) -> Meta:
        """What the store says of itself now."""
        ...

    def set_meta(self, meta: Meta) -> None:
        """Replaces it, in a transaction."""
        ...

    def generation(self) -> int:
        """Of `Meta`; cheap."""
        ...

    def by_lookup(self, lookup: bytes) -> Found:
        """The row with this lookup, if there is one, and the epoch at the same moment."""
        ...

    def by_token(self, token: str) -> Found:
        """The row with this token, likewise."""
        ...

    def insert(self, row: Row) -> None:
        """Adds a row, in a transaction."""
        ...

    def set_told(self, tokens: Iterable[str]) -> None:
        """Sets the flag, in a transaction."""
        ...

    def set_restricted(self, token: str, restricted: bool) -> bool:
        """Sets the flag, in a transaction; whether there is such a row."""
        ...

    def delete(self, tokens: Sequence[str]) -> tuple[int, int]:
        """How many rows of these there were, and how many of them are restricted; in a transaction, without those."""
        ...

    def page(self, after: str, limit: int) -> list[Row]:
        """The rows whose token comes after this one, in order, in a transaction."""
        ...

    def replace(self, rows: Iterable[Row]) -> None:
        """Puts rows in place of those with the same tokens, in a transaction."""
        ...

    def scrub(self) -> None:
        """Rewrites the store's files without what was deleted, outside of a transaction. May be repeated."""
        ...

    def close(self) -> None:
        """Releases the connection; takes back an open transaction."""
        ...
