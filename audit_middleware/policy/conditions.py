"""Conditions: what a rule's ``when:`` says, as frozen values, and compiled to one function.

A condition is a tree of `Compare` (one operator on one attribute), `Call` (a registered predicate), `AllOf`, `AnyOf`
and `Not`. Keys of one mapping all have to hold. Evaluation is three-valued, and order never matters:

* ``all`` is false when a part is false, whatever the others are; otherwise an error in a part is its error;
* ``any`` is true when a part is true, whatever the others are; otherwise an error in a part is its error;
* ``not`` of an error is the error.

So ``{resource.owner: {exists: true, same_as: subject.id}}`` is false, not an error, for a resource without an owner.
Parts are kept sorted and without repetition: equal conditions have one form and one digest however they were written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any

import msgspec

from ..errors import ConditionError
from ..model import Resource, Subject
from .attributes import Test, getter, path_problem
from .document import ListNode, MapNode, Node, ScalarNode
from .findings import join, nearest
from .operators import OPERATORS, Window, zone_of
from .patterns import Pattern
from .reader import Reader

__all__ = [
    "AllOf",
    "AnyOf",
    "Call",
    "Compare",
    "CompiledCondition",
    "Condition",
    "Not",
    "PredicateFunction",
    "compile_condition",
    "describe",
    "leaves",
    "paths",
    "read_condition",
    "to_json",
]

PredicateFunction = Callable[[Mapping[str, Any]], bool]
"""A registered predicate: given AuthZEN's ``subject``, ``action``, ``resource``, ``context``, it answers True or False.

