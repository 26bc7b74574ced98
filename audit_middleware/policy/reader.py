"""Typed reading of nodes: each method gives a usable value and notes a finding where the file gave another.

After a finding the value is a stand-in (the ``otherwise`` argument, an empty tuple), so that reading goes on and
everything wrong is reported at once; nothing built from a stand-in survives `Findings.close`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from .document import ListNode, MapNode, Node, Pair, ScalarNode, Value, typed
from .findings import Findings, join, nearest

__all__ = ["Reader"]

MAX_TEXT = 1024
_PLACEHOLDER = re.compile(r"\$\{\w+\}")
Choice = TypeVar("Choice", bound=str)


class Reader:
    """Reads one file's nodes into values."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def table(
        self,
        node: Node,
        path: str,
        known: Collection[str] | None = None,
        required: Collection[str] = (),
        *,
        optional: bool = False,
        noun: str = "key",
    ) -> dict[str, Pair]:
        """A mapping's pairs; reports keys that are not ``known`` and ``required`` ones that are not there.

        With ``optional`` nothing at all (``viewer:``) reads as an empty mapping.
        """
        if optional and isinstance(node, ScalarNode) and node.plain and _typed(node) is None:
            return {}
        if not isinstance(node, MapNode):
            self.findings.add(node.line, path, f"expected a mapping, found {_noun(node)}")
            return {}
        if known is not None:
            for key, pair in node.items.items():
                if key not in known:
                    self.findings.add(pair.line, join(path, key), f"unknown {noun}", nearest(key, known))
        for key in required:
            if key not in node.items:
                self.findings.add(node.line, join(path, key), "missing")
        return {key: pair for key, pair in node.items.items() if known is None or key in known}

    def items(self, node: Node, path: str) -> Iterator[tuple[str, Node]]:
        """A list's items with their paths."""
        if isinstance(node, ListNode):
            yield from ((f"{path}[{index}]", item) for index, item in enumerate(node.items))
            return
        hint = f": write [{node.text}]" if isinstance(node, ScalarNode) and node.text else ""
        self.findings.add(node.line, path, f"expected a list, found {_noun(node)}{hint}")

    def text(self, node: Node, path: str, otherwise: str = "") -> str:
        """One line of text, without white space around it; what is plainly a number or boolean must be quoted."""
        if not isinstance(node, ScalarNode):
            self.findings.add(node.line, path, f"expected text, found {_noun(node)}")
            return otherwise
        if node.plain and not isinstance(_typed(node, node.text), str):
            fix = f": write '{node.text}' in quotes" if node.text else ""
            self.findings.add(node.line, path, f"expected text, found {_noun(node)}{fix}")
            return otherwise
        text = node.text.strip()
        if "\n" in text or "\t" in text:  # names and reasons end up in records and reports, a line each
            self.findings.add(node.line, path, "expected one line")
            return otherwise
        if not text or len(text) > MAX_TEXT:
            self.findings.add(node.line, path, f"expected 1 to {MAX_TEXT} characters, found {len(text)}")
            return otherwise
        return text

    def texts(self, node: Node, path: str) -> dict[str, tuple[int, str]]:
        """A list of different texts, each with its line and path."""
        found: dict[str, tuple[int, str]] = {}
        for where, item in self.items(node, path):
            text = self.text(item, where)
            if text in found:
                self.findings.add(item.line, where, f"'{text}' is listed twice")
            elif text:
                found[text] = (item.line, where)
        return found

    def choice(self, node: Node, path: str, options: Collection[Choice], otherwise: Choice) -> Choice:
        """One of a closed set of words."""
        text = self.text(node, path, otherwise)
        for option in options:
            if option == text:
                return option
        listing = ", ".join(options)
        self.findings.add(node.line, path, f"'{text}' is not one of {listing}", nearest(text, options))
        return otherwise

    def flag(self, node: Node, path: str) -> bool:
        """``true`` or ``false``."""
        value = self.value(node, path, otherwise=False)
        if not isinstance(value, bool):
            self.findings.add(node.line, path, f"expected true or false, found {_noun(node)}")
        return value is True

    def integer(self, node: Node, path: str, least: int, most: int) -> int:
        """A whole number in a range."""
        value = self.value(node, path, otherwise=least)
        if isinstance(value, bool) or not isinstance(value, int):
            self.findings.add(node.line, path, f"expected a whole number, found {_noun(node)}")
            return least
        if not least <= value <= most:
            self.findings.add(node.line, path, f"expected {least} to {most}, found {value}")
        return value

    def value(self, node: Node, path: str, otherwise: Value = "") -> str | int | float | bool:
        """One scalar of any type but null."""
        stand_in = "" if otherwise is None else otherwise
        if not isinstance(node, ScalarNode):
            self.findings.add(node.line, path, f"expected a single value, found {_noun(node)}")
            return stand_in
        try:
            value = typed(node)
        except ValueError as error:
            self.findings.add(node.line, path, str(error))
            return stand_in
        if value is None:
            self.findings.add(
                node.line, path, "expected a value, found nothing: to ask for absence write exists: false"
            )
            return stand_in
        if isinstance(value, str) and _PLACEHOLDER.search(value):
            self.findings.add(node.line, path, f"{value} would not be expanded: placeholders work in channels only")
        return value

    def json(self, node: Node, path: str) -> Any:
        """Any JSON value, frozen: mappings are read-only, lists are tuples."""
        if isinstance(node, MapNode):
            items = {key: self.json(pair.value, join(path, key)) for key, pair in node.items.items()}
            return MappingProxyType(items)
        if isinstance(node, ListNode):
            return tuple(self.json(item, where) for where, item in self.items(node, path))
        if node.plain and _typed(node) is None:
            return None
        return self.value(node, path)

    def properties(self, node: Node, path: str) -> Mapping[str, Any]:
        """A mapping of JSON values."""
        pairs = self.table(node, path)
        return MappingProxyType({key: self.json(pair.value, join(path, key)) for key, pair in pairs.items()})


def _typed(node: ScalarNode, otherwise: Value = "") -> Value:
    """The scalar's value, or ``otherwise`` where YAML versions differ about it."""
    try:
        return typed(node)
    except ValueError:
        return otherwise


def _noun(node: Node) -> str:
    """What a finding calls the node."""
    if isinstance(node, MapNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    value = _typed(node)
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return node.text
    return "text" if isinstance(value, str) else "a number"
