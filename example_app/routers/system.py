"""What machines ask for: health, and the key that verifies our tokens. The policy exempts both."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from ..billing import Parts

router = APIRouter(tags=["system"])


@router.get("/healthz")
async def health() -> dict[str, str]:
    """Is the process up? Touches no data."""
    return {"status": "ok"}


@router.get("/.well-known/jwks.json")
async def jwks(parts: Parts) -> dict[str, Any]:
    """The public key, as a JSON Web Key Set."""
    return parts.tokens.jwks()
