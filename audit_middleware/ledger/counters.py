"""Checks across records: the counters of each process, and action ids that occur twice.

A record carries ``service.instance``, which names one process, and ``sequence``, which counts that process's records
from 0. The counters show records that were taken away *before* they reached the log, which no signature can. A writer
that does not know whether a commit succeeded sends it again: the same record, counter and all, then stands in the log
twice. That is a note, not an error.

Memory: 8 bytes per entry, 16 MiB for a bit map, and little per process.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import msgspec

from .report import Finding

_PLACES = (1 << 24) - 1  # bytes of the bit map, less one


class _Service(msgspec.Struct, gc=False, frozen=True):
    instance: str = ""


class Facts(msgspec.Struct, gc=False, frozen=True):
    """What the checks need of a record. Entries of another shape have the defaults and are not checked here."""

    action_id: str = ""
    recorded_at: str = ""
    sequence: int = -1
    service: _Service = _Service()


read_facts = msgspec.json.Decoder(Facts).decode


class _Instance:
    """How far the records of one process have come."""

    __slots__ = ("next", "recorded_at")

    def __init__(self) -> None:
        self.next = 0
        self.recorded_at = ""


class Counters:
    """Per process: sequence numbers dense from 0, ``recorded_at`` never going back."""

    def __init__(self) -> None:
        """No process was seen yet."""
        self._instances: dict[str, _Instance] = {}
        self._repeats: dict[int, str] = {}

    def add(self, first: int, facts: Sequence[Facts | None]) -> Iterator[Finding]:
        """Takes the records of one frame and yields what is wrong with them."""
        name, state = None, _Instance()
        for index, fact in enumerate(facts, first):
            if fact is None or fact.sequence < 0:
                continue
            if fact.service.instance != name:
                name = fact.service.instance
                state = self._instances.setdefault(name, _Instance())
            if fact.sequence == state.next and fact.recorded_at >= state.recorded_at:
                state.next += 1
                state.recorded_at = fact.recorded_at
            else:
                yield from self._unexpected(index, fact, state)

    def _unexpected(self, index: int, fact: Facts, state: _Instance) -> Iterator[Finding]:
        name, sequence = fact.service.instance, fact.sequence
        if sequence < state.next:
            # Allowed if it is a record that is there already; which is known when all action ids were seen.
            self._repeats[index] = f"process {name} used sequence {sequence} again, for another record"
            return
        if sequence > state.next:
            text = f"process {name}: records {state.next} to {sequence - 1} are not in the log before record {sequence}"
            yield Finding(7, "missing", index, text)
        if fact.recorded_at < state.recorded_at:
            yield Finding(8, "malformed", index, f"process {name}: recorded_at goes back to {fact.recorded_at}")
        state.next = sequence + 1
        state.recorded_at = max(state.recorded_at, fact.recorded_at)

    def finish(self, repeated: dict[int, int]) -> Iterator[Finding]:
        """Yields counters that were used again by records that are no repetitions."""
        for index, text in self._repeats.items():
            if index not in repeated:
                yield Finding(7, "malformed", index, text)


class ActionIds:
    """Finds action ids that occur more than once, exactly, in 8 bytes per entry.

    Keeps the last 64 bits of each id (in a UUIDv7 62 of them are random) and a bit map that rules out almost all
    that occur once; only the rest is looked at again in the end.
    """

    def __init__(self) -> None:
        """No id was seen yet."""
        self._ids = array("Q")  # 0 for an entry without id
        self._starts: list[tuple[int, int]] = []  # from this position in _ids on, the log indexes start here
        self._next = -1
        self._map = bytearray()  # made with the first id
        self._suspects: set[int] = set()

    def add(self, first: int, facts: Sequence[Facts | None]) -> None:
        """Takes the ids of one frame."""
        if first != self._next:
            self._starts.append((len(self._ids), first))
        self._next = first + len(facts)
        values = [_last_bits(fact) for fact in facts]
        self._ids.extend(values)
        if not self._map and any(values):
            self._map = bytearray(_PLACES + 1)
        seen, suspects = self._map, self._suspects
        for value in values if seen else ():
            place, bit = (value >> 3) & _PLACES, 1 << (value & 7)
            if seen[place] & bit:
                suspects.add(value)
            else:
                seen[place] |= bit

    def repeated(self) -> dict[int, int]:
        """Returns, for each entry whose id stands in the log before it, the index of the first with that id."""
        suspects, firsts, result = self._suspects - {0}, dict[int, int](), dict[int, int]()
        if not suspects:
            return result
        for position, value in enumerate(self._ids):
            if value in suspects:
                index = self._index_of(position)
                first = firsts.setdefault(value, index)
                if first != index:
                    result[index] = first
        return result

    def _index_of(self, position: int) -> int:
        start, index = self._starts[bisect_right(self._starts, (position, 1 << 63)) - 1]
        return index + position - start


def _last_bits(fact: Facts | None) -> int:
    if fact is None or len(fact.action_id) != 36:
        return 0
    try:
        return int(fact.action_id[19:23] + fact.action_id[24:], 16)
    except ValueError:
        return 0
