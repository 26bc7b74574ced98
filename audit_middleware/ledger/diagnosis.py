"""Naming the cause: what was done to a frame whose entries do not lead to its signed root.

A root says *that* something is wrong, not what. The commit keeps a short sum of each entry, and comparing those with
what stands there names every entry concerned. Sums are a hint, which whoever altered entries can alter as well: where
what they say can be undone (entries exchanged or added), it must lead to the signed root, else they are not believed.

Without sums that help, the possible changes are undone one at a time; the undoing that leads to the signed root is
proof of the cause and of its place. Where nothing can be undone (an entry that is gone or overwritten cannot be brought
back), the records' own counters and form give the most likely answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from ..errors import RecordError
from . import canonical
from .alignment import Difference, differences, split
from .counters import Facts
from .report import Cause
from .tree import SUM_SIZE, sums

_PAIRS = 64
"""Up to so many entries every pair is exchanged; beyond, only neighbours and what the counters suggest."""

_TRIES = 256

Diagnosis = tuple[Cause, int, str]
"""Cause, position in the frame as it was signed, words."""


def diagnose(
    entries: Sequence[bytes],
    leaves: Sequence[bytes],
    facts: Sequence[Facts | None],
    count: int,
    hint: int | None,
    leads_to_root: Callable[[Sequence[bytes]], bool],
    kept: bytes = b"",
) -> list[Diagnosis]:
    """Returns what most likely happened to a frame that was signed with ``count`` entries; at least one answer.

    Args:
        entries: What stands there now.
        leaves: Their leaf hashes.
        facts: What they say of themselves; ``None`` for what is no JSON.
        count: How many entries the commit line counts.
        hint: Position of the first entry that is no valid record.
        leads_to_root: Whether a list of leaf hashes leads to the signed root.
        kept: The commit's sums of its entries, if there are any.
    """
    named = _by_sums(leaves, kept, leads_to_root) if len(kept) == count * SUM_SIZE else []
    return named or [_by_likelihood(entries, leaves, facts, count, hint, leads_to_root)]


def _by_sums(leaves: Sequence[bytes], kept: bytes, leads_to_root: Callable[[Sequence[bytes]], bool]) -> list[Diagnosis]:
    """What the sums say; nothing, if they fit what stands there, or if undoing what they say does not help."""
    signed = split(kept)
    found = list(differences(signed, split(sums(leaves))))
    kinds = {difference.kind for difference in found}
    if kinds <= {"extra", "moved"}:
        by_sum = {leaf[:SUM_SIZE]: leaf for leaf in leaves}
        if not found or not leads_to_root([by_sum[one] for one in signed]):
            return []
    if kinds == {"moved"}:
        return [("reordered", found[0].position, "in the signed order the entries lead to the signed root")]
    counted = Counter(leaves)
    return [_named(difference, leaves, counted) for difference in found]


def _named(difference: Difference, leaves: Sequence[bytes], counted: Counter[bytes]) -> Diagnosis:
    kind, position, at = difference
    if kind == "altered":
        return "altered", position, "the entry is not what was signed, by its sum in the commit line"
    if kind == "missing":
        return "missing", position, "the entry is gone, by the sums in the commit line"
    if kind == "moved":
        return "reordered", position, "another entry of this commit stands in its place, by the sums in the commit line"
    if counted[leaves[at]] > 1:
        return "duplicated", position, "the entry stands there more than once"
    return "altered", position, "an entry was inserted, which has no sum in the commit line"


def _by_likelihood(
    entries: Sequence[bytes],
    leaves: Sequence[bytes],
    facts: Sequence[Facts | None],
    count: int,
    hint: int | None,
    leads_to_root: Callable[[Sequence[bytes]], bool],
) -> Diagnosis:
    if len(entries) > count:
        return _too_many(leaves, facts, count, leads_to_root)
    garbled = _first_garbled(entries)
    if garbled is not None:
        return "altered", garbled, "the entry is no canonical JSON"
    if len(entries) < count:
        return _too_few(facts, count - len(entries))
    for order in _orders(facts, len(entries)):
        if leads_to_root([leaves[position] for position in order]):
            return "reordered", _first_moved(order), "in the signed order the entries lead to the signed root"
    if hint is not None:
        return "altered", hint, "the entry is no valid record"
    position = _first_break(facts)
    if position is not None:
        return "altered", position, "the entry does not fit its neighbours' counters"
    if count == 1:
        return "altered", 0, "the entry is not what was signed"
    return "altered", 0, f"one or more of the {count} entries of this commit were altered; the root does not tell which"


def _too_many(
    leaves: Sequence[bytes],
    facts: Sequence[Facts | None],
    count: int,
    leads_to_root: Callable[[Sequence[bytes]], bool],
) -> Diagnosis:
    seen: set[bytes] = set()
    copies = []
    for position, leaf in enumerate(leaves):
        if leaf in seen:
            copies.append(position)
        seen.add(leaf)
    extra = len(leaves) - count
    if len(copies) == extra:
        return "duplicated", copies[0], "the entry stands there more than once"
    if extra == 1:
        suspect = _first_break(facts) or 0
        everywhere = range(len(leaves)) if len(leaves) <= _TRIES else range(0)
        for position in (suspect, max(0, suspect - 1), *everywhere):
            if leads_to_root([*leaves[:position], *leaves[position + 1 :]]):
                return "altered", position, "an entry was inserted; without it the root is the signed one"
    return "altered", copies[0] if copies else 0, f"{extra} entries more than were signed"


def _too_few(facts: Sequence[Facts | None], gone: int) -> Diagnosis:
    position = _first_break(facts)
    if position is None:
        return "missing", 0, f"{gone} entries of this commit are gone; which ones the root does not tell"
    return "missing", position, f"{gone} entries of this commit are gone, by the counters of the others from here on"


def _first_garbled(entries: Sequence[bytes]) -> int | None:
    for position, entry in enumerate(entries):
        try:
            canonical.decode(entry)
        except RecordError:
            return position
    return None


def _orders(facts: Sequence[Facts | None], count: int) -> Iterator[list[int]]:
    """Orders in which the entries may have been signed, most likely first."""
    if all(fact is not None and fact.sequence >= 0 for fact in facts):
        numbers = [fact.sequence for fact in facts if fact is not None]
        yield sorted(range(count), key=numbers.__getitem__)
    for left in range(count if count <= _PAIRS else 0):
        for right in range(left + 1, count):
            order = list(range(count))
            order[left], order[right] = right, left
            yield order


def _first_moved(order: Sequence[int]) -> int:
    return next((position for position, origin in enumerate(order) if position != origin), 0)


def _first_break(facts: Sequence[Facts | None]) -> int | None:
    """The first position whose counter does not follow the one before it. A frame comes from one process."""
    before: Facts | None = None
    for position, fact in enumerate(facts):
        if fact is None:
            return position
        if before is not None and fact.sequence >= 0 and fact.sequence != before.sequence + 1:
            return position
        before = fact
    return None
