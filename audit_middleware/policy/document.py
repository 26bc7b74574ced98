"""YAML text to a tree of nodes that know their lines, by a strict subset of YAML.

PyYAML parses; composing and typing are ours, because its constructors forget lines, take the last of two equal keys,
expand aliases without bound and read YAML 1.1 scalars (``no`` is false, ``010`` is eight). Here:

* one document, UTF-8, at most `MAX_BYTES` and `MAX_DEPTH` levels;
* no anchors, aliases, tags or directives, so a small file cannot grow into a large tree;
* keys are text, and no key occurs twice in a mapping;
* a plain scalar is null, ``true``/``false``, a decimal number, or text. Where a typed value is asked for, scalars that
  YAML 1.1 and 1.2 read differently are refused rather than guessed (`typed`).

JSON is a subset, so a policy's canonical bytes load as the same policy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import msgspec
import yaml

from .findings import Findings, join

__all__ = ["MAX_BYTES", "ListNode", "MapNode", "Node", "Pair", "ScalarNode", "compose", "decode", "typed"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

# Control characters, other line breaks than LF, and byte-order marks: invisible in a review, and each would make
# line numbers or canonical bytes differ from what an editor shows. Surrogates have no UTF-8 form.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_AMBIGUOUS_BOOLEAN = frozenset({"y", "n", "yes", "no", "on", "off"})
_AMBIGUOUS_NUMBER = re.compile(
    r"[-+]?(?:0[0-9_]+|0[xob][0-9a-fA-F_]+|[0-9][0-9_]*_[0-9_]*|\.(?:inf|nan))", re.IGNORECASE
)
_MAX_INTEGER = 2**53 - 1  # what every JSON reader keeps exactly (RFC 8785, I-JSON)


class ScalarNode(msgspec.Struct, frozen=True):
    """A scalar as written; ``plain`` means without quotes."""

    text: str
    plain: bool
    line: int


class ListNode(msgspec.Struct, frozen=True):
    """A sequence."""

    items: tuple[Node, ...]
    line: int


class Pair(msgspec.Struct, frozen=True):
    """A mapping's value and the line of its key."""

    line: int
    value: Node


class MapNode(msgspec.Struct, frozen=True):
    """A mapping, in the order of the file."""

    items: dict[str, Pair]
    line: int


Node = ScalarNode | ListNode | MapNode
Value = str | int | float | bool | None


def decode(data: bytes, findings: Findings) -> str:
    """The file's text; refuses what is too large or not UTF-8."""
    if len(data) > MAX_BYTES:
        findings.fail(1, "", f"the file is larger than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        findings.fail(data.count(b"\n", 0, error.start) + 1, "", "not UTF-8")


def compose(text: str, findings: Findings) -> Node:
    """The tree of the only document in ``text``; raises `PolicyError` where the rest cannot be read."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        findings.fail(1, "", f"the file is larger than {MAX_BYTES} bytes")
    if unseen := _UNSEEN.search(text):
        line = text.count("\n", 0, unseen.start()) + 1
        findings.fail(line, "", f"invisible character U+{ord(unseen.group()):04X}")
    try:
        return _Composer(yaml.parse(text, Loader=yaml.SafeLoader), findings).document()
    except yaml.MarkedYAMLError as error:  # the reader's own errors are about characters refused above
        mark = error.problem_mark or error.context_mark
        findings.fail(mark.line + 1 if mark else 1, "", _syntax(error))


def typed(node: ScalarNode) -> Value:
    """The scalar's value. Raises `ValueError` for what YAML versions read differently; its text ends a finding."""
    if not node.plain:
        return node.text
    text = node.text
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if text.lower() in _AMBIGUOUS_BOOLEAN:
        raise ValueError(f"{text} is read as text by some and as a boolean by others: write true or false, or quote it")
    if _AMBIGUOUS_NUMBER.fullmatch(text):
        raise ValueError(f"{text} is read as different numbers: write it in decimal digits, or quote it")
    return _number(text)


def _number(text: str) -> Value:
    if _INTEGER.fullmatch(text):
        # The length first: int() refuses thousands of digits with an error of its own.
        if len(text) > 20 or abs(int(text)) > _MAX_INTEGER:
            raise ValueError("integers go up to 2**53 - 1: quote it if it is a name")
        return int(text)
    if _DECIMAL.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("the number is too large")
        return number
    return text


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "it cannot be parsed"
    if "'\\t'" in problem:
        return "YAML does not allow a tab here: indent with spaces"
    return f"not valid YAML: {error.context}: {problem}" if error.context else f"not valid YAML: {problem}"


class _Composer:
    """Events to nodes. Recursion is bounded by `MAX_DEPTH`."""

    def __init__(self, events: Iterator[yaml.Event], findings: Findings) -> None:
        self._events = events
        self._findings = findings

    def document(self) -> Node:
        next(self._events)  # StreamStart
        start = next(self._events)
        if not isinstance(start, yaml.DocumentStartEvent):
            self._findings.fail(1, "", "the file is empty")
        if start.version or start.tags:
            self._findings.fail(_line(start), "", "YAML directives are not part of the language")
        node = self._node(next(self._events), "", 0)
        next(self._events)  # DocumentEnd
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._findings.fail(_line(after), "", "a second YAML document: write one a file")
        return node

    def _node(self, event: yaml.Event, path: str, depth: int) -> Node:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._findings.fail(line, path, "anchors and aliases are not part of the language: write the value out")
        if (tag := getattr(event, "tag", None)) is not None:
            self._findings.add(line, path, f"tag {tag} is not part of the language: remove it")
        if depth > MAX_DEPTH:
            self._findings.fail(line, path, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.ScalarEvent):
            self._visible(event.value, line, path)
            return ScalarNode(event.value, event.style is None, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return ListNode(tuple(self._items(path, depth)), line)
        return MapNode(self._pairs(path, depth), line)

    def _items(self, path: str, depth: int) -> Iterator[Node]:
        for index, event in enumerate(self._events):
            if isinstance(event, yaml.SequenceEndEvent):
                return
            yield self._node(event, f"{path}[{index}]", depth + 1)

    def _pairs(self, path: str, depth: int) -> dict[str, Pair]:
        pairs: dict[str, Pair] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, path, depth + 1)
            name = self._key(key, path)
            value = self._node(next(self._events), join(path, name), depth + 1)
            if name in pairs:
                self._findings.add(key.line, join(path, name), f"duplicate key, first on line {pairs[name].line}")
            else:
                pairs[name] = Pair(key.line, value)
        return pairs

    def _key(self, node: Node, path: str) -> str:
        if isinstance(node, ScalarNode):
            return node.text
        self._findings.fail(node.line, path, "a key must be text")

    def _visible(self, text: str, line: int, path: str) -> None:
        # Escapes in double quotes can make what the raw text may not hold.
        if unseen := _UNSEEN.search(text):
            self._findings.add(line, path, f"invisible character U+{ord(unseen.group()):04X}")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1
