"""The fields of a record that a policy may treat as personal data: read off `schema.Record`, not listed again.

What can be treated is what may hold somebody's data and has a place for a sealed text: texts, lists, objects and JSON.
Numbers and words of a closed set name nobody. What else stays readable, because a log that hid it could not be read,
searched or checked, is in `READABLE` with the reason. A part of the record with members of its own (``request``) stands
for all that can be treated in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from ..errors import PolicyError
from ..persons import Treatment
from ..schema import Record
from .findings import nearest

__all__ = ["ALIASES", "FIELDS", "PARTS", "READABLE", "TOKENS", "Shape", "canonical_path", "leaves", "problem"]

Shape = Literal["text", "list", "object", "json"]
"""What stands at a path. Of an ``object`` and of ``json`` a policy may name members."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "subject.id": "user_id",
        "subject.ip": "initiator_ip",
        "context.ip": "initiator_ip",
        "context.time": "timestamp",
        "context.method": "request.method",
        "context.route": "request.route",
        "context.protocol": "request.protocol",
        "context.body": "request.body.content",
    }
)
"""Other names of fields, as conditions have them; each stands for what is below it, too."""

TOKENS = ("user_id", "resource.id", "initiator_ip", "subject.session", "subject.tenant")
"""The fields that identify somebody or something by their whole value: a pseudonym can stand for them."""

_BODIES = ("request.body", "response.body")
_OF_THE_CALLER = ("user_id", "subject", "source", "initiator_ip", "forwarded", "user_agent")
"""Data of who asks, whatever was acted on."""

_TIES = "it ties records to one another"
_SERVICE = "it names the service, not a person"
_DONE = "it says what was done"
_WHY = "it says why the request was allowed or denied, in the policy's own words"
_HOW = "it says how the caller was authenticated"
READABLE: Mapping[str, str] = MappingProxyType(
    {
        "action_id": _TIES,
        "intent_id": _TIES,
        "timestamp": "it says when",
        "recorded_at": "it says when",
        "service": _SERVICE,
        "action": _DONE,
        "event": _DONE,
        "subject.type": "it says what kind of caller asked",
        "source.method": _HOW,
        "source.issuer": _HOW,
        "resource.type": "it says what kind of thing was acted on",
        "decision.rule": _WHY,
        "decision.near_misses": _WHY,
        "decision.policy_digest": _WHY,
        "decision.detail": _WHY,
        "decision.inputs.missing": "it names attributes, and holds no value",
        "decision.inputs.withheld": "it names attributes, and holds no value",
        "request.method": _DONE,
        "request.route": "it is the route's template, and holds no value",
        "trace.trace_id": _TIES,
        "trace.span_id": _TIES,
        "trace.parent": _TIES,
        "trace.correlation_id": _TIES,
        "trace.request_id": _TIES,
        "flags": "they are the library's own words",
    }
)
"""Texts that stay as they are, and why."""

_NAMES_NOBODY = "it is a number or one of a few words, and names nobody"
_SEGMENT = re.compile(r"[^.\s\x00-\x1f\x7f](?:[^.\x00-\x1f\x7f]*[^.\s\x00-\x1f\x7f])?")
_HEADER = re.compile(r"[a-z0-9!#$%&'*+^_`|~-]+")


