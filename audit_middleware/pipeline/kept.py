"""What is made of frozen values that many requests share: a rule's decision, a caller who comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

One = TypeVar("One")
Made = TypeVar("Made")


class Kept(Generic[One, Made]):
    """Makes something of each value once, and finds it again by the value's identity. For one thread at a time.

    Only for values that cannot change. What is made is shared: whoever gets it must not change it either.
    """

    __slots__ = ("_made", "_make", "_most")

    def __init__(self, make: Callable[[One], Made], most: int = 256) -> None:
        """``most`` values are kept; then all are forgotten, so that values that never come back cost little."""
        self._make = make
        self._most = most
        self._made: dict[int, tuple[One, Made]] = {}  # with the value itself, so that its identity stays its own

    def of(self, one: One) -> Made:
        """What is made of this value."""
        found = self._made.get(id(one))
        if found is None:
            if len(self._made) >= self._most:
                self._made.clear()
            found = self._made[id(one)] = one, self._make(one)
        return found[1]
