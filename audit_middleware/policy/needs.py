"""What a condition reads that has to be fetched before it can be asked."""

from __future__ import annotations

import msgspec

from .conditions import Call, Condition, leaves, paths

__all__ = ["NOTHING", "Needs", "needs_of"]


class Needs(msgspec.Struct, frozen=True):
    """What rules read that a request does not bring by itself: names of the resource's properties, and its body.

    ``anything``: a predicate is asked, and nobody knows what it reads of the resource.
    """

    properties: frozenset[str] = frozenset()
    body: bool = False
    anything: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.properties | other.properties, self.body or other.body, self.anything or other.anything)

    def __bool__(self) -> bool:
        return bool(self.properties) or self.body or self.anything


NOTHING = Needs()


def needs_of(when: Condition) -> Needs:
    """What this condition needs."""
    named = [path.split(".") for path in paths(when)]
    return Needs(
        frozenset(name for root, name, *_ in named if root == "resource" and name not in ("id", "type")),
        any(path[:2] == ["context", "body"] for path in named),
        any(isinstance(leaf, Call) for leaf in leaves(when)),
    )
