"""The closed set of condition operators: each reads its operand strictly, and compiles to a test.

An operand is frozen and has a canonical JSON form, so that policies can be digested, compared and enumerated. A test
answers true or false, or raises `ConditionError` where the attribute is missing or of another type than the operand:
text, number and boolean never compare with one another (integers and decimals do).
"""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from ..errors import ConditionError
from ..model import Resource, Subject
from .attributes import Getter, Test, getter, kind, path_problem
from .document import ListNode, Node
from .findings import Findings, nearest
from .patterns import Pattern, PatternError
from .reader import Reader

__all__ = ["OPERATORS", "Operator", "Window", "address_range", "zone_of"]


class Window(msgspec.Struct, frozen=True):
    """A daily window in a zone, in minutes since midnight; ``end`` is excluded and may lie before ``start``."""

    start: int
    end: int
    zone: str


class Operator(msgspec.Struct, frozen=True):
    """How an operator reads its operand from the file, and becomes a test of the attribute that ``get`` reads."""

    read: Callable[[Reader, Node, str], Any]
    make: Callable[[Getter, str, Any], Test]


# --- operands ----------------------------------------------------------------------------------------------------


def _scalar(reader: Reader, node: Node, path: str) -> Any:
    if isinstance(node, ListNode):
        reader.findings.add(node.line, path, "expected a single value, found a list: use in")
        return ""
    return reader.value(node, path)


def _number(reader: Reader, node: Node, path: str) -> Any:
    value = reader.value(node, path, otherwise=0)
    if isinstance(value, str | bool):
        reader.findings.add(node.line, path, "expected a number")
        return 0
    return value


def _words(reader: Reader, node: Node, path: str) -> str:
    value = reader.value(node, path)
    if not isinstance(value, str) or not value:
        reader.findings.add(node.line, path, "expected non-empty text")
        return "x"
    return value


def _scalars(reader: Reader, node: Node, path: str) -> tuple[Any, ...]:
    before = len(reader.findings)
    values = [reader.value(item, where) for where, item in reader.items(node, path)]
    if len(reader.findings) > before:
        return ()
    kinds = {kind(value, path) for value in values}
    if len(kinds) > 1:
        reader.findings.add(node.line, path, f"values of different types ({', '.join(sorted(kinds))})")
        return ()
    if not values:
        reader.findings.add(node.line, path, "an empty list can never hold")
    return tuple(sorted(set(values)))


def _attribute(reader: Reader, node: Node, path: str) -> str:
    text = reader.text(node, path, "subject.id")
    if problem := path_problem(text):
        reader.findings.add(node.line, path, problem)
        return "subject.id"
    return text


def _pattern(reader: Reader, node: Node, path: str) -> Pattern | None:
    text = _words(reader, node, path)
    try:
        return Pattern(text)
    except PatternError as error:
        reader.findings.add(node.line, path, str(error))
        return None


def _networks(reader: Reader, node: Node, path: str) -> tuple[str, ...]:
    texts = reader.texts(node, path) if isinstance(node, ListNode) else {reader.text(node, path): (node.line, path)}
    if not texts and isinstance(node, ListNode):
        reader.findings.add(node.line, path, "an empty list can never hold")
    found = {_network(reader.findings, text, line, where) for text, (line, where) in texts.items() if text}
    return tuple(sorted(found - {""}))


def _network(findings: Findings, text: str, line: int, path: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        wide = str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        findings.add(line, path, f"'{text}' is not a network such as 10.9.0.0/16 or 2001:db8::/32")
    else:
        findings.add(line, path, f"'{text}' has address bits beyond its prefix; did you mean '{wide}'?")
    return ""


WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")


def _window(reader: Reader, node: Node, path: str) -> Window:
    text = reader.text(node, path, "00:00-24:00")
    match = WINDOW.fullmatch(text)
    if match is None:
        reader.findings.add(node.line, path, f"'{text}' is not a time window such as 08:00-18:00")
        return Window(0, 1440, "UTC")
    first, second, third, fourth = match.groups()
    start, end = int(first) * 60 + int(second), int(third or 24) * 60 + int(fourth or 0)
    if start == end:
        reader.findings.add(node.line, path, f"'{text}' is empty")
    return Window(start, end, "UTC")


def zone_of(reader: Reader, node: Node, path: str) -> str:
    """A time zone's IANA name."""
    name = reader.text(node, path, "UTC")
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: a name that is a directory of the zone database
        reader.findings.add(node.line, path, f"'{name}' is not a time zone", nearest(name, available_timezones()))
        return "UTC"
    return name


# --- tests -------------------------------------------------------------------------------------------------------


def _mismatch(path: str, found: str, wanted: str) -> ConditionError:
    return ConditionError(f"{path} is {found}, not {wanted}")


def _equals(get: Getter, path: str, operand: Any) -> Test:
    wanted = kind(operand, path)

    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        value = get(subject, resource, context)
        if (found := kind(value, path)) != wanted:
            raise _mismatch(path, found, wanted)
        return bool(value == operand)

    return test


def _in(get: Getter, path: str, operand: Any) -> Test:
    values = frozenset(operand)
    wanted = kind(operand[0], path)

    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        value = get(subject, resource, context)
        if (found := kind(value, path)) != wanted:
            raise _mismatch(path, found, wanted)
        return value in values

    return test


def _same_as(get: Getter, path: str, operand: Any) -> Test:
    other = getter(operand)

    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        left, right = get(subject, resource, context), other(subject, resource, context)
        if (found := kind(left, path)) != (wanted := kind(right, operand)):
            raise _mismatch(path, found, f"{wanted} as {operand}")
        return bool(left == right)

    return test


def _negated(make: Callable[[Getter, str, Any], Test]) -> Callable[[Getter, str, Any], Test]:
    def negative(get: Getter, path: str, operand: Any) -> Test:
        positive = make(get, path, operand)

        def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
            return not positive(subject, resource, context)

        return test

    return negative


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Getter, str, Any], Test]:
    def make(get: Getter, path: str, operand: Any) -> Test:
        def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
            value = get(subject, resource, context)
            if (found := kind(value, path)) != "a number":
                raise _mismatch(path, found, "a number")
            return compare(value, operand)

        return test

    return make


