"""What a rule compares a field with: Sigma values and modifiers as tests of one JSON value.

* Text is compared without regard to case (both sides in lower case), ``cased`` with it. ``*`` stands for any
  characters, ``?`` for one; a backslash takes their meaning away, and its own before another one.
* A number equals the same number, and text that is it in decimal digits; numbers and booleans are compared with text
  as JSON writes them.
* ``re`` is RE2, looks for the pattern anywhere in the text, and regards case unless ``i`` is given.
* A pattern reads only so much of a text as `policy.patterns` allows it: at least 4 KiB for any pattern of ordinary
  size. What is behind that is not looked at.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, Final

from ..formats.facts import address
from ..policy.patterns import Pattern, PatternError

__all__ = ["COMPARISONS", "Test", "ValueProblem", "cidr", "compare", "equal", "matches", "text_of", "wildcard"]

Test = Callable[[Any], bool]
"""Of one scalar: text, a number or a boolean."""

COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
_CHARACTER: Final = re.compile(r"\\([\\*?])|([*?])|(.)", re.DOTALL)


class ValueProblem(ValueError):
    """The rule's value cannot be used; the text ends a finding."""


def text_of(value: Any) -> str | None:
    """A scalar as text; ``None`` for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else None


def equal(wanted: int | float | bool) -> Test:
    """A number or a boolean."""
    if isinstance(wanted, bool):
        text = "true" if wanted else "false"
        return lambda value: value is wanted or (isinstance(value, str) and value.lower() == text)
    said = str(wanted)

    def test(value: Any) -> bool:
        if isinstance(value, bool):
            return False
        return bool(value == said) if isinstance(value, str) else bool(value == wanted)

    return test


def compare(kind: str, wanted: int | float) -> Test:
    """Of numbers only: text is never less or more."""
    decide = COMPARISONS[kind]
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and decide(value, wanted)


def cidr(network: str) -> Test:
    """An address in a network."""
    try:
        wanted = ip_network(network)
    except ValueError as error:
        raise ValueProblem(f"{error}: write a network such as 10.0.0.0/8") from None

    def test(value: Any) -> bool:
        found = address(value) if isinstance(value, str) else None
        return found is not None and found.version == wanted.version and found in wanted

    return test


def matches(pattern: str, flags: str) -> Test:
    """A regular expression; ``flags`` are of ``i``, ``m`` and ``s``."""
    text = f"(?{''.join(sorted(set(flags)))}){pattern}" if flags else pattern
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)  # converters read it with Python's engine
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueProblem(f"Python's re, which converters use, refuses the pattern: {error}") from None
    return _search(text)


def wildcard(pattern: str, *, before: bool = False, after: bool = False, cased: bool = False) -> Test:
    """Text with wildcards; ``before`` and ``after`` put a ``*`` there."""
    parts = _parts(pattern if cased else pattern.lower())
    if before and (not parts or parts[0] != _MANY):
        parts.insert(0, _MANY)
    if after and (not parts or parts[-1] != _MANY):
        parts.append(_MANY)
    decide = _decide(parts)

    def test(value: Any) -> bool:
        text = text_of(value)
        return text is not None and decide(text if cased else text.lower())

    return test


# --- text ------------------------------------------------------------------------------------------------------------


class _Any:
    """A wildcard."""


_MANY, _ONE = _Any(), _Any()
_Part = str | _Any


def _parts(pattern: str) -> list[_Part]:
    """``a*b?`` as ``["a", MANY, "b", ONE]``; texts are never empty."""
    parts: list[_Part] = []
    for escaped, special, plain in _CHARACTER.findall(pattern):
        if special:
            parts.append(_MANY if special == "*" else _ONE)
        elif parts and isinstance(parts[-1], str):
            parts[-1] += escaped or plain
        else:
            parts.append(escaped or plain)
    return parts


def _decide(parts: list[_Part]) -> Callable[[str], bool]:
    if not parts:
        return lambda text: text == ""
    if any(part is _ONE for part in parts):
        return _search("(?s)^" + "".join(_as_pattern(part) for part in parts) + "$")
    first = parts[0] if isinstance(parts[0], str) else ""
    last = parts[-1] if isinstance(parts[-1], str) else ""
    if len(parts) == 1 and first:
        return lambda text: text == first
    middle = tuple(part for part in parts[bool(first) : len(parts) - bool(last)] if isinstance(part, str))
    shortest = len(first) + len(last)

    def decide(text: str) -> bool:
        if len(text) < shortest or not text.startswith(first) or not text.endswith(last):
            return False
        at, end = len(first), len(text) - len(last)
        for part in middle:  # the leftmost place for each leaves the most room for the others
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return decide


def _as_pattern(part: _Part) -> str:
    if isinstance(part, str):
        return "".join(char if char.isalnum() or char == "_" else f"\\x{{{ord(char):x}}}" for char in part)
    return ".*" if part is _MANY else "."


def _search(text: str) -> Callable[[Any], bool]:
    try:
        pattern = Pattern(text)
    except PatternError as error:
        raise ValueProblem(str(error)) from None
    limit = pattern.limit

    def search(value: Any) -> bool:
        found = text_of(value)
        if found is None:
            return False
        if len(found) * 4 > limit or not found.isascii():
            found = found.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
        return pattern.search(found, "")

    return search
