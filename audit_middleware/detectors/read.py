"""What all rule files have in common: text that every YAML reader reads alike, and who a rule is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final, get_args
from uuid import UUID

from ..policy.document import ListNode, MapNode, Node, Pair, ScalarNode, typed
from ..policy.findings import Findings, join, nearest
from ..policy.reader import Reader
from .fields import Field, Taxonomy, field, known_names
from .finding import LEVELS, Level
from .model import SECOND

__all__ = ["Head", "RuleReader", "read_head"]

STATUSES: Final = ("stable", "test", "experimental", "deprecated", "unsupported")
COMMON: Final = (
    "title", "id", "name", "taxonomy", "status", "description", "author", "references", "date", "modified", "level",
    "tags", "falsepositives", "custom",
)  # fmt: skip
OF_DETECTIONS: Final = ("related", "license", "fields", "scope", "logsource", "detection")
_REQUIRED = ("title", "id", "taxonomy", "level")
_RELATIONS = ("derived", "obsolete", "merged", "renamed", "similar")
_SPAN = re.compile(r"([1-9][0-9]{0,8})([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_SPAN = 366 * 86_400
_TAG = re.compile(r"[a-z0-9_-]+\.[a-z0-9._-]+")
_DATE = re.compile(r"\d{4}-(0[1-9]|1[012])-(0[1-9]|[12][0-9]|3[01])")
# Plain scalars that YAML 1.1 takes for a time, a sum of sixties, a merge or another number than 1.2 does.
_READ_OTHERWISE = re.compile(
    r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|\d{4}-\d\d?-\d\d?.*|=|<<|[-+.\d]+[eE][-+]?\d+"
)


class RuleReader(Reader):
    """Reads one rule file's nodes."""

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.taxonomy: Taxonomy = "ecs"

    def word(self, node: Node, path: str, longest: int = 256, shortest: int = 1) -> str:
        """One line of text that YAML readers of any version take for text."""
        text = self.text(node, path)
        if isinstance(node, ScalarNode) and text:
            self._same_for_all(node, path, dates=True)
            if not shortest <= len(text) <= longest:
                self.findings.add(node.line, path, f"expected {shortest} to {longest} characters, found {len(text)}")
        return text

    def words(self, node: Node, path: str, shortest: int = 1) -> tuple[str, ...]:
        """A list of different texts."""
        for where, item in self.items(node, path):
            self.word(item, where, 1024, shortest)
        return tuple(self.texts(node, path)) if isinstance(node, ListNode) else ()

    def prose(self, node: Node, path: str) -> None:
        """Text of several lines that nothing depends on."""
        if not isinstance(node, ScalarNode):
            self.text(node, path)
            return
        if len(node.text) > 65_535 or not node.text.strip():
            self.findings.add(node.line, path, f"expected 1 to 65535 characters, found {len(node.text)}")
        self._same_for_all(node, path)

    def scalar(self, node: Node, path: str) -> str | int | float | bool | None:
        """One value as a rule compares with it."""
        if not isinstance(node, ScalarNode):
            self.findings.add(node.line, path, "expected a single value here")
            return None
        self._same_for_all(node, path)
        try:
            return typed(node)
        except ValueError as error:
            self.findings.add(node.line, path, str(error))
            return None

    def span(self, node: Node, path: str) -> int:
        """A time such as ``15m``, in microseconds."""
        text = self.word(node, path, 10)
        found = _SPAN.fullmatch(text)
        seconds = int(found[1]) * _UNITS[found[2]] if found else 0
        if not 0 < seconds <= _LONGEST_SPAN:
            self.findings.add(node.line, path, f"expected a time of up to 366d such as 30s, 15m, 24h, found '{text}'")
            return SECOND
        return seconds * SECOND

    def field(self, node: Node, path: str, *, one: bool = True) -> Field | None:
        """A field's name. With ``one`` it must be a field of one value."""
        return self.field_named(self.word(node, path), node.line, path, one=one)

    def field_named(self, name: str, line: int, path: str, *, one: bool = False) -> Field | None:
        """The field of a name, in the file's taxonomy."""
        found = field(self.taxonomy, name) if name else None
        if found is None and name:
            hint = nearest(name, known_names(self.taxonomy))
            self.findings.add(line, path, f"the taxonomy {self.taxonomy} has no field '{name}'", hint)
        elif found is not None and one and found.many:
            self.findings.add(line, path, f"{name} is a list; a field of one value is needed here")
            return None
        return found

    def group(self, node: Node, path: str) -> tuple[Field, ...]:
        """A list of fields."""
        found = [self.field_named(name, line, at, one=True) for name, (line, at) in self.texts(node, path).items()]
        return tuple(one for one in found if one is not None)

    def _same_for_all(self, node: ScalarNode, path: str, *, dates: bool = False) -> None:
        if not node.plain:
            return
        try:
            typed(node)
        except ValueError as error:
            self.findings.add(node.line, path, str(error))
            return
        if _READ_OTHERWISE.fullmatch(node.text) and not (dates and _DATE.fullmatch(node.text)):
            self.findings.add(node.line, path, f"{node.text} is read as a time or number by some: quote it")


