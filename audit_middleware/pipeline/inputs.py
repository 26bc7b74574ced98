"""What a decision was made on: taken by reference while the request runs, written down in the writer's thread.

A record says each attribute that the rules and requirements could read for this caller: where it stands anyway
(`standing`), or in ``decision.inputs``. There a value is written so that every operator comes to the same answer about
it as about the original: text, booleans, small integers and lists of them as they are, other numbers as
``{"number": text}``, moments as ``{"time": text}``, and what no operator compares as ``{"type": name}``. What was
missing is said to be missing. What must not be recorded, or is too long, is *withheld*, and nobody can make the
decision again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from ..context import clean
from ..errors import ConditionError
from ..ledger.canonical import MAX_INTEGER
from ..model import Json, Resource, Subject
from ..policy.attributes import Getter, getter
from ..policy.evaluate import CompiledAction
from ..policy.requirements import CONFIRM, REASON
from ..privacy.redact import Redactor
from .facts import Facts
from .offered import Headers, confirms, reason_of

__all__ = ["MISSING", "WITHHELD", "inputs_part", "standing", "take"]

MISSING: Final = object()
"""Stands for an attribute that is not there."""

WITHHELD: Final[Mapping[str, Json]] = {"values": {}, "missing": [], "withheld": {"*": "too long"}}
"""Of a record that had to be cut down to its core."""

MAX_INPUTS = 4096
"""Bytes of JSON that all inputs of one record may take."""

_MAX_ITEMS, _MAX_BITS = 512, 1000
_encode = msgspec.json.Encoder().encode


class _Withheld(Exception):
    """A value cannot be written down exactly; says why. Never leaves this module."""


# --- on the event loop -----------------------------------------------------------------------------------------------


def take(
    rule: CompiledAction, subject: Subject, resource: Resource, context: Mapping[str, Any], headers: Headers
) -> dict[str, Any] | None:
    """References to what the rules and requirements of this action may read for this caller, by name."""
    found: dict[str, Any] = {}
    for name, read in _readers(rule.reads(subject)):
        if read is not None:
            try:
                found[name] = read(subject, resource, context)
            except ConditionError:
                found[name] = MISSING
        elif name == REASON:
            given = reason_of(headers)
            found[name] = MISSING if given is None else given
        else:
            found[name] = confirms(headers, resource.id or rule.name)
    return found or None


@lru_cache(4096)
def _readers(names: tuple[str, ...]) -> tuple[tuple[str, Getter | None], ...]:
    """How each attribute is read; what a request offers beside them is none."""
    return tuple((name, None if name in (REASON, CONFIRM) else getter(name)) for name in names)


# --- in the writer's thread ------------------------------------------------------------------------------------------


def standing(record: Mapping[str, Any]) -> dict[str, Json]:
    """The attributes that every record says by itself, by name; ``None`` is missing."""
    subject, request = record["subject"], record["request"]
    return {
        "subject.id": record["user_id"],
        "subject.type": subject["type"],
        "subject.roles": subject["roles"],
        "subject.tenant": subject["tenant"],
        "subject.session": subject["session"],
        "context.ip": record["initiator_ip"],
        "context.time": record["timestamp"],
        "context.method": request["method"],
        "context.route": request["route"],
        "context.protocol": request["protocol"],
        REASON: record["reason"],
    }


def inputs_part(facts: Facts, record: Mapping[str, Any], redactor: Redactor) -> Json:
    """What was read and does not stand elsewhere in the record; ``None`` if there is no such thing.

    ``record`` has at least what is `standing`. Need not be asked where nothing was read, and the record says the
    caller's roles and type as they are.
    """
    subject = facts.subject
    # Roles and type tell which rules apply, whether or not a condition reads them.
    taken = {"subject.roles": subject.roles, "subject.type": subject.type, **(facts.inputs or {})}
    told = standing(record)
    part = _Part(redactor, facts.found.path_params if facts.found else None)
    for name in sorted(taken):
        if name == "context.time" or (name in told and _stands(taken[name], told[name])):
            continue
        if not part.add(name, taken[name]):
            break
    return part.to_json()


def _stands(value: Any, told: Json) -> bool:
    if value is MISSING:
        return told is None
    return bool((list(value) if isinstance(value, tuple) else value) == told)


class _Part:
    """The inputs of one record, as far as there is room."""

    def __init__(self, redactor: Redactor, path_params: Mapping[str, Any] | None) -> None:
        self._redactor = redactor
        self._params = path_params
        self._values: dict[str, Json] = {}
        self._missing: list[str] = []
        self._withheld: dict[str, str] = {}
        self._left = MAX_INPUTS

    def add(self, name: str, value: Any) -> bool:
        """Takes one attribute; False if there is no room even to say that it was withheld."""
        self._left -= len(name) + 20
        if self._left < 0:
            self._withheld["*"] = "too long"
            return False
        if value is MISSING:
            self._missing.append(name)
            return True
        try:
            shown = self._checked(name, value)
        except _Withheld as why:
            self._withheld[name] = str(why)
        else:
            self._values[name] = shown
        return True

    def _checked(self, name: str, value: Any) -> Json:
        shown = _exact(value)
        size = len(_encode(shown))
        if size > self._left:
            raise _Withheld("too long")
        nested: Json = shown
        for part in reversed(name.split(".")):
            nested = {part: nested}  # so that keys of `redact:` that are paths fit as well
        if self._redactor.value(nested) != nested or (
            name == "resource.id" and self._redactor.path(str(value), self._params) != value
        ):
            raise _Withheld("redacted")
        self._left -= size
        return shown

    def to_json(self) -> Json:
        """The record's ``decision.inputs``."""
        if not (self._values or self._missing or self._withheld):
            return None
        return {"values": self._values, "missing": self._missing, "withheld": self._withheld}


def _exact(value: Any) -> Json:
    """A value that a condition reads. Raises `_Withheld`."""
    if isinstance(value, str | bool | int | float | datetime):
        return _scalar(value)
    if isinstance(value, list | tuple | set | frozenset):
        if len(value) > _MAX_ITEMS:
            raise _Withheld("too long")
        items = [_item(one) for one in value]
        return sorted(items, key=_encode) if isinstance(value, Set) else items
    return {"type": clean(type(value).__name__, 64)}


def _item(value: Any) -> Json:
    """An item of a list: it is compared as it is, so only what is known to equal no other kind may be replaced."""
    if value is None:
        return None
    if isinstance(value, str | bool | int | float | datetime):
        return _scalar(value)
    if isinstance(value, Mapping | Sequence) or type(value) in (set, frozenset):
        return {"type": clean(type(value).__name__, 64)}
    raise _Withheld("not plain")


def _scalar(value: Any) -> Json:
    if isinstance(value, str):
        text = str.__str__(value)  # of a subclass, the plain text
        if len(text) > MAX_INPUTS:
            raise _Withheld("too long")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Withheld("not text") from None
        return text
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__pos__(value)
        if number.bit_length() > _MAX_BITS:
            raise _Withheld("too long")
        return number if -MAX_INTEGER <= number <= MAX_INTEGER else {"number": str(number)}
    if isinstance(value, float):
        return {"number": float.__repr__(value)}
    try:
        return {"time": value.astimezone(UTC).isoformat()} if value.tzinfo is not None else {"type": "datetime"}
    except (ValueError, OverflowError):
        return {"type": "datetime"}  # no operator can tell its instant either
