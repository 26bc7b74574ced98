"""Refunds: asked for by support, approved by somebody else, then paid out by the payment provider."""

from __future__ import annotations

import httpx
from fastapi import APIRouter, HTTPException
from fastapi.requests import HTTPConnection
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from audit_middleware import action, annotate

from ..billing import Billing, Caller, Parts, billing_of, found
from ..storage import Row

router = APIRouter(prefix="/refunds", tags=["refunds"])

_BY_ID = "SELECT * FROM refunds WHERE id = ? AND tenant = ?"


class Refund(BaseModel):
    """What is asked of a refund. Money is whole cents."""

    invoice_id: int
    amount_cents: int = Field(gt=0)
    note: str = Field("", max_length=500)


@router.get("")
@action("refund.list")
def list_refunds(tenant: str, parts: Parts) -> list[Row]:
    """A tenant's refunds."""
    with parts.storage.transaction() as db:
        return db.all("SELECT * FROM refunds WHERE tenant = ? ORDER BY id", tenant)


@router.post("", status_code=201)
@action("refund.create", resource="tenant/{tenant}")
def create_refund(tenant: str, given: Refund, parts: Parts, name: Caller) -> Row:
    """Asks for a refund. The policy has checked the tenant in the path; that the invoice is theirs is checked here."""
    with parts.storage.transaction() as db:
        invoice = db.one("SELECT * FROM invoices WHERE id = ? AND tenant = ?", given.invoice_id, tenant)
        if given.amount_cents > found(invoice, "invoice")["amount_cents"]:
            raise HTTPException(409, "More than was paid")
        number = db.insert(
            "INSERT INTO refunds (tenant, invoice_id, amount_cents, note, status, requested_by)"
            " VALUES (?, ?, ?, ?, 'requested', ?)",
            *(tenant, given.invoice_id, given.amount_cents, given.note, name),
        )
        refund = found(db.one(_BY_ID, number, tenant), "refund")
        db.publish("refund.requested", f"refund/{number}")
    annotate(impact={"before": None, "after": {"refund": number, "amount_cents": given.amount_cents}})
    return refund


def requested_by(connection: HTTPConnection) -> Row:
    """Who asked for a refund, for the rule that nobody approves their own; asked before the decision, in a thread.

    The convertor in the path below makes one number of ``refund_id`` for us and for the handler: two ways to read it
    could mean two refunds.
    """
    refund, tenant = connection.path_params["refund_id"], connection.path_params["tenant"]
    with billing_of(connection).storage.transaction() as db:
        return db.one("SELECT requested_by FROM refunds WHERE id = ? AND tenant = ?", refund, tenant) or {}


@router.post("/{refund_id:int}/approval")
@action("refund.approve", resource="refund/{refund_id}", resource_properties=requested_by)
async def approve_refund(tenant: str, refund_id: int, parts: Parts) -> Row:
    """Approves a refund and has it paid out."""
    refund = await run_in_threadpool(_approvable, parts, tenant, refund_id)
    try:
        payout = await parts.payments.pay_out(refund_id, refund["amount_cents"])
    except httpx.HTTPError as problem:
        raise HTTPException(502, "The payment provider did not take it") from problem
    after = await run_in_threadpool(_paid, parts, tenant, refund_id)
    annotate(impact={"before": {"status": refund["status"]}, "after": {"status": after["status"], "payout": payout}})
    return after


def _approvable(parts: Billing, tenant: str, refund_id: int) -> Row:
    with parts.storage.transaction() as db:
        refund = found(db.one(_BY_ID, refund_id, tenant), "refund")
    if refund["status"] != "requested":
        raise HTTPException(409, "It was decided already")
    return refund


def _paid(parts: Billing, tenant: str, refund_id: int) -> Row:
    with parts.storage.transaction() as db:
        db.change("UPDATE refunds SET status = 'paid' WHERE id = ?", refund_id)
        db.publish("refund.paid", f"refund/{refund_id}")
        return found(db.one(_BY_ID, refund_id, tenant), "refund")
