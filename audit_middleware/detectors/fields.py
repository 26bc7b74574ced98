"""Field names of the two taxonomies, and how a record answers to them.

``ecs``: the names of the Elastic Common Schema, as `formats.ecs` writes a record: what a rule says here it also says of
the exported document. The document is made only where a rule asks for a field that has no shortcut; a test holds both
together. ``audit``: the record's own names, dotted.

A field that is ``null``, or an empty text, list or mapping, is absent, as in the exported document. So is what is
sealed or committed to, because it is another text in each record; but who or what somebody is (user, resource, tenant,
session) is then known by its token, and a token is a value like any other.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from ..formats import ecs
from ..formats.facts import LEVELS, address
from ..persons import pseudonym, token_of
from ..privacy.outgoing import NAMING, SEALED, outgoing
from ..privacy.sealed import place_of
from ..schema import Record

__all__ = ["ECS", "Field", "Taxonomy", "View", "field", "known_names"]

Taxonomy = Literal["ecs", "audit"]
_OUTCOMES = {None: "unknown", "success": "success"}


class View:
    """One record, and its fields by name."""

    __slots__ = ("_document", "covered", "groups", "record")

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.groups: dict[tuple[str, ...], tuple[str, ...] | None] = {}
        self.covered = False
        """Does the document lack something that is sealed? Known when it was made."""
        self._document: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """The record in the Elastic Common Schema, made once."""
        if self._document is None:
            shown = outgoing(self.record)
            self.covered = shown != self.record
            self._document = ecs.document(shown)
        return self._document


_HIDDEN: Final = frozenset((SEALED, f'"{SEALED}"'))  # the second where the document has JSON as text

Get = Callable[[View], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A field.

    Attributes:
        name: As the rule writes it.
        get: Its value, ``None`` where it is absent; a list where there are several.
        key: True if it depends on nothing but what `engine` groups records by, so that an answer can be kept.
        many: True for fields that are always lists.
    """

    name: str
    get: Get
    key: bool = False
    many: bool = False


def field(taxonomy: Taxonomy, name: str) -> Field | None:
    """The field of this name; ``None`` where the taxonomy has no such field."""
    return _ecs_field(name) if taxonomy == "ecs" else _own_field(name)


def known_names(taxonomy: Taxonomy) -> tuple[str, ...]:
    """Names to suggest; below some of ``audit`` there are more, of any name."""
    return ECS if taxonomy == "ecs" else _own_names()


def _naming(get: Get) -> Get:
    """Of who or what somebody is the token, where it is sealed."""

    def named(view: View) -> Any:
        value = get(view)
        return pseudonym(value) if isinstance(value, str) else value

    return named


def _readable(get: Get) -> Get:
    """Nothing of what is sealed or committed to."""

    def read(view: View) -> Any:
        value = get(view)
        if isinstance(value, str):
            return value if value[:1] not in ("s", "c") or place_of(value) is None else None
        if isinstance(value, list):
            return _none_if_empty([one for one in value if not _is_hidden(one)])
        return None if _is_hidden(value) else value

    return read


def _is_hidden(value: Any) -> bool:
    mark = place_of(value)
    return mark is not None and mark.kind != "token"


def _none_if_empty(value: Any) -> Any:
    return None if value is None or value == "" or value == [] or value == {} else value


def _path(*parts: str) -> Get:
    """A member of the record that is a scalar, or in a part that is always there."""
    first, second = parts[0], parts[-1]

    def top(view: View) -> Any:
        value = view.record[first]
        return value if value or value == 0 else None

    def below(view: View) -> Any:
        value = view.record[first][second]
        return value if value or value == 0 else None

    return top if len(parts) == 1 else below


# --- the Elastic Common Schema ---------------------------------------------------------------------------------------

_OURS: Final = "audit."  # what there is no standard field for stands below
_CUSTOM: Final = (
    "correlation_id", "decision.cause", "decision.detail", "decision.effect", "decision.mode",
    "decision.near_misses", "extra", "forwarded", "impact", "intent_id", "kind", "outcome", "parent",
    "request.digest", "request.headers", "request.path_params", "request.protocol", "request.route", "resource.id",
    "resource.properties", "resource.type", "schema_version", "severity", "source.detail", "source.issuer",
    "source.method", "subject.properties", "subject.session", "subject.type",
)  # fmt: skip

ECS: Final = (
    *(_OURS + name for name in _CUSTOM),
    "@timestamp", "client.address", "client.ip", "data_stream.dataset", "data_stream.namespace", "data_stream.type",
    "ecs.version", "error.type", "event.action", "event.category", "event.code", "event.created", "event.dataset",
    "event.duration", "event.id", "event.kind", "event.module", "event.outcome", "event.provider", "event.reason",
    "event.sequence", "event.severity", "event.type", "host.name", "http.request.body.bytes",
    "http.request.body.content", "http.request.id", "http.request.method", "http.response.body.bytes",
    "http.response.body.content", "http.response.status_code", "message", "organization.id", "related.ip",
    "related.user", "rule.name", "rule.ruleset", "service.environment", "service.name", "service.node.name",
    "service.version", "source.address", "source.ip", "span.id", "tags", "trace.id", "url.path", "url.query",
    "user.changes.roles", "user.id", "user.name", "user.roles", "user.target.id", "user_agent.original",
)  # fmt: skip
"""Every field that an exported document may have."""

