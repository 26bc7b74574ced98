"""``logsource`` and ``detection`` of a rule file to one condition over fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..policy.document import ListNode, MapNode, Node, Pair, ScalarNode
from ..policy.findings import join, nearest
from .condition import (
    NAME,
    WORDS,
    ConditionProblem,
    Item,
    Not,
    Presence,
    Same,
    joined,
    parse_condition,
)
from .condition import Node as Condition
from .fields import Field
from .model import Kind
from .read import RuleReader
from .values import COMPARISONS, Test, ValueProblem, cidr, compare, equal, matches, wildcard

__all__ = ["read_detection", "read_logsource"]

PRODUCT: Final = "audit_middleware"
CATEGORIES: Final[Mapping[str, Kind]] = {"request": "outcome", "intent": "intent", "control": "control"}
_PLACES = frozenset(("contains", "startswith", "endswith"))
_FLAGS = {"i": "i", "ignorecase": "i", "m": "m", "multiline": "m", "s": "s", "dotall": "s"}
_ALONE = frozenset(("exists", "fieldref", "cidr", "re", *COMPARISONS))
_MODIFIERS = (*sorted(_PLACES), "all", "cased", *sorted(_ALONE), *_FLAGS)
_NAMES = "letters, digits and underscores, and no word of Sigma or YAML such as not and off"
_KEYWORD = "a keyword without a field: records have fields, name the one that is meant"
_NEVER: Final = Presence(Field("", lambda _: None), wanted=True)  # a stand-in behind a finding


def read_logsource(reader: RuleReader, node: Node) -> tuple[Kind | None, str | None]:
    """Which kind of records, and of which service; ``None``: any."""
    pairs = reader.table(node, "logsource", ("product", "category", "service", "definition"), ("product",))

    def path(key: str) -> str:
        return join("logsource", key)

    if "product" in pairs:
        found = reader.word(pairs["product"].value, path("product"))
        if found != PRODUCT:
            text = f"expected {PRODUCT}, found '{found}': rules for other products do not fit these records"
            reader.findings.add(pairs["product"].line, path("product"), text)
    kind = None
    if "category" in pairs:
        options = tuple(CATEGORIES)
        kind = CATEGORIES[reader.choice(pairs["category"].value, path("category"), options, "request")]
    if "definition" in pairs:
        reader.prose(pairs["definition"].value, path("definition"))
    service = reader.word(pairs["service"].value, path("service")) if "service" in pairs else None
    return kind, service or None


def read_detection(reader: RuleReader, node: Node) -> Condition:
    """The condition over all selections."""
    pairs = reader.table(node, "detection", required=("condition",))
    selections: dict[str, Condition] = {}
    for name, pair in pairs.items():
        path = join("detection", name)
        if name == "condition":
            continue
        if name == "timeframe":
            reader.findings.add(pair.line, path, "it is no longer part of Sigma: write a correlation")
        elif not NAME.fullmatch(name) or name.lower() in WORDS:
            reader.findings.add(pair.line, path, f"'{name}' is no name: {_NAMES}")
        else:
            selections[name] = _selection(reader, pair.value, path)
    if "condition" not in pairs:
        return _NEVER
    return _condition(reader, pairs, selections)


def _condition(reader: RuleReader, pairs: Mapping[str, Pair], selections: Mapping[str, Condition]) -> Condition:
    pair, path = pairs["condition"], "detection.condition"
    if isinstance(pair.value, ListNode):
        reader.findings.add(pair.line, path, "several conditions: write one, or a file for each")
        return _NEVER
    text = reader.word(pair.value, path, 1024)
    try:
        found, used = parse_condition(text, selections)
    except ConditionProblem as problem:
        reader.findings.add(pair.line, path, str(problem))
        return _NEVER
    for name in selections:
        if name not in used:
            reader.findings.add(pairs[name].line, join("detection", name), "the condition does not use it")
    return found


def _selection(reader: RuleReader, node: Node, path: str) -> Condition:
    """A mapping, all of which must hold; or a list of such, one of which must."""
    if isinstance(node, ListNode):
        parts = []
        for where, item in reader.items(node, path):
            if isinstance(item, ScalarNode):
                reader.findings.add(item.line, where, _KEYWORD)
            else:
                parts.append(_selection(reader, item, where))
        if not node.items:
            reader.findings.add(node.line, path, "an empty list")
        return joined(parts, every=False) if parts else _NEVER
    if isinstance(node, ScalarNode):
        reader.findings.add(node.line, path, "expected a mapping of fields, or a list of such")
        return _NEVER
    if not node.items:
        reader.findings.add(node.line, path, "an empty mapping")
    parts = [_item(reader, key, pair, join(path, key)) for key, pair in node.items.items()]
    return joined(parts, every=True) if parts else _NEVER


def _item(reader: RuleReader, key: str, pair: Pair, path: str) -> Condition:
    name, *modifiers = key.split("|")
    if not name:
        reader.findings.add(
            pair.line, path, "a keyword without a field: records have fields, name the one that is meant"
        )
        return _NEVER
    found = reader.field_named(name, pair.line, path)
    values = _values(pair.value)
    if isinstance(pair.value, MapNode) or not values:
        reader.findings.add(pair.line, path, "expected a value or a list of values")
        return _NEVER
    if found is None or not _fit(reader, modifiers, pair, path):
        return _NEVER
    every = "all" in modifiers
    if every and len(values) == 1:
        reader.findings.add(pair.line, path, "'all' is for a list of values")
    rest = [modifier for modifier in modifiers if modifier != "all"]
    return _tested(reader, found, rest, values, path, every=every)


def _values(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, ListNode) else (node,)


def _fit(reader: RuleReader, modifiers: list[str], pair: Pair, path: str) -> bool:
    """Whether these modifiers are known and go together."""
    before = len(reader.findings)

    def add(text: str, hint: str = "") -> None:
        reader.findings.add(pair.line, path, text, hint)

    for modifier in modifiers:
        if modifier not in _MODIFIERS:
            hint = nearest(modifier, _MODIFIERS) or f"; there are: {', '.join(_MODIFIERS)}"
            add(f"the modifier '{modifier}' is not read here", hint)
    if len(set(modifiers)) < len(modifiers):
        add("a modifier is given twice")
    flags = [one for one in modifiers if one in _FLAGS]
    alone = [one for one in modifiers if one in _ALONE]
    others = [one for one in modifiers if one not in _ALONE and one not in _FLAGS and one != "all"]
    places = [one for one in others if one in _PLACES]
    if len(alone) > 1 or (alone and others) or len(places) > 1:
        add(f"'{'|'.join(modifiers)}' do not go together")
    elif alone and modifiers[0] != alone[0]:
        add(f"'{alone[0]}' comes first")
    if flags and alone != ["re"]:
        add(f"'{flags[0]}' is for re")
    if "exists" in modifiers and "all" in modifiers:
        add("'exists' takes one value")
    return len(reader.findings) == before


def _tested(
    reader: RuleReader, field: Field, modifiers: list[str], nodes: tuple[Node, ...], path: str, *, every: bool
) -> Condition:
    """The parts that are tests of the value become one item; absence and references to other fields stand beside."""
    tests: list[Test] = []
    parts: list[Condition] = []
    for number, node in enumerate(nodes):
        where = path if len(nodes) == 1 else f"{path}[{number}]"
        value = reader.scalar(node, where)
        try:
            if modifiers == ["exists"]:
                parts.append(_exists(field, value, single=len(nodes) == 1))
            elif modifiers == ["fieldref"]:
                parts.append(_reference(reader, field, value, node, where))
            elif value is None and not modifiers:
                parts.append(Not(Presence(field, wanted=True)))
            else:
                tests.append(_test(value, modifiers))
        except ValueProblem as problem:
            reader.findings.add(node.line, where, str(problem))
    if tests:
        parts.append(Item(field, tuple(tests), every, {}))
    return joined(parts, every=every) if parts else _NEVER


def _exists(field: Field, value: object, *, single: bool) -> Condition:
    if not isinstance(value, bool) or not single:
        raise ValueProblem("expected true or false")
    return Presence(field, wanted=value)


def _reference(reader: RuleReader, field: Field, value: object, node: Node, path: str) -> Condition:
    if not isinstance(value, str) or not value or set(value) & set("*?\\"):
        raise ValueProblem("expected the name of a field")
    other = reader.field_named(value, node.line, path)
    return _NEVER if other is None else Same(field, other)


def _test(value: str | int | float | bool | None, modifiers: list[str]) -> Test:
    kind = modifiers[0] if modifiers else ""
    if kind in COMPARISONS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueProblem("expected a number")
        return compare(kind, value)
    if isinstance(value, str):
        if kind == "cidr" and value:
            return cidr(value)
        if kind == "re" and value:
            return matches(value, "".join(_FLAGS[flag] for flag in modifiers[1:]))
        if not value:
            raise ValueProblem("an empty text counts as absent: write null, or ask for exists")
        ends = {"before": "contains" in modifiers or "endswith" in modifiers}
        ends["after"] = "contains" in modifiers or "startswith" in modifiers
        return wildcard(value, cased="cased" in modifiers, **ends)
    if modifiers or value is None:
        raise ValueProblem("expected text" if modifiers else "expected a value")
    return equal(value)
