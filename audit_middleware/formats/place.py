"""Where an entry stands: which log, and the index in it. It is no part of the record.

A format shows it where it has room for it, and only when it is given: an export of a record stays a function of the
record alone, while a follower, which knows both, says them. From a line the place can be read back, so that who writes
lines to a file finds out where the file ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """The origin of a log, and the index of an entry in it."""

    origin: str
    index: int


Locate = Callable[[bytes], Place]
"""From a line back to its place. Raises `ValueError` for a line that has none."""


def shown(place: Place | None) -> dict[str, Any] | None:
    """For JSON formats: ``{"origin": ..., "index": ...}``."""
    return None if place is None else {"origin": place.origin, "index": place.index}


def in_json(find: Callable[[Any], tuple[Any, Any]]) -> Locate:
    """How the place is read from a line of JSON; ``find`` gets the value and returns origin and index."""

    def locate(line: bytes) -> Place:
        try:
            origin, index = find(json.loads(line))
            if isinstance(origin, str):
                return Place(origin, int(index))
        except (LookupError, TypeError, AttributeError):
            pass
        raise ValueError("no log and index")

    return locate


def in_text(pattern: str, escape: str = "\\") -> Locate:
    """How the place is read from a line of text: a pattern with a group for each.

    What is from outside is escaped where the pattern looks, so that it cannot look like it. ``escape`` is a character
    that takes away the meaning of the next.
    """
    compiled, escaped = re.compile(pattern), re.compile(re.escape(escape) + "(.)") if escape else None

    def locate(line: bytes) -> Place:
        found = compiled.search(line.decode())
        if found is None:
            raise ValueError("no log and index")
        return Place(escaped.sub(r"\1", found[1]) if escaped else found[1], int(found[2]))

    return locate