def _shape(annotation: Any) -> Shape | type[BaseModel] | None:
    """What an annotation of the record says stands there; ``None`` for what is never personal."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not NoneType)
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation is Any:
        return "json"
    if annotation is str:
        return "text"
    if get_origin(annotation) in (list, dict):
        return "list" if get_origin(annotation) is list else "object"
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _walk(model: type[BaseModel], path: str) -> Iterator[tuple[str, Shape | type[BaseModel] | None]]:
    for name, field in model.model_fields.items():
        at = f"{path}.{name}" if path else name
        shape = _shape(field.annotation)
        yield at, shape
        if isinstance(shape, type):
            yield from _walk(shape, at)


_ALL = dict(_walk(Record, ""))
_LEAVES = tuple(path for path, shape in _ALL.items() if not isinstance(shape, type))


def _within(path: str, roots: Any) -> str | None:
    """The one of ``roots`` that ``path`` is, or lies in."""
    return next((root for root in roots if path == root or path.startswith(f"{root}.")), None)


FIELDS: Mapping[str, Shape] = MappingProxyType(
    {
        path: shape
        for path, shape in _ALL.items()
        if shape is not None and not isinstance(shape, type) and _within(path, READABLE) is None
    }
)
"""Every field that can be treated, by its path, in the order of the record."""

PARTS: tuple[str, ...] = tuple(
    path for path, shape in _ALL.items() if isinstance(shape, type) and any(_within(one, (path,)) for one in FIELDS)
)
"""Parts of the record that hold such fields."""


def canonical_path(text: str) -> str:
    """The path in a record that a policy's field stands for: ``request.body.email`` is ``request.body.content.email``.

    Raises:
        PolicyError: there is no such field, or it has no such member, or it stays readable.
    """
    path = _spelled_out(text)
    if path in PARTS or path in FIELDS:
        return path
    if (root := _within(path, FIELDS)) is not None:
        return _member(text, root, path.removeprefix(f"{root}."))
    if (known := _within(path, _LEAVES)) is not None or path in _ALL:
        fixed = _within(known or path, READABLE)
        why = READABLE[fixed] if fixed is not None else _NAMES_NOBODY
        raise PolicyError(f"{text} cannot be treated: {why}{_or_member(path)}")
    raise PolicyError(f"'{text}' is not a field of a record{_hint(text, path)}")


def _spelled_out(text: str) -> str:
    alias = _within(text, ALIASES)
    path = text if alias is None else ALIASES[alias] + text[len(alias) :]
    for body in _BODIES:
        first, _, _ = path.removeprefix(f"{body}.").partition(".")
        if path.startswith(f"{body}.") and f"{body}.{first}" not in _ALL:
            return f"{body}.content.{path.removeprefix(f'{body}.')}"
    return path


def _member(text: str, root: str, members: str) -> str:
    if FIELDS[root] not in ("object", "json"):
        raise PolicyError(f"{text}: {root} is one {FIELDS[root]} and has no members")
    if root == "decision.inputs.values":  # its names have dots of their own, and its values follow what they repeat
        raise PolicyError(f"{text}: {root} is treated as a whole; a value in it follows the field that it repeats")
    if root == "request.headers":
        if not _HEADER.fullmatch(members.lower()):
            raise PolicyError(f"{text}: '{members}' is not the name of a header")
        return f"{root}.{members.lower()}"
    if not all(_SEGMENT.fullmatch(member) for member in members.split(".")):
        raise PolicyError(f"{text}: write the names of members with one dot between them")
    return f"{root}.{members}"


def _or_member(path: str) -> str:
    """For a name that is the record's own and could be meant for a member of the body."""
    body = _within(path, _BODIES)
    return f"; for a member of the body write {body}.content.{path.rpartition('.')[2]}" if body else ""


def _hint(text: str, path: str) -> str:
    root, _, name = path.partition(".")
    own = f" (a property is {root}.properties.{name})" if name and f"{root}.properties" in FIELDS else ""
    return own + nearest(text, (*FIELDS, *PARTS, *ALIASES))


def leaves(path: str) -> tuple[str, ...]:
    """The fields that a canonical path stands for: itself, or all that can be treated in a part of the record."""
    return tuple(one for one in FIELDS if _within(one, (path,))) if path in PARTS else (path,)


def problem(path: str, treatment: Treatment) -> str | None:
    """Why a treatment makes no sense for a field, or ``None``."""
    how, of = treatment.how, treatment.of
    if how == "token" and path not in TOKENS:
        return f"{path} identifies nobody by its whole value: token is for {', '.join(TOKENS)}"
    if how == "drop" and path == "user_id":
        return "a record that does not say who asked is none: token, seal or commit"
    if path == "resource.id" and how == "token":
        return None if of == "resource" else "the token of resource.id is of what was acted on"
    if of == "resource" and how not in ("seal", "commit"):
        return f"of: is for seal and commit, {how} takes nobody's key"
    if of == "resource" and _within(path, _OF_THE_CALLER):
        return f"{path} is data of who asks, not of what was acted on"
    return None
