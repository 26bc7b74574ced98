"""What the middleware adds to the billing service: refusals before the handler, and the trail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import WebSocketDenialResponse

from audit_middleware.persons import pseudonym
from audit_middleware.policy.suite import run
from tests.example.conftest import POLICY, Client, serve
from tests.sealing.support import Sealed

Record = dict[str, Any]
REFUND = {"invoice_id": 1001, "amount_cents": 4_200, "note": "paid twice, card 4111 1111 1111 1111"}
REFUNDS = "/v1/tenants/north/refunds"


@pytest.fixture
def trail(guarded_app: FastAPI, sealed: Sealed) -> Callable[[Callable[[Client], object]], list[Record]]:
    """Runs the service around a function; returns every record, opened, once the service has stopped."""

    def during(work: Callable[[Client], object]) -> list[Record]:
        with serve(guarded_app) as client:
            work(client)
        return sealed.opened()

    return during


@contextmanager
def refused(status: int) -> Iterator[None]:
    """A WebSocket that is answered with a response instead of being accepted."""
    with pytest.raises(WebSocketDenialResponse) as answer:
        yield
    assert answer.value.status_code == status


def of(records: list[Record], action: str) -> list[Record]:
    """The records of one action."""
    return [record for record in records if record["action"] == action]


def test_the_policy_is_tested_whole() -> None:
    result = run(POLICY)
    assert result.exit_code == 0, result.tree()
    assert result.coverage is not None
    rules = result.coverage.rules.values()
    assert [(rule.action, rule.rule.name) for rule in rules if not rule.decided] == []
    assert [part.compiled.text for rule in rules for part in rule.conditions if not part.both] == []


def test_denied_means_the_handler_did_not_run(trail: Any) -> None:
    def work(client: Client) -> None:
        viewer = client.as_("viewer-1")
        assert client.delete("/v1/invoices/1001").status_code == 401
        assert client.delete("/v1/invoices/1001", headers=viewer).status_code == 403
        assert client.delete("/v2/invoices/1001", headers=viewer).status_code == 403
        assert client.post("/v1/invoices", content=b"{", headers=viewer).status_code == 403, "not 422"
        assert client.get("/v1/invoices/1001", headers=viewer).status_code == 200

    records = of(trail(work), "invoice.delete")
    assert [(r["user_id"], r["outcome"], r["event"]) for r in records] == [
        ("anonymous", "denied", "INVOICE_DELETED"),
        ("viewer-1", "denied", "INVOICE_DELETED"),
        ("viewer-1", "denied", "INVOICE_DELETED"),
    ]
    assert {r["request"]["route"] for r in records} == {"/v1/invoices/{invoice_id}", "/v2/invoices/{invoice_id}"}


def test_a_refund_is_recorded_with_its_request_and_without_the_card(trail: Any) -> None:
    records = trail(lambda client: client.post(REFUNDS, json=REFUND, headers=client.as_("support-1")))
    [refund] = of(records, "refund.create")
    assert (refund["user_id"], refund["subject"]["tenant"], refund["initiator_ip"]) == (
        "support-1",
        "north",
        "127.0.0.1",
    )
    assert (refund["event"], refund["severity"], refund["decision"]["rule"]) == (
        "REFUND_REQUESTED",
        "high",
        "own-tenant",
    )
    assert refund["resource"]["type"] == "tenant"
    assert refund["resource"]["id"] == "north"
    assert refund["impact"]["after"]["amount_cents"] == 4_200
    assert refund["request"]["body"]["content"]["amount_cents"] == 4_200
    assert "4111 1111" not in json.dumps(refund)


def test_another_tenants_refunds_are_refused(trail: Any) -> None:
    def work(client: Client) -> None:
        assert client.post(REFUNDS, json=REFUND, headers=client.as_("support-2")).status_code == 403

    [refund] = of(trail(work), "refund.create")
    assert refund["decision"]["cause"] == "default"
    assert refund["decision"]["near_misses"] == ["own-tenant: resource.tenant same_as subject.tenant"]


def test_a_payout_is_found_by_the_id_of_its_approval(trail: Any) -> None:
    def work(client: Client) -> None:
        number = client.post(REFUNDS, json=REFUND, headers=client.as_("support-1")).json()["id"]
        admin = client.as_("admin-1") | {"X-Correlation-ID": "case-4711"}
        assert client.post(f"{REFUNDS}/{number}/approval", headers=admin).status_code == 200

    records = [r for r in trail(work) if r["trace"]["correlation_id"] == "case-4711"]
    assert {(r["action"], r["user_id"], r["subject"]["type"]) for r in records} == {
        ("refund.approve", "admin-1", "user"),
        ("payout.create", "billing-service", "service"),
    }


def test_a_key_is_revoked_with_a_ticket_and_its_name_only(trail: Any) -> None:
    def work(client: Client) -> None:
        admin, clerk = client.as_("admin-1"), client.as_("clerk-1")
        account = {"name": "nightly-export", "role": "exporter"}
        client.post("/v1/service-accounts", json=account, headers=admin)
        key = "/v1/service-accounts/nightly-export/key"
        refused = client.delete(key, headers=admin)
        assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
        assert refused.json()["missing"] == ["reason", "confirm"]
        assert "missing" not in client.delete(key, headers=clerk).text, "a clerk may not do it anyway"
        sure = {"X-Request-Reason": "OPS-12: the machine was lost", "X-Confirm": "nightly-export"}
        assert client.delete(key, headers=admin | sure).status_code == 200

    records = of(trail(work), "service_account.revoke_key")
    assert [(r["decision"]["cause"], r["decision"]["detail"], r["reason"]) for r in records] == [
        ("requirement", "missing: reason, confirm", None),
        ("default", None, None),
        ("rule", None, "OPS-12: the machine was lost"),
    ]


def test_exports_are_limited_per_caller(trail: Any) -> None:
    def work(client: Client) -> None:
        auditor = client.as_("auditor")
        found = [client.post("/v1/exports?month=2026-01", headers=auditor) for _ in range(21)]
        assert [one.status_code for one in found] == [201] * 20 + [429]
        assert 0 < int(found[20].headers["retry-after"]) <= 3600

    records = of(trail(work), "export.create")
    assert [r["decision"]["cause"] for r in records] == ["rule"] * 20 + ["limit"]
    assert records[20]["decision"]["detail"] == "rate per subject"


def test_nobody_approves_their_own_refund(trail: Any) -> None:
    """The database knows who asked for it; the rule is in the policy."""

    def work(client: Client) -> None:
        admin = client.as_("admin-1")
        both = {"name": "manager-1", "tenant": "north", "roles": ["support", "admin"], "password": "manager-1-demo"}
        assert client.post("/v1/users", json=both, headers=admin).status_code == 201
        manager = client.as_("manager-1")
        number = client.post(REFUNDS, json=REFUND, headers=manager).json()["id"]
        assert client.post(f"{REFUNDS}/{number}/approval", headers=manager).status_code == 403
        assert client.post(f"{REFUNDS}/0{number}/approval", headers=manager).status_code == 403, "the same number"
        assert client.post(f"{REFUNDS}/99/approval", headers=manager).status_code == 404
        assert client.post(f"{REFUNDS}/{number}/approval", headers=admin).status_code == 200

    records = of(trail(work), "refund.approve")
    assert [(r["user_id"], r["decision"]["rule"]) for r in records] == [
        ("manager-1", "own-request"),
        ("manager-1", "own-request"),
        ("manager-1", "admin"),
        ("admin-1", "admin"),
    ]


def test_the_guest_network_is_told_by_the_trusted_proxy_only(
    guarded_app: FastAPI, sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_TRUSTED_PROXIES", "127.0.0.1")
    guest = {"X-Forwarded-For": "192.0.2.1, 10.9.3.7"}
    with serve(guarded_app) as client:
        admin = client.as_("admin-1")
        path, body = "/v1/users/clerk-1/roles", {"roles": ["clerk"]}
        assert client.put(path, json=body, headers=admin | guest).status_code == 403
        assert client.put(path, json=body, headers=admin).status_code == 200
        assert client.put("/v1/users/admin-1/roles", json=body, headers=admin).status_code == 403
    stored = of(sealed.log.records(), "user.set_roles")
    who = [(pseudonym(r["user_id"]), pseudonym(r["resource"]["id"])) for r in stored]
    assert who[0] == who[1], "admin-1, who changes clerk-1"
    assert who[0][0] != who[0][1]
    assert who[2] == (who[0][0], who[0][0]), "a user that is acted on is the same person as the one that acts"
    records = of(sealed.opened(), "user.set_roles")
    assert [r["decision"]["rule"] for r in records] == ["guest-network", "admin", "own-roles"]
    assert records[0]["initiator_ip"] == "10.9.3.7"
    assert records[0]["forwarded"]["untrusted"] == ["192.0.2.1"]
    assert records[1]["impact"] == {"before": {"roles": ["clerk"]}, "after": {"roles": ["clerk"]}, "count": None}


def test_what_a_background_task_notes_becomes_a_record_of_its_own(trail: Any) -> None:
    def work(client: Client) -> None:
        clerk = client.as_("clerk-1")
        invoice = {"customer_id": 1, "tenant": "north", "amount_cents": 1, "month": "2026-03"}
        client.post("/v1/invoices", json=invoice, headers=clerk)
        client.post("/v1/invoices/1025/issue", headers=clerk)

    records = trail(work)
    [issued], [note] = of(records, "invoice.issue"), of(records, "audit.amended")
    assert issued["impact"]["after"] == {"status": "issued"}
    assert note["extra"]["amends"] == issued["action_id"]
    assert note["extra"]["extra"]["sent"] == "invoice/1025"


def test_secrets_stay_out_of_the_trail(trail: Any) -> None:
    keys: list[str] = []

    def work(client: Client) -> None:
        admin = client.as_("admin-1")
        keys.append(admin["Authorization"].split()[1])
        user = {"name": "clerk-2", "tenant": "south", "roles": ["clerk"], "password": "never-to-be-seen"}
        client.post("/v1/users", json=user, headers=admin)
        account = {"name": "nightly-export", "role": "exporter"}
        keys.append(client.post("/v1/service-accounts", json=account, headers=admin).json()["key"])
        client.post("/auth/token", json={"name": "nightly-export", "key": keys[1]})

    text = json.dumps(trail(work))
    for secret in ("never-to-be-seen", "admin-1-demo", *keys):
        assert secret not in text
    assert '"name": "clerk-2"' in text, "the rest of the body is there"


def test_the_crash_and_the_failure_are_recorded(trail: Any) -> None:
    def work(client: Client) -> None:
        clerk = client.as_("clerk-1")
        crash = client.get("/v1/reports/average?month=1999-01", headers=clerk | {"X-Correlation-ID": "crash-1"})
        assert (crash.status_code, crash.headers["x-correlation-id"]) == (500, "crash-1")
        client.post("/auth/login", data={"username": "clerk-1", "password": "guess"})
        client.post("/v1/invoices", content=b"{", headers=clerk)
        client.patch("/v1/invoices", headers=clerk)
        client.get("/v1/nothing", headers=clerk)

    records = [r for r in trail(work) if r["kind"] == "outcome"][1:]
    assert [(r["action"], r["outcome"], r["response"]["status"]) for r in records] == [
        ("report.read", "error", 500),
        ("auth.login", "failure", 401),
        ("invoice.create", "failure", 422),
        (None, "failure", 405),
        (None, "failure", 404),
    ]
    assert records[0]["response"]["error"] == "ZeroDivisionError"
    assert records[1]["extra"] == {"sign_in_as": "clerk-1"}


def test_streams_files_and_sockets_are_one_record_each(trail: Any) -> None:
    def work(client: Client) -> None:
        clerk = client.as_("clerk-1")
        client.get("/v1/reports/ledger", headers=clerk)
        auditor = client.as_("auditor")
        name = client.post("/v1/exports", headers=auditor).json()["export"]
        client.get(f"/v1/exports/{name}", headers=auditor)
        with client.websocket_connect("/v1/feed", headers=clerk):
            pass
        with refused(403), client.websocket_connect("/v1/feed", headers=auditor):
            pass
        with refused(401), client.websocket_connect("/v1/feed"):
            pass

    records = trail(work)
    [ledger], [export], [file] = (of(records, name) for name in ("report.stream", "export.create", "export.download"))
    assert ledger["impact"]["count"] == export["impact"]["count"] == 24
    assert ledger["response"]["size"] > file["response"]["size"] > 0
    feeds = of(records, "feed.subscribe")
    assert [(r["user_id"], r["decision"]["effect"], r["request"]["protocol"]) for r in feeds] == [
        ("clerk-1", "allow", "websocket"),  # success or aborted: the test client closes, and cancels the app at once
        ("auditor", "deny", "websocket"),
        ("anonymous", "deny", "websocket"),
    ]


def test_what_the_policy_leaves_out_is_left_out_only_while_all_is_well(trail: Any) -> None:
    def work(client: Client) -> None:
        viewer = client.as_("viewer-1")
        for path in ("/healthz", "/docs", "/static/index.html", "/v1/invoices", "/auth/me"):
            assert client.get(path, headers=viewer).status_code == 200
        assert client.get("/v1/invoices").status_code == 401
        assert client.get("/static/none.css").status_code == 404

    records = [r for r in trail(work) if r["kind"] == "outcome"]
    assert [(r["action"], r["outcome"]) for r in records] == [
        ("auth.login", "success"),
        ("invoice.list", "denied"),
        ("static.read", "failure"),
    ]


def test_the_mounted_administration_is_guarded_too(trail: Any) -> None:
    def work(client: Client) -> None:
        assert client.get("/admin/settings", headers=client.as_("clerk-1")).status_code == 403
        assert client.get("/admin/settings", headers=client.as_("auditor")).status_code == 200
        assert client.put("/admin/settings", json={}, headers=client.as_("auditor")).status_code == 403

    records = [r for r in trail(work) if (r["action"] or "").startswith("admin.")]
    assert [(r["request"]["route"], r["outcome"]) for r in records] == [
        ("/admin/settings", "denied"),
        ("/admin/settings", "success"),
        ("/admin/settings", "denied"),
    ]
