"""From what an identity says to what a `Subject` holds: names, roles, paths into nested claims.

Nothing is shortened here. A cut id could be another person's, so what does not fit is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..context import plain
from ..errors import IdentityError
from ..model import ANONYMOUS

__all__ = ["authentication_of", "claim", "properties_of", "resolve_roles", "text_of", "type_of"]

_MAX_TEXT, _MAX_ROLES = 1024, 1024
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]").search  # controls, line breaks, surrogates


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that very name (``https://example.com/roles``), else the one at the dotted path; else ``None``."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def resolve_roles(value: Any) -> tuple[str, ...]:
    """Roles from a list of names or from one space-separated text (as OAuth's ``scope``); each once, order kept.

    Raises `IdentityError` for any other shape: roles that cannot be read must not become "no roles" without a word,
    as a deny rule may name them.
    """
    if value is None:
        return ()
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list | tuple | set | frozenset) or len(names) > _MAX_ROLES:
        raise IdentityError("the identity's roles are neither a list of names nor one text")
    return tuple(dict.fromkeys(text_of(name, "role") for name in names))


def text_of(value: Any, what: str) -> str:
    """A name as text: 1 to 1,024 characters without controls, an integer in digits; else `IdentityError`."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_TEXT or _UNREADABLE(text):
        raise IdentityError(f"the identity's {what} is not a text of 1 to {_MAX_TEXT} characters without controls")
    return str(text)


def type_of(value: Any) -> str:
    """A subject's type; ``user`` where none is given, and never the one that stands for nobody."""
    kind = "user" if value is None else text_of(value, "type")
    if kind == ANONYMOUS:
        raise IdentityError("the identity's type is 'anonymous', which stands for nobody")
    return kind


def authentication_of(claims: Mapping[str, Any], mfa_methods: frozenset[str]) -> dict[str, Any]:
    """How the caller was authenticated, as policies require it: ``mfa``, ``acr`` and ``auth_time``.

    From OpenID Connect's claims ``amr`` (RFC 8176; more than one factor if it holds one of ``mfa_methods``), ``acr``
    and ``auth_time``. These only ever allow more, so one that cannot be read is left out instead of refusing the
    caller.
    """
    found: dict[str, Any] = {}
    amr, acr, auth_time = claims.get("amr"), claims.get("acr"), claims.get("auth_time")
    if isinstance(amr, str):
        amr = amr.split()
    if isinstance(amr, list):
        found["mfa"] = any(isinstance(method, str) and method in mfa_methods for method in amr)
    if isinstance(acr, str) and 0 < len(acr) <= _MAX_TEXT and not _UNREADABLE(acr):
        found["acr"] = acr
    if isinstance(auth_time, int | float) and not isinstance(auth_time, bool) and 0 <= auth_time < 2**53:
        found["auth_time"] = int(auth_time)
    return found


def properties_of(names: Sequence[str], read: Callable[[str], Any]) -> Mapping[str, Any]:
    """Copies for a subject's properties. Read-only: a remembered subject serves many requests."""
    return MappingProxyType({name: plain(read(name)) for name in names})
