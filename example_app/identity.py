"""Who is calling, for the middleware: our own tokens, verified by the library."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import cached_property
from typing import Any

from audit_middleware import Subject
from audit_middleware.identity.jwt import JWTIdentifier

from .tokens import ALGORITHM, AUDIENCE, ISSUER, Tokens


class DemoIdentity:
    """`JWTIdentifier` with our own public key.

    A service with an identity provider passes ``JWTIdentifier(issuer=..., audience=..., jwks_url=...)`` and is done.
    Ours has to wait for its first request: the key is made then, and importing the app must not write files.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __call__(self, scope: Any) -> Awaitable[Subject | None] | Subject | None:
        """The caller of this request."""
        return self._verified(scope)

    @cached_property
    def _verified(self) -> JWTIdentifier:
        return JWTIdentifier(
            issuer=ISSUER,
            audience=AUDIENCE,
            algorithms=[ALGORITHM],
            keys=self._tokens.jwks(),
            roles_claim="roles",
            type_claim="type",
            tenant_claim="tenant",
            session_claim="jti",
        )
