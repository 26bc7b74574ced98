"""Who calls, from which address, and as part of what: the caller's identity and the request's correlation.

An identifier is any callable ``(scope) -> Subject | None``, sync or async (`protocols.Identifier`). Built in:
`from_scope` for Starlette's ``AuthenticationMiddleware``, `JWTIdentifier` for signed tokens, `first_of` for several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chain import first_of
from .claims import resolve_roles
from .correlation import CorrelationFilter, correlate, correlate_client, join_span, outgoing_headers
from .proxies import ClientAddress
from .starlette_user import from_scope

if TYPE_CHECKING:
    from .jwt import JWTIdentifier

__all__ = [
    "ClientAddress",
    "CorrelationFilter",
    "JWTIdentifier",
    "correlate",
    "correlate_client",
    "first_of",
    "from_scope",
    "join_span",
    "outgoing_headers",
    "resolve_roles",
]


def __getattr__(name: str) -> Any:
    if name == "JWTIdentifier":  # when it is asked for: many services know their callers otherwise
        from .jwt import JWTIdentifier

        return JWTIdentifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
