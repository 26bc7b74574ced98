"""Access tokens: short-lived JWTs under the demo's own key, whose public half anyone may fetch as a JWKS.

A real service has an identity provider for this; then only its issuer, audience and JWKS address remain here.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

ISSUER = "https://login.billing.example"
AUDIENCE = "billing"
ALGORITHM = "Ed25519"  # RFC 9864
LIFETIME = 900  # seconds


class Tokens:
    """Issues and reads access tokens. The key is made when first needed, so that importing the app writes nothing."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file

    @cached_property
    def _key(self) -> OKPKey:
        return OKPKey.import_key(key_text(self._key_file), {"alg": ALGORITHM, "use": "sig"})

    def jwks(self) -> dict[str, Any]:
        """The public key, as a JSON Web Key Set."""
        self._key.ensure_kid()
        return {"keys": [self._key.as_dict(private=False)]}

    def issue(self, subject: str, roles: Sequence[str], tenant: str, kind: str = "user") -> str:
        """A token for a user or a service."""
        self._key.ensure_kid()
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + LIFETIME, "jti": secrets.token_hex(8)}
        claims |= {"sub": subject, "type": kind, "roles": list(roles), "tenant": tenant}
        return jwt.encode({"alg": ALGORITHM, "kid": self._key.kid}, claims, self._key, algorithms=[ALGORITHM])

    def read(self, authorization: str) -> Mapping[str, Any]:
        """The claims of a valid ``Authorization: Bearer`` header; else 401."""
        scheme, _, token = authorization.partition(" ")
        rules = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": AUDIENCE},
            exp={"essential": True},
        )
        try:
            claims = jwt.decode(token, self._key, algorithms=[ALGORITHM]).claims
            rules.validate(claims)
        except (JoseError, ValueError):
            raise HTTPException(401, "Not authenticated", {"WWW-Authenticate": "Bearer"}) from None
        if scheme.lower() != "bearer":
            raise HTTPException(401, "Not authenticated", {"WWW-Authenticate": "Bearer"})
        return claims


def key_text(path: Path) -> str:
    """The key file's text; makes the file where there is none.

    Workers start together, so the file appears whole under its name or not at all: written beside it, then linked,
    which fails for all but the first. What we leave behind if we die in between is a file that nobody reads.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(OKPKey.generate_key("Ed25519").as_pem(private=True))
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            pass  # another worker was faster: its key is the key
        finally:
            draft.unlink()
    return path.read_text()
