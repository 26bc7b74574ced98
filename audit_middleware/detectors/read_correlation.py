"""``correlation`` of a rule file, with the rules that it refers to at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..policy.document import MapNode, Pair
from ..policy.findings import join, nearest
from .fields import Field
from .model import Comparison, Correlation, CorrelationType, Input, Rule
from .read import Head, RuleReader
from .read_custom import USER

__all__ = ["Known", "read_correlation", "references"]

TYPES: Final[tuple[CorrelationType, ...]] = ("event_count", "value_count", "temporal", "temporal_ordered")
COMPARISONS: Final[tuple[Comparison, ...]] = ("gt", "gte", "lt", "lte", "eq")
_KEYS = ("type", "rules", "group-by", "timespan", "condition", "aliases", "generate")
_OTHERS = ("value_sum", "value_avg", "value_percentile", "value_median")
_LARGEST = 10_000

Known = Mapping[str, tuple[Head, Rule]]
"""Rules that were read already, by id and by name."""


def references(reader: RuleReader, pairs: Mapping[str, Pair]) -> dict[str, tuple[int, str]]:
    """The rules that a correlation names, each with its line and path."""
    inner = pairs["correlation"].value
    if not isinstance(inner, MapNode) or "rules" not in inner.items:
        return {}
    node, path = inner.items["rules"].value, "correlation.rules"
    found = reader.texts(node, path)
    if not found and not len(reader.findings):
        reader.findings.add(node.line, path, "an empty list")
    for name, (line, where) in found.items():
        if len(name) < 2:
            reader.findings.add(line, where, "expected at least 2 characters")
    return {_reference(name): place for name, place in found.items()}


def _reference(text: str) -> str:
    """A name, or an id in lower case."""
    return text.lower() if text.count("-") == 4 else text


def read_correlation(reader: RuleReader, pairs: Mapping[str, Pair], known: Known) -> tuple[Correlation, Group]:
    """The correlation, and its group.

    What it refers to is in ``known``, or there is a finding about it already.
    """
    body = reader.table(pairs["correlation"].value, "correlation", _KEYS, ("type", "rules", "group-by", "timespan"))
    _not_read(reader, body)
    options: tuple[str, ...] = TYPES
    kind = reader.choice(body["type"].value, "correlation.type", options, "event_count") if "type" in body else ""
    found: CorrelationType = next((one for one in TYPES if one == kind), "event_count")
    span = reader.span(body["timespan"].value, "correlation.timespan") if "timespan" in body else 1
    compare, limit, counted = _condition(reader, body, found, pairs["correlation"].line)
    names = _names(reader, body)
    aliases = _aliases(reader, body, known)
    inputs = []
    for reference, (line, path) in references(reader, pairs).items():
        if reference in known:
            inputs.append(_input(reader, known[reference], names, aliases, counted, (line, path)))
    if found in ("temporal", "temporal_ordered") and len(inputs) == 1 and not len(reader.findings):
        reader.findings.add(pairs["correlation"].line, "correlation.rules", f"{found} needs at least two rules")
    generate = "generate" in body and reader.flag(body["generate"].value, "correlation.generate")
    users = bool(inputs) and all(_by_user(one, known[one.rule][1]) for one in inputs)
    return Correlation(found, tuple(inputs), span, compare, limit), Group(tuple(names), users, generate)


@dataclass(frozen=True, slots=True)
class Group:
    """Names of a group's fields; ``users``: each group is one user.

    ``generate``: the rules that the correlation refers to give findings of their own as well.
    """

    names: tuple[str, ...]
    users: bool
    generate: bool


def _by_user(one: Input, rule: Rule) -> bool:
    if one.positions is None:
        return any(field.name in USER for field in one.group_by)
    return rule.users


def _names(reader: RuleReader, body: Mapping[str, Pair]) -> dict[str, tuple[int, str]]:
    return reader.texts(body["group-by"].value, "correlation.group-by") if "group-by" in body else {}


def _not_read(reader: RuleReader, body: Mapping[str, Pair]) -> None:
    if "type" in body and getattr(body["type"].value, "text", None) in _OTHERS:
        text = "sums, averages and percentiles are not read; a baseline is a detector below custom"
        reader.findings.add(body["type"].line, "correlation.type", text)


def _condition(
    reader: RuleReader, body: Mapping[str, Pair], kind: CorrelationType, line: int
) -> tuple[Comparison, int, tuple[str, int] | None]:
    """Comparison, limit, and the name and line of the field whose values are counted."""
    path = "correlation.condition"
    if kind in ("temporal", "temporal_ordered"):
        if "condition" in body:
            reader.findings.add(body["condition"].line, path, f"{kind} takes none: all of its rules must match")
        return "gte", 1, None
    if "condition" not in body:
        reader.findings.add(line, path, "missing")
        return "gte", 1, None
    keys = (*COMPARISONS, "field") if kind == "value_count" else COMPARISONS
    required = ("field",) if kind == "value_count" else ()
    found = reader.table(body["condition"].value, path, keys, required)
    given = [one for one in COMPARISONS if one in found]
    if len(given) != 1:
        reader.findings.add(body["condition"].line, path, f"expected one of {', '.join(COMPARISONS)}")
        return "gte", 1, None
    limit = reader.integer(found[given[0]].value, join(path, given[0]), 1, _LARGEST)
    counted = None
    if "field" in found:
        counted = reader.word(found["field"].value, join(path, "field")), found["field"].line
    return given[0], limit, counted


def _aliases(reader: RuleReader, body: Mapping[str, Pair], known: Known) -> dict[str, dict[str, str]]:
    """For each alias, by the id of a rule, the field that is meant."""
    if "aliases" not in body:
        return {}
    found: dict[str, dict[str, str]] = {}
    for alias, pair in reader.table(body["aliases"].value, "correlation.aliases").items():
        path = join("correlation.aliases", alias)
        found[alias] = {}
        for name, inner in reader.table(pair.value, path).items():
            reference = _reference(name)
            if reference not in known:
                reader.findings.add(inner.line, join(path, name), f"there is no rule '{name}'", nearest(name, known))
                continue
            found[alias][known[reference][1].id] = reader.word(inner.value, join(path, name))
    return found


def _input(
    reader: RuleReader,
    known: tuple[Head, Rule],
    names: Mapping[str, tuple[int, str]],
    aliases: Mapping[str, Mapping[str, str]],
    counted: tuple[str, int] | None,
    place: tuple[int, str],
) -> Input:
    head, rule = known
    if head.taxonomy != reader.taxonomy:
        reader.findings.add(*place, f"'{head.title}' is written in the taxonomy {head.taxonomy}: both must be the same")
        return Input(rule.id, ())
    if isinstance(rule.body, Correlation):
        return _nested(reader, rule, names, counted, place)

    def meant(name: str, line: int, path: str) -> Field | None:
        return reader.field_named(aliases.get(name, {}).get(rule.id, name), line, path, one=True)

    group = [meant(name, line, path) for name, (line, path) in names.items()]
    value = None if counted is None else meant(*counted, "correlation.condition.field")
    return Input(rule.id, tuple(field for field in group if field is not None), value)


def _nested(
    reader: RuleReader,
    rule: Rule,
    names: Mapping[str, tuple[int, str]],
    counted: tuple[str, int] | None,
    place: tuple[int, str],
) -> Input:
    """A correlation of a correlation knows no records, but groups."""
    if counted is not None:
        reader.findings.add(*place, "values can be counted of records, not of another correlation")
    for name, (line, path) in names.items():
        if name not in rule.group_by:
            text = f"'{rule.title}' is not grouped by {name}, only by {', '.join(rule.group_by) or 'nothing'}"
            reader.findings.add(line, path, text)
    return Input(rule.id, (), None, tuple(rule.group_by.index(name) for name in names if name in rule.group_by))
