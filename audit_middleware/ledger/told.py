"""What the records of one frame tell of themselves, kept small: for the checks that look across frames.

Nearly always the records of a frame come from one process and are numbered through: then a few values say all there is
to say of the frame, and one number per entry of its action ids. Only where that is not so are the entries read again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, overload

import msgspec

from .canonical import MAX_INTEGER
from .controls import Control, read_controls
from .counters import Facts, Run, last_bits, read_facts

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Told(Sequence["Facts | None"]):
    """The facts of each entry, read when they are asked for.

    Attributes:
        run: What is true of all of them, if it is.
        ids: The last 64 bits of each action id, as `ActionIds` keeps them.
    """

    __slots__ = ("_entries", "ids", "run")

    def __init__(self, entries: Sequence[bytes], run: Run | None, ids: array[int]) -> None:
        """Takes what `collect` found out about these entries, here or in another process."""
        self._entries = entries
        self.run = run
        self.ids = ids

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, position: int) -> Facts | None: ...
    @overload
    def __getitem__(self, position: slice) -> list[Facts | None]: ...
    def __getitem__(self, position: int | slice) -> Facts | list[Facts | None] | None:
        if isinstance(position, slice):
            return [facts_of(entry) for entry in self._entries[position]]
        return facts_of(self._entries[position])

    def __iter__(self) -> Iterator[Facts | None]:
        return map(facts_of, self._entries)


def facts_of(entry: bytes) -> Facts | None:
    """Returns what an entry says of itself; ``None`` if it is no JSON."""
    try:
        return read_facts(entry)
    except msgspec.ValidationError:
        return Facts()  # JSON, but no record of ours
    except _UNREADABLE:
        return None


class Collector:
    """Takes the facts of a frame's entries one by one; a record that was decoded already serves as well."""

    def __init__(self) -> None:
        """No entry was seen yet."""
        self._ids = array("Q")
        self._times: list[str] = []
        self._sequences: list[int] = []
        self._instances: list[str] = []
        self._controls: list[int] = []

    def add(self, fact: Any) -> None:
        """Takes a `Facts`, whatever has the same members, or ``None``."""
        if fact is None:
            fact = _NOTHING
        if fact.kind == "control":
            self._controls.append(len(self._ids))
        self._ids.append(last_bits(fact.action_id))
        self._times.append(fact.recorded_at)
        self._sequences.append(fact.sequence)
        self._instances.append(fact.service.instance)

    def extend(self, records: Sequence[Any]) -> None:
        """Takes what has the members of `Facts`, all at once. Their action ids are UUIDs, as the schema demands."""
        kinds = [record.kind for record in records]
        if "control" in kinds:
            first = len(self._ids)
            self._controls += [position for position, kind in enumerate(kinds, first) if kind == "control"]
        self._ids += _all_last_bits([record.action_id for record in records])
        self._times += [record.recorded_at for record in records]
        self._sequences += [record.sequence for record in records]
        self._instances += [record.service.instance for record in records]

    def told(self, entries: Sequence[bytes]) -> Told:
        """Returns what there is to say of these entries, all of which were added."""
        return Told(entries, self._run(), self._ids)

    def controls(self, entries: Sequence[bytes]) -> tuple[Control, ...]:
        """Returns those of these entries that are about the log itself."""
        return read_controls(entries, self._controls)

    def _run(self) -> Run | None:
        sequences, times = self._sequences, self._times
        if (
            not sequences
            or not 0 <= sequences[0] <= MAX_INTEGER
            or self._instances.count(self._instances[0]) != len(sequences)
        ):
            return None
        if sequences != list(range(sequences[0], sequences[0] + len(sequences))) or times != sorted(times):
            return None
        return Run(self._instances[0], sequences[0], times[0], times[-1])


_NOTHING = Facts()


def _all_last_bits(ids: Sequence[str]) -> array[int]:
    """`last_bits` of each of these UUIDs, in one go."""
    halves = array("Q", bytes.fromhex("".join(ids).replace("-", "")))
    halves.byteswap()
    return halves[1::2]
