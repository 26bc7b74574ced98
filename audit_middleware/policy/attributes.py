"""Attribute paths: ``subject.id``, ``resource.owner``, ``context.ip``; how they are named, and read.

The roots are AuthZEN's. ``subject.id``, ``type``, ``roles``, ``tenant`` and ``session`` are the subject's own fields,
``resource.type`` and ``id`` the resource's; every other name is a property. Further segments descend into mappings. An
attribute that is absent or null is *missing*: reading it is an error, never a value that could happen to compare.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConditionError
from ..model import Resource, Subject
from .findings import nearest

__all__ = ["Getter", "Test", "getter", "kind", "path_problem"]

Getter = Callable[[Subject, Resource, Mapping[str, Any]], Any]
Test = Callable[[Subject, Resource, Mapping[str, Any]], bool]

ROOTS = ("subject", "resource", "context")
_FIELDS = {
    "subject": frozenset({"id", "type", "roles", "tenant", "session"}),
    "resource": frozenset({"id", "type"}),
    "context": frozenset[str](),
}
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:/@-]*")
_KINDS: dict[type, str] = {str: "text", bool: "a boolean", int: "a number", float: "a number"}


def path_problem(path: str) -> str | None:
    """What is wrong with an attribute path as written, or ``None``."""
    root, *segments = path.split(".")
    if root not in ROOTS:
        return f"'{root}' is not an attribute root (subject, resource, context){nearest(root, ROOTS)}"
    if not segments or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        return f"'{path}' is not an attribute: write {root}.<name>"
    return None


def getter(path: str) -> Getter:
    """Compiles a path to a function of (subject, resource, context); it raises `ConditionError` for what is missing."""
    root, name, *rest = path.split(".")
    first = _field(path, root, name) if name in _FIELDS[root] else _property(path, root, name)
    return _nested(path, first, rest) if rest else first


def _field(path: str, root: str, name: str) -> Getter:
    index = ROOTS.index(root)

    def read(*request: Any) -> Any:
        value = getattr(request[index], name)
        if value is None:
            raise ConditionError(f"{path} is missing")
        return value

    def subject_id(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Any:
        return subject.id

    return subject_id if path == "subject.id" else read


def _property(path: str, root: str, name: str) -> Getter:
    def of_subject(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Any:
        value = subject.properties.get(name)
        if value is None:
            raise ConditionError(f"{path} is missing")
        return value

    def of_resource(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Any:
        value = resource.properties.get(name)
        if value is None:
            raise ConditionError(f"{path} is missing")
        return value

    def of_context(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Any:
        value = context.get(name)
        if value is None:
            raise ConditionError(f"{path} is missing")
        return value

    return {"subject": of_subject, "resource": of_resource, "context": of_context}[root]


def _nested(path: str, first: Getter, rest: list[str]) -> Getter:
    def read(subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Any:
        value = first(subject, resource, context)
        for name in rest:
            value = value.get(name) if isinstance(value, Mapping) else None
            if value is None:
                raise ConditionError(f"{path} is missing")
        return value

    return read


def kind(value: Any, path: str) -> str:
    """Which of text, number, boolean a scalar is; anything else, and NaN, is a `ConditionError`."""
    found = _KINDS.get(type(value)) or next((name for base, name in _KINDS.items() if isinstance(value, base)), None)
    if found is None:
        raise ConditionError(f"{path} is not a single text, number or boolean")
    if value != value:  # NaN compares false with everything, so a negated condition would hold
        raise ConditionError(f"{path} is not a number")
    return found
