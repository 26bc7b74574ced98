"""What a log tells of the keys of persons: how many there were, and whom an erasure took the key from.

What is sealed stays in its leaf, so hashes and proofs do not depend on any key. These counts explain why values of a
log that holds cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .report import Persons

_KNOWN = 100_000  # tokens that are told apart, some 10 MB
_NAMED = 10  # records that are named


class PersonsTold:
    """Adds up records in the log's order. A person whose erasure is told twice counts once, up to `_KNOWN` persons."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._keys = self._erased = self._records = 0
        self._seen: set[str] = set()
        self._first: list[int] = []

    def made(self, extra: dict[str, Any]) -> None:
        """Takes an ``audit.subject_keys``."""
        listed = extra.get("keys")
        self._keys += len(listed) if isinstance(listed, list) else 0

    def erased_by(self, index: int, extra: dict[str, Any]) -> None:
        """Takes the ``audit.subject_erased`` that stands at this index."""
        self._records += 1
        if len(self._first) < _NAMED:
            self._first.append(index)
        for token in _tokens(extra):
            if token in self._seen:
                continue
            self._erased += 1
            if len(self._seen) < _KNOWN:
                self._seen.add(token)

    @property
    def total(self) -> Persons:
        """What was found."""
        return Persons(self._keys, self._erased, self._records, tuple(self._first))


def _tokens(extra: dict[str, Any]) -> Iterator[str]:
    """``tokens``, or one ``token``."""
    listed = extra.get("tokens", extra.get("token"))
    for one in listed if isinstance(listed, list) else [listed]:
        if isinstance(one, str):
            yield one
