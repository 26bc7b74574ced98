"""Counting in bounded memory what may have any number of names."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

LIMIT = 10_000


class Tally(Generic[K]):
    """Counts by key; of more than twice ``limit`` keys, the rarer half is given up from time to time.

    Attributes:
        total: How often anything was counted.
        rest: How many counts were given up: so much may be missing from the counts that are left.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        """Nothing was counted yet."""
        self.total = 0
        self.rest = 0
        self._limit = limit
        self._counts: dict[K, int] = {}

    def add(self, key: K) -> None:
        """Counts once."""
        self.total += 1
        self._counts[key] = self._counts.get(key, 0) + 1
        if len(self._counts) > 2 * self._limit:
            kept = self.top(self._limit)
            self.rest += sum(self._counts.values()) - sum(count for _, count in kept)
            self._counts = dict(kept)

    def top(self, count: int) -> list[tuple[K, int]]:
        """The most frequent, then those that came first."""
        return sorted(self._counts.items(), key=lambda pair: -pair[1])[:count]

    def __getitem__(self, key: K) -> int:
        return self._counts.get(key, 0)

    def __contains__(self, key: K) -> bool:
        return key in self._counts

    def __iter__(self) -> Iterator[K]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)
