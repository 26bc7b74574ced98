"""What is remembered of each group, bounded, and the correlations over it.

Time is what records say, in microseconds, and may go back a little between processes: what is more than a span away,
before or after, is outside of a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from ..model import Json
from .fields import Field, View
from .finding import MAX_EVIDENCE
from .model import Correlation
from .values import text_of

__all__ = ["CORRELATIONS", "MAX_GROUPS", "Event", "Group", "Grouping", "Groups", "Hit", "Mark", "State", "Watch"]

MAX_GROUPS = 10_000
"""Groups that one rule remembers; beyond, those whose last record is longest ago are forgotten."""

_LONGEST = 256  # characters of a value in a group
Group = tuple[str, ...]
T = TypeVar("T")


class Mark(NamedTuple):
    """An entry of the log: its index, and its time."""

    at: int
    time: int


class Event(NamedTuple):
    """One record at its turn, of this index. ``begun``: time of the first one of all; ``whole``: that was entry 0."""

    at: int
    time: int
    view: View
    begun: int
    whole: bool
    mark: Mark


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule holds at a record.

    ``evidence`` may be what a window holds, and changes with the next record. ``count``: if there is more of it.
    """

    group: Group
    evidence: Collection[Mark]
    observed: int = 1
    baseline: Mapping[str, Json] = field(default_factory=dict)
    window: int = 0
    count: int = 0


class Watch(Protocol):
    """Looks for something among the records that a detection selects, a group at a time."""

    groups: Groups[Any]

    def feed(self, event: Event, group: Group) -> Sequence[Hit]:
        """Takes one record."""
        ...

    def dump(self) -> Json:
        """All that is remembered, as JSON."""
        ...

    def load(self, data: Any) -> None:
        """Takes back what `dump` gave."""
        ...


class State(Protocol):
    """A correlation at work."""

    groups: Groups[Any]

    def feed(self, event: Event, hits: Mapping[str, Hit]) -> Hit | None:
        """Takes what its rules found at one record."""
        ...

    def dump(self) -> Json:
        """All that is remembered, as JSON."""
        ...

    def load(self, data: Any) -> None:
        """Takes back what `dump` gave."""
        ...


class Groups(Generic[T]):
    """Something for each group, in the order of their last records; ``evicted`` counts those that were forgotten."""

    def __init__(self, most: int = MAX_GROUPS) -> None:
        self._kept: dict[Group, T] = {}
        self._most = most
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, group: Group) -> T | None:
        """What is there, left in its place."""
        return self._kept.get(group)

    def put(self, group: Group, value: T) -> None:
        """Makes it the last one."""
        self._kept.pop(group, None)
        self._kept[group] = value
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
            self.evicted += 1

    def drop(self, group: Group) -> None:
        """Forgets one that is over."""
        self._kept.pop(group, None)

    def oldest(self) -> tuple[Group, T] | None:
        """Whose last record is longest ago."""
        return next(iter(self._kept.items()), None)

    def __iter__(self) -> Iterator[tuple[Group, T]]:
        return iter(self._kept.items())

    def dump(self, value: Any) -> Json:
        """As JSON; ``value`` makes JSON of one."""
        return {"evicted": self.evicted, "kept": [[list(group), value(one)] for group, one in self._kept.items()]}

    def load(self, data: Any, value: Any) -> None:
        """From JSON; ``value`` makes one of JSON."""
        self.evicted = int(data["evicted"])
        self._kept = {tuple(group): value(one) for group, one in data["kept"]}


class Grouping:
    """The fields that make a group."""

    __slots__ = ("_fields", "_names")

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = tuple(fields)
        self._names = tuple(one.name for one in fields)

    def of(self, view: View) -> Group | None:
        """Their values; ``None`` where one of them is absent or no single value. Found once for each record."""
        try:
            return view.groups[self._names]
        except KeyError:
            found = [short(one.get(view)) for one in self._fields]
            group = None if None in found else tuple(text for text in found if text is not None)
            view.groups[self._names] = group
            return group


