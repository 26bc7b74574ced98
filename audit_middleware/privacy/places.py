"""Where personal data stands in a record: what a policy declares, compiled to be walked once per record.

A declared path may be a field, a member of a JSON field, or a part of the record (``request.body``), which stands for
all in it that can hold a text. Fields are read off `schema.Record`: an object that is replaced becomes
``{"personal": text}``, a list ``[text]``, anything else the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from ..model import Json
from ..persons import HOWS, Personal, Treatment
from ..schema import Record

__all__ = ["BODY", "INPUTS", "RESOURCE_ID", "USER_ID", "Hide", "Node", "Plan", "Rule", "is_empty", "walk"]

USER_ID: Final = "user_id"
RESOURCE_ID: Final = "resource.id"
BODY: Final = "request.body.content"
INPUTS: Final = "decision.inputs.values"

_REMEMBERED = 1024
_AMENDED = {"extra": "extra.extra", "resource": "extra.resource", "reason": "reason", "impact": "impact"}
_ATTRIBUTES = {"subject.id": USER_ID, "context.ip": "initiator_ip", "context.body": BODY}
# What a decision reads under another name than the record has for it.
_OWN = frozenset({"subject.type", "subject.roles", "subject.tenant", "subject.session", "resource.type", RESOURCE_ID})


class Rule(NamedTuple):
    """What is done with a value, and the field it is a value of, which tells what a token of it stands for."""

    treatment: Treatment
    field: str

    def sealed(self) -> Rule:
        """The same for a text that holds such a value among other things: no token can stand for it."""
        if self.treatment.how != "token":
            return self
        return Rule(Treatment("seal", "resource" if self.field == RESOURCE_ID else "subject"), self.field)


Hide = Callable[[Json, Rule, str], str]
"""``hide(value, rule, path)`` returns the text that stands for a value at this place."""


class Node:
    """One segment of the declared paths; ``strictest`` is the strictest rule here and below."""

    __slots__ = ("members", "rule", "strictest")

    def __init__(self) -> None:
        self.members: dict[str, Node] = {}
        self.rule: Rule | None = None
        self.strictest: Rule | None = None

    def put(self, path: str, rule: Rule) -> None:
        """Declares a rule at a path below."""
        node = self
        node.strictest = _stricter(node.strictest, rule)
        for name in path.split("."):
            node = node.members.setdefault(name, Node())
            node.strictest = _stricter(node.strictest, rule)
        node.rule = _stricter(node.rule, rule)


def _stricter(one: Rule | None, other: Rule) -> Rule:
    if one is None or HOWS.index(other.treatment.how) > HOWS.index(one.treatment.how):
        return other
    return one


class Plan:
    """All that one policy, or one action, declares."""

    def __init__(self, personal: Personal) -> None:
        self.personal = personal  # kept, so that its identity stays its own
        self.root, self.amended = Node(), Node()
        self.inputs: Rule | None = None  # of each value that a decision read and that follows no other field
        for path, treatment in personal.items():
            if treatment.how != "clear":
                for field in _leaves(path):
                    self._put(field, Rule(treatment, field))
        self.user = self.at(USER_ID)
        self.resource = self.at(RESOURCE_ID)
        self.address = self.at("initiator_ip")
        self.body = self.at(BODY)
        self._attributes: dict[str, Rule | None] = {}

    def _put(self, field: str, rule: Rule) -> None:
        if field == INPUTS:
            self.inputs = rule
            return
        self.root.put(field, rule)
        first, _, rest = field.partition(".")
        if first in _AMENDED:
            self.amended.put(_AMENDED[first] + (f".{rest}" if rest else ""), rule)

    def at(self, path: str) -> Rule | None:
        """The strictest rule for what stands at a path, around it and in it."""
        node, found = self.root, None
        for name in path.split("."):
            below = node.members.get(name)
            if below is None:
                return found
            node = below
            found = node.rule if found is None else found if node.rule is None else _stricter(found, node.rule)
        return node.strictest if found is None or node.strictest is None else _stricter(found, node.strictest)

    def attribute(self, name: str) -> Rule | None:
        """The rule for what a decision reads: that of the field whose value it is."""
        try:
            return self._attributes[name]
        except KeyError:
            if len(self._attributes) >= _REMEMBERED:
                self._attributes.clear()
            rule = self._attributes[name] = self.at(_field_of(name))
            return rule


def _field_of(attribute: str) -> str:
    """``subject.email`` is ``subject.properties.email``, ``context.body.email`` a member of the body."""
    for name, field in _ATTRIBUTES.items():
        if attribute == name or attribute.startswith(f"{name}."):
            return field + attribute[len(name) :]
    root, _, rest = attribute.partition(".")
    if root in ("subject", "resource") and not any(attribute == one or attribute.startswith(f"{one}.") for one in _OWN):
        return f"{root}.properties.{rest}"
    return attribute


# --- the record's own shape ----------------------------------------------------------------------------------------

Shape = Literal["text", "list", "object", "json"]


def _shape(annotation: Any) -> Shape | type[BaseModel] | None:
    """What stands in a field; ``None`` for numbers and words of a closed set, which hold no text."""
    if annotation is Any:
        return "json"
    for option in get_args(annotation) or (annotation,):
        if option is NoneType:
            continue
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
        origin = get_origin(annotation) or annotation
        if origin in (list, dict):
            return "list" if origin is list else "object"
        if option is str or get_args(option)[:1] == (str,):
            return "text"
    return None


def _walk_model(model: type[BaseModel], above: str) -> Iterator[tuple[str, Shape | type[BaseModel] | None]]:
    for name, field in model.model_fields.items():
        path, shape = f"{above}{name}", _shape(field.annotation)
        yield path, shape
        if isinstance(shape, type):
            yield from _walk_model(shape, f"{path}.")


_SHAPES = dict(_walk_model(Record, ""))
_OBJECTS = frozenset(path for path, shape in _SHAPES.items() if shape == "object") | {
    "extra.extra", "extra.resource.properties",  # of an amendment, where the same fields stand one level deeper
}  # fmt: skip
_LISTS = frozenset(path for path, shape in _SHAPES.items() if shape == "list")


def _leaves(path: str) -> list[str]:
    """The fields that a declared path stands for."""
    if not isinstance(_SHAPES.get(path), type):
        return [path]
    within = ((one, shape) for one, shape in _SHAPES.items() if one.startswith(f"{path}."))
    return [one for one, shape in within if isinstance(shape, str)]


# --- walking a record ----------------------------------------------------------------------------------------------


def is_empty(value: Json) -> bool:
    """Nothing that could be personal: null, or a text, object or list without anything in it."""
    return value is None or (not value and isinstance(value, str | dict | list))


def walk(value: Json, node: Node, path: str, hide: Hide) -> Json:
    """The value with all that is declared in it replaced; the same object where nothing was."""
    if is_empty(value):
        return value
    if node.members:
        value = _members(value, node, path, hide)
    return value if node.rule is None else shaped(hide(value, node.rule, path), path)


def _members(value: Json, node: Node, path: str, hide: Hide) -> Json:
    """What is declared below a value; all of it where it has another shape than the policy thinks."""
    if type(value) is dict:
        changed = None
        for name, below in node.members.items():
            old = value.get(name)
            if old is not None and (new := walk(old, below, f"{path}.{name}", hide)) is not old:
                changed = changed or dict(value)
                changed[name] = new
        return changed or value
    if type(value) is list:
        items = [
            item if is_empty(item) else _members(item, node, f"{path}.{at}", hide) for at, item in enumerate(value)
        ]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    assert node.strictest is not None  # a node is only made for a rule
    return shaped(hide(value, node.strictest.sealed(), path), path)


def shaped(text: str, path: str) -> Json:
    """A text in the shape that the record's schema asks for at this place."""
    if path in _OBJECTS:
        return {"personal": text}
    return [text] if path in _LISTS else text
