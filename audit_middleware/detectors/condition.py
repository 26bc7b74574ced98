"""What a detection asks of one record: tests of fields, joined by ``and``, ``or``, ``not``.

::

    condition = any
    any       = all *("or" all)
    all       = not *("and" not)
    not       = "not" not / term
    term      = "(" condition ")" / name / ("1" / "all") "of" ("them" / pattern)
    pattern   = a name with "*"

``them`` and patterns leave out names that begin with ``_``, unless the pattern begins so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .fields import Field, View
from .values import Test

__all__ = ["All", "AnyOf", "ConditionProblem", "Item", "Node", "Not", "Presence", "Same", "decided", "parse_condition"]

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WORDS: Final = frozenset(
    # Those of conditions, and those that some YAML readers take for a boolean or for nothing.
    ("and", "or", "not", "of", "them", "all", "any", "y", "n", "yes", "no", "on", "off", "true", "false", "null")
)
_TOKEN = re.compile(r"\s*(?:([()])|([A-Za-z0-9_*]+)|(\S))")
_KEPT = 1024  # answers that one item remembers
_KEPT_TEXT = 256  # characters of a value that is kept for it
_MAX_DEPTH = 32


class ConditionProblem(ValueError):
    """The condition cannot be read; the text ends a finding."""


@dataclass(slots=True)
class Item:
    """One field against one or more values; ``every`` of them must hold, else one of them.

    Of a field with several values, one that passes a test is enough for it.
    """

    field: Field
    tests: tuple[Test, ...]
    every: bool
    kept: dict[str, bool]

    def holds(self, view: View) -> bool:
        """Whether the record satisfies it; an absent field never does."""
        value = self.field.get(view)
        if type(value) is str:
            known = self.kept.get(value)
            if known is None:
                known = self._test((value,))
                if len(value) > _KEPT_TEXT:
                    return known
                if len(self.kept) >= _KEPT:
                    self.kept.clear()
                self.kept[value] = known
            return known
        if value is None:
            return False
        return self._test(value if isinstance(value, list) else (value,))

    def _test(self, values: Sequence[Any]) -> bool:
        join = all if self.every else any
        return join(any(test(value) for value in values) for test in self.tests)


@dataclass(frozen=True, slots=True)
class Presence:
    """A field is there, or is not."""

    field: Field
    wanted: bool

    def holds(self, view: View) -> bool:
        """Whether it is so."""
        return (self.field.get(view) is not None) is self.wanted


@dataclass(frozen=True, slots=True)
class Same:
    """Two fields have a value in common, letter for letter."""

    field: Field
    other: Field

    def holds(self, view: View) -> bool:
        """Whether they have; an absent field has none."""
        left, right = self.field.get(view), self.other.get(view)
        if left is None or right is None:
            return False
        mine, theirs = (value if isinstance(value, list) else [value] for value in (left, right))
        return any(type(one) is type(two) and one == two for one in mine for two in theirs)


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds."""

    parts: tuple[Node, ...]

    def holds(self, view: View) -> bool:
        """Whether they do."""
        return all(part.holds(view) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One part holds."""

    parts: tuple[Node, ...]

    def holds(self, view: View) -> bool:
        """Whether one does."""
        return any(part.holds(view) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Node

    def holds(self, view: View) -> bool:
        """Whether it does not."""
        return not self.part.holds(view)


Node = Item | Presence | Same | All | AnyOf | Not


def decided(node: Node, view: View) -> bool | None:
    """The answer as far as the key fields of a record decide it; ``None`` where other fields have a say."""
    if isinstance(node, Not):
        answer = decided(node.part, view)
        return None if answer is None else not answer
    if isinstance(node, All | AnyOf):
        ends = isinstance(node, AnyOf)
        answers = [decided(part, view) for part in node.parts]
        return ends if ends in answers else None if None in answers else not ends
    if not node.field.key or (isinstance(node, Same) and not node.other.key):
        return None
    return node.holds(view)


def joined(parts: Sequence[Node], *, every: bool) -> Node:
    """The parts as one node."""
    if len(parts) == 1:
        return parts[0]
    return All(tuple(parts)) if every else AnyOf(tuple(parts))


def parse_condition(text: str, selections: Mapping[str, Node]) -> tuple[Node, frozenset[str]]:
    """The condition over these selections, and the names that it uses.

    Raises:
        ConditionProblem: It is none, or names a selection that is not there.
    """
    parser = _Parser(text, selections)
    node = parser.any(0)
    parser.end()
    return node, frozenset(parser.used)


class _Parser:
    def __init__(self, text: str, selections: Mapping[str, Node]) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._selections = selections
        self.used: set[str] = set()

    def any(self, depth: int) -> Node:
        parts = [self._all(depth)]
        while self._take("or"):
            parts.append(self._all(depth))
        return joined(parts, every=False)

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise ConditionProblem(f"'{self._tokens[self._at]}' is not expected here: join the parts by and, or")

    def _all(self, depth: int) -> Node:
        parts = [self._not(depth)]
        while self._take("and"):
            parts.append(self._not(depth))
        return joined(parts, every=True)

    def _not(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise ConditionProblem(f"nested more than {_MAX_DEPTH} levels deep")
        if self._take("not"):
            return Not(self._not(depth + 1))
        if self._take("("):
            node = self.any(depth + 1)
            if not self._take(")"):
                raise ConditionProblem("a ')' is missing")
            return node
        return self._term()

    def _term(self) -> Node:
        word = self._next("a selection's name")
        if word in ("1", "all"):
            if not self._take("of"):
                raise ConditionProblem(f"after '{word}' comes 'of' and a pattern, as in {word} of selection*")
            return joined(self._several(self._next("them or a pattern")), every=word == "all")
        if word == "any":
            raise ConditionProblem("write '1 of' for 'any of'")
        if word not in self._selections:
            known = ", ".join(self._selections)
            raise ConditionProblem(f"there is no selection '{word}'; there are: {known}")
        self.used.add(word)
        return self._selections[word]

    def _several(self, pattern: str) -> list[Node]:
        names = _named(pattern, self._selections)
        if not names:
            raise ConditionProblem(f"no selection's name is like '{pattern}'")
        self.used.update(names)
        return [self._selections[name] for name in names]

    def _take(self, word: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == word:
            self._at += 1
            return True
        return False

    def _next(self, wanted: str) -> str:
        if self._at == len(self._tokens):
            raise ConditionProblem(f"it ends where {wanted} should be")
        self._at += 1
        return self._tokens[self._at - 1]


def _named(pattern: str, names: Collection[str]) -> list[str]:
    if pattern == "them":
        return [name for name in names if not name.startswith("_")]
    wanted = re.compile(".*".join(map(re.escape, pattern.split("*"))))
    hidden = pattern.startswith("_")
    return [name for name in names if wanted.fullmatch(name) and (hidden or not name.startswith("_"))]


def _tokens(text: str) -> list[str]:
    found = []
    for bracket, word, other in _TOKEN.findall(text):
        if other == "|":
            raise ConditionProblem("'|' (aggregation) is no longer part of Sigma: write a correlation")
        if other:
            raise ConditionProblem(f"'{other}' is not part of a condition")
        found.append(bracket or word)
    return found