def short(value: Any) -> str | None:
    """A single value as text that can be kept; a long one is cut, and known by its hash."""
    text = text_of(value)
    if text is None or (len(text) <= _LONGEST and text.isascii()):
        return text
    data = text.encode("utf-8", "replace")  # a lone surrogate would not come back from a snapshot
    text = data.decode()
    return text if len(text) <= _LONGEST else f"{text[:192]}…{sha256(data).hexdigest()[:32]}"


def within(now: int, then: int, span: int) -> bool:
    """Whether two times are so near each other."""
    return -span < now - then < span


def listed(evidence: Iterable[Mark]) -> tuple[Mark, ...]:
    """At most `MAX_EVIDENCE`: the first, and the last ones."""
    found = tuple(evidence)
    return found if len(found) <= MAX_EVIDENCE else (found[0], *found[len(found) - MAX_EVIDENCE + 1 :])


def marks(data: Any) -> list[Mark]:
    """From JSON."""
    return [Mark(int(index), int(time)) for index, time in data]


# --- correlations ----------------------------------------------------------------------------------------------------


class _Correlated:
    def __init__(self, rule: Correlation) -> None:
        self._rule = rule
        self._inputs = [(one, Grouping(one.group_by)) for one in rule.inputs]
        self._span = rule.span

    def _matched(self, event: Event, hits: Mapping[str, Hit]) -> list[tuple[int, Group, Hit]]:
        """The rules that hold at this record, by their position, with the group that they hold for."""
        found = []
        for position, (one, grouping) in enumerate(self._inputs):
            hit = hits.get(one.rule)
            if hit is None:
                continue
            if one.positions is None:
                group = grouping.of(event.view)
            else:
                group = tuple(hit.group[position] for position in one.positions)
            if group is not None:
                found.append((position, group, hit))
        return found

    def _forget(self, groups: Groups[Any], now: int, last: Any) -> None:
        """Groups without a record in the window are over."""
        while (oldest := groups.oldest()) is not None and now - last(oldest[1]) >= self._span:
            groups.drop(oldest[0])

    def _holds(self, count: int) -> bool:
        compare, limit = self._rule.compare, self._rule.limit
        if compare == "gte":
            return count >= limit
        if compare == "gt":
            return count > limit
        if compare == "lte":
            return count <= limit
        return count < limit if compare == "lt" else count == limit


class EventCount(_Correlated):
    """So many records in a window. More than ``limit + 1`` are not told apart."""

    def __init__(self, rule: Correlation) -> None:
        super().__init__(rule)
        self.groups: Groups[deque[Mark]] = Groups()

    def feed(self, event: Event, hits: Mapping[str, Hit]) -> Hit | None:
        """A record that satisfies several of the rules counts once."""
        matched = self._matched(event, hits)
        if not matched:
            return None
        group = matched[0][1]
        now, span = event.time, self._span
        self._forget(self.groups, now, lambda window: window[-1].time)
        window = self.groups.get(group)
        if window is None:
            window = deque(maxlen=self._rule.limit + 1)
        while window and not within(now, window[0].time, span):
            window.popleft()
        window.append(event.mark)
        self.groups.put(group, window)
        if not self._holds(len(window)):
            return None
        return Hit(group, window, len(window), {"limit": self._rule.limit}, span)

    def dump(self) -> Json:
        """Windows by group."""
        return self.groups.dump(list)

    def load(self, data: Any) -> None:
        """Windows by group."""
        self.groups.load(data, lambda window: deque(marks(window), maxlen=self._rule.limit + 1))