def _text_test(holds: Callable[[str, Any, str], bool]) -> Callable[[Getter, str, Any], Test]:
    def make(get: Getter, path: str, operand: Any) -> Test:
        def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
            value = get(subject, resource, context)
            if not isinstance(value, str):
                raise ConditionError(f"{path} is not text")
            return holds(value, operand, path)

        return test

    return make


def _contains(get: Getter, path: str, operand: Any) -> Test:
    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        values = get(subject, resource, context)
        if not isinstance(values, list | tuple | set | frozenset):
            raise ConditionError(f"{path} is not a list")
        # True == 1 in Python, but not here.
        return any(value == operand and isinstance(value, bool) is isinstance(operand, bool) for value in values)

    return test


def _exists(get: Getter, path: str, operand: Any) -> Test:
    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        try:
            get(subject, resource, context)
        except ConditionError:
            return operand is False
        return operand is True

    return test


def _in_cidr(get: Getter, path: str, operand: Any) -> Test:
    networks = tuple(address_range(text) for text in operand)

    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        value = get(subject, resource, context)
        if not isinstance(value, str) or len(value) > 64:
            raise ConditionError(f"{path} is not an IP address")
        try:
            version, number = _address(value)
        except ValueError:
            raise ConditionError(f"{path} is not an IP address") from None
        return any(version == wanted and first <= number <= last for wanted, first, last in networks)

    return test


@lru_cache(maxsize=4096)
def _address(text: str) -> tuple[int, int]:
    address = ipaddress.ip_address(text)
    # ::ffff:10.9.0.1 is how a dual-stack socket names 10.9.0.1; the two must not be told apart by a rule.
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return 4, int(address.ipv4_mapped)
    return address.version, int(address)


def address_range(text: str) -> tuple[int, int, int]:
    """A network as IP version, first and last address."""
    network = ipaddress.ip_network(text)
    first, last = _address(str(network[0])), _address(str(network[-1]))
    if first[0] != last[0]:  # wider than the mapped range: stays IPv6
        return 6, int(network[0]), int(network[-1])
    return first[0], first[1], last[1]


def _between(get: Getter, path: str, operand: Any) -> Test:
    start: int = operand.start
    end: int = operand.end
    zone = ZoneInfo(operand.zone)

    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        local = instant(get(subject, resource, context), path, zone)
        minute = local.hour * 60 + local.minute
        return start <= minute < end if start < end else minute >= start or minute < end

    return test


def instant(value: Any, path: str, zone: ZoneInfo) -> datetime:
    """A moment as an aware datetime, RFC 3339 text, or seconds since the epoch."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            value = datetime.fromtimestamp(value, UTC)
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(zone)
    except (ValueError, OverflowError, OSError):
        pass
    raise ConditionError(f"{path} is not a time with a zone")


OPERATORS: Mapping[str, Operator] = {
    "exists": Operator(lambda reader, node, path: reader.flag(node, path), _exists),
    "equals": Operator(_scalar, _equals),
    "not_equals": Operator(_scalar, _negated(_equals)),
    "same_as": Operator(_attribute, _same_as),
    "in": Operator(_scalars, _in),
    "not_in": Operator(_scalars, _negated(_in)),
    "lt": Operator(_number, _ordered(operator.lt)),
    "lte": Operator(_number, _ordered(operator.le)),
    "gt": Operator(_number, _ordered(operator.gt)),
    "gte": Operator(_number, _ordered(operator.ge)),
    "matches": Operator(_pattern, _text_test(lambda value, pattern, path: pattern.search(value, path))),
    "starts_with": Operator(_words, _text_test(lambda value, start, _: value.startswith(start))),
    "ends_with": Operator(_words, _text_test(lambda value, end, _: value.endswith(end))),
    "contains": Operator(_scalar, _contains),
    "in_cidr": Operator(_networks, _in_cidr),
    "between": Operator(_window, _between),
}
