"""What leaves for other systems of records with personal data: tokens, and never what is behind them.

Where a field says who or what (user, resource, tenant, session) its token goes out, so that other systems can count and
correlate; anything else that is sealed or committed to is said to be so, and no more. An address goes out as unknown:
the systems that receive it take addresses only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..persons import pseudonym_of
from .sealed import parse, place_of

__all__ = ["NAMING", "SEALED", "outgoing"]

SEALED: Final = "[sealed]"

NAMING: Final = frozenset({("user_id",), ("resource", "id"), ("subject", "tenant"), ("subject", "session")})
"""The fields that say who or what."""

_ADDRESSES = {("initiator_ip",)}


def outgoing(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record for a system that is not to know persons: still of the record's schema, with no ciphertext in it."""
    return {name: _shown(value, (name,)) for name, value in record.items()}


def _shown(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        mark = parse(value)
        if mark is None:
            return value
        if path in _ADDRESSES:
            return None
        return pseudonym_of(mark.token) if path in NAMING or mark.kind == "token" else SEALED
    if isinstance(value, dict):
        if len(value) == 1 and "personal" in value and place_of(value) is not None:
            return {}
        return {name: _shown(member, (*path, name)) for name, member in value.items()}
    if isinstance(value, list):
        if len(value) == 1 and place_of(value) is not None:
            return []
        return [_shown(item, path) for item in value]
    return value
