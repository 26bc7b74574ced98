"""Invoices. Included twice, under ``/v1`` and ``/v2``: one action for one operation, whatever its path."""

from __future__ import annotations

from fastapi import APIRouter, BackgroundTasks, HTTPException
from pydantic import BaseModel, Field

from audit_middleware import action, annotate

from ..billing import Caller, Parts, found
from ..storage import Row

router = APIRouter(prefix="/invoices", tags=["invoices"])

_BY_ID = "SELECT * FROM invoices WHERE id = ?"


class Invoice(BaseModel):
    """What is asked of a new invoice. Money is whole cents."""

    customer_id: int
    tenant: str = Field(pattern=r"^[a-z-]{1,20}$")
    amount_cents: int = Field(gt=0, le=100_000_000)
    month: str = Field(pattern=r"^\d{4}-\d\d$")


@router.get("")
@action("invoice.list")
def list_invoices(parts: Parts, month: str | None = None) -> list[Row]:
    """Invoices of a month, or all."""
    with parts.storage.transaction() as db:
        return db.all("SELECT * FROM invoices WHERE month = coalesce(?, month) ORDER BY id", month)


@router.get("/{invoice_id}")
@action("invoice.read", resource="invoice/{invoice_id}")
def read_invoice(invoice_id: int, parts: Parts) -> Row:
    """One invoice."""
    with parts.storage.transaction() as db:
        return found(db.one(_BY_ID, invoice_id), "invoice")


@router.post("", status_code=201)
@action("invoice.create")
def create_invoice(given: Invoice, parts: Parts, name: Caller) -> Row:
    """Makes a draft."""
    with parts.storage.transaction() as db:
        found(db.one("SELECT id FROM customers WHERE id = ?", given.customer_id), "customer")
        number = db.insert(
            "INSERT INTO invoices (tenant, customer_id, amount_cents, month, status, created_by)"
            " VALUES (?, ?, ?, ?, 'draft', ?)",
            *(given.tenant, given.customer_id, given.amount_cents, given.month, name),
        )
        invoice = found(db.one(_BY_ID, number), "invoice")
        db.publish("invoice.created", f"invoice/{number}")
    annotate(impact={"before": None, "after": invoice})
    return invoice


@router.post("/{invoice_id}/issue", status_code=202)
@action("invoice.issue", resource="invoice/{invoice_id}")
def issue_invoice(invoice_id: int, parts: Parts, tasks: BackgroundTasks) -> Row:
    """Makes a draft final and sends it to the customer, after the response."""
    with parts.storage.transaction() as db:
        before = found(db.one(_BY_ID, invoice_id), "invoice")
        if before["status"] != "draft":
            raise HTTPException(409, "Only a draft can be issued")
        db.change("UPDATE invoices SET status = 'issued' WHERE id = ?", invoice_id)
        db.publish("invoice.issued", f"invoice/{invoice_id}")
        after = found(db.one(_BY_ID, invoice_id), "invoice")
    annotate(impact={"before": {"status": before["status"]}, "after": {"status": after["status"]}})
    tasks.add_task(send_invoice, invoice_id)
    return after


def send_invoice(invoice_id: int) -> None:
    """Would send the e-mail. The response is gone and so is its record: this note becomes a record that names it."""
    annotate(extra={"sent": f"invoice/{invoice_id}", "channel": "e-mail"})


@router.delete("/{invoice_id}", status_code=204)
@action("invoice.delete", resource="invoice/{invoice_id}")
def delete_invoice(invoice_id: int, parts: Parts) -> None:
    """Deletes an invoice; the record keeps what was deleted."""
    with parts.storage.transaction() as db:
        before = found(db.one(_BY_ID, invoice_id), "invoice")
        db.change("DELETE FROM invoices WHERE id = ?", invoice_id)
        db.publish("invoice.deleted", f"invoice/{invoice_id}")
    annotate(impact={"before": before, "after": None})
