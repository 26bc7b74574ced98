"""What the billing service does for its users, without and with the middleware."""

from __future__ import annotations

import json

import pytest
from starlette.websockets import WebSocketDisconnect

from tests.example.conftest import Client

CUSTOMER = {"name": "Corner Garage", "email": "accounts@corner-garage.example"}
INVOICE = {"customer_id": 1, "tenant": "north", "amount_cents": 9_900, "month": "2026-03"}


def test_signing_in(client: Client) -> None:
    assert client.get("/auth/me", headers=client.as_("clerk-1")).json() == {"name": "clerk-1"}
    wrong = client.post("/auth/login", data={"username": "clerk-1", "password": "guess"})
    assert wrong.status_code == 401
    assert wrong.headers["www-authenticate"] == "Bearer"
    unknown = client.post("/auth/login", data={"username": "clerk-99", "password": "guess"})
    assert (unknown.status_code, unknown.json()) == (wrong.status_code, wrong.json())


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer x.y.z", "Basic eA=="])
def test_whoever_has_no_token_is_nobody(client: Client, authorization: str) -> None:
    answer = client.get("/auth/me", headers={"Authorization": authorization} if authorization else {})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_customers(client: Client) -> None:
    clerk = client.as_("clerk-1")
    made = client.post("/v1/customers", json=CUSTOMER, headers=clerk)
    assert made.status_code == 201
    path = f"/v1/customers/{made.json()['id']}"
    changed = client.put(path, json=CUSTOMER | {"name": "Corner Garage Ltd"}, headers=clerk)
    assert changed.json()["name"] == "Corner Garage Ltd"
    assert client.get(path, headers=clerk).json() == changed.json()
    assert changed.json() in client.get("/v1/customers", headers=clerk).json()
    assert client.get("/v1/customers/999", headers=clerk).status_code == 404
    assert client.post("/v1/customers", json={"name": ""}, headers=clerk).status_code == 422


def test_both_versions_serve_the_same_invoices(client: Client) -> None:
    clerk = client.as_("clerk-1")
    made = client.post("/v2/invoices", json=INVOICE, headers=clerk)
    assert made.status_code == 201
    number = made.json()["id"]
    assert client.get(f"/v1/invoices/{number}", headers=clerk).json() == made.json()
    assert client.get(f"/v2/invoices/{number}", headers=clerk).json()["created_by"] == "clerk-1"
    march = client.get("/v2/invoices?month=2026-03", headers=clerk).json()
    assert made.json() in march
    assert len(march) < len(client.get("/v1/invoices", headers=clerk).json())


def test_the_life_of_an_invoice(client: Client) -> None:
    clerk = client.as_("clerk-1")
    path = f"/v1/invoices/{client.post('/v1/invoices', json=INVOICE, headers=clerk).json()['id']}"
    issued = client.post(f"{path}/issue", headers=clerk)
    assert (issued.status_code, issued.json()["status"]) == (202, "issued")
    assert client.post(f"{path}/issue", headers=clerk).status_code == 409
    assert client.delete(path, headers=client.as_("admin-1")).status_code == 204
    assert client.get(path, headers=clerk).status_code == 404
    assert client.post("/v1/invoices", json=INVOICE | {"customer_id": 99}, headers=clerk).status_code == 404


def test_a_refund_is_asked_for_approved_and_paid(client: Client) -> None:
    support, admin = client.as_("support-1"), client.as_("admin-1")
    refunds = "/v1/tenants/north/refunds"
    asked = client.post(refunds, json={"invoice_id": 1001, "amount_cents": 4_200}, headers=support)
    assert (asked.status_code, asked.json()["status"]) == (201, "requested")
    approval = f"{refunds}/{asked.json()['id']}/approval"
    assert client.post(approval, headers=admin).json()["status"] == "paid"
    assert client.post(approval, headers=admin).status_code == 409
    assert [one["status"] for one in client.get(refunds, headers=support).json()] == ["paid"]


def test_a_refund_that_does_not_fit_its_invoice(client: Client) -> None:
    support = client.as_("support-1")
    refunds = "/v1/tenants/north/refunds"
    too_much = client.post(refunds, json={"invoice_id": 1001, "amount_cents": 4_201}, headers=support)
    assert too_much.status_code == 409
    of_another = client.post(refunds, json={"invoice_id": 1002, "amount_cents": 1}, headers=support)
    assert of_another.status_code == 404, "invoice 1002 is the south's: no policy can know that, the handler does"


def test_users(client: Client) -> None:
    admin = client.as_("admin-1")
    user = {"name": "clerk-2", "tenant": "south", "roles": ["viewer"], "password": "clerk-2-demo"}
    assert client.post("/v1/users", json=user, headers=admin).status_code == 201
    assert client.post("/v1/users", json=user, headers=admin).status_code == 409
    client.as_("clerk-2")
    changed = client.put("/v1/users/clerk-2/roles", json={"roles": ["clerk"]}, headers=admin)
    assert changed.json() == {"name": "clerk-2", "tenant": "south", "roles": "clerk"}
    assert changed.json() in client.get("/v1/users", headers=admin).json()
    assert client.put("/v1/users/clerk-9/roles", json={"roles": []}, headers=admin).status_code == 404


