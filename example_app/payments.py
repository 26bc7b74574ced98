"""The payment provider: another service, called over HTTP. In this example it is a route of our own (``/internal``)."""

from __future__ import annotations

import httpx
from starlette.types import ASGIApp

from audit_middleware import correlate_client

from .tokens import Tokens


class Payments:
    """Pays money out. Its requests carry our correlation ID, so one ID finds the action in both services' logs."""

    def __init__(self, app: ASGIApp, tokens: Tokens, url: str | None = None) -> None:
        self._tokens = tokens
        self._url = url or "http://payments.internal"
        self._transport = None if url else httpx.ASGITransport(app)

    async def pay_out(self, refund_id: int, amount_cents: int) -> str:
        """Asks for a payout and returns its number."""
        token = self._tokens.issue("billing-service", ["payouts"], "head-office", "service")
        async with correlate_client(httpx.AsyncClient(base_url=self._url, transport=self._transport)) as client:
            answer = await client.post(
                "/internal/payouts",
                json={"refund_id": refund_id, "amount_cents": amount_cents},
                headers={"Authorization": f"Bearer {token}"},
            )
        answer.raise_for_status()
        return str(answer.json()["payout"])
