"""What every route works with: the data, the tokens, the payment provider; and who is calling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.requests import HTTPConnection

from .payments import Payments
from .storage import Row, Storage
from .tokens import Tokens


@dataclass(frozen=True, slots=True)
class Billing:
    """The service's parts; one for each application."""

    storage: Storage
    tokens: Tokens
    payments: Payments


def billing_of(connection: HTTPConnection) -> Billing:
    """The parts of the application that handles this request."""
    parts: Billing = connection.app.state.billing
    return parts


def caller(connection: HTTPConnection) -> str:
    """The name of who is calling, for the service's own data (``created_by``). Whether they may is not decided here."""
    claims = billing_of(connection).tokens.read(connection.headers.get("authorization", ""))
    return str(claims["sub"])


def found(row: Row | None, what: str) -> Row:
    """The row; 404 where there is none."""
    if row is None:
        raise HTTPException(404, f"No such {what}")
    return row


Parts = Annotated[Billing, Depends(billing_of)]
Caller = Annotated[str, Depends(caller)]
