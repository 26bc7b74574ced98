"""Reports: figures of a month, and all invoices as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from audit_middleware import action, annotate

from ..billing import Billing, Parts

router = APIRouter(prefix="/reports", tags=["reports"])

_PAGE = 8


# The action can also stand in the route's OpenAPI extra, where API descriptions and gateways can see it.
@router.get("/revenue", openapi_extra={"x-audit-action": {"name": "report.read", "resource": "report"}})
def revenue(parts: Parts) -> dict[str, int]:
    """Cents invoiced in each month."""
    with parts.storage.transaction() as db:
        rows = db.all("SELECT month, sum(amount_cents) AS cents FROM invoices GROUP BY month ORDER BY month")
    return {row["month"]: row["cents"] for row in rows}


@router.get("/average")
@action("report.read", resource="report")
def average(month: str, parts: Parts) -> dict[str, int]:
    """The average invoice of a month. It has a bug, as services have: nobody thought of a month without invoices."""
    with parts.storage.transaction() as db:
        rows = db.all("SELECT amount_cents FROM invoices WHERE month = ?", month)
    return {"average_cents": sum(row["amount_cents"] for row in rows) // len(rows)}


@router.get("/ledger")
@action("report.stream", resource="report")
def ledger(parts: Parts) -> StreamingResponse:
    """Every invoice as one line of JSON, sent page by page while it is being read."""
    return StreamingResponse(lines(parts), media_type="application/x-ndjson")


def lines(parts: Billing) -> Iterator[str]:
    """A page of invoices at a time, so that memory does not grow with the ledger."""
    last = count = 0
    while True:
        with parts.storage.transaction() as db:
            page = db.all("SELECT * FROM invoices WHERE id > ? ORDER BY id LIMIT ?", last, _PAGE)
        if not page:
            annotate(impact={"count": count})  # known only now, and still in time for the record
            return
        count, last = count + len(page), page[-1]["id"]
        yield "".join(json.dumps(row) + "\n" for row in page)
