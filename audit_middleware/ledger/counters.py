"""Checks across records: counters, clock and signs of life of each process, and action ids that occur twice.

A record carries ``service.instance``, which names one process, and ``sequence``, which counts that process's records
from 0. The counters show records that were taken away *before* they reached the log, which no signature can. A writer
that does not know whether a commit succeeded sends it again: the same record, counter and all, then stands in the log
twice. That is a note, not an error.

Memory: 8 bytes per entry, 8 MiB for a bit map, and little per process.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec

from .report import Finding
from .state import Process

APART = 60
"""Seconds by which the records of two processes may be out of order before it is worth a note."""

_MINUTE, _TENS, _SECOND = 16, 18, 19  # characters of an RFC 3339 time up to the minute, the ten seconds, the second
_ALL_BITS = (1 << 64) - 1
_PLACES = 1 << 21  # words of 32 bits in the bit map


class _Service(msgspec.Struct, gc=False, frozen=True):
    instance: str = ""


class Facts(msgspec.Struct, gc=False, frozen=True):
    """What the checks need of a record. Entries of another shape have the defaults and are not checked here."""

    kind: str = ""
    action_id: str = ""
    recorded_at: str = ""
    sequence: int = -1
    service: _Service = _Service()


read_facts = msgspec.json.Decoder(Facts).decode


class Run(NamedTuple):
    """Records of one process, numbered through from ``first``, their times never going back."""

    instance: str
    first: int
    recorded_from: str
    recorded_to: str


class _Instance:
    """How far the records of one process have come."""

    __slots__ = ("apart", "index", "interval", "known", "longest", "next", "recorded_at", "stopped", "watched")

    def __init__(self, process: Process | None = None) -> None:
        process = process or Process(0)
        self.next = process.next
        self.known = process.next  # records before this one were not read: what repeats them cannot be compared
        self.recorded_at = process.recorded_at
        self.index = process.index
        self.interval = process.interval
        self.stopped = process.stopped
        self.apart = False  # its clock was found to differ from others'
        self.watched = ""  # records up to this time follow their predecessors soon enough
        self.longest: Silence | None = None  # before its first sign of life

    def process(self) -> Process:
        """What is remembered of it."""
        return Process(self.next, self.recorded_at, self.index, self.interval, self.stopped)


@dataclass(frozen=True, slots=True)
class Silence:
    """A process recorded nothing from one record to the next."""

    seconds: float
    start: str
    end: str
    index: int


class Counters:
    """Per process: sequence numbers dense from 0, ``recorded_at`` never going back, signs of life.

    Attributes:
        newest: The newest ``recorded_at`` of all.
        midway: Processes whose first record read is not their first: the beginning of the log was pruned.
        silences: How many were found.
    """

    def __init__(
        self, processes: Mapping[str, Process] | None = None, newest: str = "", *, pruned: bool = False
    ) -> None:
        """``processes``: what is remembered of them; ``pruned``: there were entries before the first one read."""
        self._instances = {name: _Instance(process) for name, process in (processes or {}).items()}
        self._pruned = pruned
        self._repeats: dict[int, str] = {}
        self.newest = newest
        self.midway = 0
        self.silences = 0

    def add(self, first: int, facts: Sequence[Facts | None]) -> Iterator[Finding]:
        """Takes the records of one frame and yields what is wrong with them."""
        run = getattr(facts, "run", None)
        if run is not None and self._follows(run):
            yield from self._take_run(first, run, len(facts))
            return
        name, state, last = None, _Instance(), first
        for index, fact in enumerate(facts, first):
            if fact is None or fact.sequence < 0:
                continue
            if fact.service.instance != name:
                self._leave(state, last)
                name = fact.service.instance
                known = self._instances.get(name)
                state = known if known is not None else self._begin(name, fact.sequence)
                yield from self._compare_clocks(index, name, state, fact.recorded_at)
            at = fact.recorded_at
            if fact.sequence == state.next and at >= state.recorded_at:
                if at > state.watched:
                    yield from self._watch(index, name, state, at)
                state.next += 1
                state.recorded_at = at
            else:
                yield from self._unexpected(index, fact, state)
            last = index
        self._leave(state, last)

    def skip(self, first: int, facts: Sequence[Facts | None]) -> None:
        """Moves on over records that are not trusted, so that those after them are not blamed.

        A frame comes from one process: most of its records say which, and what its first number was.
        """
        told = [(fact.service.instance, fact.sequence - at) for at, fact in enumerate(facts) if fact is not None]
        for (name, start), votes in Counter(told).most_common(1):
            if votes * 2 > len(facts):
                state = self._instances.get(name) or self._begin(name, start)
                state.next = max(state.next, start + len(facts))
                state.index = max(state.index, first + len(facts) - 1)
                return
        for _ in self.add(first, facts):
            pass
        for index in range(first, first + len(facts)):
            self._repeats.pop(index, None)

    def _leave(self, state: _Instance, last: int) -> None:
        state.index = last
        self.newest = max(self.newest, state.recorded_at)

    def _begin(self, name: str, sequence: int) -> _Instance:
        """A process that was not seen before. After a pruning, its first records may be among what is gone."""
        state = self._instances[name] = _Instance()
        if self._pruned and sequence:
            self.midway += 1
            state.next = state.known = sequence
        return state

    def _follows(self, run: Run) -> bool:
        """True if these records are what should come next of their process, with no silence between them."""
        state = self._instances.get(run.instance)
        if state is None:
            state = self._begin(run.instance, run.first)
        in_order = run.first == state.next and run.recorded_from >= state.recorded_at
        return in_order and run.recorded_to <= _soon(run.recorded_from, state.interval)

    def _take_run(self, first: int, run: Run, count: int) -> Iterator[Finding]:
        """Moves on over records of which `_follows` is true."""
        state = self._instances[run.instance]
        yield from self._compare_clocks(first, run.instance, state, run.recorded_from)
        if run.recorded_from > state.watched:
            yield from self._watch(first, run.instance, state, run.recorded_from)
        state.next += count
        state.recorded_at = run.recorded_to
        self._leave(state, first + count - 1)

    def _unexpected(self, index: int, fact: Facts, state: _Instance) -> Iterator[Finding]:
        name, sequence = fact.service.instance, fact.sequence
        if sequence < state.known:
            text = f"process {name}: sequence {sequence} again; its first record of that number was not read this time"
            yield Finding(9, "repeated", index, text, level="note")
            return
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

    def _compare_clocks(self, index: int, name: str, state: _Instance, at: str) -> Iterator[Finding]:
        """Between processes the log's order is not that of time, but nearly so."""
        if state.apart or at < state.recorded_at or at[:_MINUTE] >= self.newest[:_MINUTE]:
            return
        behind = _seconds_between(at, self.newest)
        if behind > APART:
            state.apart = True
            text = f"process {name}: recorded at {at}, {behind:.0f} s before what other processes recorded earlier"
            yield Finding(8, "clock", index, text, level="note")

    # --- signs of life -------------------------------------------------------------------------------------------

    def promise(self, name: str, interval: int) -> Iterator[Finding]:
        """A process gave a sign of life and says how often it will. Yields a silence before its first one."""
        state = self._instances.get(name)
        if state is None:
            return
        state.interval = interval
        state.watched = _soon(state.recorded_at, interval)
        before, state.longest = state.longest, None
        if before is not None and before.seconds > _allowed(interval):
            yield self._silence(name, interval, before)

    def stop(self, name: str) -> None:
        """A process said that it stops."""
        if name in self._instances:
            self._instances[name].stopped = True

    def _watch(self, index: int, name: str, state: _Instance, at: str) -> Iterator[Finding]:
        state.watched = _soon(at, state.interval)
        if not state.recorded_at:
            return
        silence = Silence(_seconds_between(state.recorded_at, at), state.recorded_at, at, index)
        if not state.interval:
            if state.longest is None or silence.seconds > state.longest.seconds:
                state.longest = silence
        elif silence.seconds > _allowed(state.interval) and not state.stopped:
            yield self._silence(name, state.interval, silence)

    def _silence(self, name: str, interval: int, silence: Silence) -> Finding:
        self.silences += 1
        text = f"process {name}: silence from {silence.start} to {silence.end}, at most {interval} s were promised"
        return Finding(13, "silent", silence.index, text, level="note")

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self, repeated: dict[int, int]) -> Iterator[Finding]:
        """Yields counters that were used again by records that are no repetitions, and processes that fell silent."""
        for index, text in self._repeats.items():
            if index not in repeated:
                yield Finding(7, "malformed", index, text)
        for name, state in self._instances.items():
            if state.stopped or not state.interval:
                continue
            if _seconds_between(state.recorded_at, self.newest) > _allowed(state.interval):
                self.silences += 1
                text = f"process {name}: nothing after {state.recorded_at}, and it did not say that it stopped"
                yield Finding(13, "silent", state.index, text, level="note")

    def processes(self) -> dict[str, Process]:
        """What to remember of each."""
        return {name: state.process() for name, state in self._instances.items()}


