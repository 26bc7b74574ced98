"""What happens in the demo: a day in the billing service, from an honest mistake to a pasted card number."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from httpx_ws import WebSocketSession, WebSocketUpgradeError, connect_ws

from .errors import Surprise
from .visitors import NOBODY, Visitors

CASE = "case-4711"
REFUNDS = "/v1/tenants/north/refunds"
QUIET_S = (
    0.2  # around the refund, so that its record is signed alone: a later chapter damages it, and it is named alone
)
GUEST = {"X-Forwarded-For": "10.9.3.7"}


@dataclass(frozen=True, slots=True)
class Found:
    """What the chapters after the tour come back to."""

    refund: str  # the Audit-ID of the refund that was asked for
    refused: str  # of the one that was refused
    crash: str


def tour(visitors: Visitors) -> Found:
    """Drives the service; returns the IDs of the records to look at."""
    visitors.sign_in("viewer-1", "clerk-1", "support-1", "support-2", "admin-1", "auditor")
    visitors.teller.note("Six people sign in with their passwords; then:")
    everyday(visitors)
    refused(visitors)
    refused_id, refund = refunds(visitors)
    machines(visitors)
    feed(visitors)
    return Found(refund, refused_id, mistakes(visitors))


def everyday(visitors: Visitors) -> None:
    """What is allowed."""
    visitors.teller.heading("Everyday work")
    ask = visitors.ask
    shows = "Allowed: a clerk is a viewer too. The record names the rule, and the policy by its hash."
    ask(200, "clerk-1", "GET", "/v1/customers/1", shows)
    shows = "The handler noted what was there before and after: the record holds the change itself."
    customer = {"name": "Harbour Books Ltd", "email": "accounts@harbour-books.example"}
    ask(200, "clerk-1", "PUT", "/v1/customers/1", shows, json=customer)
    shows = "Allowed, and left out of the log: the policy says `record: none`; a denial would be kept."
    ask(200, "viewer-1", "GET", "/v1/invoices", shows)
    shows = "Sent to the customer after the response; what that background task notes is recorded too."
    invoice = {"customer_id": 1, "tenant": "north", "amount_cents": 12_000, "month": "2026-03"}
    made = visitors.client.post("/v2/invoices", json=invoice, headers=visitors.headers("clerk-1")).json()
    ask(202, "clerk-1", "POST", f"/v2/invoices/{made['id']}/issue", shows)


def refused(visitors: Visitors) -> None:
    """What is not."""
    visitors.teller.heading("Refused, before the handler runs")
    ask = visitors.ask
    ask(
        401,
        NOBODY,
        "DELETE",
        "/v1/invoices/1001",
        "Nobody is signed in. The handler did not run; the try is on record.",
    )
    ask(403, "clerk-1", "DELETE", "/v1/invoices/1001", "Signed in, but no rule lets a clerk delete: denied by default.")
    shows = "Refused before the body was read: nobody without permission gets to talk to the parser."
    ask(403, "viewer-1", "POST", "/v1/invoices", shows, content=b'{"customer_id": ')
    shows = "A deny rule: nobody changes their own roles, not even an administrator."
    ask(403, "admin-1", "PUT", "/v1/users/admin-1/roles", shows, json={"roles": ["admin", "auditor"]})
    shows = "A sub-application mounted under /admin, plain Starlette: guarded by the same policy."
    ask(403, "clerk-1", "GET", "/admin/settings", shows)


def refunds(visitors: Visitors) -> tuple[str, str]:
    """Money leaves: returns the Audit-IDs of the request that was refused, and of the one that was not."""
    visitors.teller.heading("Money")
    ask = visitors.ask
    shows = "Support of another tenant: the rule that compares the two is recorded as a near miss."
    body: dict[str, Any] = {"invoice_id": 1001, "amount_cents": 4_200, "note": "paid twice; card 4111 1111 1111 1111"}
    denied = ask(403, "support-2", "POST", REFUNDS, shows, json=body)
    shows = "Their own tenant: allowed. The request is kept as evidence, without the card number in it."
    time.sleep(QUIET_S)
    asked = ask(201, "support-1", "POST", REFUNDS, shows, json=body, headers={"X-Correlation-ID": CASE})
    time.sleep(QUIET_S)
    approval = f"{REFUNDS}/{asked.json()['id']}/approval"
    shows = "From the guest network, says the proxy that is trusted: a deny rule beats every role."
    ask(403, "admin-1", "POST", approval, shows, headers=GUEST | {"X-Correlation-ID": CASE})
    shows = f"Approved, and paid out by another service, announced first: {CASE} finds all of it."
    ask(200, "admin-1", "POST", approval, shows, headers={"X-Correlation-ID": CASE})
    return str(denied.headers["audit-id"]), str(asked.headers["audit-id"])


def machines(visitors: Visitors) -> None:
    """A service account, and data that leaves."""
    visitors.teller.heading("Machines, and data that leaves")
    ask = visitors.ask
    account = {"name": "nightly-export", "role": "exporter"}
    shows = "A service account. Its key is in the answer, and in no record."
    made = ask(201, "admin-1", "POST", "/v1/service-accounts", shows, json=account)
    signed_in = visitors.client.post("/auth/token", json=made.json())
    visitors.remember("nightly-export", signed_in)
    shows = "Signed in with that key, it may export at any time; a clerk could only in office hours."
    export = ask(201, "nightly-export", "POST", "/v1/exports?month=2026-01", shows).json()["export"]
    shows = "The file itself: the record knows its size, and that it was a machine that took it."
    ask(200, "nightly-export", "GET", f"/v1/exports/{export}", shows)
    stream(visitors)


def stream(visitors: Visitors) -> None:
    """A report that is sent while it is being read."""
    with visitors.client.stream("GET", "/v1/reports/ledger", headers=visitors.headers("auditor")) as answer:
        chunks = sum(1 for _ in answer.iter_raw())
    shows = f"A stream of {chunks} chunks, passed on as they came; recorded with its size after the last one."
    visitors.told(200, answer.status_code, "auditor", "GET", "/v1/reports/ledger", shows)
    if chunks < 2:
        raise Surprise("the stream came in one piece: somebody buffered it")


def feed(visitors: Visitors) -> None:
    """A WebSocket, and one that is refused."""
    visitors.teller.heading("Live connections")
    clerk = visitors.headers("clerk-1")
    socket: WebSocketSession
    with connect_ws("/v1/feed", visitors.client, headers=clerk) as socket:
        event: dict[str, Any] = socket.receive_json(timeout=5)
    shows = f"A WebSocket: the feed told of {event['about']}. One record, for the whole of the connection."
    visitors.told(101, 101, "clerk-1", "WS", "/v1/feed", shows)
    try:
        with connect_ws("/v1/feed", visitors.client):
            status = 101
    except WebSocketUpgradeError as problem:
        status = problem.response.status_code
    visitors.told(401, status, NOBODY, "WS", "/v1/feed", "Refused before it was accepted, like any other request.")


def mistakes(visitors: Visitors) -> str:
    """What goes wrong; returns the Audit-ID of the crash."""
    visitors.teller.heading("What goes wrong")
    ask = visitors.ask
    form = {"username": "clerk-1", "password": "letmein"}
    shows = "A wrong password: allowed to try, and failed. The record keeps which name was tried."
    ask(401, NOBODY, "POST", "/auth/login", shows, data=form)
    ask(
        422,
        "clerk-1",
        "POST",
        "/v1/invoices",
        "Malformed JSON from somebody who may create invoices: parsed, and refused by the service.",
        content=b'{"customer_id"',
    )
    ask(405, "clerk-1", "PATCH", "/v1/invoices", "No such method: nothing would have run, so nothing was decided.")
    ask(404, "clerk-1", "GET", "/v1/invoices/1%0A", "A newline in the path is data: it cannot start a line in the log.")
    shows = "A bug (a month without invoices). Even this answer carries the ID of its record."
    return str(ask(500, "clerk-1", "GET", "/v1/reports/average?month=1999-01", shows).headers["audit-id"])