def test_the_life_of_a_service_account(client: Client) -> None:
    admin = client.as_("admin-1")
    account = {"name": "nightly-export", "role": "exporter"}
    made = client.post("/v1/service-accounts", json=account, headers=admin).json()
    assert client.post("/v1/service-accounts", json=account, headers=admin).status_code == 409
    assert client.post("/auth/token", json=made).status_code == 200
    key = client.post("/v1/service-accounts/nightly-export/key", headers=admin).json()["key"]
    assert client.post("/auth/token", json=made).status_code == 401, "the old key has ended"
    assert client.post("/auth/token", json=made | {"key": key}).status_code == 200
    sure = admin | {"X-Request-Reason": "OPS-12: the machine was lost", "X-Confirm": "nightly-export"}
    assert client.delete("/v1/service-accounts/nightly-export/key", headers=sure).json() == {"key": None}
    assert client.post("/auth/token", json=made | {"key": key}).status_code == 401
    assert client.get("/v1/service-accounts", headers=admin).json() == [account | {"active": 0}]
    assert client.get("/v1/service-accounts/nightly-export/key", headers=admin).status_code == 405
    assert client.delete("/v1/service-accounts/other/key", headers=sure | {"X-Confirm": "other"}).status_code == 404


def test_an_export_is_made_and_fetched(client: Client) -> None:
    auditor = client.as_("auditor")
    name = client.post("/v1/exports?month=2026-01", headers=auditor).json()["export"]
    file = client.get(f"/v1/exports/{name}", headers=auditor)
    assert file.headers["content-disposition"] == f'attachment; filename="invoices-{name}.csv"'
    assert len(file.text.splitlines()) == 9
    assert client.get("/v1/exports/none", headers=auditor).status_code == 404
    assert client.get("/v1/exports/..", headers=auditor).status_code in (404, 405)


def test_reports(client: Client) -> None:
    clerk = client.as_("clerk-1")
    revenue = client.get("/v1/reports/revenue", headers=clerk).json()
    assert list(revenue) == ["2026-01", "2026-02", "2026-03"]
    average = client.get("/v1/reports/average?month=2026-01", headers=clerk).json()
    assert average == {"average_cents": revenue["2026-01"] // 8}
    assert client.get("/v1/reports/average?month=1999-01", headers=clerk).status_code == 500, "the bug is still there"


def test_the_ledger_comes_in_pages(client: Client) -> None:
    with client.stream("GET", "/v1/reports/ledger", headers=client.as_("clerk-1")) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        rows = [json.loads(line) for line in answer.iter_lines()]
    assert [row["id"] for row in rows] == list(range(1001, 1025))


def test_the_feed_tells_what_happens(client: Client) -> None:
    clerk = client.as_("clerk-1")
    with client.websocket_connect("/v1/feed", headers=clerk) as feed:
        client.post("/v1/invoices", json=INVOICE, headers=clerk)
        assert feed.receive_json() == {"id": 1, "kind": "invoice.created", "about": "invoice/1025"}
        client.post("/v1/invoices/1025/issue", headers=clerk)
        assert feed.receive_json()["kind"] == "invoice.issued"
    with client.websocket_connect("/v1/feed?after=1", headers=clerk) as feed:
        assert feed.receive_json()["id"] == 2


def test_the_administration_is_an_app_of_its_own(client: Client) -> None:
    admin = client.as_("admin-1")
    assert client.get("/admin/statistics", headers=admin).json()["invoices"] == 24
    assert client.get("/admin/settings", headers=admin).json() == {"payment_terms_days": "30"}
    changed = client.put("/admin/settings", json={"payment_terms_days": 14}, headers=admin)
    assert changed.json() == {"payment_terms_days": "14"}
    for body in (b"{", b"[1]", b'{"other": 1}', b"\xff"):
        assert client.put("/admin/settings", content=body, headers=admin).status_code == 422
    assert client.delete("/admin/settings", headers=admin).status_code == 405


def test_what_machines_and_browsers_ask_for(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    [key] = client.get("/.well-known/jwks.json").json()["keys"]
    assert (key["kty"], key["crv"], "d" in key) == ("OKP", "Ed25519", False)
    assert client.get("/static/index.html").status_code == 200
    assert client.head("/static/billing.css").status_code == 200
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/docs").status_code == 200
    assert "x-audit-action" in client.get("/openapi.json").text
    assert client.get("/nothing").status_code == 404
    assert client.put("/healthz").status_code == 405


def test_an_unknown_socket_is_closed(client: Client) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/other"):
        pass
