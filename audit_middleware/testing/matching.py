"""What a test expects of a record, and which records came near it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from ..schema import Record

Found = tuple[int, dict[str, Any]]
"""A record and its index in the log."""

SHORT = {
    "user": "user_id",
    "roles": "subject.roles",
    "decision": "decision.effect",
    "cause": "decision.cause",
    "rule": "decision.rule",
    "status": "response.status",
    "method": "request.method",
    "route": "request.route",
    "path": "request.path",
    "ip": "initiator_ip",
}
"""Short names of fields that tests ask for most."""

_ROWS = 5
_CELL = 40
_COLUMNS = ("entry", "action", "user", "resource", "outcome", "decision", "differs in")


class Expectation:
    """Expected values by field. A pattern is searched in the text, a function is asked, ``None`` is ``null``.

    Fields are named as in the record, with ``__`` for what is inside: ``impact__count=3``; or by a name of `SHORT`.
    ``action`` may end in ``*``; ``resource`` is ``type/id`` or a type.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Raises `TypeError` for a field that no record has: an expectation with a typo must not just fail to hold."""
        self._wanted = [(name, _path(name), value) for name, value in fields.items()]

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """What of it does not hold for this record, in words."""
        found = ((name, _value(record, path), wanted) for name, path, wanted in self._wanted)
        return [
            f"{name}: {_shown(has)}, not {_shown(wanted)}" for name, has, wanted in found if not _holds(wanted, has)
        ]

    def select(self, found: Iterable[Found]) -> list[Found]:
        """The records for which all of it holds."""
        return [pair for pair in found if not self.differences(pair[1])]

    def __str__(self) -> str:
        return " ".join(f"{name}={_shown(wanted)}" for name, _, wanted in self._wanted) or "anything"


def explain(expected: Expectation, found: Sequence[Found]) -> str:
    """The nearest records as a table, with what differs in each."""
    if not found:
        return f"no record matches {expected}\nthe log has no records of requests"
    ranked = sorted(((expected.differences(record), index, record) for index, record in found), key=_distance)
    rows = [(*_cells(index, record), "; ".join(differs)) for differs, index, record in ranked[:_ROWS]]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (_COLUMNS, *rows)]
    return "\n".join([f"no record matches {expected}", f"the nearest of {len(found)}:", *(f"  {ln}" for ln in lines)])


def _distance(ranked: tuple[list[str], int, Any]) -> tuple[int, int]:
    differs, index, _ = ranked
    other = any(text.startswith("action: ") for text in differs)  # the same action is nearer than anything else
    return len(differs) + 10 * other, -index


def _cells(index: int, record: Mapping[str, Any]) -> tuple[str, ...]:
    decision, request = record["decision"], record["request"]
    why = decision["rule"] or decision["cause"]
    noted = ", only noted" if decision["mode"] == "monitor" and decision["effect"] == "deny" else ""
    cells = (
        str(index),
        record["action"] or f"{request['method']} {request['path']}",
        record["user_id"],
        _resource(record) or "-",
        record["outcome"],
        f"{decision['effect']} ({why}{noted})",
    )
    return tuple(_bounded(cell) for cell in cells)


def _resource(record: Mapping[str, Any]) -> str | None:
    kind, name = record["resource"]["type"], record["resource"]["id"]
    return kind if name is None else f"{kind}/{name}"


def _path(name: str) -> tuple[str, ...]:
    path = tuple(SHORT.get(name, name.replace("__", ".")).split("."))
    model: Any = Record
    for part in path:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break  # free content: extra, impact, properties
        if part not in model.model_fields:
            known = [*model.model_fields, *SHORT] if model is Record else list(model.model_fields)
            near = get_close_matches(part, known, 1)
            raise TypeError(f"no record has the field {name!r}: " + (f"did you mean {near[0]!r}?" if near else "typo?"))
        model = _model_of(model.model_fields[part].annotation)
    return path


def _model_of(annotation: Any) -> Any:
    """The model behind ``Part`` or ``Part | None``; anything else is free content."""
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((one for one in options if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _value(record: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    if path == ("resource",):
        return (record["resource"]["type"], _resource(record))
    value: Any = record
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _holds(wanted: Any, has: Any) -> bool:
    if isinstance(has, tuple):  # a resource: as type, and as type/id
        return any(_holds(wanted, one) for one in has)
    if isinstance(wanted, re.Pattern):
        return isinstance(has, str) and wanted.search(has) is not None
    if callable(wanted):
        return bool(wanted(has))
    if isinstance(wanted, str) and wanted.endswith("*") and isinstance(has, str):
        return has.startswith(wanted[:-1])
    return bool(has == (list(wanted) if isinstance(wanted, tuple) else wanted))


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        value = value[-1]
    if isinstance(value, re.Pattern):
        return f"/{value.pattern}/"
    return _bounded(getattr(value, "__name__", "") or repr(value))


def _bounded(text: str) -> str:
    """Without what could steer a terminal, and not longer than a cell."""
    clean = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return clean if len(clean) <= _CELL else clean[: _CELL - 1] + "…"