class ValueCount(_Correlated):
    """So many different values in a window. More than ``limit + 1`` are not told apart."""

    def __init__(self, rule: Correlation) -> None:
        super().__init__(rule)
        self.groups: Groups[dict[str, Mark]] = Groups()

    def feed(self, event: Event, hits: Mapping[str, Hit]) -> Hit | None:
        """A record without the field counts for nothing."""
        matched = self._matched(event, hits)
        if not matched:
            return None
        at, group, _ = matched[0]
        counted = self._rule.inputs[at].value
        value = None if counted is None else short(counted.get(event.view))
        if value is None:
            return None
        now, span = event.time, self._span
        self._forget(self.groups, now, lambda values: next(reversed(values.values())).time)
        values = self.groups.get(group) or {}
        values.pop(value, None)
        while values and not within(now, next(iter(values.values())).time, span):
            del values[next(iter(values))]
        if len(values) > self._rule.limit:
            del values[next(iter(values))]
        values[value] = event.mark
        self.groups.put(group, values)
        if not self._holds(len(values)):
            return None
        return Hit(group, values.values(), len(values), {"limit": self._rule.limit}, span)

    def dump(self) -> Json:
        """Last places of values by group."""
        return self.groups.dump(lambda values: [[value, *mark] for value, mark in values.items()])

    def load(self, data: Any) -> None:
        """Last places of values by group."""
        self.groups.load(data, lambda values: {value: Mark(index, time) for value, index, time in values})


Step = tuple[Mark, ...]


class Temporal(_Correlated):
    """All rules in a window, in any order."""

    def __init__(self, rule: Correlation) -> None:
        super().__init__(rule)
        self.groups: Groups[list[Step]] = Groups()

    def feed(self, event: Event, hits: Mapping[str, Hit]) -> Hit | None:
        """Of each rule the last match is remembered."""
        held = None
        matched = self._matched(event, hits)
        for group in dict.fromkeys(group for _, group, _ in matched):
            self._forget(self.groups, event.time, _newest)
            steps = list(self.groups.get(group) or [()] * len(self._rule.inputs))
            if not self._advance(steps, {at: hit for at, one, hit in matched if one == group}):
                continue
            self.groups.put(group, steps)
            evidence = self._complete(steps, event)
            if evidence and held is None:
                held = Hit(group, evidence, len(steps), {"limit": len(steps)}, self._span)
        return held

    def _advance(self, steps: list[Step], matched: Mapping[int, Hit]) -> bool:
        """Takes what matched; returns whether any of it is a step."""
        for at, hit in matched.items():
            steps[at] = listed(hit.evidence)
        return True

    def _complete(self, steps: Sequence[Step], event: Event) -> tuple[Mark, ...]:
        """The evidence, if all steps were made in the window."""
        if not all(step and within(event.time, step[-1].time, self._span) for step in steps):
            return ()
        return tuple(sorted({mark for step in steps for mark in step}))

    def dump(self) -> Json:
        """Steps by group."""
        return self.groups.dump(lambda steps: [list(step) for step in steps])

    def load(self, data: Any) -> None:
        """Steps by group."""
        self.groups.load(data, lambda steps: [tuple(marks(step)) for step in steps])


class TemporalOrdered(Temporal):
    """All rules in a window, in their order, each by a record of its own.

    A step holds the evidence of those before it; its first mark is the match of the first rule, its last one its own.
    """

    def _advance(self, steps: list[Step], matched: Mapping[int, Hit]) -> bool:
        made = False
        for at in sorted(matched, reverse=True):  # no record is two steps
            evidence = listed(matched[at].evidence)
            now = evidence[-1]
            before = steps[at - 1] if at else (now,)
            if before and within(now.time, before[0].time, self._span):
                between = sorted({*before[1:], *evidence} - {now})
                steps[at] = (before[0], *listed(between), now)
                made = True
        return made

    def _complete(self, steps: Sequence[Step], event: Event) -> tuple[Mark, ...]:
        last = steps[-1]
        if not last or last[-1].at != event.at or not within(event.time, last[0].time, self._span):
            return ()
        return tuple(sorted(set(last)))


def _newest(steps: Sequence[Step]) -> int:
    return max(step[-1].time for step in steps if step)


CORRELATIONS: Final[Mapping[str, Callable[[Correlation], State]]] = {
    "event_count": EventCount,
    "value_count": ValueCount,
    "temporal": Temporal,
    "temporal_ordered": TemporalOrdered,
}