@dataclass(frozen=True, slots=True)
class Head:
    """Who a rule is. ``on`` is false for one that is kept for reference only."""

    id: str
    name: str
    title: str
    level: Level
    taxonomy: Taxonomy
    line: int
    on: bool


def read_head(reader: RuleReader, root: Node) -> tuple[Head, Mapping[str, Pair]]:
    """What all rules have, and the pairs of the file."""
    correlation = isinstance(root, MapNode) and "correlation" in root.items
    known = (*COMMON, "correlation") if correlation else (*COMMON, *OF_DETECTIONS)
    required = (*_REQUIRED, "correlation") if correlation else (*_REQUIRED, "logsource", "detection")
    pairs = reader.table(root, "", known, required)
    if isinstance(root, MapNode):
        for key, why in _REFUSED.items():
            if key in root.items:
                reader.findings.add(root.items[key].line, key, why)

    def choice(key: str, options: tuple[str, ...], otherwise: str) -> str:
        return reader.choice(pairs[key].value, key, options, otherwise) if key in pairs else otherwise

    reader.taxonomy = "audit" if choice("taxonomy", get_args(Taxonomy), "ecs") == "audit" else "ecs"
    level = choice("level", tuple(LEVELS), "low")
    status = choice("status", STATUSES, "test")
    if status == "unsupported":
        reader.findings.add(pairs["status"].line, "status", "a rule that cannot be used is not loaded: remove the file")
    _read_remarks(reader, pairs)
    name_of = {key: reader.word(pairs[key].value, key) if key in pairs else "" for key in ("id", "name", "title")}
    _check_uuid(reader, pairs, name_of["id"])
    found: Level = next((one for one in LEVELS if one == level), "low")
    on = status != "deprecated"
    head = Head(name_of["id"].lower(), name_of["name"], name_of["title"], found, reader.taxonomy, root.line, on)
    return head, pairs


_REFUSED = {
    "generate": "write it in correlation",
    "action": "collections of rules are no longer part of Sigma: write one rule a file",
    "filter": "filters are not read: write the exception into the rule's condition",
    "timeframe": "it is no longer part of Sigma: write a correlation",
}


def _check_uuid(reader: RuleReader, pairs: Mapping[str, Pair], text: str) -> None:
    try:
        good = not text or str(UUID(text)) == text.lower()
    except ValueError:
        good = False
    if not good:
        reader.findings.add(pairs["id"].line, "id", f"'{text}' is no UUID: make one with uuidgen")


def _read_remarks(reader: RuleReader, pairs: Mapping[str, Pair]) -> None:
    """What is for people: checked, so that the file is what the published schemas say, and then forgotten."""
    for key, pair in pairs.items():
        if key == "description":
            reader.prose(pair.value, key)
        elif key in ("author", "license"):
            reader.word(pair.value, key, 1024)
        elif key in ("references", "fields"):
            reader.words(pair.value, key)
        elif key in ("falsepositives", "scope"):
            reader.words(pair.value, key, shortest=2)
        elif key in ("date", "modified"):
            _read_date(reader, pair, key)
        elif key == "tags":
            for tag in reader.words(pair.value, key):
                if not _TAG.fullmatch(tag):
                    reader.findings.add(pair.line, key, f"'{tag}' is no tag: write namespace.name in lower case")
        elif key == "related":
            _read_related(reader, pair.value)


def _read_date(reader: RuleReader, pair: Pair, key: str) -> None:
    text = reader.word(pair.value, key)
    try:
        good = _DATE.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        good = False
    if not good:
        reader.findings.add(pair.line, key, f"expected a date such as 2026-11-22, found '{text}'")


def _read_related(reader: RuleReader, node: Node) -> None:
    for where, item in reader.items(node, "related"):
        pairs = reader.table(item, where, ("id", "type"), ("id", "type"))
        if "id" in pairs:
            text = reader.word(pairs["id"].value, join(where, "id"))
            _check_uuid(reader, pairs, text)
        if "type" in pairs:
            reader.choice(pairs["type"].value, join(where, "type"), _RELATIONS, "similar")
