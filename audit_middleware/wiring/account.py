"""What a start tells the log: version, settings, heads compared, what changed since the last start, policy, routes."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..context import plain
from ..ledger.canonical import encode_trusted
from ..model import Json
from ..pipeline.inventory import Inventory
from ..privacy.redact import Redactor
from ..settings import Settings
from ..stores.opening import place_of
from ..version import __version__

_LIBRARIES = {"cryptography": "cryptography", "fastapi": "fastapi", "msgspec": "msgspec", "pynacl": "nacl",
              "starlette": "starlette"}  # fmt: skip
"""The module of each."""
_LARGEST = 24_576  # bytes of a configuration
_PART = 32_768
"""Bytes of the routes' manifest in one record; an entry takes 65,535."""


def versions() -> dict[str, Json]:
    """This library, Python, and what decides how requests are routed and entries are made; ``null``: is not loaded."""
    found: dict[str, Json] = {"audit_middleware": __version__, "python": platform.python_version()}
    for name, module in _LIBRARIES.items():
        # What runs says it itself; to read the description of what is installed takes half a megabyte that stays.
        told = getattr(sys.modules.get(module), "__version__", None)
        found[name] = told if isinstance(told, str) else None
    return found


def configuration(settings: Settings, redactor: Redactor) -> dict[str, Json]:
    """Settings and versions as the log shows them, and the SHA-256 over the canonical JSON of just that."""
    place = {"log": str(place_of(settings.log, settings.state))} if settings.in_database else {}
    found = {"settings": settings.shown() | place, "versions": versions()}
    shown: Any = redactor.value(plain(found, limit=_LARGEST))
    return {**shown, "digest": "sha256:" + hashlib.sha256(encode_trusted(shown)).hexdigest()}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Json]:
    """What differs between two configurations: name, old and new value; ``null`` where there was or is none."""
    return [
        {"name": name if group == "settings" else f"{group}.{name}", "old": old.get(name), "new": new.get(name)}
        for group in ("settings", "versions")
        for old, new in [(_members(before, group), _members(now, group))]
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _members(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def manifest_parts(inventory: Inventory) -> Iterator[dict[str, Json]]:
    """The ``extra`` of each `audit.routes_listed`: all rows, in as many records as they need."""
    rows = inventory.manifest()
    parts = list(_split(rows))
    for number, part in enumerate(parts, 1):
        head = {"routes": len(rows), "digest": inventory.digest, "part": number, "parts": len(parts)}
        yield {**head, "manifest": part}


def _split(rows: Sequence[Json]) -> Iterator[list[Json]]:
    part: list[Json] = []
    size = 0
    for row in rows:
        length = len(encode_trusted(row)) + 1
        if part and size + length > _PART:
            yield part
            part, size = [], 0
        part.append(row)
        size += length
    yield part
