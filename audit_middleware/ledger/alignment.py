"""What happened to a list of entries, by the short sums that their commit kept of them.

Two lists of sums are compared: those of the commit, and those of what stands there now. As long as they agree there is
nothing to say; where they do not, a look at what comes later in either list tells a change from a gap, an insertion or
an exchange. One pass, whatever was done; no list is searched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from .tree import SUM_SIZE

Kind = Literal["altered", "missing", "extra", "moved"]


class Difference(NamedTuple):
    """One difference: ``position`` counts the signed entries, ``at`` those that stand there now."""

    kind: Kind
    position: int
    at: int


def split(sums: bytes) -> list[bytes]:
    """Returns the sums of a commit as a list."""
    return [sums[start : start + SUM_SIZE] for start in range(0, len(sums), SUM_SIZE)]


def differences(signed: Sequence[bytes], found: Sequence[bytes]) -> Iterator[Difference]:
    """Yields how ``found`` differs from ``signed``, by position."""
    to_come, to_meet = Counter(found), Counter(signed)  # what is left of each list
    early, late = Counter[bytes](), Counter[bytes]()  # found before its place; signed, and expected further behind
    position = at = 0
    while position < len(signed) or at < len(found):
        wanted = signed[position] if position < len(signed) else None
        present = found[at] if at < len(found) else None
        if wanted is not None and early[wanted]:
            early[wanted] -= 1
            to_meet[wanted] -= 1
            position += 1
        elif present is not None and late[present]:
            late[present] -= 1
            to_come[present] -= 1
            at += 1
        else:
            comes = wanted is not None and to_come[wanted] > late[wanted]
            meant = present is not None and to_meet[present] > early[present]
            in_step = signed[position + 1 : position + 2] == found[at + 1 : at + 2]
            kind = _kind(wanted, present, comes, meant, in_step)
            if kind is not None:
                yield Difference(kind, position, at)
            if kind == "moved" and wanted is not None and present is not None:
                late[wanted] += 1
                early[present] += 1
            if wanted is not None and kind != "extra":
                to_meet[wanted] -= 1
                position += 1
            if present is not None and kind != "missing":
                to_come[present] -= 1
                at += 1


def _kind(wanted: bytes | None, present: bytes | None, comes: bool, meant: bool, in_step: bool) -> Kind | None:
    """What two sums that stand at the same place mean; ``in_step``: the next two are equal again."""
    if wanted == present:
        return None
    if wanted is None:
        return "extra"
    if present is None:
        return "missing"
    if comes and meant:
        return "moved"
    if in_step or comes == meant:
        return "altered"
    return "extra" if comes else "missing"