_LISTS: Final = frozenset(
    (_OURS + "decision.near_misses", _OURS + "forwarded", "event.category", "event.type", "related.ip", "related.user",
     "tags", "user.changes.roles", "user.roles")
)  # fmt: skip
_KEYS: Final = frozenset(
    ("event.action", "event.code", "event.severity", "event.outcome", _OURS + "kind", _OURS + "outcome",
     _OURS + "severity", _OURS + "decision.effect", _OURS + "subject.type")
)  # fmt: skip
_NAMED: Final = frozenset((_OURS + "resource.id", _OURS + "subject.session", "organization.id", "user.id", "user.name"))
_STANDING: Final = frozenset(
    ("@timestamp", "event.created", "event.id", "event.sequence", "http.response.status_code", "service.name",
     "service.node.name")
)  # fmt: skip
"""What can never be sealed."""


def _ip(view: View) -> str | None:
    text = view.record["initiator_ip"]
    return None if address(text) is None and token_of(text) is None else str(text)


_SHORTCUTS: Final[Mapping[str, Get]] = {
    "@timestamp": _path("timestamp"),
    _OURS + "decision.cause": _path("decision", "cause"),
    _OURS + "decision.effect": _path("decision", "effect"),
    _OURS + "decision.mode": _path("decision", "mode"),
    _OURS + "kind": _path("kind"),
    _OURS + "outcome": _path("outcome"),
    _OURS + "resource.id": _path("resource", "id"),
    _OURS + "resource.type": _path("resource", "type"),
    _OURS + "severity": _path("severity"),
    _OURS + "subject.type": _path("subject", "type"),
    "event.action": _path("action"),
    "event.code": _path("event"),
    "event.created": _path("recorded_at"),
    "event.id": _path("action_id"),
    "event.outcome": lambda view: _OUTCOMES.get(view.record["outcome"], "failure"),
    "event.reason": _path("reason"),
    "event.sequence": _path("sequence"),
    "event.severity": lambda view: LEVELS[view.record["severity"]],
    "http.request.method": _path("request", "method"),
    "http.response.status_code": _path("response", "status"),
    "client.ip": _ip,
    "source.ip": _ip,
    "organization.id": _path("subject", "tenant"),
    "rule.name": _path("decision", "rule"),
    "service.name": _path("service", "name"),
    "service.node.name": _path("service", "instance"),
    "url.path": _path("request", "path"),
    "user.id": _path("user_id"),
    "user.name": _path("user_id"),
    "user.roles": _path("subject", "roles"),
    "user_agent.original": _path("user_agent"),
}


def _ecs_field(name: str) -> Field | None:
    if name not in ECS:
        return None
    get = _SHORTCUTS.get(name)
    if get is None:
        return Field(name, _in_document(name), name in _KEYS, name in _LISTS)
    if name not in _KEYS and name not in _STANDING:
        get = _naming(get) if name in _NAMED else _readable(get)
    return Field(name, get, name in _KEYS, name in _LISTS)


def _in_document(name: str) -> Get:
    parts = name.split(".")

    def get(view: View) -> Any:
        value: Any = view.document()
        for part in parts:
            value = value.get(part)
            if value is None:
                return None
        if view.covered and isinstance(value, list):
            return _none_if_empty([one for one in value if one not in _HIDDEN])
        return None if view.covered and isinstance(value, str) and value in _HIDDEN else value

    return get


# --- the record's own names ------------------------------------------------------------------------------------------

_OWN_KEYS: Final = frozenset(("action", "event", "severity", "outcome", "kind", "decision.effect", "subject.type"))


def _own_field(name: str) -> Field | None:
    parts = name.split(".")
    found = _walk(Record, parts)
    if found is None:
        return None
    cover = _naming if tuple(parts) in NAMING else _readable
    if len(parts) <= 2 and found == "scalar" and not _optional_part(parts[0]):
        get = _path(*parts)
        return Field(name, get if name in _OWN_KEYS else cover(get), name in _OWN_KEYS)
    return Field(name, cover(lambda view: _none_if_empty(_dig(view.record, parts))), many=found == "list")


def _optional_part(name: str) -> bool:
    return name in ("impact", "extra")


def _walk(model: type[BaseModel], parts: list[str]) -> Literal["scalar", "list", "any"] | None:
    """What is at a path of the record's model; ``None``: nothing can be there."""
    info = model.model_fields.get(parts[0])
    if info is None:
        return None
    kinds = _kinds(info.annotation)
    inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    if inner is not None:
        return _walk(inner, parts[1:]) if len(parts) > 1 else None
    if Any in kinds:
        return "any"
    if any(get_origin(kind) is dict for kind in kinds):
        return "any" if len(parts) > 1 else None
    if len(parts) > 1:
        return None
    return "list" if any(get_origin(kind) is list for kind in kinds) else "scalar"


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _own_names() -> tuple[str, ...]:
    return tuple(sorted(_names_below(Record)))


def _names_below(model: type[BaseModel]) -> list[str]:
    found = []
    for name, info in model.model_fields.items():
        inner = [kind for kind in _kinds(info.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        found += [f"{name}.{below}" for below in _names_below(inner[0])] if inner else [name]
    return found


def _dig(value: Any, parts: list[str]) -> Any:
    """What is at a path; below a list, all that is there in its items."""
    for at, part in enumerate(parts):
        if isinstance(value, list):
            below = [_dig(item, parts[at:]) for item in value]
            return [one for item in below for one in (item if isinstance(item, list) else [item]) if one is not None]
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def rfc3339(micros: int) -> str:
    """A time as records write it, from microseconds since 1970."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"