Must be pure, quick and safe to call from several threads. What it raises, and any other answer, denies.
"""

_WORDS = ("all", "any", "not", "predicate")
_ROOT_EXAMPLES = (*_WORDS, "subject.id", "resource.id", "resource.type", "context.ip", "context.time")


class Compare(msgspec.Struct, frozen=True):
    """One operator on one attribute."""

    path: str
    operator: str
    operand: Any


class Call(msgspec.Struct, frozen=True):
    """A registered predicate, by name."""

    name: str


class AllOf(msgspec.Struct, frozen=True):
    """Every part holds."""

    parts: tuple[Condition, ...]


class AnyOf(msgspec.Struct, frozen=True):
    """At least one part holds."""

    parts: tuple[Condition, ...]


class Not(msgspec.Struct, frozen=True):
    """The part does not hold."""

    part: Condition


Condition = Compare | Call | AllOf | AnyOf | Not


# --- reading -----------------------------------------------------------------------------------------------------


def read_condition(reader: Reader, node: Node, path: str, predicates: Mapping[str, Any]) -> Condition:
    """Reads a ``when:`` mapping; what is wrong becomes findings."""
    if not isinstance(node, MapNode) or not node.items:
        reader.findings.add(
            node.line, path, "expected a mapping of attributes to conditions, or all, any, not, predicate"
        )
        return AllOf(())
    parts: list[Condition] = []
    for key, pair in node.items.items():
        where = join(path, key)
        if key in ("all", "any"):
            parts.append(_group(reader, key, pair.value, where, predicates))
        elif key == "not":
            parts.append(Not(read_condition(reader, pair.value, where, predicates)))
        elif key == "predicate":
            parts.append(_call(reader, pair.value, where, predicates))
        elif "." not in key:
            reader.findings.add(pair.line, where, "not an attribute or a condition", nearest(key, _ROOT_EXAMPLES))
        elif problem := path_problem(key):
            reader.findings.add(pair.line, where, problem)
        else:
            parts.extend(_comparisons(reader, key, pair.value, where))
    return _all(parts)


def _group(reader: Reader, key: str, node: Node, path: str, predicates: Mapping[str, Any]) -> Condition:
    parts = [read_condition(reader, item, where, predicates) for where, item in reader.items(node, path)]
    if isinstance(node, ListNode) and not parts:
        reader.findings.add(node.line, path, "an empty list says nothing")
    return _all(parts) if key == "all" else _any(parts)


def _call(reader: Reader, node: Node, path: str, predicates: Mapping[str, Any]) -> Condition:
    name = reader.text(node, path, "?")
    if name not in predicates and not predicates and name != "?":
        text = f"'{name}' is a function in Python and none were given: predicates= in code, --predicates in commands"
        reader.findings.add(node.line, path, text)
    elif name not in predicates and name != "?":
        reader.findings.add(node.line, path, f"no predicate '{name}' is registered", nearest(name, predicates))
    elif iscoroutinefunction(predicates.get(name)):
        reader.findings.add(node.line, path, f"predicate '{name}' is async: a decision does not wait")
    return Call(name)


def _comparisons(reader: Reader, attribute: str, node: Node, path: str) -> list[Condition]:
    if isinstance(node, ScalarNode):
        return [Compare(attribute, "equals", reader.value(node, path))]
    if isinstance(node, ListNode):
        reader.findings.add(node.line, path, "expected an operator, found a list: write {in: [...]}")
        return []
    known = (*OPERATORS, "zone")
    pairs = reader.table(node, path, known, noun="operator")
    if not node.items:
        reader.findings.add(node.line, path, "expected an operator, found an empty mapping")
    if "zone" in pairs and "between" not in pairs:
        reader.findings.add(pairs["zone"].line, join(path, "zone"), "zone belongs to between, which is missing")
    if "between" in pairs and "zone" not in pairs:
        reader.findings.add(pairs["between"].line, join(path, "zone"), "missing: between needs one, such as zone: UTC")
    found: list[Condition] = []
    for name, pair in pairs.items():
        if name == "zone":
            continue
        operand = OPERATORS[name].read(reader, pair.value, join(path, name))
        if isinstance(operand, Window) and "zone" in pairs:
            zone = zone_of(reader, pairs["zone"].value, join(path, "zone"))
            operand = Window(operand.start, operand.end, zone)
        found.append(Compare(attribute, name, operand))
    return found


def _all(parts: list[Condition]) -> Condition:
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, AllOf) else (part,))]
    unique = _sorted(flat)
    return unique[0] if len(unique) == 1 else AllOf(unique)


def _any(parts: list[Condition]) -> Condition:
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, AnyOf) else (part,))]
    unique = _sorted(flat)
    return unique[0] if len(unique) == 1 else AnyOf(unique)


def _sorted(parts: list[Condition]) -> tuple[Condition, ...]:
    by_text = {json.dumps(to_json(part), sort_keys=True): part for part in parts}
    # exists first: it spares its neighbours the cost of raising. Predicates last: foreign code is slower than ours.
    return tuple(part for _, part in sorted(by_text.items(), key=lambda item: (_rank(item[1]), item[0])))


def _rank(part: Condition) -> int:
    if isinstance(part, Compare):
        return 0 if part.operator == "exists" else 1
    return 3 if isinstance(part, Call) else 2


# --- canonical form and text -------------------------------------------------------------------------------------


def to_json(condition: Condition) -> dict[str, Any]:
    """The condition as the language writes it in full: what the digest covers, and what loads again."""
    if isinstance(condition, Compare):
        return {condition.path: _operand(condition)}
    if isinstance(condition, Call):
        return {"predicate": condition.name}
    if isinstance(condition, Not):
        return {"not": to_json(condition.part)}
    word = "all" if isinstance(condition, AllOf) else "any"
    return {word: [to_json(part) for part in condition.parts]}


def _operand(condition: Compare) -> dict[str, Any]:
    operand = condition.operand
    if isinstance(operand, Window):
        start, end = (f"{minutes // 60:02d}:{minutes % 60:02d}" for minutes in (operand.start, operand.end))
        return {"between": f"{start}-{end}", "zone": operand.zone}
    if isinstance(operand, Pattern):
        return {condition.operator: operand.text}
    return {condition.operator: list(operand) if isinstance(operand, tuple) else operand}


def describe(condition: Condition) -> str:
    """One line for people: ``resource.owner same_as subject.id``. Holds policy text only, never a request's values."""
    if isinstance(condition, Compare):
        operand = _operand(condition)
        value = operand[condition.operator]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        zone = f" {operand['zone']}" if "zone" in operand else ""
        return f"{condition.path} {condition.operator} {text}{zone}"
    if isinstance(condition, Call):
        return f"predicate {condition.name}"
    if isinstance(condition, Not):
        return f"not ({describe(condition.part)})"
    word = " and " if isinstance(condition, AllOf) else " or "
    return word.join(
        f"({describe(part)})" if isinstance(part, AllOf | AnyOf) else describe(part) for part in condition.parts
    )


