"""Stands in for the payment provider: what another service would offer to ours."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from audit_middleware import action

router = APIRouter(prefix="/internal", tags=["internal"])


class Payout(BaseModel):
    """What is to be paid for which refund."""

    refund_id: int
    amount_cents: int


@router.post("/payouts", status_code=201)
@action("payout.create")
async def create_payout(given: Payout) -> dict[str, str]:
    """Pays."""
    return {"payout": f"payout-{given.refund_id}"}