def _allowed(interval: int) -> int:
    """The longest silence that is none, in seconds: one sign of life may be late, and a little more."""
    return 2 * interval + 5


def _soon(at: str, interval: int) -> str:
    """A text that is not before any time that follows ``at`` so soon that it need not be looked at.

    To compare two texts costs a fraction of computing the difference of two times.
    """
    allowed = _allowed(interval) if interval else 60
    return at[: _SECOND if allowed < 10 else _TENS if allowed < 60 else _MINUTE] + "~"


def _seconds_between(start: str, end: str) -> float:
    """Seconds from one RFC 3339 time to another; 0 if one of them is none: then the check of entries says so."""
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return 0.0


class ActionIds:
    """Finds action ids that occur more than once, exactly, in 8 bytes per entry.

    Keeps the last 64 bits of each id (in a UUIDv7 62 of them are random) and a bit map that rules out almost all
    that occur once; only the rest is looked at again in the end. An id has two bits in the map, as in a Bloom filter,
    both in one word: of 5 million random ids 1 % find both taken by others; with one bit each it would be 4 %.
    """

    def __init__(self) -> None:
        """No id was seen yet."""
        self._ids = array("Q")  # 0 for an entry without id
        self._starts: list[tuple[int, int]] = []  # from this position in _ids on, the log indexes start here
        self._next = -1
        self._map = array("I")  # made with the first id
        self._suspects = array("Q")  # a set of so many numbers would take ten times as much

    def add(self, first: int, facts: Sequence[Facts | None]) -> None:
        """Takes the ids of one frame."""
        if first != self._next:
            self._starts.append((len(self._ids), first))
        self._next = first + len(facts)
        # A frame that was summed up where it was read has them ready; see `told.Told`.
        values = getattr(facts, "ids", None) or [0 if fact is None else last_bits(fact.action_id) for fact in facts]
        self._ids.extend(values)
        if not self._map and any(values):
            self._map = array("I", bytes(4)) * _PLACES
        seen, suspects, last = self._map, self._suspects, _PLACES - 1
        for value in values if seen else ():
            place, bits = value & last, 1 << (value >> 21 & 31) | 1 << (value >> 26 & 31)
            taken = seen[place]
            if taken & bits != bits:
                seen[place] = taken | bits
            elif value:
                suspects.append(value)

    def repeated(self) -> dict[int, int]:
        """Returns, for each entry whose id stands in the log before it, the index of the first with that id.

        Called once, when all were seen: the bit map is let go, as what is made of the suspects takes room in its turn.
        """
        self._map = array("I")
        suspects = {*self._suspects}
        unseen, again = {*suspects}, set[int]()
        for value in self._ids if suspects else ():
            if value in unseen:
                unseen.remove(value)
            elif value in suspects:
                again.add(value)
        return self._pairs(again)

    def _pairs(self, again: set[int]) -> dict[int, int]:
        firsts, result = dict[int, int](), dict[int, int]()
        for position, value in enumerate(self._ids if again else ()):
            if value in again:
                index = self._index_of(position)
                first = firsts.setdefault(value, index)
                if first != index:
                    result[index] = first
        return result

    def _index_of(self, position: int) -> int:
        start, index = self._starts[bisect_right(self._starts, (position, 1 << 63)) - 1]
        return index + position - start


def last_bits(action_id: str) -> int:
    """Returns the last 64 bits of an action id; 0 for what is none."""
    if len(action_id) != 36:
        return 0
    try:
        return int(action_id[19:23] + action_id[24:], 16) & _ALL_BITS
    except ValueError:
        return 0
