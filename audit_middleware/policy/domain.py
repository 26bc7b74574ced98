"""Which values an attribute can have, given how comparisons on it come out: `value_for`.

The values are walked kind by kind (missing, boolean, number, text, time, list, anything else). Within a kind only so
many values differ for the comparisons at hand: for numbers the operands, and one number in each gap between them; for
addresses the ends of the networks; for times of day the ends of the windows. Those few are tried.

What is not decided here counts as possible: what a pattern matches, how two attributes compare (`same_as`), times of
day in different zones, and several of these at once. So ``None`` is a proof and a value is a suggestion, which whoever
wants to show it evaluates first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

from ..errors import ConditionError
from ..model import Resource, Subject
from .attributes import Test, kind
from .conditions import Compare
from .operators import OPERATORS, address_range

__all__ = ["ANY_OUTCOME", "ERROR", "FALSE", "MISSING", "TRUE", "Known", "value_for"]

TRUE, FALSE, ERROR = 1, 2, 4
ANY_OUTCOME = TRUE | FALSE | ERROR


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Any = _Missing()
NEVER_MISSING = frozenset({"subject.id"})  # the only attribute whose reading cannot fail
_MORNING = datetime(2026, 3, 2, tzinfo=UTC)
_EQUALITY = ("equals", "not_equals", "in", "not_in")
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "lt": lambda value, limit: value < limit,
    "lte": lambda value, limit: value <= limit,
    "gt": lambda value, limit: value > limit,
    "gte": lambda value, limit: value >= limit,
}


@dataclass(frozen=True, slots=True)
class Known:
    """A comparison whose outcome is among ``mask``."""

    leaf: Compare
    mask: int


def value_for(path: str, known: Sequence[Known]) -> Any | None:
    """A value (or `MISSING`) of ``path`` for which everything known may hold; ``None``: there is provably none.

    ``known`` may hold ``same_as`` comparisons that read ``path`` as their other side.
    """
    for values in (_missing, _texts, _numbers, _booleans, _times, _lists, _others):
        for value in values(path, known):
            return value
    return None


def _all(known: Iterable[Known], possible: Callable[[Compare], int]) -> bool:
    """Whether each comparison can have an outcome it is allowed, if ``possible`` are those it can have."""
    return all(possible(one.leaf) & one.mask for one in known)


def _holds(value: bool) -> int:
    return TRUE if value else FALSE


def _kind(values: Any) -> str:
    return kind(values[0] if isinstance(values, tuple) else values, "")


# --- one value ---------------------------------------------------------------------------------------------------


def _exactly(path: str, leaf: Compare, value: Any) -> int:
    """The outcome of a comparison for one value; both outcomes and an error where another attribute matters."""
    if leaf.operator == "same_as":
        return ANY_OUTCOME if leaf.path != leaf.operand else TRUE
    test = OPERATORS[leaf.operator].make(_itself, path, leaf.operand)
    return _outcome(test, value)


def _itself(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Any:
    return context


def _outcome(test: Test, value: Any) -> int:
    try:
        return _holds(test(None, None, value))  # type: ignore[arg-type] # only what `_itself` reads is needed
    except ConditionError:
        return ERROR


def _missing(path: str, known: Sequence[Known]) -> Iterator[Any]:
    def possible(leaf: Compare) -> int:
        return _holds(leaf.operand is False) if leaf.operator == "exists" else ERROR

    if path not in NEVER_MISSING and _all(known, possible):
        yield MISSING


def _booleans(path: str, known: Sequence[Known]) -> Iterator[Any]:
    for value in (True, False):
        if _all(known, lambda leaf, value=value: _exactly(path, leaf, value)):  # type: ignore[misc]
            yield value


def _others(path: str, known: Sequence[Known]) -> Iterator[Any]:
    """A mapping, NaN, an object of the application: no operator but ``exists`` takes it."""
    if _all(known, lambda leaf: _holds(leaf.operand is True) if leaf.operator == "exists" else ERROR):
        yield {}


# --- numbers -----------------------------------------------------------------------------------------------------


def _numbers(path: str, known: Sequence[Known]) -> Iterator[Any]:
    clocks = [one for one in known if one.leaf.operator == "between"]
    if not _clock_possible(clocks):
        return
    rest = [one for one in known if one.leaf.operator != "between"]
    for point in _points(rest):
        if _all(rest, lambda leaf, point=point: _number(leaf, point)):  # type: ignore[misc]
            yield point
            return


def _points(known: Sequence[Known]) -> Iterator[int | float | Fraction]:
    operands: set[Any] = set()
    for one in known:
        if one.leaf.operator in (*_EQUALITY, *_ORDER) and _kind(one.leaf.operand) == "a number":
            operands |= set(one.leaf.operand) if isinstance(one.leaf.operand, tuple) else {one.leaf.operand}
    ends = sorted(operands)
    if not ends:
        yield 0
        return
    yield from ends
    yield int(ends[0]) - 1
    yield int(ends[-1]) + 1
    for low, high in pairwise(ends):
        whole = int(low) + 1
        yield whole if low < whole < high else (Fraction(low) + Fraction(high)) / 2


def _number(leaf: Compare, value: int | float | Fraction) -> int:
    """As the operators compare, but also for numbers between two floats."""
    if leaf.operator in _ORDER:
        return _holds(_ORDER[leaf.operator](value, leaf.operand))
    if leaf.operator in _EQUALITY:
        if _kind(leaf.operand) != "a number":
            return ERROR
        among = value in leaf.operand if isinstance(leaf.operand, tuple) else value == leaf.operand
        return _holds(among is not leaf.operator.startswith("not_"))
    if leaf.operator == "exists":
        return _holds(leaf.operand is True)
    return ANY_OUTCOME if leaf.operator == "same_as" and leaf.path != leaf.operand else _same(leaf)


def _same(leaf: Compare) -> int:
    return TRUE if leaf.operator == "same_as" else ERROR


# --- text --------------------------------------------------------------------------------------------------------


def _texts(path: str, known: Sequence[Known]) -> Iterator[Any]:
    for text in _named(known):
        if _all(known, lambda leaf, text=text: _exactly(path, leaf, text)):  # type: ignore[misc]
            yield text
            return
    other = _any_other_text(known)
    if other is not None:
        yield other


def _named(known: Sequence[Known]) -> list[str]:
    named: set[str] = set()
    for one in known:
        operand = one.leaf.operand
        if one.leaf.operator in _EQUALITY and _kind(operand) == "text":
            named |= set(operand) if isinstance(operand, tuple) else {operand}
    return sorted(named)


def _any_other_text(known: Sequence[Known]) -> str | None:
    """A text that is none of those named in the comparisons."""

    def possible(leaf: Compare) -> int:
        if leaf.operator in _EQUALITY:
            return _holds(leaf.operator.startswith("not_")) if _kind(leaf.operand) == "text" else ERROR
        if leaf.operator == "exists":
            return _holds(leaf.operand is True)
        if leaf.operator in ("starts_with", "ends_with"):
            return TRUE | FALSE
        if leaf.operator == "same_as" and leaf.path == leaf.operand:
            return TRUE
        return ANY_OUTCOME if leaf.operator in ("matches", "same_as", "in_cidr", "between") else ERROR

    by = {name: [one for one in known if one.leaf.operator == name] for name in ("in_cidr", "between", "matches")}
    start = _affix([one for one in known if one.leaf.operator == "starts_with"], str.startswith)
    end = _affix([one for one in known if one.leaf.operator == "ends_with"], str.endswith)
    address = _address_for(by["in_cidr"])
    if start is None or end is None or address is None or not _all(known, possible):
        return None
    if not _clock_possible(by["between"]):
        return None
    if address:
        return address
    if any(not one.mask & ERROR for one in by["between"]):
        return _moment(by["between"]).isoformat()
    return _spelt(start, end, by["matches"])


def _spelt(start: str, end: str, patterns: Sequence[Known]) -> str:
    """A guess at a text that the patterns take, too; nothing rests on it."""
    for middle in ("-", "x", "1", "A", "a-1", "A-1", "", "example"):
        text = f"{start}{middle}{end}"
        if text and _all(patterns, lambda leaf, text=text: _exactly("", leaf, text)):  # type: ignore[misc]
            return text
    return f"{start}-{end}"


def _affix(known: Sequence[Known], has: Callable[[str, str], bool]) -> str | None:
    """The longest start (end) that the text must have; ``None`` where two exclude one another."""
    wanted = sorted((one.leaf.operand for one in known if not one.mask & FALSE), key=len)
    longest: str = wanted[-1] if wanted else ""
    if not all(has(longest, other) for other in wanted):
        return None
    excluded = (one.leaf.operand for one in known if not one.mask & TRUE)
    return None if any(has(longest, other) for other in excluded) else longest


def _address_for(known: Sequence[Known]) -> str | None:
    """An address, or "" where the text may be none; ``None`` where it would have to be both or in no network left."""
    if all(one.mask & ERROR for one in known):
        return ""
    ranges = [[address_range(text) for text in one.leaf.operand] for one in known]
    ends = [(version, number) for spans in ranges for version, first, last in spans for number in (first, last + 1)]
    for version, number in sorted({(4, 0), (6, 0), *ends}):
        if number >= 2 ** (32 if version == 4 else 128):
            continue
        inside = [any(version == v and a <= number <= z for v, a, z in spans) for spans in ranges]
        if all(_holds(found) & one.mask for found, one in zip(inside, known, strict=True)):
            return str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))
    return None


# --- times and lists ---------------------------------------------------------------------------------------------


def _times(path: str, known: Sequence[Known]) -> Iterator[Any]:
    clocks = [one for one in known if one.leaf.operator == "between"]

    def possible(leaf: Compare) -> int:
        if leaf.operator == "exists":
            return _holds(leaf.operand is True)
        return ANY_OUTCOME if leaf.operator == "between" else ERROR

    if _all(known, possible) and _clock_possible(clocks):
        yield _moment(clocks)


def _clock_possible(known: Sequence[Known]) -> bool:
    """Whether in each zone there is a minute of the day for those that must not be errors. Zones are not combined."""
    strict = [one for one in known if not one.mask & ERROR]
    return all(
        any(
            all(_holds(_within(one.leaf.operand, minute)) & one.mask for one in strict if one.leaf.operand.zone == zone)
            for minute in {0, *(end % 1440 for one in strict for end in (one.leaf.operand.start, one.leaf.operand.end))}
        )
        for zone in {one.leaf.operand.zone for one in strict}
    )


def _within(window: Any, minute: int) -> bool:
    start: int = window.start
    end: int = window.end
    return start <= minute < end if start < end else minute >= start or minute < end


def _moment(known: Sequence[Known]) -> datetime:
    """A time that fits, if one of a winter's day does."""
    tests = [(OPERATORS["between"].make(_itself, "", one.leaf.operand), one.mask) for one in known]
    for quarter in range(24 * 4):
        moment = _MORNING + timedelta(minutes=15 * quarter)
        if all(_outcome(test, moment) & mask for test, mask in tests):
            return moment
    return _MORNING


def _lists(path: str, known: Sequence[Known]) -> Iterator[Any]:
    elements: dict[tuple[bool, Any], int] = {}
    for one in known:
        if one.leaf.operator == "contains":
            element = (isinstance(one.leaf.operand, bool), one.leaf.operand)
            elements[element] = elements.get(element, TRUE | FALSE) & one.mask

    def possible(leaf: Compare) -> int:
        if leaf.operator == "exists":
            return _holds(leaf.operand is True)
        return TRUE | FALSE if leaf.operator == "contains" else ERROR

    if all(elements.values()) and _all(known, possible):
        yield [operand for (_, operand), mask in elements.items() if mask == TRUE]