def leaves(condition: Condition) -> tuple[Compare | Call, ...]:
    """The comparisons and calls in a condition, in order."""
    if isinstance(condition, Compare | Call):
        return (condition,)
    parts = (condition.part,) if isinstance(condition, Not) else condition.parts
    return tuple(leaf for part in parts for leaf in leaves(part))


def paths(condition: Condition) -> frozenset[str]:
    """Every attribute that the condition names; what a predicate reads is not known."""
    found: set[str] = set()
    for leaf in leaves(condition):
        if isinstance(leaf, Compare):
            found.add(leaf.path)
            if leaf.operator == "same_as":
                found.add(leaf.operand)
    return frozenset(found)


# --- compiling ---------------------------------------------------------------------------------------------------


class CompiledCondition(msgspec.Struct, frozen=True):
    """A condition ready to run. ``parts`` are those of an ``all``: each can be asked alone, to name what failed;
    ``inner`` are those of ``all``, ``any`` and ``not``, for an explanation."""

    condition: Condition
    text: str
    test: Test
    parts: tuple[CompiledCondition, ...] = ()
    foreign: bool = False  # calls a predicate
    inner: tuple[CompiledCondition, ...] = ()

    def failing(self, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> str:
        """Names the part because of which the condition is false; meant for after it was found to be false."""
        for part in self.parts:
            try:
                if not part.test(subject, resource, context):
                    return part.failing(subject, resource, context)
            except ConditionError:
                continue  # the part that is false outvoted it
        return self.text


def compile_condition(
    condition: Condition, action: str, predicates: Mapping[str, PredicateFunction]
) -> CompiledCondition:
    """Its ``test`` is a function of (subject, resource, context) that answers, or raises `ConditionError` only."""
    parts: tuple[CompiledCondition, ...] = ()
    inner: tuple[CompiledCondition, ...] = ()
    if isinstance(condition, Compare):
        make = OPERATORS[condition.operator].make
        test = make(getter(condition.path), condition.path, condition.operand)
    elif isinstance(condition, Call):
        test = _calling(condition.name, action, predicates[condition.name])
    elif isinstance(condition, Not):
        inner = (compile_condition(condition.part, action, predicates),)
        test = _negation(inner[0].test)
    else:
        inner = tuple(compile_condition(part, action, predicates) for part in condition.parts)
        test = _deciding(tuple(part.test for part in inner), on=isinstance(condition, AnyOf))
        parts = inner if isinstance(condition, AllOf) else ()
    foreign = any(isinstance(leaf, Call) for leaf in leaves(condition))
    return CompiledCondition(condition, describe(condition), test, parts, foreign, inner)


def _deciding(tests: tuple[Test, ...], *, on: bool) -> Test:
    """``any`` is decided by the first true part (``on=True``), ``all`` by the first false one; errors wait."""

    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        problem = ""
        for part in tests:
            try:
                if part(subject, resource, context) is on:
                    return on
            except ConditionError as error:
                problem = problem or str(error)
        if problem:
            raise ConditionError(problem)
        return not on

    return test


def _negation(part: Test) -> Test:
    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        return not part(subject, resource, context)

    return test


def _calling(name: str, action: str, function: PredicateFunction) -> Test:
    def test(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> bool:
        try:
            answer = function(_question(action, subject, resource, context))
        except Exception as error:  # foreign code: whatever it raises is an error in the condition, which denies
            raise ConditionError(f"predicate {name} raised {type(error).__name__}") from error
        if answer is not True and answer is not False:
            raise ConditionError(f"predicate {name} answered neither True nor False")
        return answer

    return test


def _question(action: str, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> dict[str, Any]:
    """The request in AuthZEN 1.0 shape."""
    properties = {**subject.properties, "roles": subject.roles, "tenant": subject.tenant, "session": subject.session}
    return {
        "subject": {"type": subject.type, "id": subject.id, "properties": properties},
        "action": {"name": action},
        "resource": {"type": resource.type, "id": resource.id, "properties": dict(resource.properties)},
        "context": dict(context),
    }
